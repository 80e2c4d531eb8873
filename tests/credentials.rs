//! Compares the credentials table of ARCHITECTURE.md with an strace of a daemon that serves callers of all kinds: the
//! ids and capabilities of each system call.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags};
use support::sys::{buffer_ioctl, raw_ioctl};
use support::{Mount, SHIFT, as_user, eventually, loop_fs, scratch};

const SHIFTED: u32 = 100_000;
const UNMAPPED_ID: u32 = u32::MAX - 1;
/// The id with which a thread probes whether it may set ids.
const PROBE: u32 = 65533;

const WORKER: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "SETPCAP",
    "SYS_PTRACE",
];

/// FS_IOC_SETFLAGS, FS_IOC_GETFLAGS, FS_NODUMP_FL, FS_IMMUTABLE_FL; FS_IOC_GETFSLABEL, which the daemon forwards.
const SETFLAGS: u32 = 0x4008_6602;
const GETFLAGS: u32 = 0x8008_6601;
const NODUMP: u64 = 0x40;
const IMMUTABLE: u64 = 0x10;
const GET_LABEL: u32 = 0x8100_9431;

// --- the table ---

/// A row: the actors and the lent capabilities.
#[derive(Debug, Default, Clone)]
struct Row {
    actors: BTreeSet<String>,
    lent: BTreeSet<String>,
}

/// The words of a text in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows by system call; rows of one call are merged.
fn table() -> BTreeMap<String, Row> {
    let text = fs::read_to_string("ARCHITECTURE.md").expect("read ARCHITECTURE.md");
    let lines = text.lines().skip_while(|line| *line != "<!-- credentials -->").skip(3);
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, calls, actors, lent, why, _] = cells[..] else {
            panic!("a row is four cells: {line}")
        };
        assert!(!why.is_empty(), "{line}");
        let actors: BTreeSet<String> = ["creator", "caller", "writer", "ownerless", "any"]
            .into_iter()
            .filter(|actor| actors.split(|c: char| !c.is_alphabetic()).any(|word| word == *actor))
            .map(str::to_owned)
            .collect();
        assert!(!actors.is_empty(), "{line}");
        let is_capability = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        for call in quoted(calls).filter(|call| !call.ends_with('*')) {
            let row = rows.entry(call.to_owned()).or_default();
            row.actors.extend(actors.iter().cloned());
            row.lent.extend(quoted(lent).filter(is_capability).map(str::to_owned));
        }
    }
    assert!(rows.len() > 25, "the table is there: {rows:?}");
    rows
}

// --- the trace ---

/// strace(1) attached to a daemon; detached when dropped.
struct Tracer(Child);

impl Tracer {
    fn on(pid: u32, to: &Path) -> Self {
        let silent =
            "futex,poll,ppoll,clock_nanosleep,sched_yield,mmap,munmap,mprotect,madvise,brk";
        let child = Command::new("strace")
            .args(["-f", "-ff", "-ttt", "-s", "0", "-o"])
            .arg(to.join("trace"))
            .args(["-e", &format!("trace=!{silent}"), "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(File::create(to.join("strace's log")).expect("create"))
            .spawn()
            .expect("start strace");
        eventually("strace is attached to all threads", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
            tasks.flatten().all(|task| {
                fs::read_to_string(task.path().join("status"))
                    .is_ok_and(|status| !status.contains("TracerPid:\t0"))
            })
        });
        Self(child)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).expect("a pid");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

/// One system call of a thread's trace.
#[derive(Debug)]
struct Call<'a> {
    at: f64,
    name: &'a str,
    arguments: &'a str,
}

fn calls(trace: &str) -> impl Iterator<Item = Call<'_>> {
    trace.lines().filter_map(|line| {
        let (at, rest) = line.split_once(' ')?;
        let (name, arguments) = rest.split_once('(')?;
        Some(Call { at: at.parse().ok()?, name, arguments })
    })
}

