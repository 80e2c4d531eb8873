//! The table of named cases: each runs by every caller, on an unchanged tree.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rustix::fs::{Access, FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};

use crate::act::errno_name;
use crate::op::{Name, Op, Seek, Step, Time};
use crate::value::{Id, Value};
use crate::world::{Difference, World};

const ACCESS_ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";

/// The results of running the table.
pub(crate) struct Report {
    scenario: &'static str,
    /// The number of compared operations.
    pub(crate) observations: usize,
    /// How often each allowed difference occurred.
    allowed: BTreeMap<&'static str, usize>,
    /// Each difference with the callers that met it, in the order of the table.
    found: Vec<(String, Vec<&'static str>)>,
    log: String,
}

impl Report {
    /// The number of differences, counted by case and caller.
    pub(crate) fn differences(&self) -> usize {
        self.found.iter().map(|(_, callers)| callers.len()).sum()
    }

    /// Fails with all differences.
    pub(crate) fn assert_equal(&self) {
        println!(
            "{}: {} observations, allowed: {:?}",
            self.scenario, self.observations, self.allowed
        );
        let mut text = String::new();
        for (what, callers) in &self.found {
            let _ = writeln!(text, "{what}\n    for: {}", callers.join(", "));
        }
        assert!(
            self.found.is_empty(),
            "{}: {} of {} observations differ, in {} ways\n{text}{}",
            self.scenario,
            self.differences(),
            self.observations,
            self.found.len(),
            self.log
        );
    }
}

/// A difference as text.
pub(crate) fn describe(difference: &Difference) -> String {
    match difference {
        Difference::Outcome { kernel, ours } => {
            let words = |o: &crate::world::Outcome| match o.errno {
                Some(errno) => errno_name(errno),
                None => format!("ok {}", o.told),
            };
            format!("  kernel: {}\n  ours:   {}", words(kernel), words(ours))
        }
        Difference::State { side, path, kernel, ours } => {
            format!("  {side} at {path:?}\n  kernel: {kernel}\n  ours:   {ours}")
        }
    }
}

/// The callers whose writes the kernel treats differently.
const CLEARING: [&str; 7] = [
    "root",
    "a",
    "b",
    "unmapped caller",
    "the namespace's root",
    "b in a's group, the last of 64",
    "b with CAP_FSETID",
];

/// The callers of a case: all, or one of the seven simplest and one of the rest in turn, so that a run of the tests
/// stays short. Similar cases are neighbours in the table, so each kind of case meets all callers.
fn callers_of(case: usize, all: usize) -> Vec<usize> {
    const PLAIN: usize = 7;
    if std::env::var_os("SHIFTBIND_DIFF_ALL").is_some() {
        return (0..all).collect();
    }
    vec![case % PLAIN, PLAIN + case % (all - PLAIN)]
}

/// Only every Nth case runs (`SHIFTBIND_DIFF_EVERY`, for slow machines).
fn every_nth() -> usize {
    match std::env::var("SHIFTBIND_DIFF_EVERY") {
        Ok(text) => match text.parse() {
            Ok(every @ 1..) => every,
            _ => panic!("SHIFTBIND_DIFF_EVERY is a number from 1 on, not '{text}'"),
        },
        Err(_) => 1,
    }
}

/// Which cases run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cases {
    /// The whole table.
    All,
    /// Every Nth case of the table, or all if the environment asks for them.
    Every(usize),
    /// The clearing of setuid and setgid bits and capabilities, by all callers in `CLEARING`.
    ClearingOfSetuid,
}

