//! Random sequences of operations. Prints the seed, and cuts a failing sequence down to the steps that are needed.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{Access, FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};

use crate::named::describe;
use crate::op::{Name, Op, SLOTS, Seek, Step, Time};
use crate::value::{Id, Value};
use crate::world::{Difference, World};

/// The simple paths first: a failing sequence shrinks towards them.
const PATHS: &[Name] = &[
    "f644",
    "new",
    "d777/new",
    "d777/fa",
    "d777/fb",
    "d777/fu",
    "d755/fa",
    "d755/new",
    "f600",
    "fb664",
    "hl",
    "fu600",
    "fu644",
    "fu666",
    "fu777",
    "fua664",
    "fau664",
    "froot",
    "facl",
    "fsuid",
    "suid",
    "suidu",
    "capa",
    "cap2",
    "ln",
    "lnu",
    "fifo",
    "d755",
    "d777",
    "dst",
    "dsg",
    "dsgu",
    "dgrp",
    "dacl",
    "dun755",
    "dun777",
    "dst/fb",
    "dst/new",
    "dsg/new",
    "dsg/fa",
    "dsgu/new",
    "dgrp/new",
    "dgrp/fb",
    "dacl/new",
    "dacl/fu",
    "dun777/fa",
    "dun777/fu",
    "dun777/new",
    "dun755/fa",
    "newdir",
    "newdir/new",
    ".",
    "missing/x",
];
const DIRS: &[Name] = &["d777", ".", "d755", "dst", "dsg", "dacl", "dun777", "dgrp", "newdir"];
const IDS: &[Id] =
    &[Id::Keep, Id::A, Id::B, Id::Zero, Id::UnmappedCaller, Id::UnmappedOwner, Id::Overflow];
const MODES: &[u32] =
    &[0o644, 0o600, 0o777, 0o755, 0o666, 0, 0o2755, 0o4755, 0o6777, 0o1777, 0o2644, 0o4711, 0o070];
const XATTRS: &[(&str, Value)] = &[
    ("user.k", Value::Text("x")),
    ("user.k", Value::Text("")),
    ("user.long", Value::Long(1000)),
    ("trusted.t", Value::Text("y")),
    ("security.other", Value::Text("z")),
    ("system.posix_acl_access", Value::Named),
    ("system.posix_acl_access", Value::Minimal),
    ("system.posix_acl_access", Value::NamedZero),
    ("system.posix_acl_access", Value::NamedUnmappedCaller),
    ("system.posix_acl_access", Value::HeaderOnly),
    ("system.posix_acl_access", Value::NamedTwice),
    ("system.posix_acl_default", Value::Named),
    ("system.posix_acl_default", Value::NamedOverflow),
    ("system.posix_acl_default", Value::Minimal),
    ("security.capability", Value::Caps2),
    ("security.capability", Value::Caps3A),
    ("security.capability", Value::Caps3B),
    ("security.capability", Value::Caps3UnmappedCaller),
];

