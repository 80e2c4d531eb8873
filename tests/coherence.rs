//! The kernel caches what the mount has told it for ten minutes and still shows changes on the source: invalidations
//! make them visible, and keeping the cache valid costs no requests.

mod support;

// benches/compare uses more of this module.
#[allow(dead_code)]
#[path = "../benches/compare/count.rs"]
mod count;
#[path = "../benches/compare/syscalls.rs"]
mod syscalls;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use count::{Counter, Counts};
use support::{
    LoopFs, Mount, as_user, cannot_run, eventually, loop_fs, patience, scratch, sh, sh_output,
};

/// The time limit for a change to become visible, generous for a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// Longer than the second for which the kernel caches answers about unmarked files.
const AFTER_SHORT_TIMEOUT: Duration = Duration::from_millis(1200);

#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let (start, soon) = (Instant::now(), patience(SOON));
    while !holds() {
        assert!(start.elapsed() < soon, "not within {soon:?}: {what}");
        sleep(Duration::from_millis(2));
    }
}

/// Stats every entry, as nftw(3), and reads links; returns the number of entries.
fn walk(dir: &Path) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("list").path();
        let kind = fs::symlink_metadata(&path).expect("stat").file_type();
        if kind.is_symlink() {
            fs::read_link(&path).expect("readlink");
        }
        seen += 1 + if kind.is_dir() { walk(&path) } else { 0 };
    }
    seen
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("stat").len()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(text.as_bytes()).expect("append");
}

const ENTRIES: usize = 2000;

/// A change in a directory of its own, and how it shows at the mount.
struct Change {
    what: &'static str,
    before: fn(&Path),
    make: fn(&Path),
    shows: fn(&Path) -> bool,
}

fn file(dir: &Path) {
    fs::write(dir.join("f"), "one").expect("write");
}

fn entries(dir: &Path) {
    for number in 0..ENTRIES {
        File::create(dir.join(number.to_string())).expect("create");
    }
}

const CHANGES: &[Change] = &[
    Change {
        what: "a file is created where the kernel has a negative dentry",
        before: |_| {},
        make: file,
        shows: |dir| is_there(&dir.join("f")),
    },
    Change {
        what: "a file is removed",
        before: file,
        make: |dir| fs::remove_file(dir.join("f")).expect("unlink"),
        shows: |dir| !is_there(&dir.join("f")),
    },
    Change {
        what: "a file is renamed",
        before: file,
        make: |dir| fs::rename(dir.join("f"), dir.join("g")).expect("rename"),
        shows: |dir| !is_there(&dir.join("f")) && is_there(&dir.join("g")),
    },
    Change {
        what: "a directory is renamed with all that is in it",
        before: |dir| sh(dir, "mkdir -p f/sub; echo text > f/sub/f"),
        make: |dir| fs::rename(dir.join("f"), dir.join("g")).expect("rename"),
        shows: |dir| {
            !is_there(&dir.join("f/sub/f"))
                && fs::read_to_string(dir.join("g/sub/f")).is_ok_and(|text| text == "text\n")
        },
    },
    Change {
        what: "a directory is moved into another",
        before: |dir| sh(dir, "mkdir f to; echo text > f/f"),
        make: |dir| fs::rename(dir.join("f"), dir.join("to/f")).expect("rename"),
        shows: |dir| !is_there(&dir.join("f")) && is_there(&dir.join("to/f/f")),
    },
    Change {
        what: "a mode is changed",
        before: file,
        make: |dir| chmod(&dir.join("f"), 0o604),
        shows: |dir| mode(&dir.join("f")) == 0o604,
    },
    Change {
        what: "a file is appended to and closed",
        before: file,
        make: |dir| append(&dir.join("f"), "two"),
        shows: |dir| {
            size(&dir.join("f")) == 6 && fs::read(dir.join("f")).expect("read") == b"onetwo"
        },
    },
    Change {
        what: "an ACL is set",
        before: file,
        make: |dir| sh(dir, "setfacl -m u:1234:rw f"),
        shows: |dir| sh_output(dir, "getfacl -cn f").contains("user:1234:rw"),
    },
    Change {
        what: "a symbolic link is replaced",
        before: |dir| symlink("before", dir.join("f")).expect("symlink"),
        make: |dir| sh(dir, "ln -s after new; mv -T new f"),
        shows: |dir| fs::read_link(dir.join("f")).is_ok_and(|to| to == Path::new("after")),
    },
    Change {
        what: "a listing gets one more and one less",
        before: |dir| sh(dir, "touch a b c"),
        make: |dir| sh(dir, "rm b; touch d"),
        shows: |dir| {
            let entries = fs::read_dir(dir).expect("list");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("list").file_name()).collect();
            names.sort();
            names == ["a", "c", "d"]
        },
    },
    Change {
        what: "a file in a large directory is changed",
        before: entries,
        make: |dir| chmod(&dir.join("1234"), 0o604),
        shows: |dir| mode(&dir.join("1234")) == 0o604,
    },
    Change {
        what: "a large directory gets an entry",
        before: entries,
        make: file,
        shows: |dir| {
            is_there(&dir.join("f")) && fs::read_dir(dir).expect("list").count() == ENTRIES + 1
        },
    },
    Change {
        what: "a file gets a second name in a directory that was looked at, and is changed by it",
        before: |dir| {
            file(dir);
            fs::create_dir(dir.join("other")).expect("mkdir");
        },
        make: |dir| {
            fs::hard_link(dir.join("f"), dir.join("other/g")).expect("link");
            append(&dir.join("other/g"), "two");
        },
        shows: |dir| size(&dir.join("f")) == 6,
    },
];

