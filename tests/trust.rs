//! Changes on the source are visible at the mount, and the mount never contradicts itself (cache=coherent, the
//! default).

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, unmount};
use support::{
    Mount, Scratch, eventually, loop_fs, needs_loop_devices, patience, scratch, sh, sh_output,
};

/// The time limit for a change to become visible.
const SOON: Duration = Duration::from_secs(2);

/// Fails if the condition does not hold within [`SOON`].
#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let (start, soon) = (Instant::now(), patience(SOON));
    while !holds() {
        assert!(start.elapsed() < soon, "not within {soon:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

/// A bind mount; unmounted when dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(from: &Path, to: &Path) -> Self {
        mount_bind(from, to).expect("bind");
        Self(to.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_change_through_one_of_two_bind_mounts_is_seen_through_the_other() {
    let source: Scratch = scratch();
    let (a, b) = (source.dir("a"), source.dir("b"));
    fs::write(a.join("f"), "text").expect("write");
    let _bound = Bound::new(&a, &b);
    let mount = Mount::builder().source(source.path()).start();
    for (round, [here, there]) in [["b", "a"], ["a", "b"], ["b", "a"]].into_iter().enumerate() {
        let (here, there) = (mount.join(here), mount.join(there));
        let (f, new) = (PathBuf::from("f"), format!("new{round}"));
        // The kernel has cached everything on both sides, after more than one lookup.
        for _ in 0..2 {
            for side in [&here, &there] {
                mode(&side.join(&f));
                fs::symlink_metadata(side.join(&new)).expect_err("there is none yet");
                fs::read_dir(side).expect("list").count();
            }
        }
        let wanted = 0o600 + round as u32;
        chmod(&here.join(&f), wanted);
        File::create(here.join(&new)).expect("create");
        soon("the mode", || mode(&there.join(&f)) == wanted);
        soon("the new name", || there.join(&new).exists());
        fs::remove_file(here.join(&new)).expect("unlink");
        soon("the name is gone", || !there.join(&new).exists());
    }
    fs::remove_file(mount.join("b/f")).expect("unlink");
    soon("the name is gone", || !mount.join("a/f").exists());
}

#[test]
fn directories_that_are_forgotten_and_looked_up_at_once_stay_watched() {
    const DIRECTORIES: usize = 6;
    let mount = Mount::builder().arg("--threads=4").start();
    let paths =
        |round: usize| (0..DIRECTORIES).map(move |dir| PathBuf::from(format!("{dir}/n{round}")));
    for dir in 0..DIRECTORIES {
        fs::create_dir(mount.in_source(dir.to_string())).expect("mkdir");
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // A panic stops the threads as well, since the scope waits for them.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for dir in 0..DIRECTORIES {
                        let _ = fs::symlink_metadata(mount.join(format!("{dir}/none")));
                    }
                }
            });
        }
        for round in 0..50 {
            for _ in 0..3 {
                mount.forget_all();
            }
            for path in paths(round) {
                assert!(!mount.join(&path).exists(), "it is not made yet");
            }
            for path in paths(round) {
                File::create(mount.in_source(&path)).expect("create");
            }
            for path in paths(round) {
                soon(&format!("{path:?} is seen"), || mount.join(&path).exists());
                fs::remove_file(mount.in_source(&path)).expect("unlink");
            }
        }
    });
}

#[test]
fn what_is_seen_of_a_busy_file_is_not_believed() {
    let mount = Mount::builder().arg("--passthrough=off").start();
    let writer = File::create(mount.in_source("f0")).expect("create");
    let resize = |len: u64| writer.set_len(len).expect("size");
    let soonest = (0..10).map(|round| {
        let (name, next) = (format!("f{round}"), format!("f{}", round + 1));
        fs::metadata(mount.join(&name)).expect("stat");
        // For 100 ms after a write without a close the watch suppresses a file's write events.
        resize(round + 1);
        thread::sleep(Duration::from_millis(5));
        fs::rename(mount.in_source(&name), mount.in_source(&next)).expect("rename");
        thread::sleep(Duration::from_millis(10));
        fs::metadata(mount.join(&next)).expect("look it up");
        resize(round + 100);
        let start = Instant::now();
        let path = mount.join(&next);
        soon("the second", || fs::metadata(&path).is_ok_and(|it| it.len() == round + 100));
        let took = start.elapsed();
        thread::sleep(Duration::from_millis(200));
        took
    });
    let soonest = soonest.min().expect("ten rounds");
    assert!(soonest < Duration::from_millis(50), "{soonest:?} at best");
}

