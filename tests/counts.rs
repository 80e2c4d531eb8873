//! The requests and system calls of each operation, as ARCHITECTURE.md's table has them. The counts do not depend on
//! the machine's load.

mod support;

// benches/compare uses more of this module.
#[allow(dead_code)]
#[path = "../benches/compare/count.rs"]
mod count;
#[path = "../benches/compare/syscalls.rs"]
mod syscalls;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use count::{Counter, Counts};
use support::LockKind::{None as Unlock, Shared};
use support::{Lock, LoopFs, Mount, cannot_run, loop_fs};

const TIMES: u64 = 100;
/// Directories of a tree, with `TIMES` files each.
const DIRECTORIES: u64 = 20;

/// System calls that read requests and write replies, that background threads make every second, and that std makes
/// in debug builds.
const TRANSPORT: [&str; 8] =
    ["read", "writev", "clock_nanosleep", "futex", "poll", "ppoll", "fcntl", "sched_yield"];

struct Bench {
    counter: Counter,
    mount: Mount,
    // Dropped last.
    _disk: LoopFs,
}

impl Bench {
    fn new() -> Self {
        Self::of(files, &[])
    }

    /// A mount of a source that `make` fills, with additional arguments.
    fn of(make: impl FnOnce(&Path), more: &[&str]) -> Self {
        let disk = loop_fs("ext4", 64);
        let source = disk.path().join("source");
        fs::create_dir(&source).expect("make the source");
        make(&source);
        let builder = Mount::builder().source(&source).arg("--threads=1");
        let mount = more.iter().fold(builder, |builder, more| builder.arg(more)).start();
        let device = fs::metadata(mount.path()).expect("look at the mount").dev();
        let counter = Counter::new(mount.pid().expect("a daemon"), device);
        Self { counter, mount, _disk: disk }
    }

    fn file(&self, i: u64) -> PathBuf {
        self.mount.join(format!("file-{i}"))
    }

    /// Counts the work, done [`TIMES`] times.
    fn each(&self, mut work: impl FnMut(u64)) -> Counts {
        self.counter.start().expect("count");
        (0..TIMES).for_each(&mut work);
        let counts = self.counter.stop(TIMES).expect("count");
        if counts.approximate {
            cannot_run("this kernel has no trace points of FUSE's requests");
        }
        counts
    }
}

fn files(dir: &Path) {
    for i in 0..TIMES {
        fs::write(dir.join(format!("file-{i}")), b"content").expect("make a file");
    }
}

/// Asserts how many requests of each opcode an operation takes; opcodes that `max` lacks are not allowed.
#[track_caller]
fn requests(what: &str, counts: &Counts, max: &[(&str, u64)]) {
    for (opcode, asked) in &counts.requests {
        let allowed = max.iter().find(|(name, _)| name == opcode).map_or(0, |(_, max)| *max);
        // A few requests may be late ones of earlier work.
        assert!(
            *asked <= allowed * TIMES + 3,
            "{what}: {asked} times {opcode} in {TIMES}: {counts:?}"
        );
    }
}

/// Asserts how many system calls an operation takes, without `TRANSPORT`.
#[track_caller]
fn calls(what: &str, counts: &Counts, max: u64) {
    let own = counts.syscalls.iter().filter(|(name, _)| !TRANSPORT.contains(&name.as_str()));
    let total: u64 = own.map(|(_, count)| count).sum();
    assert!(total <= max * TIMES + 30, "{what}: {total} system calls in {TIMES}: {counts:?}");
}

fn stat(path: &Path) {
    fs::symlink_metadata(path).expect("stat");
}

#[test]
fn an_operation_takes_no_more_requests_and_system_calls_than_the_architecture_says() {
    let bench = Bench::new();
    let file = |i| bench.file(i);

    let looked_up = bench.each(|i| stat(&file(i)));
    requests("look-up", &looked_up, &[("LOOKUP", 1)]);
    calls("look-up", &looked_up, 2);

    let again = bench.each(|i| stat(&file(i)));
    requests("stat again", &again, &[]);
    calls("stat again", &again, 0);

    let missing = bench.mount.join("missing");
    let missed = bench.each(|_| assert!(fs::symlink_metadata(&missing).is_err()));
    requests("a missing name", &missed, &[]);

    fs::read_dir(bench.mount.path()).expect("list").count();
    let listed = bench.each(|_| {
        assert_eq!(fs::read_dir(bench.mount.path()).expect("list").count() as u64, TIMES);
    });
    requests("listing again", &listed, &[]);

    let first = bench.each(|i| drop(File::open(file(i)).expect("open")));
    // A close releases the POSIX locks of its process, so it sends FLUSH, although few processes take locks.
    requests("open", &first, &[("OPEN", 1), ("FLUSH", 1), ("RELEASE", 1)]);
    let warm = bench.each(|i| drop(File::open(file(i)).expect("open")));
    requests("open, warm", &warm, &[("OPEN", 1), ("FLUSH", 1), ("RELEASE", 1)]);
    // One statx(2) for the file's attributes, and no ioctl(2).
    calls("open, warm", &warm, 1);

    // A file that is opened again and again stays registered.
    for i in 0..40_000 {
        drop(File::open(file(i % TIMES)).expect("open"));
    }
    let warm = bench.each(|i| drop(File::open(file(i)).expect("open")));
    calls("open, warm for long", &warm, 1);

    let mode = |i| Permissions::from_mode(if i % 2 == 0 { 0o600 } else { 0o640 });
    let changed = bench.each(|i| fs::set_permissions(file(1), mode(i)).expect("chmod"));
    requests("chmod", &changed, &[("SETATTR", 1)]);
    calls("chmod", &changed, 2);

    let made = bench.each(|i| {
        let mut new = File::create_new(bench.mount.join(format!("new-{i}"))).expect("create");
        new.write_all(b"content").expect("write");
    });
    let max = ["LOOKUP", "CREATE", "GETATTR", "GETXATTR", "FLUSH", "RELEASE"].map(|one| (one, 1));
    requests("create, write, close", &made, &max);
    calls("create, write, close", &made, 14);

    let gone =
        bench.each(|i| fs::remove_file(bench.mount.join(format!("new-{i}"))).expect("unlink"));
    requests("unlink", &gone, &[("UNLINK", 1), ("GETATTR", 1), ("LOOKUP", 1)]);
    calls("unlink", &gone, 8);

    what_is_written_and_read_costs_no_request(&bench);
    drop(bench);
    where_the_kernel_keeps_the_locks_a_close_sends_no_flush();
    what_the_kernel_has_is_read_without_a_request_in_spite_of_writers_and_locks();
    prefetching_makes_a_walk_no_more_expensive();
}