/// Makes the kernel cache everything with the long timeout, and waits until nothing has the timeout of a second any
/// more.
fn trust(mount: &Mount) {
    for _ in 0..2 {
        walk(mount.path());
        for at in 0..CHANGES.len() {
            for name in ["f", "g", "to/f", "other/g"] {
                let _ = fs::symlink_metadata(mount.join(at.to_string()).join(name));
            }
            let f = mount.join(at.to_string()).join("f");
            if f.is_file() {
                fs::read(&f).expect("read");
                sh(mount.path(), &format!("getfacl -n {at}/f"));
            }
        }
        sleep(AFTER_SHORT_TIMEOUT);
    }
}

fn every_change_is_seen(mount: &Mount, made_in: &Path) {
    for (at, change) in CHANGES.iter().enumerate() {
        let dir = mount.in_source(at.to_string());
        fs::create_dir(&dir).expect("mkdir");
        (change.before)(&dir);
    }
    trust(mount);
    for (at, change) in CHANGES.iter().enumerate() {
        let seen = mount.join(at.to_string());
        assert!(!(change.shows)(&seen), "before it is made: {}", change.what);
        (change.make)(&made_in.join(at.to_string()));
        soon(change.what, || (change.shows)(&seen));
    }
}

#[test]
fn a_change_on_the_source_is_seen_in_spite_of_a_ten_minute_timeout() {
    let mount = Mount::builder().arg("--cache=coherent").start();
    let source = mount.source().to_owned();
    every_change_is_seen(&mount, &source);
}

#[test]
fn a_change_through_another_mount_is_seen_in_spite_of_a_ten_minute_timeout() {
    let mount = Mount::builder().arg("--cache=coherent").start();
    let other = Mount::builder().source(mount.source()).start();
    every_change_is_seen(&mount, other.path());
}

