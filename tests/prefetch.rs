//! The daemon prefetches the lookups of a walk. Clients notice it by the time only: a listing is current, whatever
//! has changed a moment before, and directories that no client lists keep their access times.

mod support;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{Mount, loop_fs, sh};

/// Long enough for the daemon to prefetch the next directory, short enough for the prefetched entries to be still
/// valid.
const MEANWHILE: Duration = Duration::from_millis(10);

/// A change's name, and how it is made.
type Change = (&'static str, fn(&Path));

/// Changes of a directory with the files `f0` to `f9`.
const CHANGES: [Change; 12] = [
    ("nothing", |_| ()),
    ("a new file", |dir| drop(File::create_new(dir.join("new")).expect("create"))),
    ("a file less", |dir| fs::remove_file(dir.join("f3")).expect("unlink")),
    ("a file moved in the directory", |dir| {
        fs::rename(dir.join("f3"), dir.join("moved")).expect("rename");
    }),
    ("a file moved away", |dir| {
        fs::rename(dir.join("f4"), dir.parent().expect("a parent").join("away")).expect("rename");
    }),
    ("another mode", |dir| {
        fs::set_permissions(dir.join("f5"), Permissions::from_mode(0o4711)).expect("chmod");
    }),
    ("another owner", |dir| {
        std::os::unix::fs::lchown(dir.join("f6"), Some(7), Some(8)).expect("chown");
    }),
    ("more in a file", |dir| {
        let mut file = OpenOptions::new().append(true).open(dir.join("f7")).expect("open");
        file.write_all(b"and more").expect("write");
    }),
    ("nothing in a file", |dir| drop(File::create(dir.join("f7")).expect("truncate"))),
    ("another file under the name", |dir| {
        fs::write(dir.join("f8.new"), b"another").expect("write");
        fs::rename(dir.join("f8.new"), dir.join("f8")).expect("rename");
    }),
    ("the same name for something else", |dir| {
        fs::remove_file(dir.join("f9")).expect("unlink");
        symlink("f1", dir.join("f9")).expect("symlink");
    }),
    ("a directory in it that is not empty", |dir| {
        fs::create_dir(dir.join("below")).expect("mkdir");
        fs::write(dir.join("below/one"), b"one").expect("write");
    }),
];

fn tree(source: &Path, folders: usize) {
    for folder in 0..folders {
        let folder = source.join(format!("folder-{folder}"));
        fs::create_dir(&folder).expect("mkdir");
        for file in 0..10 {
            fs::write(folder.join(format!("f{file}")), b"content").expect("write");
        }
    }
}

/// The directories in the order of a walk.
fn folders(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).expect("list").map(|entry| entry.expect("list").path()).collect()
}

/// What a directory shows of a name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    name: OsString,
    ino: u64,
    mode: u32,
    owner: (u32, u32),
    nlink: u64,
    len: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

fn shown(dir: &Path) -> Vec<Shown> {
    let entries = fs::read_dir(dir).expect("list").map(|entry| entry.expect("list"));
    let mut shown: Vec<_> = entries
        .map(|entry| {
            let stat = fs::symlink_metadata(entry.path()).expect("stat");
            Shown {
                name: entry.file_name(),
                ino: stat.ino(),
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                nlink: stat.nlink(),
                len: stat.len(),
                mtime: (stat.mtime(), stat.mtime_nsec()),
                ctime: (stat.ctime(), stat.ctime_nsec()),
            }
        })
        .collect();
    shown.sort();
    shown
}

/// Walks a tree, and changes each directory at `changed(mount, source name)` just before the walk lists it.
fn changed_before_readdir(changed: impl Fn(&Mount, &str) -> PathBuf) {
    for (pause, rounds) in [(MEANWHILE, 2), (Duration::ZERO, 4)] {
        for round in 0..rounds {
            let mount = Mount::identity();
            tree(mount.source(), 4 * CHANGES.len());
            for (at, folder) in folders(mount.path()).iter().enumerate() {
                let name = folder.file_name().expect("a name").to_str().expect("text");
                let (what, change) = CHANGES[(at + round) % CHANGES.len()];
                sleep(pause);
                change(&changed(&mount, name));
                let at_mount = shown(folder);
                assert_eq!(at_mount, shown(&mount.in_source(name)), "{what}, after {pause:?}");
            }
        }
    }
}

#[test]
fn a_change_on_the_source_just_before_a_directory_is_listed_is_seen() {
    changed_before_readdir(|mount, name| mount.in_source(name));
}