fn where_the_kernel_keeps_the_locks_a_close_sends_no_flush() {
    let bench = Bench::of(files, &["--disable-lock-forwarding"]);
    let opened = bench.each(|i| drop(File::open(bench.file(i)).expect("open")));
    requests("open without locks", &opened, &[("LOOKUP", 1), ("OPEN", 1), ("RELEASE", 1)]);
}

/// Stats every entry; returns the number of entries.
fn walk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("list").map(|entry| entry.expect("list").path());
    entries
        .map(|path| {
            let is_dir = fs::symlink_metadata(&path).expect("stat").is_dir();
            1 + if is_dir { walk(&path) } else { 0 }
        })
        .sum()
}

fn prefetching_makes_a_walk_no_more_expensive() {
    let folders = |source: &Path| {
        for i in 0..DIRECTORIES {
            let folder = source.join(format!("folder-{i}"));
            fs::create_dir(&folder).expect("make a folder");
            files(&folder);
        }
    };
    let bench = Bench::of(folders, &[]);
    bench.counter.start().expect("count");
    assert_eq!(walk(bench.mount.path()), DIRECTORIES * (TIMES + 1));
    let counts = bench.counter.stop(DIRECTORIES * TIMES).expect("count");
    let count = |name: &str| counts.syscalls.get(name).copied().unwrap_or(0);
    let own = counts.syscalls.iter().filter(|(name, _)| !TRANSPORT.contains(&name.as_str()));
    let total: u64 = own.map(|(_, count)| count).sum();
    // The daemon gives each file that the kernel knows for half a second a mark of its own (watch/deferred.rs), at six
    // calls. A walk on a busy machine takes longer than that.
    let marked = 6 * count("fanotify_mark").saturating_sub(DIRECTORIES);
    // The files are older than a clock tick, so their birth times identify them.
    let allowed = DIRECTORIES * (TIMES + 18) + 30 + marked;
    assert!(total <= allowed, "{total} system calls: {counts:?}");
    let lists = counts.requests.get("READDIRPLUS").copied().unwrap_or(0);
    assert!(lists <= 2 * DIRECTORIES + 4, "{lists} lists: {counts:?}");
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
        // The daemon polls for events once for each directory, to check that the prefetched entries are current.
        assert!(
            count("ppoll") + count("poll") >= DIRECTORIES / 2,
            "it was not looked ahead: {counts:?}"
        );
    }
}

/// Called from the same test, since a process has one trace buffer.
fn what_is_written_and_read_costs_no_request(bench: &Bench) {
    let file = OpenOptions::new().read(true).write(true).open(bench.file(0)).expect("open");
    let written = bench.each(|i| file.write_all_at(&[b'x'; 4096], i * 4096).expect("write"));
    requests("write", &written, &[]);
    calls("write", &written, 0);
    let mut buffer = [0; 4096];
    let read = bench.each(|i| file.read_exact_at(&mut buffer, i * 4096).expect("read"));
    requests("read", &read, &[]);
    let appended = OpenOptions::new().append(true).open(bench.file(1)).expect("open");
    let more = bench.each(|_| (&appended).write_all(b"a line\n").expect("append"));
    requests("append", &more, &[]);
}

/// Without passthrough the kernel has pages of its own for the file's data.
fn what_the_kernel_has_is_read_without_a_request_in_spite_of_writers_and_locks() {
    let bench = Bench::of(files, &["--passthrough=off"]);
    let file = OpenOptions::new().read(true).write(true).open(bench.file(0)).expect("open");
    file.write_all_at(&[b'x'; 1 << 16], 0).expect("write");
    let mut buffer = [0; 1 << 16];
    file.read_exact_at(&mut buffer, 0).expect("read");
    let mut read = |at| file.read_exact_at(&mut buffer[..4096], (at % 16) * 4096).expect("read");
    let counts = bench.each(&mut read);
    requests("read while open for writing", &counts, &[]);
    let counts = bench.each(|i| {
        Lock::whole(Shared).set(&file).expect("lock");
        read(i);
        Lock::whole(Unlock).set(&file).expect("unlock");
    });
    requests("read under a lock", &counts, &[("SETLKW", 2)]);
}