#[test]
fn what_is_mounted_on_a_directory_stays_when_the_mount_hears_that_it_was_made() {
    let mount = Mount::identity();
    fs::create_dir(mount.in_source("old")).expect("mkdir");
    assert!(mount.join("old").exists());
    for round in 0..10 {
        // A new name, or one of which the kernel has cached another directory.
        let name = if round % 2 == 0 { format!("new-{round}") } else { "old".into() };
        let on_source = mount.in_source(&name);
        let _ = fs::remove_dir(&on_source);
        fs::create_dir(&on_source).expect("mkdir");
        chmod(&on_source, 0o700 + round);
        let dir = mount.join(&name);
        soon("the new one", || {
            fs::metadata(&dir).is_ok_and(|it| it.mode() & 0o777 == 0o700 + round)
        });
        rustix::mount::mount("none", &dir, "tmpfs", MountFlags::empty(), None).expect("mount");
        let mounted = Bound(dir);
        fs::write(mounted.0.join("f"), "in the tmpfs").expect("write");
        let later = format!("later-{round}");
        fs::write(mount.in_source(&later), "").expect("write");
        soon("what was done later", || mount.join(&later).exists());
        thread::sleep(Duration::from_millis(20));
        assert!(mounted.0.join("f").exists(), "round {round}: the tmpfs is gone");
        drop(mounted);
    }
}

/// Waits until the daemon has no descriptor of that name any more: only then the source can reuse the inode number.
/// The daemon's view of the source has other paths, so the last component decides.
fn until_unheld(mount: &Mount, name: &str) {
    let fds = format!("/proc/{}/fd", mount.pid().expect("a daemon runs"));
    eventually("the daemon holds nothing", || {
        let entries = fs::read_dir(&fds).expect("list");
        !entries
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|it| it.file_name().is_some_and(|it| it == name))
    });
}

/// Replaces a name on the source by a new file with the same inode number.
fn replace(source: &Path, remove: impl Fn(&Path), make: impl Fn(&Path)) {
    let before = fs::symlink_metadata(source).expect("stat").ino();
    remove(source);
    // The watch releases the inode of a removed directory a moment later.
    thread::sleep(Duration::from_millis(200));
    make(source);
    assert_eq!(
        fs::symlink_metadata(source).expect("stat").ino(),
        before,
        "the number is used again"
    );
}

#[test]
fn two_names_of_a_file_whose_inode_number_was_used_before_are_one_file() {
    two_names_of_a_file_whose_number_was_used_before(|_| {});
}

#[test]
fn two_names_of_a_file_whose_inode_number_a_listing_showed_before_are_one_file() {
    two_names_of_a_file_whose_number_was_used_before(|mount| {
        // A file that is older than a clock tick is identified by its birth time.
        thread::sleep(Duration::from_millis(30));
        list(mount.path());
    });
}

/// Lists a directory and stats its entries.
fn list(dir: &Path) {
    fs::read_dir(dir).expect("list").for_each(|entry| {
        entry.expect("list").metadata().expect("stat");
    });
}

fn two_names_of_a_file_whose_number_was_used_before(find: impl FnOnce(&Mount)) {
    let ext4 = loop_fs("ext4", 32);
    let mount = Mount::builder().source(&ext4.dir("s")).start();
    let (f, g) = (mount.join("used-f"), mount.join("g"));
    File::create(mount.in_source("used-f")).expect("create");
    find(&mount);
    let held = rustix::fs::open(&f, OFlags::PATH | OFlags::CLOEXEC, 0.into())
        .expect("the kernel knows it");
    until_unheld(&mount, "used-f");
    replace(
        &mount.in_source("used-f"),
        |path| fs::remove_file(path).expect("unlink"),
        |path| fs::write(path, "new").expect("write"),
    );
    fs::hard_link(mount.in_source("used-f"), mount.in_source("g")).expect("link");
    soon("the new file", || fs::metadata(&f).is_ok_and(|meta| meta.len() == 3));
    soon("the old file is gone", || rustix::fs::fstat(&held).err() == Some(Errno::STALE));
    let open = File::open(&f).expect("open");
    drop(held);
    mount.forget_all();
    let numbers = || [&g, &f, &g, &f].map(|path| fs::metadata(path).expect("stat").ino());
    for wait in [0, 20, 300, 1200] {
        thread::sleep(Duration::from_millis(wait));
        let numbers = numbers();
        assert!(numbers.iter().all(|ino| *ino == numbers[0]), "one file, one number: {numbers:?}");
    }
    assert_eq!(open.metadata().expect("stat").ino(), numbers()[0], "the open file is the same");
    for (here, there, wanted) in [(&g, &f, 0o600), (&f, &g, 0o640)] {
        chmod(here, wanted);
        assert_eq!(mode(here), wanted);
        soon("the mode through the other name", || mode(there) == wanted);
        soon("the mode of the open file", || {
            open.metadata().expect("stat").mode() & 0o7777 == wanted
        });
    }
}