/// Races lookups with changes on the source: the reply to a LOOKUP from before a change must not restore the old
/// state after the invalidation.
#[test]
fn names_that_are_looked_up_while_they_come_and_go_end_as_they_are_on_the_source() {
    const NAMES: u64 = 64;
    let mount = Mount::builder().arg("--cache=coherent").start();
    for round in 0..5 {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for client in 0..2 {
                let (mount, stop) = (&mount, &stop);
                scope.spawn(move || {
                    for at in (client..).step_by(7).take_while(|_| !stop.load(Ordering::Relaxed)) {
                        is_there(&mount.join((at % NAMES).to_string()));
                    }
                });
            }
            let end = Instant::now() + Duration::from_millis(500);
            for at in (0u64..).step_by(11).take_while(|_| Instant::now() < end) {
                let name = mount.in_source((at % NAMES).to_string());
                match at / NAMES % 3 {
                    0 if !is_there(&name) => drop(File::create(&name).expect("create")),
                    1 if is_there(&name) => fs::remove_file(&name).expect("remove"),
                    _ if is_there(&name) => {
                        let other = mount.in_source(((at + 5) % NAMES).to_string());
                        fs::rename(&name, other).expect("rename");
                    }
                    _ => {}
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        for at in 0..NAMES {
            let (here, there) =
                (mount.join(at.to_string()), is_there(&mount.in_source(at.to_string())));
            soon(&format!("{at} in round {round}: {there}"), || is_there(&here) == there);
        }
    }
}

#[test]
fn without_a_watch_none_of_it_would_be_seen() {
    // Shows that the tests above can fail.
    let mount = Mount::builder().arg("--cache=forever").start();
    file(mount.source());
    assert_eq!(size(&mount.join("f")), 3);
    assert!(!is_there(&mount.join("g")));
    append(&mount.in_source("f"), "two");
    file(&{
        fs::create_dir(mount.in_source("d")).expect("mkdir");
        mount.in_source("d")
    });
    fs::rename(mount.in_source("d/f"), mount.in_source("g")).expect("rename");
    sleep(AFTER_SHORT_TIMEOUT);
    assert_eq!(size(&mount.join("f")), 3, "kept forever");
    assert!(!is_there(&mount.join("g")), "kept forever");
}

#[test]
fn a_file_that_is_written_to_without_a_pause_is_seen_to_grow_and_at_the_end_is_whole() {
    let mount = Mount::builder().arg("--cache=coherent").start();
    let other = Mount::builder().source(mount.source()).start();
    let source = mount.source().to_owned();
    for made_in in [source.as_path(), other.path()] {
        let name = format!("log-{}", made_in.file_name().expect("a name").display());
        fs::write(mount.in_source(&name), "").expect("write");
        let seen = mount.join(&name);
        let mut log = OpenOptions::new().append(true).open(made_in.join(&name)).expect("open");
        for _ in 0..2 {
            assert_eq!(size(&seen), 0);
            sleep(AFTER_SHORT_TIMEOUT);
        }
        let (mut written, mut last, mut sizes) = (0, 0, 0);
        let start = Instant::now();
        let second = Duration::from_secs(1);
        // A slow machine may need more time for six different sizes.
        while start.elapsed() < second || sizes <= 5 && start.elapsed() < patience(second) {
            for _ in 0..20 {
                log.write_all(b"x").expect("append");
            }
            written += 20;
            let now = size(&seen);
            assert!(last <= now && now <= written, "{last}, then {now} of {written}");
            sizes += usize::from(last != now);
            last = now;
            sleep(Duration::from_millis(5));
        }
        assert!(sizes > 5, "only {sizes} sizes were seen");
        soon("the last write", || size(&seen) == written);
        // The suppression of the file's write events is over: the next write after a pause is reported at once.
        sleep(AFTER_SHORT_TIMEOUT);
        assert_eq!(size(&seen), written);
        log.write_all(b"x").expect("append");
        soon("a write after a pause", || size(&seen) == written + 1);
        assert_eq!(fs::read(&seen).expect("read").len() as u64, written + 1);
    }
}

#[test]
fn a_change_by_a_second_name_in_an_unmarked_directory_is_seen() {
    let mount = Mount::builder().arg("--cache=coherent").start();
    file(mount.source());
    fs::create_dir(mount.in_source("unseen")).expect("mkdir");
    let (f, g) = (mount.join("f"), mount.in_source("unseen/g"));
    for _ in 0..2 {
        assert_eq!(size(&f), 3);
        sleep(AFTER_SHORT_TIMEOUT);
    }
    fs::hard_link(mount.in_source("f"), &g).expect("link");
    append(&g, "two");
    soon("the new size", || size(&f) == 6);
    assert_eq!(fs::metadata(&f).expect("stat").nlink(), 2);
    sleep(AFTER_SHORT_TIMEOUT);
    append(&g, "three");
    soon("a change by the second name", || size(&f) == 11);
    sleep(AFTER_SHORT_TIMEOUT);
    chmod(&g, 0o604);
    soon("a mode set by the second name", || mode(&f) == 0o604);
}

const FILES: u64 = 1000;
const DIRECTORIES: u64 = 10;

/// A mount on a filesystem of its own, with a counter of the daemon's requests and system calls.
struct Counted {
    counter: Counter,
    mount: Mount,
    // Dropped last.
    _disk: LoopFs,
}

impl Counted {
    fn new() -> Self {
        let disk = loop_fs("ext4", 64);
        let source = disk.dir("source");
        for number in 0..FILES {
            let dir = source.join((number % DIRECTORIES).to_string());
            fs::create_dir_all(&dir).expect("mkdir");
            fs::write(dir.join(format!("file-{number}")), "content").expect("write");
        }
        let mount = Mount::builder().source(&source).arg("--cache=coherent").start();
        let device = fs::metadata(mount.path()).expect("stat").dev();
        let counter = Counter::new(mount.pid().expect("a daemon runs"), device);
        Self { counter, mount, _disk: disk }
    }

    fn count(&self, operations: u64, work: impl FnOnce()) -> Counts {
        self.counter.start().expect("count");
        work();
        // Events are batched, and write events of a file are suppressed for 100 ms.
        sleep(Duration::from_millis(500));
        let counts = self.counter.stop(operations).expect("count");
        if counts.approximate {
            cannot_run("this kernel has no trace points of FUSE's requests");
        }
        counts
    }

    fn file(&self, number: u64) -> PathBuf {
        self.mount.join(format!("{}/file-{number}", number % DIRECTORIES))
    }
}

fn requests(counts: &Counts) -> u64 {
    counts.requests.values().sum()
}

/// The messages to the kernel that answer no request (notifications).
fn notices(counts: &Counts) -> u64 {
    let of = |name| counts.syscalls.get(name).copied().unwrap_or_default();
    (of("writev") + of("write")).saturating_sub(requests(counts))
}

// One test, since a process has one trace buffer.
#[test]
fn unchanged_files_cost_no_request_and_a_clients_writes_few_invalidations() {
    let counted = Counted::new();
    let names = (FILES + DIRECTORIES) as usize;
    let first = counted.count(FILES, || assert_eq!(walk(counted.mount.path()), names));
    assert!(requests(&first) > 0, "the first walk asks: {first:?}");

    sleep(Duration::from_secs(3));
    let second = counted.count(FILES, || assert_eq!(walk(counted.mount.path()), names));
    // The kernel has invalidated the access times of the directories that it listed.
    let directories = second.requests.get("GETATTR").copied().unwrap_or_default();
    assert!(directories <= DIRECTORIES + 1, "each directory once: {second:?}");
    assert!(requests(&second) <= DIRECTORIES + 4, "three seconds later: {second:?}");

    sleep(Duration::from_secs(3));
    let third = counted.count(FILES, || assert_eq!(walk(counted.mount.path()), names));
    assert!(requests(&third) <= 3, "and once more: {third:?}");

    sleep(Duration::from_secs(3));
    let stats =
        counted.count(FILES, || (0..FILES).for_each(|n| assert_eq!(size(&counted.file(n)), 7)));
    assert!(requests(&stats) <= 3, "stat of every file some seconds later: {stats:?}");

    let written = counted.count(100, || {
        for number in 0..100 {
            fs::write(counted.mount.join(format!("0/new-{number}")), "text").expect("write");
        }
    });
    let told = notices(&written);
    // With passthrough the kernel writes to the source as the client, and fanotify reports it like another process's
    // write: mostly once a file, twice if the write and the close are reported apart.
    assert!(told <= 250, "{told} notices for 100 files: {written:?}");
    sleep(AFTER_SHORT_TIMEOUT);
    let again = counted.count(100, || {
        for number in 0..100 {
            assert_eq!(size(&counted.mount.join(format!("0/new-{number}"))), 4);
        }
    });
    assert!(requests(&again) <= 110, "stat of files that were just written: {again:?}");
}

#[test]
fn activity_elsewhere_on_the_filesystem_sends_the_daemon_no_event() {
    let disk = scratch();
    let (source, elsewhere) = (disk.dir("source"), disk.dir("elsewhere"));
    file(&source);
    file(&elsewhere);
    let mount = Mount::builder().source(&source).arg("--cache=coherent").start();
    walk(mount.path());
    sleep(AFTER_SHORT_TIMEOUT);
    let switches = || voluntary_switches(mount.pid().expect("a daemon runs"), "watch");
    let busy = |dir: &Path| {
        for number in 0..200 {
            let new = dir.join(format!("n{number}"));
            fs::write(&new, "text").expect("write");
            fs::remove_file(&new).expect("unlink");
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(300));
    };
    let before = switches();
    busy(&elsewhere);
    let elsewhere_wakeups = switches() - before;
    busy(&source);
    let watched = switches() - before - elsewhere_wakeups;
    assert_eq!(elsewhere_wakeups, 0, "the watch was woken");
    assert!(watched > 10, "the watch wakes {watched} times for what it is to tell");
}

/// The number of voluntary context switches of the thread with that name.
fn voluntary_switches(process: u32, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("list threads");
    let of_thread = |task: PathBuf| -> Option<u64> {
        let called = fs::read_to_string(task.join("comm")).ok()?;
        let status = fs::read_to_string(task.join("status")).ok()?;
        let count = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
        (called.trim() == name).then(|| count.trim().parse().ok())?
    };
    tasks.flatten().find_map(|task| of_thread(task.path())).expect("the thread runs")
}

#[test]
fn a_user_may_write_a_directory_right_after_a_chown_on_the_source() {
    let mount = Mount::builder().map("b:1000:2000:10").start();
    let (dir, file) = (mount.in_source("d"), mount.in_source("f"));
    fs::create_dir(&dir).expect("mkdir");
    fs::write(&file, "x").expect("write");
    fs::create_dir(dir.join("mounted")).expect("mkdir");
    let below = mount.join("d/mounted");
    for name in ["d", "f", "d/mounted"] {
        assert_eq!(fs::metadata(mount.join(name)).expect("stat").uid(), 65534, "unmapped");
    }
    rustix::mount::mount_bind(scratch().path(), &below).expect("mount");
    let mounted = fs::metadata(&below).expect("stat").dev();
    for path in [&dir, &file] {
        std::os::unix::fs::chown(path, Some(1001), Some(1001)).expect("chown");
    }
    // Neither call lists the directory or asks for attributes: the kernel decides by what it has cached.
    eventually("the new owner may create in the directory", || {
        as_user(2001, 2001, &[], || fs::create_dir(mount.join("d/new"))).is_ok()
    });
    eventually("the new owner may write the file", || {
        as_user(2001, 2001, &[], || fs::OpenOptions::new().write(true).open(mount.join("f")))
            .is_ok()
    });
    assert_eq!(fs::metadata(&below).expect("stat").dev(), mounted, "what is mounted below stays");
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).expect("unmount");
}