fn from_env(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs `cases` sequences (or as many as the environment asks for) until one differs; returns the number of steps.
pub(crate) fn run(mut world: World, cases: u32) -> Result<usize, String> {
    let seed = match std::env::var("SHIFTBIND_DIFF_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64),
    };
    let (cases, steps) =
        (from_env("SHIFTBIND_DIFF_CASES", cases), from_env("SHIFTBIND_DIFF_STEPS", 40) as usize);
    println!("{}: SHIFTBIND_DIFF_SEED={seed}, {cases} cases of {steps} steps", world.scenario.name);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let sequences = proptest::collection::vec(any_step(world.callers.len()), steps..=steps);
    let mut done = 0;
    for _ in 0..cases {
        let sequence = sequences.new_tree(&mut runner).map_err(|e| e.to_string())?.current();
        match play(&mut world, &sequence) {
            Ok(played) => done += played,
            Err((at, _)) => {
                let (sequence, words) = cut_down(&mut world, sequence[..=at].to_vec());
                let scenario = world.scenario.name;
                let mut report = format!("{scenario}, seed {seed}: parted from the kernel after\n");
                for step in &sequence {
                    let caller = &world.callers[step.caller].name;
                    report += &format!("  {caller} (umask {:03o}): {:?}\n", step.umask, step.op);
                }
                return Err(report + &words + &world.log());
            }
        }
    }
    println!("{}: {done} steps", world.scenario.name);
    Ok(done)
}

/// Plays a sequence on a fresh tree. Returns the number of compared steps, or the first step that differs and how.
fn play(world: &mut World, sequence: &[Step]) -> Result<usize, (usize, String)> {
    world.new_case();
    let words = |differences: &[Difference]| {
        differences.iter().map(describe).collect::<Vec<_>>().join("\n")
    };
    for (at, step) in sequence.iter().enumerate() {
        let verdict = world.step(step);
        if !verdict.unexpected.is_empty() {
            return Err((at, words(&verdict.unexpected)));
        }
        if verdict.allowed.iter().any(|entry| entry.parts) {
            return Ok(at + 1);
        }
    }
    match world.compare_all() {
        differences if differences.is_empty() => Ok(sequence.len()),
        differences => Err((sequence.len() - 1, words(&differences))),
    }
}

/// Leaves out steps that are not needed for the last one to differ, in ever smaller runs down to single steps. (The
/// steps themselves are simple enough; shrinking them as proptest does takes far more runs.)
fn cut_down(world: &mut World, mut sequence: Vec<Step>) -> (Vec<Step>, String) {
    let mut run = sequence.len() / 2;
    while run > 0 {
        let mut end = sequence.len() - 1;
        while end > 0 {
            let start = end.saturating_sub(run);
            let mut shorter = sequence.clone();
            shorter.drain(start..end);
            if play(world, &shorter).is_err_and(|(at, _)| at == shorter.len() - 1) {
                sequence = shorter;
            }
            end = start;
        }
        run /= 2;
    }
    match play(world, &sequence) {
        Err((_, words)) => (sequence, words),
        Ok(_) => (sequence, "  (it did not come up again)".to_owned()),
    }
}

fn any_step(callers: usize) -> impl Strategy<Value = Step> {
    // Half of all steps are made by the callers with rights: root, a and b.
    let caller = prop_oneof![0..3usize, 0..callers];
    let umask = select(vec![0o022, 0, 0o077, 0o027]);
    (caller, umask, any_op()).prop_map(|(caller, umask, op)| Step { caller, umask, op })
}

fn path() -> impl Strategy<Value = Name> {
    select(PATHS)
}

fn time() -> impl Strategy<Value = Time> {
    prop_oneof![
        Just(Time::Now),
        Just(Time::Omit),
        Just(Time::At(500_000_000, 123_456_789)),
        Just(Time::At(-5, 0)),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![3 => on_names(), 3 => on_attributes(), 2 => on_descriptors(), 1 => reading()]
}

fn reading() -> impl Strategy<Value = Op> {
    let access = select(vec![Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK, Access::EXISTS]);
    prop_oneof![
        path().prop_map(Op::Stat),
        path().prop_map(Op::ReadFile),
        path().prop_map(Op::ReadDir),
        path().prop_map(Op::Readlink),
        select(vec!["suid", "suidu", "capa", "cap2", "d777/new", "new"]).prop_map(Op::Exec),
        (path(), access, any::<bool>()).prop_map(|(path, mode, effective)| Op::Access {
            path,
            mode,
            effective
        }),
        (path(), select(XATTRS), select(vec![256, 0, 8]))
            .prop_map(|(path, (name, _), size)| Op::GetXattr { path, name, size }),
        (path(), select(vec![4096, 0, 8])).prop_map(|(path, size)| Op::ListXattr { path, size }),
    ]
}

fn on_names() -> impl Strategy<Value = Op> {
    let kind = select(vec![
        FileType::Fifo,
        FileType::RegularFile,
        FileType::Socket,
        FileType::CharacterDevice,
    ]);
    let flags = select(vec![
        RenameFlags::empty(),
        RenameFlags::empty(),
        RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE,
        RenameFlags::WHITEOUT,
    ]);
    prop_oneof![
        (path(), select(MODES)).prop_map(|(path, mode)| Op::Mkdir { path, mode }),
        (path(), kind, select(MODES)).prop_map(|(path, kind, mode)| Op::Mknod { path, kind, mode }),
        (path(), path()).prop_map(|(path, target)| Op::Symlink { path, target }),
        (path(), path()).prop_map(|(old, new)| Op::Link { old, new }),
        path().prop_map(Op::Unlink),
        path().prop_map(Op::Rmdir),
        (path(), path(), flags).prop_map(|(old, new, flags)| Op::Rename { old, new, flags }),
        (path(), open_flags(), 0..5000usize).prop_map(|(path, flags, size)| Op::WriteFile {
            path,
            flags,
            size
        }),
    ]
}

fn on_attributes() -> impl Strategy<Value = Op> {
    let xattr_flags = select(vec![
        XattrFlags::empty(),
        XattrFlags::empty(),
        XattrFlags::CREATE,
        XattrFlags::REPLACE,
    ]);
    prop_oneof![
        2 => (path(), select(MODES)).prop_map(|(path, mode)| Op::Chmod { path, mode }),
        2 => (path(), select(IDS), select(IDS), any::<bool>())
            .prop_map(|(path, uid, gid, follow)| Op::Chown { path, uid, gid, follow }),
        1 => (path(), time(), time(), any::<bool>())
            .prop_map(|(path, atime, mtime, follow)| Op::Utimens { path, atime, mtime, follow }),
        1 => (path(), 0..9000u64).prop_map(|(path, size)| Op::Truncate { path, size }),
        3 => (path(), select(XATTRS), xattr_flags)
            .prop_map(|(path, (name, value), flags)| Op::SetXattr { path, name, value, flags }),
        1 => (path(), select(XATTRS)).prop_map(|(path, (name, _))| Op::RemoveXattr { path, name }),
    ]
}

fn open_flags() -> impl Strategy<Value = OFlags> {
    select(vec![
        OFlags::empty(),
        OFlags::CREATE,
        OFlags::CREATE.union(OFlags::EXCL),
        OFlags::TRUNC,
        OFlags::CREATE.union(OFlags::TRUNC),
        OFlags::APPEND,
        OFlags::NOFOLLOW,
    ])
}

fn on_descriptors() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let access = || select(vec![OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY, OFlags::PATH]);
    let mode = select(vec![
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::COLLAPSE_RANGE,
    ]);
    let seek = select(vec![Seek::Data, Seek::Hole, Seek::End]);
    let size = || select(vec![0, 1, 100, 4096, 8192]);
    prop_oneof![
        8 => (path(), access(), open_flags(), select(MODES), slot()).prop_map(
            |(path, access, flags, mode, slot)| Op::Open { path, flags: access | flags, mode, slot }
        ),
        1 => (select(DIRS), slot()).prop_map(|(path, slot)| Op::Open {
            path,
            flags: OFlags::RDONLY | OFlags::DIRECTORY,
            mode: 0,
            slot
        }),
        1 => (slot(), size(), 0..5000usize).prop_map(|(slot, at, len)| Op::FdRead { slot, at, len }),
        2 => (slot(), proptest::option::of(size()), 1..5000usize)
            .prop_map(|(slot, at, len)| Op::FdWrite { slot, at, len }),
        1 => slot().prop_map(|slot| Op::FdMappedWrite { slot }),
        1 => (slot(), size()).prop_map(|(slot, size)| Op::FdTruncate { slot, size }),
        1 => (slot(), mode, size(), size())
            .prop_map(|(slot, mode, at, len)| Op::FdAllocate { slot, mode, at, len }),
        1 => (slot(), slot(), 1..5000usize)
            .prop_map(|(from, to, len)| Op::FdCopyRange { from, to, len }),
        1 => (slot(), seek, size()).prop_map(|(slot, to, at)| Op::FdSeek { slot, to, at }),
        1 => slot().prop_map(|slot| Op::FdStat { slot }),
        1 => (slot(), select(MODES)).prop_map(|(slot, mode)| Op::FdChmod { slot, mode }),
        1 => (slot(), select(IDS), select(IDS))
            .prop_map(|(slot, uid, gid)| Op::FdChown { slot, uid, gid }),
        1 => (slot(), time(), time())
            .prop_map(|(slot, atime, mtime)| Op::FdUtimens { slot, atime, mtime }),
        1 => (slot(), select(XATTRS))
            .prop_map(|(slot, (name, value))| Op::FdSetXattr { slot, name, value }),
        1 => (slot(), select(XATTRS)).prop_map(|(slot, (name, _))| Op::FdGetXattr { slot, name }),
        1 => slot().prop_map(|slot| Op::FdReadDir { slot }),
        1 => (slot(), path()).prop_map(|(slot, new)| Op::FdLink { slot, new }),
        1 => (slot(), access()).prop_map(|(slot, flags)| Op::FdReopen { slot, flags }),
        1 => slot().prop_map(|slot| Op::FdSync { slot }),
        1 => slot().prop_map(|slot| Op::Close { slot }),
    ]
}