#[test]
fn files_that_have_one_inode_number_within_a_tick_of_the_clock_are_told_apart() {
    let ext4 = loop_fs("ext4", 32);
    let mount = Mount::builder().source(&ext4.dir("s")).start();
    let path = mount.in_source("twin");
    let number = || fs::metadata(&path).expect("stat").ino();
    let mut again = 0;
    for round in 0..20 {
        // The mark on a busy file keeps its inode number; after this time it is gone.
        thread::sleep(Duration::from_millis(200));
        fs::write(&path, "1").expect("write");
        let first = number();
        list(mount.path());
        let held = rustix::fs::open(mount.join("twin"), OFlags::PATH | OFlags::CLOEXEC, 0.into());
        fs::remove_file(&path).expect("unlink");
        fs::write(&path, "22").expect("write");
        if let Ok(held) = held
            && number() == first
        {
            again += 1;
            list(mount.path());
            let is_second = || rustix::fs::fstat(&held).is_ok_and(|stat| stat.st_size == 2);
            assert!(!is_second(), "round {round}");
            soon("the first is gone", || rustix::fs::fstat(&held).err() == Some(Errno::STALE));
            soon("the second", || fs::metadata(mount.join("twin")).is_ok_and(|it| it.len() == 2));
            assert!(!is_second(), "round {round}, later");
        }
        fs::remove_file(&path).expect("unlink");
    }
    assert!(again > 2, "the number was used again {again} times only");
}

/// An image that mke2fs(8) has filled: all its files have generation 0, and such a file handle opens later files as
/// well.
fn filled_image() -> (Scratch, Bound) {
    needs_loop_devices();
    let scratch_dir = scratch();
    sh(
        scratch_dir.path(),
        "mkdir -p tree/s/used-d fs; echo 1 > tree/s/used-f; \
         mke2fs -q -F -t ext4 -d tree image 32M; mount -o loop image fs",
    );
    let mounted = Bound(scratch_dir.path().join("fs"));
    (scratch_dir, mounted)
}

#[test]
fn a_file_of_an_image_filled_by_mke2fs_is_not_taken_for_a_later_one_of_its_number() {
    for is_listed in [false, true] {
        let (_scratch_dir, image) = filled_image();
        let mount = Mount::builder().source(&image.0.join("s")).start();
        if is_listed {
            list(mount.path());
        }
        let held = rustix::fs::open(mount.join("used-f"), OFlags::PATH | OFlags::CLOEXEC, 0.into())
            .expect("open");
        until_unheld(&mount, "used-f");
        replace(
            &mount.in_source("used-f"),
            |path| fs::remove_file(path).expect("unlink"),
            |path| fs::write(path, "22").expect("write"),
        );
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        soon("it is gone", || rustix::fs::fstat(&held).err() == Some(Errno::STALE));
        fs::set_permissions(&path, Permissions::from_mode(0o777)).expect_err("gone");
        fs::read(&path).expect_err("gone");
        assert_eq!(mode(&mount.in_source("used-f")), 0o644);
        drop((held, mount));
    }
}

#[test]
fn a_directory_of_an_image_filled_by_mke2fs_is_not_taken_for_a_later_one_of_its_number() {
    let (_scratch_dir, image) = filled_image();
    let mount = Mount::builder().source(&image.0.join("s")).start();
    let held = rustix::fs::open(mount.join("used-d"), OFlags::PATH | OFlags::CLOEXEC, 0.into())
        .expect("open");
    until_unheld(&mount, "used-d");
    replace(
        &mount.in_source("used-d"),
        |path| fs::remove_dir(path).expect("rmdir"),
        |path| {
            fs::create_dir(path).expect("mkdir");
            fs::write(path.join("secret"), "").expect("write");
        },
    );
    soon("it is gone", || rustix::fs::fstat(&held).err() == Some(Errno::STALE));
    let secret = rustix::fs::openat(&held, c"secret", OFlags::RDONLY | OFlags::CLOEXEC, 0.into());
    assert!(secret.is_err(), "it is the other's");
    drop((held, mount));
}

