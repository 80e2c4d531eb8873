//! Escapes from the source: whatever happens on the source, the daemon reads and changes nothing outside it.
//!
//! The links that are swapped in are relative and lead to the canaries from the source only. At the mount the same
//! path leads nowhere, so a client that follows a link reaches nothing, and a daemon that follows one is detected.

mod support;

use std::fs::{self, File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::unix::fs::{self as unix, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{
    AtFlags, CWD, FileType, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags, renameat_with,
};
use support::{Mount, Scratch, scratch, sh};

const SECRET: &[u8] = b"canary";

/// A source in a scratch directory, with canaries beside it.
struct Fixture {
    scratch: Scratch,
}

impl Fixture {
    fn new() -> Self {
        let scratch = scratch();
        sh(
            scratch.path(),
            "mkdir -p source/dir/sub source/other outside/sub
             for f in outside/file outside/sub/file; do printf canary > $f; setfattr -n user.c -v canary $f; done
             mkdir outside/empty
             for f in source/file source/dir/file source/dir/sub/file source/other/file; do printf inside > $f; done
             chown -R 4242:4242 outside; chmod 640 outside/file outside/sub/file
             touch -d 2001-02-03T04:05:06 outside/file outside/sub/file outside/sub outside/empty outside",
        );
        Self { scratch }
    }

    fn source(&self) -> PathBuf {
        self.scratch.join("source")
    }

    /// Everything observable of the canaries, except access times.
    fn canaries(&self) -> String {
        support::sh_output(
            &self.scratch.join("outside"),
            "find . -printf '%p %y %m %U:%G %s %n %T@ %C@\\n' | sort; cat file sub/file; getfattr -R -d . | sort",
        )
    }
}

/// Tries all operations on a path, and counts reads of a canary.
fn assault(path: &Path, seen: &AtomicUsize) {
    let file = path.join("file");
    for name in [&file, path, &path.join("sub/file"), &path.join("../file")] {
        if fs::read(name).is_ok_and(|text| text == SECRET) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        let mut value = [0; 16];
        if rustix::fs::getxattr(name, "user.c", &mut value).is_ok() {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        if fs::metadata(name).is_ok_and(|meta| meta.uid() == 4242 || meta.gid() == 4242) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        let _ = OpenOptions::new()
            .append(true)
            .open(name)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"+"));
        let _ = OpenOptions::new().write(true).truncate(true).open(name);
        let _ = fs::set_permissions(name, fs::Permissions::from_mode(0o755));
        let _ = unix::chown(name, Some(7), Some(7));
        let _ = unix::lchown(name, Some(8), Some(8));
        let times = Timespec { tv_sec: 5, tv_nsec: 5 };
        let times = Timestamps { last_access: times, last_modification: times };
        let _ = rustix::fs::utimensat(CWD, name, &times, AtFlags::empty());
        let _ = rustix::fs::setxattr(name, "user.new", b"x", XattrFlags::empty());
        let _ = rustix::fs::removexattr(name, "user.c");
        let _ = fs::write(name, "inside");
    }
    let _ = File::create(path.join("created"));
    let _ = fs::create_dir(path.join("made"));
    let _ = unix::symlink("x", path.join("linked"));
    let _ = fs::hard_link(&file, path.join("hard"));
    let _ = fs::rename(path.join("hard"), path.join("renamed"));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name() == "empty" {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
    for name in ["created", "linked", "renamed", "hard"] {
        let _ = fs::remove_file(path.join(name));
    }
    for name in ["made", "empty"] {
        let _ = fs::remove_dir(path.join(name));
    }
}

fn open_dir(path: &Path) -> File {
    File::open(path).expect("open a directory")
}

#[test]
fn swapping_directories_and_files_with_links_during_a_storm_reaches_nothing_outside() {
    for cache in ["--cache=none", "--cache=timeout=1s", "--cache=forever"] {
        let fixture = Fixture::new();
        let source = fixture.source();
        sh(
            &source,
            "ln -s ../outside evil; ln -s ../outside/file evilfile; ln -s ../../outside dir/evil",
        );
        let before = fixture.canaries();
        let mount = Mount::builder().source(&source).arg(cache).start();
        let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            // Through descriptors: the attacking thread itself must not follow its links and move a canary into the
            // source.
            let (top, dir) = (open_dir(&source), open_dir(&source.join("dir")));
            let swaps = [
                (&top, "dir", "evil"),
                (&top, "other", "evil"),
                (&top, "file", "evilfile"),
                (&dir, "sub", "evil"),
            ];
            for (at, one, two) in swaps {
                let (at, stop) = (at.try_clone().expect("dup"), &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let _ = renameat_with(&at, one, &at, two, RenameFlags::EXCHANGE);
                        thread::yield_now();
                    }
                });
            }
            for at in ["dir", "other", "evil"] {
                let (at, seen, stop) = (mount.join(at), &seen, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        assault(&at, seen);
                    }
                });
            }
            let (root, seen, stop) = (mount.path(), &seen, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assault(&root.join("dir/sub"), seen);
                    let _ = fs::write(root.join("file"), "inside");
                    let _ =
                        fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o600));
                }
            });
            thread::sleep(Duration::from_secs(3));
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(seen.load(Ordering::Relaxed), 0, "canaries were seen, {cache}");
        assert_eq!(fixture.canaries(), before, "canaries were changed, {cache}");
    }
}

