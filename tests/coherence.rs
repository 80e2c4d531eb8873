//! The kernel keeps what the mount has told it for ten minutes, and all the same shows what others change: what must be
//! seen is seen, and keeping it seen costs no requests.

mod support;

// The comparison in `benches/` uses more of them.
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

/// How soon a change must be seen, also on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(5);
/// What is kept for a second only, since it was not watched yet, is gone by then.
const PAST_FRESH: Duration = Duration::from_millis(1200);

#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let (start, soon) = (Instant::now(), patience(SOON));
    while !holds() {
        assert!(start.elapsed() < soon, "not within {soon:?}: {what}");
        sleep(Duration::from_millis(2));
    }
}

/// As nftw(3) does it: every entry is asked for its attributes. How many there are.
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

/// What somebody does in a directory of its own, and how it shows at the mount.
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
        what: "a file is created whose name was missing",
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

/// Has the kernel keep everything for as long as it may, and waits until nothing is kept for only a second any more.
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
        sleep(PAST_FRESH);
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

/// Names that come and go on the source while clients look them up: a look-up that was answered before a change must not
/// bring what was there before it after the change was told.
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
    // That the tests above can fail.
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
    sleep(PAST_FRESH);
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
            sleep(PAST_FRESH);
        }
        let (mut written, mut last, mut sizes) = (0, 0, 0);
        let start = Instant::now();
        let second = Duration::from_secs(1);
        // A slow machine may take longer to get as far.
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
        // It is left alone no longer, and trusted again: the next write after a pause is told.
        sleep(PAST_FRESH);
        assert_eq!(size(&seen), written);
        log.write_all(b"x").expect("append");
        soon("a write after a pause", || size(&seen) == written + 1);
        assert_eq!(fs::read(&seen).expect("read").len() as u64, written + 1);
    }
}

#[test]
fn a_second_name_in_an_unmarked_directory_is_detected_when_the_file_is_opened() {
    let mount = Mount::builder().arg("--cache=coherent").start();
    file(mount.source());
    fs::create_dir(mount.in_source("unseen")).expect("mkdir");
    let (f, g) = (mount.join("f"), mount.in_source("unseen/g"));
    for _ in 0..2 {
        assert_eq!(size(&f), 3);
        sleep(PAST_FRESH);
    }
    fs::hard_link(mount.in_source("f"), &g).expect("link");
    append(&g, "two");
    // The kernel tells nobody of either, so the old size may be seen for ten minutes. What is read is never old.
    let mut text = Vec::new();
    let mut open = File::open(&f).expect("open");
    std::io::Read::read_to_end(&mut open, &mut text).expect("read");
    assert_eq!(text, b"onetwo");
    // Who opened it looked: from now on the file has a watch of its own, by whatever name it is changed.
    soon("the new size", || size(&f) == 6);
    assert_eq!(fs::metadata(&f).expect("stat").nlink(), 2);
    sleep(PAST_FRESH);
    append(&g, "three");
    soon("a change by the second name", || size(&f) == 11);
    sleep(PAST_FRESH);
    chmod(&g, 0o604);
    soon("a mode set by the second name", || mode(&f) == 0o604);
}

const FILES: u64 = 1000;
const DIRECTORIES: u64 = 10;

/// A mount on a disk of its own, with what counts its daemon's work.
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
        // Events gather, and files that are written to are looked after for a tenth of a second.
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

/// Messages to the kernel that answer no request.
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
    // The kernel asks for the access times of what it has listed.
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
    // The kernel writes past the daemon, as the client: word of it comes as if a stranger had written. Once for each
    // file, mostly; twice where the write and the close are told apart.
    assert!(told <= 250, "{told} notices for 100 files: {written:?}");
    sleep(PAST_FRESH);
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
    sleep(PAST_FRESH);
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
    let strangers = switches() - before;
    busy(&source);
    let watched = switches() - before - strangers;
    assert_eq!(strangers, 0, "the watch was woken");
    assert!(watched > 10, "the watch wakes {watched} times for what it is to tell");
}

/// How often a thread of that name has waited.
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
    // Neither lists nor asks for attributes: what the kernel believes is all that there is.
    eventually("he may make something in his directory", || {
        as_user(2001, 2001, &[], || fs::create_dir(mount.join("d/new"))).is_ok()
    });
    eventually("he may write his file", || {
        as_user(2001, 2001, &[], || fs::OpenOptions::new().write(true).open(mount.join("f")))
            .is_ok()
    });
    assert_eq!(fs::metadata(&below).expect("stat").dev(), mounted, "what is mounted below stays");
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).expect("unmount");
}