#[test]
fn a_directory_whose_inode_number_was_used_before_is_one_directory() {
    let ext4 = loop_fs("ext4", 32);
    let mount = Mount::builder().source(&ext4.dir("s")).start();
    let (on_source, d) = (mount.in_source("used-d"), mount.join("used-d"));
    fs::create_dir(&on_source).expect("mkdir");
    let held = rustix::fs::open(&d, OFlags::PATH | OFlags::CLOEXEC, 0.into())
        .expect("the kernel knows it");
    until_unheld(&mount, "used-d");
    replace(
        &on_source,
        |path| fs::remove_dir(path).expect("rmdir"),
        |path| {
            fs::create_dir(path).expect("mkdir");
            chmod(path, 0o711);
        },
    );
    soon("the new directory", || fs::metadata(&d).is_ok_and(|meta| meta.mode() & 0o7777 == 0o711));
    let open = File::open(&d).expect("open");
    drop(held);
    mount.forget_all();
    fs::rename(&on_source, mount.in_source("e")).expect("rename");
    soon("the new name", || mount.join("e").exists());
    fs::rename(mount.in_source("e"), &on_source).expect("rename back");
    soon("the old name", || d.exists());
    let number = || open.metadata().expect("stat").ino();
    soon("path and open directory are one", || {
        fs::metadata(&d).is_ok_and(|meta| meta.ino() == number())
    });
    chmod(&d, 0o700);
    soon("the mode of the open directory", || {
        open.metadata().expect("stat").mode() & 0o7777 == 0o700
    });
}

#[test]
fn reading_through_a_read_only_or_noatime_mount_leaves_the_source_s_access_times() {
    let tmpfs = scratch();
    let dir = tmpfs.dir("fs");
    sh(tmpfs.path(), "mount -t tmpfs -o strictatime tmpfs fs");
    let _mounted = Bound(dir.clone());
    sh(&dir, "mkdir d; echo text > f; echo text > d/f; ln -s f l; echo text > control");
    sh(&dir, "touch -hd 1999-01-01 f d/f l d . control");
    let times = || sh_output(&dir, "stat -c '%n %X' f d/f l d .");
    let before = times();
    for option in ["-oro", "-onoatime"] {
        for passthrough in ["auto", "off"] {
            let mount = Mount::builder()
                .source(&dir)
                .arg(option)
                .arg(format!("--passthrough={passthrough}"))
                .start();
            for path in ["f", "d/f"] {
                assert_eq!(fs::read(mount.join(path)).expect("read"), b"text\n");
            }
            assert_eq!(fs::read_link(mount.join("l")).expect("readlink"), Path::new("f"));
            assert_eq!(fs::read_dir(mount.join("d")).expect("list").count(), 1);
            assert_eq!(fs::read_dir(mount.path()).expect("list").count(), 4);
            drop(mount);
            assert_eq!(times(), before, "{option}, passthrough={passthrough}");
        }
    }
    fs::read(dir.join("control")).expect("read");
    let meta = fs::metadata(dir.join("control")).expect("stat");
    assert_ne!(meta.atime(), meta.mtime(), "the source keeps access times");
}

/// A change on the source, and how it shows at the mount.
struct Change {
    what: &'static str,
    before: fn(&Path),
    change: fn(&Path),
    shows: fn(&Path) -> bool,
}

fn file(dir: &Path) {
    fs::write(dir.join("f"), "one").expect("write");
}

fn len(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|meta| meta.len())
}