#[test]
fn links_of_every_kind_act_on_themselves() {
    let fixture = Fixture::new();
    let source = fixture.source();
    sh(
        &source,
        "ln -s /proc/self/root root; ln -s /proc/1/root/etc etc; ln -s ../outside/file up; ln -s /proc/self/fd/0 fd",
    );
    let before = fixture.canaries();
    let mount = Mount::builder().source(&source).start();
    for name in ["root", "etc", "up", "fd"] {
        let path = mount.join(name);
        assert_eq!(
            fs::read_link(&path).expect("readlink"),
            fs::read_link(source.join(name)).expect("readlink")
        );
        unix::lchown(&path, Some(3), Some(4)).expect("lchown");
        rustix::fs::lsetxattr(&path, "trusted.x", b"x", XattrFlags::empty()).expect("lsetxattr");
        let meta = fs::symlink_metadata(source.join(name)).expect("stat");
        assert!(meta.is_symlink() && (meta.uid(), meta.gid()) == (3, 4), "{name}");
        fs::hard_link(&path, mount.join("hard")).expect("link");
        fs::remove_file(mount.join("hard")).expect("unlink");
        fs::remove_file(&path).expect("unlink");
    }
    assert_eq!(fixture.canaries(), before);
}

#[test]
fn dot_dot_never_leaves_the_mount() {
    let fixture = Fixture::new();
    let before = fixture.canaries();
    let mount = Mount::builder().source(&fixture.source()).start();
    let seen = AtomicUsize::new(0);
    for path in ["../outside", "dir/../../outside", "dir/sub/../../../outside"] {
        assault(&mount.join(path), &seen);
    }
    let open = File::open(mount.join("dir/sub")).expect("open");
    fs::rename(fixture.source().join("dir/sub"), fixture.scratch.join("outside/moved"))
        .expect("move out of the source");
    for path in ["..", "../file", "../../outside/file", "../sub/file"] {
        if let Ok(found) =
            rustix::fs::openat(&open, path, OFlags::RDONLY | OFlags::CLOEXEC, 0.into())
        {
            let owner = File::from(found).metadata().expect("stat").uid();
            assert_ne!(owner, 4242, "{path} of a directory that was moved away");
        }
    }
    drop(open);
    fs::rename(fixture.scratch.join("outside/moved"), fixture.source().join("dir/sub"))
        .expect("move back");
    sh(&fixture.scratch.join("outside"), "touch -d 2001-02-03T04:05:06 .");
    let without_ctime = |text: &str| {
        text.lines().filter(|line| !line.starts_with(". ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_ctime(&fixture.canaries()), without_ctime(&before));
    assert_eq!(seen.load(Ordering::Relaxed), 0);
}

#[test]
fn a_source_that_is_moved_away_stays_the_source() {
    let fixture = Fixture::new();
    let mount = Mount::builder().source(&fixture.source()).arg("--cache=none").start();
    fs::rename(fixture.source(), fixture.scratch.join("moved")).expect("move the source");
    unix::symlink("outside", fixture.source()).expect("put a link in its place");
    let before = fixture.canaries();
    assert_eq!(fs::read(mount.join("file")).expect("read"), b"inside");
    fs::write(mount.join("new"), "text").expect("write");
    fs::write(mount.join("dir/new"), "text").expect("write");
    assert_eq!(fs::read(fixture.scratch.join("moved/new")).expect("read"), b"text");
    assert_eq!(fs::read(fixture.scratch.join("moved/dir/new")).expect("read"), b"text");
    assert_eq!(fixture.canaries(), before);
}

#[test]
fn one_file_system_hides_what_is_bound_over_a_subdirectory() {
    let fixture = Fixture::new();
    let source = fixture.source();
    let mount =
        Mount::builder().source(&source).arg("--one-file-system").arg("--cache=none").start();
    sh(fixture.scratch.path(), "mount -t tmpfs canary source/dir && echo canary > source/dir/file");
    let found = fs::read(mount.join("dir/file"));
    sh(fixture.scratch.path(), "umount source/dir");
    assert!(
        found.is_err() || found.is_ok_and(|text| text == b"inside"),
        "the tmpfs over it is not shown"
    );
}

#[test]
fn pipes_sockets_and_devices_of_the_source_are_never_opened_by_the_daemon() {
    let fixture = Fixture::new();
    let source = fixture.source();
    let mount = Mount::builder().source(&source).arg("--cache=none").start();
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("device", FileType::CharacterDevice, rustix::fs::makedev(10, 240)),
    ];
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
    for (name, kind, device) in kinds {
        rustix::fs::mknodat(CWD, source.join(name), kind, 0o600.into(), device).expect("mknod");
        inotify::add_watch(&watch, source.join(name), WatchFlags::OPEN).expect("watch");
    }
    let start = Instant::now();
    for (name, ..) in kinds {
        let path = mount.join(name);
        fs::symlink_metadata(&path).expect("stat");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        unix::chown(&path, Some(5), Some(6)).expect("chown");
        let times = Timespec { tv_sec: 5, tv_nsec: 5 };
        let times = Timestamps { last_access: times, last_modification: times };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).expect("utimensat");
        rustix::fs::setxattr(&path, "trusted.x", b"x", XattrFlags::empty()).expect("setxattr");
        rustix::fs::getxattr(&path, "trusted.x", &mut [0; 4]).expect("getxattr");
        rustix::fs::listxattr_query(&path).expect("listxattr");
        rustix::fs::access(&path, rustix::fs::Access::READ_OK).expect("access");
        fs::hard_link(&path, mount.join("hard")).expect("link");
        fs::rename(mount.join("hard"), mount.join("moved")).expect("rename");
        fs::remove_file(mount.join("moved")).expect("unlink");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "nothing waited for the other end of a pipe");
    let mut buffer = [MaybeUninit::uninit(); 4096];
    assert!(inotify::Reader::new(&watch, &mut buffer).next().is_err(), "one of them was opened");
    let none = OpenOptions::new().write(true).custom_open(&source.join("fifo"));
    assert_eq!(none, Some(libc::ENXIO), "the pipe has no reader");
}

trait CustomOpen {
    /// Opens with O_NONBLOCK and returns the error number.
    fn custom_open(&mut self, path: &Path) -> Option<i32>;
}

impl CustomOpen for OpenOptions {
    fn custom_open(&mut self, path: &Path) -> Option<i32> {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(libc::O_NONBLOCK).open(path).err().and_then(|error| error.raw_os_error())
    }
}