/// Runs the table, or a part of it.
pub(crate) fn run(world: &mut World, cases: Cases) -> Report {
    let (table, every) = match cases {
        Cases::All => (table(), 1),
        Cases::Every(n) => (table(), n),
        Cases::ClearingOfSetuid => {
            let mut table = Table::new();
            clearing_of_setuid(&mut table);
            (table, 1)
        }
    };
    let everything = std::env::var_os("SHIFTBIND_DIFF_ALL").is_some();
    let every = if everything { 1 } else { every * every_nth() };
    let callers = |case: usize| match cases {
        Cases::ClearingOfSetuid if !everything => {
            let by_name =
                |name: &&str| world.callers.iter().position(|caller| caller.name == *name);
            CLEARING.iter().filter_map(by_name).collect()
        }
        _ => callers_of(case / every, world.callers.len()),
    };
    let callers: Vec<Vec<usize>> = (0..table.len()).map(callers).collect();
    let mut report = Report {
        scenario: world.scenario.name,
        observations: 0,
        allowed: BTreeMap::new(),
        found: Vec::new(),
        log: String::new(),
    };
    for (case, (name, ops)) in table.into_iter().enumerate().step_by(every) {
        for &caller in &callers[case] {
            world.new_case_if_used();
            for op in &ops {
                let step = Step { caller, umask: 0o022, op: op.clone() };
                let verdict = world.step(&step);
                report.observations += 1;
                for entry in &verdict.allowed {
                    *report.allowed.entry(entry.name).or_default() += 1;
                }
                let parted =
                    !verdict.unexpected.is_empty() || verdict.allowed.iter().any(|e| e.parts);
                for difference in &verdict.unexpected {
                    let what = format!("{name}: {op:?}\n{}", describe(difference));
                    let caller_name = world.callers[caller].name;
                    match report.found.iter_mut().find(|(known, _)| *known == what) {
                        Some((_, callers)) => callers.push(caller_name),
                        None => report.found.push((what, vec![caller_name])),
                    }
                }
                if parted {
                    world.new_case();
                    break;
                }
            }
        }
    }
    report.log = world.log();
    report
}

const FILES: &[Name] = &[
    "f644",
    "f600",
    "fb664",
    "fu600",
    "fu644",
    "fu666",
    "fu777",
    "fua664",
    "fau664",
    "froot",
    "facl",
    "fsuid",
    "ln",
    "lnu",
    "fifo",
    "d755/fa",
    "dun755/fu",
];
const DIRS: &[Name] = &["d755", "d777", "dst", "dsg", "dsgu", "dgrp", "dacl", "dun755", "dun777"];