/// The table's name for a call; `None` for a call that does not touch the source.
fn word(call: &Call<'_>) -> Option<String> {
    let creates = call.arguments.contains("O_CREAT") || call.arguments.contains("O_TMPFILE");
    Some(match call.name {
        // Old versions of strace do not know these names.
        "syscall_0x1c4" => "fchmodat2".to_owned(),
        "syscall_0x1d0" => "getxattr".to_owned(),
        "getxattrat" => "getxattr".to_owned(),
        "openat" if creates => "openat(O_CREAT)".to_owned(),
        "newfstatat" => "statx".to_owned(),
        "ioctl" => {
            let of = |what: &str| Some(format!("ioctl({what})"));
            let arguments = call.arguments;
            let has_one_of = |words: &[&str]| words.iter().any(|word| arguments.contains(word));
            return match arguments {
                _ if arguments.contains("FS_IOC_SETFLAGS") => of("SETFLAGS"),
                _ if arguments.contains("FS_IOC_GETFLAGS") => of("GETFLAGS"),
                _ if arguments.contains("FS_IOC_FSGETXATTR") => of("FSGETXATTR"),
                _ if arguments.contains("FS_IOC_FSSETXATTR") => of("FSSETXATTR"),
                // strace 6.1 prints the device's requests as numbers, 6.13 by name.
                _ if has_one_of(&["0xe5, 0x1,", "FUSE_DEV_IOC_BACKING_OPEN"]) => of("BACKING_OPEN"),
                _ if has_one_of(&["0xe5, 0x2,", "FUSE_DEV_IOC_BACKING_CLOSE"]) => {
                    of("BACKING_CLOSE")
                }
                _ if has_one_of(&["0xe5", "FUSE_DEV_IOC_", "TCGETS"]) => None,
                _ => Some("ioctl".to_owned()),
            };
        }
        "mkdirat" | "symlinkat" | "mknodat" | "renameat2" | "linkat" | "unlinkat" | "fchmodat2"
        | "fchmodat" | "fchownat" | "utimensat" | "ftruncate" | "pwritev2" | "fallocate"
        | "copy_file_range" | "setxattr" | "removexattr" | "getxattr" | "listxattr" | "openat"
        | "open_by_handle_at" | "name_to_handle_at" | "statx" | "readlinkat" | "getdents64"
        | "openat2" | "pread64" | "fsync" | "fdatasync" | "fanotify_mark" => call.name.to_owned(),
        // Calls that change files by path, which the daemon must never make.
        "mkdir" | "rmdir" | "unlink" | "rename" | "renameat" | "chmod" | "chown" | "lchown"
        | "fchmod" | "fchown" | "link" | "symlink" | "mknod" | "truncate" | "write"
        | "pwrite64" | "creat" | "lsetxattr" | "fsetxattr" | "lremovexattr" | "fremovexattr"
        | "utime" => {
            format!("{}, which no row has", call.name)
        }
        _ => return None,
    })
}

/// A thread's credentials, as far as the trace has shown them.
#[derive(Debug, Default, Clone)]
struct Thread {
    uid: Option<u32>,
    gid: Option<u32>,
    has_no_groups: bool,
    effective: Option<BTreeSet<String>>,
}

/// A caller, and the time span of its requests.
#[derive(Debug)]
struct Phase {
    from: f64,
    to: f64,
    /// The caller's id on the source, and at the mount.
    source: Option<u32>,
    own: u32,
}

impl Phase {
    /// The ids that an actor has in this phase.
    fn ids(&self, actor: &str) -> Vec<u32> {
        match actor {
            "creator" | "caller" => vec![self.source.unwrap_or(UNMAPPED_ID)],
            "writer" => vec![self.own],
            "ownerless" => vec![UNMAPPED_ID],
            _ => vec![self.source.unwrap_or(UNMAPPED_ID), self.own, UNMAPPED_ID, 0, PROBE],
        }
    }
}

fn first_number(arguments: &str) -> Option<u32> {
    let number = arguments.split([',', ')']).next()?.trim();
    if number == "-1" { None } else { number.parse().ok() }
}