/// The daemon is stopped while the directory changes, so it has not read the event when it is asked to list.
#[test]
fn a_change_that_the_daemon_has_not_heard_of_yet_is_seen() {
    let signal = |mount: &Mount, signal: Signal| {
        let pid = mount.pid().and_then(|pid| Pid::from_raw(pid as i32)).expect("a daemon");
        kill_process(pid, signal).expect("stop or go on");
    };
    let mount = Mount::identity();
    tree(mount.source(), 4 * CHANGES.len());
    for (at, folder) in folders(mount.path()).iter().enumerate() {
        let name = folder.file_name().expect("a name");
        let (what, change) = CHANGES[at % CHANGES.len()];
        sleep(MEANWHILE);
        signal(&mount, Signal::STOP);
        change(&mount.in_source(name));
        let listed = std::thread::scope(|scope| {
            let listed = scope.spawn(|| shown(folder));
            // Both the request and the event are queued before the daemon goes on.
            sleep(Duration::from_millis(2));
            signal(&mount, Signal::CONT);
            listed.join().expect("list")
        });
        assert_eq!(listed, shown(&mount.in_source(name)), "{what}");
    }
}

#[test]
fn a_change_at_the_mount_just_before_a_directory_is_listed_is_seen() {
    changed_before_readdir(|mount, name| mount.join(name));
}

#[test]
fn a_change_through_another_mount_of_the_source_is_seen() {
    let other = std::cell::RefCell::new(None::<(PathBuf, Mount)>);
    changed_before_readdir(|mount, name| {
        let mut other = other.borrow_mut();
        if other.as_ref().is_none_or(|(source, _)| source != mount.source()) {
            let second = Mount::builder().source(mount.source()).start();
            *other = Some((mount.source().to_owned(), second));
        }
        other.as_ref().expect("it is mounted").1.join(name)
    });
}

/// Entries between two changes.
const CHANGED_EVERY: usize = 500;
/// More entries than one READDIRPLUS returns.
const AT_ONCE: usize = 210;

#[test]
fn a_change_deep_in_a_long_directory_is_seen_where_the_listing_has_not_come_yet() {
    let mount = Mount::identity();
    for file in 0..3000 {
        fs::write(mount.in_source(format!("file-{file}")), b"content").expect("write");
    }
    let (mut seen, mut mode) = (0, 0o644);
    sh(mount.source(), "chmod 644 file-*");
    for entry in fs::read_dir(mount.path()).expect("list") {
        let stat = fs::symlink_metadata(entry.expect("list").path()).expect("stat");
        // The kernel has the first of them from an earlier READDIRPLUS; the invalidation reaches it a moment later.
        if seen % CHANGED_EVERY > AT_ONCE {
            assert_eq!(stat.mode() & 0o7777, mode, "entry {seen}");
        }
        seen += 1;
        if seen % CHANGED_EVERY == 0 {
            mode = 0o600 + (seen / CHANGED_EVERY) as u32 % 8;
            sleep(MEANWHILE);
            sh(mount.source(), &format!("chmod {mode:o} file-*"));
        }
    }
    assert_eq!(seen, 3000);
}

const LONG: [&str; 4] = ["folder-2", "folder-3", "folder-4", "folder-5"];

#[test]
fn only_what_is_listed_is_accessed() {
    let disk = loop_fs("ext4", 64);
    sh(disk.path(), "mount -o remount,strictatime .");
    let source = disk.dir("source");
    tree(&source, 12);
    // More names than one read returns. The walk reads only the first entry of these directories.
    for (long, file) in LONG.into_iter().flat_map(|long| (0..1000).map(move |file| (long, file))) {
        let name = format!("{long}/a-name-that-is-rather-long-{file}");
        fs::write(source.join(name), b"").expect("write");
    }
    let mount = Mount::builder().source(&source).start();
    let atime = |folder: &Path| {
        let stat = fs::metadata(source.join(folder.file_name().expect("a name"))).expect("stat");
        (stat.atime(), stat.atime_nsec())
    };
    let folders = folders(mount.path());
    for (at, folder) in folders.iter().enumerate() {
        let before: Vec<_> = folders.iter().map(|folder| atime(folder)).collect();
        // Longer than a tick of the clock that timestamps come from.
        sleep(MEANWHILE);
        if LONG.iter().any(|long| folder.ends_with(long)) {
            assert!(fs::read_dir(folder).expect("list").next().is_some());
        } else {
            fs::read_dir(folder).expect("list").for_each(|entry| drop(entry.expect("list")));
        }
        sleep(MEANWHILE);
        for (other, before) in before.iter().enumerate() {
            let changed = atime(&folders[other]) != *before;
            assert_eq!(changed, other == at, "folder {other}, when {at} was listed");
        }
    }
}