const CHANGES: &[Change] = &[
    Change {
        what: "a file is written and closed",
        before: file,
        change: |dir| fs::write(dir.join("f"), "longer").expect("write"),
        shows: |dir| {
            len(&dir.join("f")) == Some(6) && fs::read(dir.join("f")).expect("read") == b"longer"
        },
    },
    Change {
        what: "a file is created",
        before: |_| {},
        change: file,
        shows: |dir| len(&dir.join("f")) == Some(3),
    },
    Change {
        what: "a file is removed",
        before: file,
        change: |dir| fs::remove_file(dir.join("f")).expect("unlink"),
        shows: |dir| len(&dir.join("f")).is_none(),
    },
    Change {
        what: "a mode is changed",
        before: file,
        change: |dir| chmod(&dir.join("f"), 0o604),
        shows: |dir| mode(&dir.join("f")) == 0o604,
    },
    Change {
        what: "a directory's mode is changed",
        before: |dir| fs::create_dir(dir.join("f")).expect("mkdir"),
        change: |dir| chmod(&dir.join("f"), 0o705),
        shows: |dir| mode(&dir.join("f")) == 0o705,
    },
    Change {
        what: "an owner is changed",
        before: file,
        change: |dir| chown(dir.join("f"), Some(1234), Some(4321)).expect("chown"),
        shows: |dir| {
            let meta = fs::metadata(dir.join("f")).expect("stat");
            (meta.uid(), meta.gid()) == (1234, 4321)
        },
    },
    Change {
        what: "an ACL is set",
        before: file,
        change: |dir| sh(dir, "setfacl -m u:1234:rw f"),
        shows: |dir| sh_output(dir, "getfacl -n f").contains("user:1234:rw"),
    },
    Change {
        what: "a name is moved",
        before: file,
        change: |dir| fs::rename(dir.join("f"), dir.join("g")).expect("rename"),
        shows: |dir| len(&dir.join("f")).is_none() && len(&dir.join("g")) == Some(3),
    },
    Change {
        what: "a file is replaced by a rename",
        before: file,
        change: |dir| {
            fs::write(dir.join("g"), "replaced").expect("write");
            fs::rename(dir.join("g"), dir.join("f")).expect("rename");
        },
        shows: |dir| {
            len(&dir.join("g")).is_none() && fs::read(dir.join("f")).expect("read") == b"replaced"
        },
    },
    Change {
        what: "a directory is made",
        before: |_| {},
        change: |dir| fs::create_dir(dir.join("g")).expect("mkdir"),
        shows: |dir| dir.join("g").is_dir() && fs::read_dir(dir).expect("list").count() == 1,
    },
    Change {
        what: "a directory is replaced by another of its name",
        before: |dir| sh(dir, "mkdir f; echo old > f/g"),
        change: |dir| sh(dir, "rm f/g; rmdir f; mkdir -m 701 f; echo newer > f/g"),
        shows: |dir| mode(&dir.join("f")) == 0o701 && len(&dir.join("f/g")) == Some(6),
    },
    Change {
        what: "a symlink is replaced",
        before: |dir| symlink("before", dir.join("f")).expect("symlink"),
        change: |dir| {
            fs::remove_file(dir.join("f")).expect("unlink");
            symlink("after!", dir.join("f")).expect("symlink");
        },
        shows: |dir| fs::read_link(dir.join("f")).is_ok_and(|to| to == Path::new("after!")),
    },
    Change {
        what: "a hard link is made",
        before: file,
        change: |dir| fs::hard_link(dir.join("f"), dir.join("g")).expect("link"),
        shows: |dir| {
            let links = |name| fs::metadata(dir.join(name)).map_or(0, |meta| meta.nlink());
            (links("f"), links("g")) == (2, 2)
        },
    },
    Change {
        what: "a file takes a directory's place",
        before: |dir| fs::create_dir(dir.join("f")).expect("mkdir"),
        change: |dir| {
            fs::remove_dir(dir.join("f")).expect("rmdir");
            file(dir);
        },
        shows: |dir| fs::read(dir.join("f")).is_ok_and(|text| text == b"one"),
    },
];

#[test]
fn a_change_on_the_source_is_seen_soon() {
    let mount = Mount::identity();
    let dir = |at: usize| PathBuf::from(at.to_string());
    for (at, change) in CHANGES.iter().enumerate() {
        fs::create_dir(mount.in_source(dir(at))).expect("mkdir");
        (change.before)(&mount.in_source(dir(at)));
    }
    // Everything is looked up more than once, so that the kernel has cached it.
    for _ in 0..3 {
        for (at, change) in CHANGES.iter().enumerate() {
            for name in ["f", "g", "f/g"] {
                let path = mount.join(dir(at)).join(name);
                if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                    fs::read(path).expect("read");
                }
            }
            let _ = fs::read_link(mount.join(dir(at)).join("f"));
            fs::read_dir(mount.join(dir(at))).expect("list").count();
            let f = mount.join(dir(at)).join("f");
            assert!(!f.exists() || !(change.shows)(&mount.join(dir(at))), "{}: yet?", change.what);
        }
    }
    for (at, change) in CHANGES.iter().enumerate() {
        (change.change)(&mount.in_source(dir(at)));
        soon(change.what, || (change.shows)(&mount.join(dir(at))));
    }
}

#[test]
fn a_file_that_grows_without_being_closed_is_seen_to_grow() {
    let mount = Mount::identity();
    file(mount.source());
    let mut writer = OpenOptions::new().append(true).open(mount.in_source("f")).expect("open");
    for round in 1..=20 {
        let wanted = 3 + 100 * round;
        assert_eq!(len(&mount.join("f")), Some(wanted - 100));
        writer.write_all(&[b'x'; 100]).expect("append");
        soon("the new size", || len(&mount.join("f")) == Some(wanted));
        soon("the new text", || fs::read(mount.join("f")).expect("read").len() as u64 == wanted);
    }
}