type Table = Vec<(&'static str, Vec<Op>)>;

fn table() -> Table {
    let mut table = Table::new();
    reading(&mut table);
    creating(&mut table);
    renaming_and_removing(&mut table);
    owners_and_modes(&mut table);
    acls(&mut table);
    capabilities(&mut table);
    if std::env::var_os("SHIFTBIND_DIFF_ALL").is_some() {
        // Tests of their own run these as well.
        clearing_of_setuid(&mut table);
    }
    descriptors(&mut table);
    table
}

fn open(path: Name, flags: OFlags) -> Op {
    Op::Open { path, flags, mode: 0o666, slot: 0 }
}

fn set(path: Name, name: &'static str, value: Value) -> Op {
    Op::SetXattr { path, name, value, flags: XattrFlags::empty() }
}

fn get(path: Name, name: &'static str) -> Op {
    Op::GetXattr { path, name, size: 256 }
}

fn reading(table: &mut Table) {
    for &path in FILES.iter().chain(DIRS) {
        table.push(("stat", vec![Op::Stat(path)]));
        for mode in [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK] {
            table.push(("access", vec![Op::Access { path, mode, effective: true }]));
        }
        table.push(("listxattr", vec![Op::ListXattr { path, size: 4096 }]));
        table.push(("getxattr", vec![get(path, "user.k")]));
    }
    for &path in FILES {
        table.push(("open for reading", vec![Op::ReadFile(path)]));
        table.push(("open for writing", vec![open(path, OFlags::WRONLY)]));
        table.push(("open for both", vec![open(path, OFlags::RDWR)]));
        let truncating = open(path, OFlags::RDONLY | OFlags::TRUNC);
        table.push(("open for reading with O_TRUNC", vec![truncating]));
        let creating = open(path, OFlags::WRONLY | OFlags::CREATE);
        table.push(("O_CREAT of what is there", vec![creating]));
    }
    for &path in DIRS {
        table.push(("list", vec![Op::ReadDir(path)]));
    }
    table.push((
        "real access",
        vec![Op::Access { path: "f600", mode: Access::READ_OK, effective: false }],
    ));
    for path in ["ln", "lnu"] {
        table.push(("readlink", vec![Op::Readlink(path)]));
    }
    for size in [0, 1] {
        table.push(("getxattr, short", vec![Op::GetXattr { path: "f644", name: "user.k", size }]));
        table.push(("listxattr, short", vec![Op::ListXattr { path: "f644", size }]));
    }
    table.push(("getxattr trusted", vec![get("f644", "trusted.t")]));
    table.push(("statfs", vec![Op::Statfs(".")]));
    for path in ["suid", "suidu", "capa", "cap2"] {
        table.push(("exec", vec![Op::Exec(path)]));
    }
}

fn creating(table: &mut Table) {
    const NEW: [Name; 10] = [
        "new",
        "d755/new",
        "d777/new",
        "dst/new",
        "dsg/new",
        "dsgu/new",
        "dgrp/new",
        "dacl/new",
        "dun755/new",
        "dun777/new",
    ];
    for path in NEW {
        let flags = OFlags::RDWR | OFlags::CREATE;
        table.push(("create", vec![Op::Open { path, flags, mode: 0o666, slot: 0 }]));
        table.push(("create exclusively", vec![open(path, flags | OFlags::EXCL)]));
        table.push(("create with set bits", vec![Op::Open { path, flags, mode: 0o6777, slot: 0 }]));
        table.push(("mkdir", vec![Op::Mkdir { path, mode: 0o777 }]));
        table.push(("mkdir with set bits", vec![Op::Mkdir { path, mode: 0o7777 }]));
        table.push(("symlink", vec![Op::Symlink { path, target: "x" }]));
        for kind in
            [FileType::Fifo, FileType::RegularFile, FileType::Socket, FileType::CharacterDevice]
        {
            table.push(("mknod", vec![Op::Mknod { path, kind, mode: 0o666 }]));
        }
        for old in ["f644", "fb664", "fu666", "fau664", "fua664", "lnu"] {
            table.push(("link", vec![Op::Link { old, new: path }]));
        }
    }
    for dir in DIRS {
        table.push(("O_TMPFILE", vec![Op::Tmpfile { dir, mode: 0o666, slot: 0 }]));
    }
}

fn renaming_and_removing(table: &mut Table) {
    const IN_DIRS: [Name; 18] = [
        "d755/fa",
        "d755/fb",
        "d755/fu",
        "d777/fa",
        "d777/fb",
        "d777/fu",
        "dst/fa",
        "dst/fb",
        "dst/fu",
        "dgrp/fa",
        "dgrp/fb",
        "dgrp/fu",
        "dun755/fa",
        "dun755/fb",
        "dun755/fu",
        "dun777/fa",
        "dun777/fb",
        "dun777/fu",
    ];
    for path in IN_DIRS {
        table.push(("unlink", vec![Op::Unlink(path)]));
        for new in ["d777/other", "dst/fb", "d777/fu", "dun777/other"] {
            let flags = RenameFlags::empty();
            table.push(("rename", vec![Op::Rename { old: path, new, flags }]));
        }
        for flags in [RenameFlags::NOREPLACE, RenameFlags::EXCHANGE, RenameFlags::WHITEOUT] {
            let op = Op::Rename { old: path, new: "d777/fa", flags };
            table.push(("renameat2", vec![op]));
        }
        let whiteout = Op::Rename { old: path, new: "d777/other", flags: RenameFlags::WHITEOUT };
        table.push(("whiteout", vec![whiteout]));
    }
    for path in DIRS {
        table.push(("rmdir", vec![Op::Rmdir(path)]));
        let flags = RenameFlags::empty();
        table.push(("rename a directory", vec![Op::Rename { old: path, new: "moved", flags }]));
    }
    let empty = Op::Mkdir { path: "d777/new", mode: 0o755 };
    table.push(("mkdir and rmdir", vec![empty, Op::Rmdir("d777/new")]));
}

fn owners_and_modes(table: &mut Table) {
    const IDS: [Id; 7] =
        [Id::Keep, Id::A, Id::B, Id::Zero, Id::UnmappedCaller, Id::UnmappedOwner, Id::Overflow];
    for path in
        ["f644", "fb664", "fu644", "fua664", "fau664", "fsuid", "d777", "dsg", "dun777", "froot"]
    {
        for id in IDS {
            let chown = |uid, gid| Op::Chown { path, uid, gid, follow: true };
            table.push(("chown both", vec![chown(id, id)]));
            table.push(("chown the user", vec![chown(id, Id::Keep)]));
            table.push(("chown the group", vec![chown(Id::Keep, id)]));
        }
        let adopt = Op::Chown { path, uid: Id::A, gid: Id::B, follow: true };
        table.push(("adopt and use", vec![adopt, Op::Chmod { path, mode: 0o640 }]));
    }
    for path in ["ln", "lnu"] {
        for follow in [false, true] {
            let op = Op::Chown { path, uid: Id::B, gid: Id::B, follow };
            table.push(("chown a symlink", vec![op]));
            let (atime, mtime) = (Time::At(1000, 5), Time::At(2000, 7));
            table.push(("utimens of a symlink", vec![Op::Utimens { path, atime, mtime, follow }]));
        }
    }
    for &path in FILES.iter().chain(DIRS) {
        for mode in [0o600, 0o777, 0o2755, 0o6755, 0o1777] {
            table.push(("chmod", vec![Op::Chmod { path, mode }]));
        }
        for (atime, mtime) in [
            (Time::Now, Time::Now),
            (Time::Omit, Time::Omit),
            (Time::Now, Time::Omit),
            (Time::At(1000, 5), Time::At(-3, 0)),
            (Time::Omit, Time::At(123_456_789, 987_654_321)),
        ] {
            let op = Op::Utimens { path, atime, mtime, follow: true };
            table.push(("utimens", vec![op]));
        }
        table.push(("truncate", vec![Op::Truncate { path, size: 3 }]));
        for name in ["user.k", "trusted.t", "security.other"] {
            table.push(("setxattr", vec![set(path, name, Value::Text("new"))]));
            table.push(("removexattr", vec![Op::RemoveXattr { path, name }]));
        }
    }
    for flags in [XattrFlags::CREATE, XattrFlags::REPLACE] {
        for name in ["user.k", "user.other"] {
            let op = Op::SetXattr { path: "f644", name, value: Value::Text("n"), flags };
            table.push(("setxattr with flags", vec![op]));
        }
    }
}

fn acls(table: &mut Table) {
    let values = [
        Value::Minimal,
        Value::Named,
        Value::NamedZero,
        Value::NamedAndUnmapped,
        Value::NamedUnmappedCaller,
        Value::NamedOverflow,
        Value::NamedInvalid,
        Value::NamedTwice,
        Value::Disordered,
        Value::Maskless,
        Value::HeaderOnly,
        Value::WrongVersion,
        Value::HalfAnEntry,
        Value::Text(""),
    ];
    for path in ["f644", "fu644", "fau664", "facl", "fsuid", "dsg", "dacl", "dun777", "ln"] {
        for name in [ACCESS_ACL, DEFAULT_ACL] {
            for value in values {
                table.push(("set an ACL", vec![set(path, name, value), get(path, name)]));
            }
            table.push(("remove an ACL", vec![Op::RemoveXattr { path, name }]));
            table.push(("get an ACL", vec![get(path, name)]));
            table.push(("size of an ACL", vec![Op::GetXattr { path, name, size: 0 }]));
        }
    }
    let steps = |last: Op| vec![set("f600", ACCESS_ACL, Value::Named), last];
    table.push(("chmod changes the mask", steps(Op::Chmod { path: "f600", mode: 0o604 })));
    table.push((
        "chown keeps the ACL",
        steps(Op::Chown { path: "f600", uid: Id::B, gid: Id::B, follow: true }),
    ));
    table.push(("read by an ACL", vec![Op::ReadFile("facl")]));
    table.push((
        "write by an ACL",
        vec![Op::WriteFile { path: "facl", flags: OFlags::empty(), size: 3 }],
    ));
    let inherit = vec![
        set("d777", DEFAULT_ACL, Value::Named),
        Op::Mkdir { path: "d777/new", mode: 0o777 },
        open("d777/new/file", OFlags::RDWR | OFlags::CREATE),
        Op::Mknod { path: "d777/new/fifo", kind: FileType::Fifo, mode: 0o666 },
        Op::Symlink { path: "d777/new/link", target: "file" },
    ];
    table.push(("inherit a default ACL", inherit));
}

fn capabilities(table: &mut Table) {
    let values = [
        Value::Caps2,
        Value::Caps3A,
        Value::Caps3B,
        Value::Caps3Zero,
        Value::Caps3UnmappedCaller,
        Value::Caps3Invalid,
        Value::CapsShort,
        Value::Text(""),
    ];
    for path in ["suid", "capa", "cap2", "suidu", "d777"] {
        for value in values {
            let steps = vec![set(path, CAPABILITY, value), get(path, CAPABILITY), Op::Exec(path)];
            table.push(("set a capability", steps));
        }
        table.push(("get a capability", vec![get(path, CAPABILITY)]));
        for size in [0, 20] {
            let op = Op::GetXattr { path, name: CAPABILITY, size };
            table.push(("size of a capability", vec![op]));
        }
        table.push(("remove a capability", vec![Op::RemoveXattr { path, name: CAPABILITY }]));
    }
}

fn clearing_of_setuid(table: &mut Table) {
    // All callers may write the first three; the rest carry a capability or have owners.
    for path in ["fsuid", "fsgid", "fset", "d777/fa", "suid", "capa", "cap2"] {
        let write = |flags, size| Op::WriteFile { path, flags, size };
        table.push(("write", vec![write(OFlags::empty(), 3)]));
        table.push(("write nothing", vec![write(OFlags::empty(), 0)]));
        table.push(("append", vec![write(OFlags::APPEND, 3)]));
        table.push(("write with O_TRUNC", vec![write(OFlags::TRUNC, 3)]));
        table.push(("truncate", vec![Op::Truncate { path, size: 1 }]));
        let opened =
            |op: Op| vec![open(path, OFlags::RDWR), op, Op::FdStat { slot: 0 }, Op::Exec(path)];
        table.push(("write", opened(Op::FdWrite { slot: 0, at: Some(0), len: 2 })));
        table.push(("mapped write", opened(Op::FdMappedWrite { slot: 0 })));
        table.push(("ftruncate", opened(Op::FdTruncate { slot: 0, size: 2 })));
        for mode in [
            FallocateFlags::empty(),
            FallocateFlags::KEEP_SIZE,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE,
        ] {
            table.push(("fallocate", opened(Op::FdAllocate { slot: 0, mode, at: 0, len: 4096 })));
        }
        let from = Op::Open { path: "d755/fa", flags: OFlags::RDONLY, mode: 0, slot: 1 };
        let copy = Op::FdCopyRange { from: 1, to: 0, len: 5 };
        table.push(("copy_file_range", vec![open(path, OFlags::RDWR), from, copy, Op::Stat(path)]));
        let chmod = Op::Chmod { path, mode: 0o6777 };
        table.push((
            "chmod, then write",
            vec![
                open(path, OFlags::RDWR),
                chmod,
                Op::FdWrite { slot: 0, at: Some(0), len: 2 },
                Op::Stat(path),
            ],
        ));
    }
}

fn descriptors(table: &mut Table) {
    let create = || open("d777/new", OFlags::RDWR | OFlags::CREATE);
    let gone = |op: Op| {
        vec![
            create(),
            Op::FdWrite { slot: 0, at: None, len: 5000 },
            Op::Unlink("d777/new"),
            op,
            Op::FdStat { slot: 0 },
        ]
    };
    for op in [
        Op::FdWrite { slot: 0, at: Some(10), len: 7 },
        Op::FdRead { slot: 0, at: 3, len: 100 },
        Op::FdTruncate { slot: 0, size: 17 },
        Op::FdChmod { slot: 0, mode: 0o640 },
        Op::FdChown { slot: 0, uid: Id::B, gid: Id::B },
        Op::FdChown { slot: 0, uid: Id::UnmappedCaller, gid: Id::Keep },
        Op::FdUtimens { slot: 0, atime: Time::At(5, 5), mtime: Time::At(6, 6) },
        Op::FdSetXattr { slot: 0, name: "user.k", value: Value::Text("gone") },
        Op::FdGetXattr { slot: 0, name: "user.k" },
        Op::FdLink { slot: 0, new: "d777/back" },
        Op::FdReopen { slot: 0, flags: OFlags::RDONLY },
        Op::FdAllocate { slot: 0, mode: FallocateFlags::empty(), at: 0, len: 9000 },
        Op::FdSeek { slot: 0, to: Seek::Hole, at: 0 },
        Op::FdSeek { slot: 0, to: Seek::Data, at: 0 },
        Op::FdSeek { slot: 0, to: Seek::Data, at: 1 << 30 },
        Op::FdSeek { slot: 0, to: Seek::End, at: 0 },
        Op::FdMappedWrite { slot: 0 },
        Op::FdSync { slot: 0 },
        create(),
    ] {
        table.push(("on an unlinked file", gone(op)));
    }
    for path in ["f644", "fu644", "fu666", "fifo", "d755", "dun777", "ln"] {
        let opened = |op| vec![open(path, OFlags::PATH), op];
        for op in [
            Op::FdStat { slot: 0 },
            Op::FdChmod { slot: 0, mode: 0o600 },
            Op::FdReopen { slot: 0, flags: OFlags::RDWR },
            Op::FdLink { slot: 0, new: "d777/linked" },
            Op::FdGetXattr { slot: 0, name: "user.k" },
        ] {
            table.push(("by O_PATH", opened(op)));
        }
    }
    for path in ["d755", "dun755", "dun777"] {
        table.push((
            "list a descriptor",
            vec![open(path, OFlags::RDONLY | OFlags::DIRECTORY), Op::FdReadDir { slot: 0 }],
        ));
    }
    let readonly = vec![
        open("f644", OFlags::RDONLY),
        Op::Chmod { path: "f644", mode: 0 },
        Op::FdRead { slot: 0, at: 0, len: 100 },
        Op::FdReopen { slot: 0, flags: OFlags::RDWR },
    ];
    table.push(("reading goes on after chmod", readonly));
}
