//! A new file has its owner, group and mode from the first instant on, as the source shows it.

mod support;

use std::fs::{self, OpenOptions};
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FileType};
use support::{Mount, as_user};

/// How many of each of the four kinds are created (`SHIFTBIND_TEST_CREATIONS`).
fn each() -> usize {
    let asked = std::env::var("SHIFTBIND_TEST_CREATIONS").ok();
    asked.map_or(25_000, |text| text.parse().expect("SHIFTBIND_TEST_CREATIONS is a number"))
}

const KINDS: [&str; 4] = ["file", "dir", "symlink", "fifo"];

fn make(dir: &Path, kind: &str, name: &str) {
    let path = dir.join(name);
    match kind {
        "file" => drop(
            OpenOptions::new().write(true).create_new(true).mode(0o666).open(path).expect("create"),
        ),
        "dir" => rustix::fs::mkdir(path, 0o777.into()).expect("mkdir"),
        "symlink" => std::os::unix::fs::symlink("target", path).expect("symlink"),
        _ => rustix::fs::mknodat(CWD, path, FileType::Fifo, 0o666.into(), 0).expect("mkfifo"),
    }
}

/// The expected uid, gid and permission bits on the source, after umask 027.
fn expected(kind: &str) -> (u32, u32, u32) {
    match kind {
        "file" | "fifo" => (1000, 3000, 0o640),
        "dir" => (1000, 3000, 0o2750),
        _ => (1000, 3000, 0o777),
    }
}

#[test]
fn nothing_is_ever_seen_with_a_wrong_owner_group_or_mode() {
    let each = each();
    let mount = Mount::shifted();
    for kind in KINDS {
        let dir = mount.in_source(kind);
        fs::create_dir(&dir).expect("mkdir");
        std::os::unix::fs::chown(&dir, Some(1000), Some(3000)).expect("chown");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2755)).expect("chmod");
    }
    let done = AtomicBool::new(false);
    let at: [AtomicUsize; 4] = std::array::from_fn(|_| AtomicUsize::new(0));
    thread::scope(|scope| {
        // inotify(7) reports every change of attributes after the creation.
        let attribs = scope.spawn(|| attribute_changes(mount.source(), &done));
        // Besides, a thread stats each name as it appears.
        let looks = scope.spawn(|| {
            let mut seen = 0_usize;
            while !done.load(Ordering::Relaxed) {
                for (kind, at) in KINDS.iter().zip(&at) {
                    let path = mount.in_source(kind).join(at.load(Ordering::Relaxed).to_string());
                    if let Ok(meta) = fs::symlink_metadata(path) {
                        seen += 1;
                        assert_eq!(
                            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
                            expected(kind),
                            "{kind}"
                        );
                    }
                }
            }
            seen
        });
        thread::scope(|makers| {
            for (kind, at) in KINDS.iter().zip(&at) {
                let dir = mount.join(kind);
                makers.spawn(move || {
                    as_user(101_000, 101_000, &[], || {
                        rustix::process::umask(0o027.into());
                        for n in 0..each {
                            at.store(n, Ordering::Relaxed);
                            make(&dir, kind, &n.to_string());
                        }
                    });
                });
            }
        });
        done.store(true, Ordering::Relaxed);
        let seen = looks.join().expect("nothing wrong was seen");
        assert!(seen > each / 10, "only {seen} looks met a name");
        assert_eq!(
            attribs.join().expect("the watch works"),
            0,
            "attributes were changed after a creation"
        );
    });
    for kind in KINDS {
        let made = fs::read_dir(mount.in_source(kind)).expect("list");
        let right = made.filter(|entry| {
            let meta = fs::symlink_metadata(entry.as_ref().expect("list").path()).expect("stat");
            (meta.uid(), meta.gid(), meta.mode() & 0o7777) == expected(kind)
        });
        assert_eq!(right.count(), each, "{kind}");
    }
}

fn attribute_changes(source: &Path, done: &AtomicBool) -> usize {
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
    for kind in KINDS {
        inotify::add_watch(&watch, source.join(kind), WatchFlags::ATTRIB).expect("watch");
    }
    let mut buffer = [MaybeUninit::uninit(); 65536];
    let mut changes = 0;
    loop {
        let last = done.load(Ordering::Relaxed);
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while let Ok(event) = events.next() {
            // A new subdirectory changes its parent's link count, which is no change of owner or mode.
            changes += usize::from(
                event.file_name().is_some() && event.events().contains(ReadFlags::ATTRIB),
            );
        }
        if last {
            return changes;
        }
        thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn the_watch_would_notice_a_chown_after_creation() {
    let mount = Mount::identity();
    for kind in KINDS {
        fs::create_dir(mount.in_source(kind)).expect("mkdir");
    }
    let done = AtomicBool::new(false);
    let changes = thread::scope(|scope| {
        let watch = scope.spawn(|| attribute_changes(mount.source(), &done));
        thread::sleep(std::time::Duration::from_millis(100));
        fs::write(mount.in_source("file/f"), "x").expect("create");
        std::os::unix::fs::chown(mount.in_source("file/f"), Some(1), None).expect("chown");
        done.store(true, Ordering::Relaxed);
        watch.join().expect("the watch works")
    });
    assert_eq!(changes, 1);
}