/// The effective set of a capset(2), as strace prints it.
fn effective(arguments: &str) -> BTreeSet<String> {
    let set = arguments.split("effective=").nth(1).and_then(|rest| rest.split([',', '}']).next());
    let set = set.expect("strace shows the effective set");
    set.split('|')
        .filter_map(|one| one.split_once("CAP_"))
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// Follows a thread's trace: returns the deviations from the table, and adds the calls that occurred to `seen`.
fn judge(
    trace: &str,
    phases: &[Phase],
    rows: &BTreeMap<String, Row>,
    seen: &mut BTreeSet<String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut thread = Thread::default();
    let lendable: BTreeSet<&str> =
        rows.values().flat_map(|row| &row.lent).map(String::as_str).collect();
    // A child that makes a forwarded ioctl has its caller's credentials and makes no other call.
    let is_child = trace.contains("PR_SET_SECCOMP");
    for call in calls(trace) {
        let Some(phase) = phases.iter().find(|phase| (phase.from..phase.to).contains(&call.at))
        else {
            continue;
        };
        let mut say = |what: String| wrong.push(format!("{what}: {call:?} {thread:?} {phase:?}"));
        match call.name {
            "setfsuid" | "setfsgid" => {
                let Some(id) = first_number(call.arguments) else { continue };
                if !phase.ids("any").contains(&id) {
                    say(format!("an id of no row: {id}"));
                }
                *(if call.name == "setfsuid" { &mut thread.uid } else { &mut thread.gid }) =
                    Some(id);
            }
            "setgroups" => thread.has_no_groups = call.arguments.starts_with("0,"),
            "capset" => {
                let set = effective(call.arguments);
                let lent: BTreeSet<&str> =
                    set.iter().map(String::as_str).filter(|one| !WORKER.contains(one)).collect();
                if !is_child && (lent.len() > 1 || !lent.is_subset(&lendable)) {
                    say(format!("capabilities of no row: {lent:?}"));
                }
                thread.effective = Some(set);
            }
            _ => {
                let Some(word) = word(&call) else { continue };
                let Some(row) = rows.get(&word) else {
                    say(format!("no row for {word}"));
                    continue;
                };
                seen.insert(word.clone());
                if is_child {
                    continue;
                }
                let is_free = row.actors.contains("any");
                let (Some(uid), Some(gid), Some(effective)) =
                    (thread.uid, thread.gid, &thread.effective)
                else {
                    if !is_free {
                        say(format!("{word} with whatever the thread began with"));
                    }
                    continue;
                };
                if !thread.has_no_groups {
                    say(format!("{word} with the daemon's groups"));
                }
                let ids: Vec<u32> = row.actors.iter().flat_map(|actor| phase.ids(actor)).collect();
                let is_one = ids.contains(&uid) && ids.contains(&gid);
                if !(is_free || is_one) {
                    say(format!("{word} as {uid}:{gid}, not as one of {ids:?}"));
                }
                let is_known = |one: &String| {
                    WORKER.contains(&one.as_str())
                        || row.lent.contains(one)
                        // Left over from the registration of a backing file; the call does not depend on it.
                        || (one == "SYS_ADMIN" && may_be_left_over(&word))
                };
                if let Some(more) = effective.iter().find(|one| !is_known(one)) {
                    say(format!("{word} with {more}"));
                }
                if word == "ioctl(BACKING_OPEN)" && effective.contains("FSETID") {
                    say(format!("{word} with FSETID"));
                }
            }
        }
    }
    wrong
}

/// Whether a call is made for requests that look up, open, create, close or forget files, before which a worker keeps
/// CAP_SYS_ADMIN.
fn may_be_left_over(word: &str) -> bool {
    let opens = ["openat", "openat(O_CREAT)", "open_by_handle_at", "name_to_handle_at", "statx"];
    let looks = ["getxattr", "getdents64", "fanotify_mark", "fcntl", "ioctl(BACKING_CLOSE)"];
    opens.contains(&word) || looks.contains(&word)
}

// --- what callers do ---

/// Does everything that a caller may do, with file names of its own. Errors are ignored: a request that the kernel
/// refuses does not reach the daemon.
fn everything(dir: &Path, me: &str) {
    let at = |name: &str| dir.join(format!("{me}-{name}"));
    let (f, g) = (at("f"), at("g"));
    let mut quiet = Vec::new();
    let mut ignore = |result: std::io::Result<()>| quiet.push(result.is_ok());
    ignore(fs::create_dir(at("d")));
    ignore(symlink("nowhere", at("s")));
    ignore(rustix::fs::mknodat(CWD, at("p"), FileType::Fifo, Mode::RUSR, 0).map_err(Into::into));
    ignore(
        rustix::fs::mknodat(CWD, at("c"), FileType::CharacterDevice, Mode::RUSR, 0x103)
            .map_err(Into::into),
    );
    ignore(File::create(&f).and_then(|mut file| {
        file.write_all(b"content")?;
        file.rewind()
    }));
    ignore(
        rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR)
            .map(drop)
            .map_err(Into::into),
    );
    ignore(fs::hard_link(&f, &g));
    ignore(fs::rename(&g, at("h")));
    ignore(
        rustix::fs::renameat_with(CWD, at("h"), CWD, at("i"), RenameFlags::WHITEOUT)
            .map_err(Into::into),
    );
    ignore(chown(&f, None, Some(rustix::process::getgid().as_raw())));
    ignore(File::options().write(true).open(&f).and_then(|file| {
        file.set_times(fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(1)))
    }));
    // A file with a set-id bit gets no passthrough: the daemon transfers its data.
    ignore(fs::set_permissions(&f, Permissions::from_mode(0o4755)));
    if let Ok(file) = File::options().read(true).write(true).open(&f) {
        ignore(file.write_at(b"more", 3).map(drop));
        ignore(file.read_at(&mut [0; 4], 0).map(drop));
        ignore(file.set_len(5));
        ignore(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100).map_err(Into::into));
        ignore(file.sync_all());
        ignore(raw_ioctl(&file, GETFLAGS, 0).map(drop));
        ignore(raw_ioctl(&file, SETFLAGS, NODUMP).map(drop));
        ignore(raw_ioctl(&file, SETFLAGS, IMMUTABLE).map(drop));
        ignore(raw_ioctl(&file, SETFLAGS, 0).map(drop));
        ignore(buffer_ioctl(&file, GET_LABEL, &mut [0; 256]));
        if let Ok(other) = File::create(at("copy")) {
            ignore(
                rustix::fs::copy_file_range(&file, None, &other, None, 100)
                    .map(drop)
                    .map_err(Into::into),
            );
        }
    }
    let capability = [&[1, 0, 0, 2][..], &[0; 16]].concat();
    for (name, value) in [
        ("user.x", &b"value"[..]),
        ("trusted.x", b"value"),
        ("security.x", b"value"),
        ("security.capability", &capability),
    ] {
        ignore(rustix::fs::setxattr(&f, name, value, XattrFlags::empty()).map_err(Into::into));
        ignore(rustix::fs::getxattr(&f, name, &mut [0; 64][..]).map(drop).map_err(Into::into));
        ignore(rustix::fs::listxattr(&f, &mut [0; 1024][..]).map(drop).map_err(Into::into));
        ignore(rustix::fs::removexattr(&f, name).map_err(Into::into));
    }
    ignore(fs::read_dir(dir).map(|entries| entries.for_each(drop)));
    ignore(fs::read_link(at("s")).map(drop));
    // Whether a path hides it depends on where its directory is.
    ignore(fs::metadata(at("d").join("hidden")).map(drop));
    for name in ["s", "p", "c", "i", "h", "copy", "f", "theirs"] {
        ignore(fs::remove_file(at(name)));
    }
    ignore(fs::remove_dir(at("d")));
    assert!(!quiet.is_empty());
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[test]
fn every_call_is_made_as_the_table_of_the_architecture_says() {
    let rows = table();
    let disk = loop_fs("ext4", 64);
    let source = disk.dir("source");
    fs::set_permissions(&source, Permissions::from_mode(0o777)).expect("chmod");
    for me in ["root", "user", "host", "unmapped"] {
        // A file that an unmapped caller can remove.
        fs::write(source.join(format!("{me}-theirs")), "x").expect("write");
    }
    let traces = scratch();
    let mount = Mount::builder()
        .source(&source)
        .map(SHIFT)
        .arg("--threads=1")
        .arg("--enable-ioctl")
        .arg("--exclude=/*/hidden")
        .start();
    let dir = mount.path().to_owned();
    let tracer = Tracer::on(mount.pid().expect("a daemon"), traces.path());
    let mut phases = Vec::new();
    for round in 0..2 {
        for (me, uid) in
            [("root", SHIFTED), ("user", SHIFTED + 1000), ("host", 0), ("unmapped", 5000)]
        {
            // Deferred work for the previous caller is done by then.
            std::thread::sleep(Duration::from_millis(300));
            let from = now();
            as_user(uid, uid, &[], || everything(&dir, me));
            std::thread::sleep(Duration::from_millis(300));
            phases.push(Phase { from, to: now(), source: uid.checked_sub(SHIFTED), own: uid });
            assert!(!source.join(format!("{me}-theirs")).exists() || round > 0, "{me}");
        }
    }
    mount.forget_all();
    std::thread::sleep(Duration::from_millis(300));
    drop(tracer);
    drop(mount);
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for file in fs::read_dir(traces.path()).expect("list the traces").flatten() {
        if file.file_name().to_string_lossy().starts_with("trace.") {
            let trace = fs::read_to_string(file.path()).expect("read a trace");
            wrong.extend(judge(&trace, &phases, &rows, &mut seen));
        }
    }
    assert!(wrong.is_empty(), "{} times, as: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    let unseen: Vec<_> = rows.keys().filter(|row| !seen.contains(*row)).collect();
    // Calls on other filesystems or older kernels, and requests that this run does not make.
    let rare = [
        "ioctl(FSSETXATTR)",
        "fchmodat",
        "fdatasync",
        "fcntl",
        "ioctl(BACKING_CLOSE)",
        // With `-o sync`.
        "syncfs",
        "sync",
    ];
    let missing: Vec<_> = unseen.iter().filter(|row| !rare.contains(&row.as_str())).collect();
    assert!(missing.is_empty(), "rows that nothing was seen of: {missing:?}");
}
