//! The credentials with which the daemon acts on the source: no caller gets its ids, groups or capabilities.

mod support;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use support::sys::{buffer_ioctl, raw_ioctl};
use support::{
    LoopFs, Mount, READ, READDIR, SHIFT, STATFS, Served, as_user, kernel_mount, loop_fs, scratch,
    serve, serve_owners, sh,
};

/// An id that the map lacks.
const UNMAPPED: u32 = 5000;
const MAP: &str = "b:1000:2000:10";

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

// --- forwarded ioctls ---

/// BTRFS_IOC_SNAP_CREATE, BTRFS_IOC_SUBVOL_CREATE, BTRFS_IOC_SNAP_DESTROY, BTRFS_IOC_SUBVOL_SETFLAGS (linux/btrfs.h).
const SNAP_CREATE: u32 = 0x5000_9401;
const SUBVOL_CREATE: u32 = 0x5000_940e;
const SNAP_DESTROY: u32 = 0x5000_940f;
const SUBVOL_SETFLAGS: u32 = 0x4008_941a;
const READ_ONLY: u64 = 2;

/// `struct btrfs_ioctl_vol_args`: a descriptor and a name.
fn volume(descriptor: u64, name: &str) -> Vec<u8> {
    let mut args = descriptor.to_ne_bytes().to_vec();
    args.extend(name.as_bytes());
    args.resize(4096, 0);
    args
}

/// A directory of a mapped user, writable for all, with a subvolume of root's and one of that user's.
fn subvolumes() -> LoopFs {
    let disk = loop_fs("btrfs", 400);
    sh(
        disk.path(),
        "mount -o remount,user_subvol_rm_allowed . && mkdir s && btrfs -q subvolume create s/roots
         btrfs -q subvolume create s/own && chown 1000:1000 s s/own && chmod 777 s s/own",
    );
    disk
}

/// The results of an unmapped caller's ioctls.
fn ioctls_of_an_unmapped_caller(dir: &Path) -> Vec<(String, Option<i32>)> {
    as_user(UNMAPPED, UNMAPPED, &[], || {
        let open = |name: &str| File::open(dir.join(name)).expect("every user may open it");
        let mut said = Vec::new();
        for name in ["roots", "own"] {
            let read_only = raw_ioctl(&open(name), SUBVOL_SETFLAGS, READ_ONLY);
            said.push((format!("make {name} read-only"), errno(read_only)));
            let made = buffer_ioctl(&open(name), SUBVOL_CREATE, &mut volume(0, "new"));
            said.push((format!("make a subvolume in {name}"), errno(made)));
        }
        let destroyed = buffer_ioctl(&open("."), SNAP_DESTROY, &mut volume(0, "roots"));
        said.push(("destroy root's".to_owned(), errno(destroyed)));
        said
    })
}

#[test]
fn an_unmapped_caller_changes_nothing_by_a_forwarded_ioctl() {
    let disk = subvolumes();
    let source = disk.path().join("s");
    let idmapped = scratch();
    kernel_mount(&source, idmapped.path(), &[MAP.to_owned()]);
    let expected = ioctls_of_an_unmapped_caller(idmapped.path());
    rustix::mount::unmount(idmapped.path(), rustix::mount::UnmountFlags::DETACH).expect("unmount");
    let mount = Mount::builder().source(&source).map(MAP).arg("--enable-ioctl").start();
    assert_eq!(ioctls_of_an_unmapped_caller(mount.path()), expected);
    assert!(expected.iter().all(|(_, error)| error.is_some()), "{expected:?}");
    // The snapshot's source is a descriptor number: an attacker may guess one of the daemon's.
    as_user(UNMAPPED, UNMAPPED, &[], || {
        let dir = File::open(mount.join("roots")).expect("open");
        for descriptor in 0..64 {
            let made = buffer_ioctl(&dir, SNAP_CREATE, &mut volume(descriptor, "snapshot"));
            assert_eq!(errno(made), Some(libc::EOVERFLOW), "{descriptor}");
        }
    });
    assert!(source.join("roots").exists() && !source.join("roots/new").exists());
    fs::write(source.join("roots/f"), "writable").expect("it is not read-only");
    assert_eq!(fs::read_dir(source.join("roots")).expect("list").count(), 1);
}

#[test]
fn a_forwarded_ioctl_creates_with_the_callers_ids_and_umask() {
    let disk = subvolumes();
    let source = disk.path().join("s");
    let mount = Mount::builder().source(&source).map(MAP).arg("--enable-ioctl").start();
    // The worker has served another caller before.
    as_user(2001, 2001, &[], || fs::write(mount.join("f"), "x").expect("write"));
    as_user(2003, 2003, &[], || {
        let dir = File::open(mount.join("own")).expect("open");
        buffer_ioctl(&dir, SUBVOL_CREATE, &mut volume(0, "new")).expect("make a subvolume");
    });
    let made = fs::metadata(source.join("own/new")).expect("stat");
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1003, 1003, 0o755));
}

// --- inode flags ---

/// FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL and FS_NODUMP_FL (ioctl_iflags(2)).
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const IMMUTABLE: u64 = 0x10;
const NODUMP: u64 = 0x40;

fn flags(file: &File) -> u64 {
    raw_ioctl(file, GETFLAGS, 0).expect("flags") & 0xffff_ffff
}

#[test]
fn the_owner_of_a_file_never_clears_the_immutable_flag() {
    let disk = loop_fs("ext4", 64);
    let mount = Mount::builder().source(&disk.dir("s")).arg("--threads=2").start();
    let on_source = mount.in_source("f");
    fs::write(&on_source, "x").expect("write");
    chown(&on_source, Some(1000), Some(1000)).expect("chown");
    let stop = AtomicBool::new(false);
    let there = File::open(&on_source).expect("open");
    let (mut tries, mut undone) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            as_user(1000, 1000, &[], || {
                let here = File::open(mount.join("f")).expect("open");
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let _ = raw_ioctl(&here, SETFLAGS, if n % 2 == 0 { 0 } else { NODUMP });
                }
            });
        });
        let start = Instant::now();
        while tries < 2000 && start.elapsed() < Duration::from_secs(4) {
            raw_ioctl(&there, SETFLAGS, IMMUTABLE).expect("set the flag");
            thread::sleep(Duration::from_micros(300));
            undone += u32::from(flags(&there) & IMMUTABLE == 0);
            raw_ioctl(&there, SETFLAGS, 0).expect("take the flag off");
            tries += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(tries > 100, "only {tries} tries");
    assert_eq!(undone, 0, "of {tries} times that root set it");
}

#[test]
fn a_caller_with_the_capability_sets_and_clears_the_immutable_flag() {
    let disk = loop_fs("ext4", 64);
    let mount = Mount::builder().source(&disk.dir("s")).start();
    fs::write(mount.join("f"), "x").expect("write");
    let (here, there) = (
        File::open(mount.join("f")).expect("open"),
        File::open(mount.in_source("f")).expect("open"),
    );
    raw_ioctl(&here, SETFLAGS, IMMUTABLE).expect("set the flag");
    assert_eq!(flags(&there) & IMMUTABLE, IMMUTABLE);
    raw_ioctl(&here, SETFLAGS, 0).expect("take the flag off");
    assert_eq!(flags(&there) & IMMUTABLE, 0);
}

// --- groups ---

#[test]
fn no_caller_gets_the_daemons_groups() {
    const GROUP: u32 = 1234;
    as_user(0, 0, &[GROUP], || {
        let mount = Mount::builder().start();
        let f = mount.in_source("f");
        fs::write(&f, "x").expect("write");
        chown(&f, Some(1000), Some(GROUP)).expect("chown");
        fs::set_permissions(&f, Permissions::from_mode(0o2746)).expect("chmod");
        let bare = scratch();
        fs::set_permissions(bare.path(), Permissions::from_mode(0o755)).expect("chmod");
        sh(bare.path(), &format!("cp -p {} f", f.display()));
        for file in [bare.join("f"), mount.join("f")] {
            as_user(1000, 1000, &[], || fs::write(&file, "y").expect("write"));
            let mode = fs::metadata(&file).expect("stat").mode() & 0o7777;
            assert_eq!(mode, 0o746, "no member of the group wrote to {}", file.display());
        }
        assert_eq!(fs::metadata(&f).expect("stat").mode() & 0o7777, 0o746);
    });
}

// --- capabilities that are lent ---

#[test]
fn attributes_of_administrators_are_shown_and_set_for_them_alone() {
    let disk = loop_fs("ext4", 64);
    let mount = Mount::builder().source(&disk.dir("s")).arg("--threads=1").start();
    let f = mount.join("f");
    fs::write(&f, "x").expect("write");
    chown(&f, Some(1000), Some(1000)).expect("chown");
    let names = || {
        let mut names = vec![0; 1024];
        let len = rustix::fs::listxattr(&f, &mut names[..]).expect("list");
        String::from_utf8_lossy(&names[..len]).into_owned()
    };
    let set = |name: &str| rustix::fs::setxattr(&f, name, b"value", XattrFlags::empty());
    let get = |name: &str| rustix::fs::getxattr(&f, name, &mut [0; 64][..]);
    for name in ["trusted.ours", "security.ours", "user.own"] {
        set(name).expect("root sets it");
    }
    assert_eq!(get("trusted.ours"), Ok(5));
    assert!(
        ["trusted.ours", "security.ours", "user.own"].iter().all(|name| names().contains(name))
    );
    as_user(1000, 1000, &[], || {
        // The daemon takes a capability to register a backing file for this open.
        fs::read(&f).expect("read");
        assert!(names().contains("user.own") && !names().contains("trusted"));
        assert_eq!(get("trusted.ours"), Err(rustix::io::Errno::NODATA));
        assert_eq!(set("trusted.new"), Err(rustix::io::Errno::PERM));
        assert_eq!(set("security.new"), Err(rustix::io::Errno::PERM));
        set("user.more").expect("the owner sets it");
    });
    assert!(names().contains("trusted.ours"));
    rustix::fs::removexattr(&f, "trusted.ours").expect("remove");
    assert!(!names().contains("trusted"));
}

// --- sources that judge by ids ---

#[test]
fn a_server_that_judges_by_ids_is_asked_as_the_caller() {
    let served =
        |name, node, owner, content| Served { name, node, ino: node, mode: 0o600, owner, content };
    let scratch_dir = scratch();
    let files = [served("alices", 2, 1000, "of alice"), served("bobs", 3, 2000, "of bob")];
    let server = serve_owners(&scratch_dir.dir("source"), &files);
    let mount =
        Mount::builder().source(&scratch_dir.join("source")).map(SHIFT).arg("--threads=1").start();
    let read = |uid: u32, name: &str| {
        as_user(100_000 + uid, 100_000 + uid, &[], || fs::read_to_string(mount.join(name)))
    };
    for _ in 0..3 {
        assert_eq!(read(1000, "alices").expect("alice reads it"), "of alice");
        assert_eq!(read(2000, "bobs").expect("bob reads it"), "of bob");
        assert_eq!(errno(read(1000, "bobs")), Some(libc::EACCES));
        // The host's root has no counterpart on the source: the server sees an id without a file.
        assert_eq!(errno(fs::read(mount.join("alices"))), Some(libc::EACCES));
    }
    drop(mount);
    drop(server);
}

#[test]
fn a_server_gets_the_ids_of_the_caller_of_each_request() {
    let served = |name, node| Served {
        name,
        node,
        ino: node,
        mode: 0o644,
        owner: 1000,
        content: "some text",
    };
    let scratch_dir = scratch();
    let server = serve(&scratch_dir.dir("source"), true, &[served("f", 2), served("g", 3)]);
    let mount = Mount::builder()
        .source(&scratch_dir.join("source"))
        .map(SHIFT)
        .arg("--threads=1")
        .arg("--cache=none")
        .arg("--direct-io")
        .start();
    let ask = |uid: u32, what: &str, opcode, ask: &(dyn Fn() + Sync)| {
        let as_caller = |uid: u32, run: &(dyn Fn() + Sync)| {
            as_user(100_000 + uid, 100_000 + uid, &[], run);
        };
        // Another user's request comes before it.
        as_caller(3000 - uid, &|| drop(fs::metadata(mount.join("g"))));
        server.uids_of(opcode);
        as_caller(uid, ask);
        let uids = server.uids_of(opcode);
        assert!(!uids.is_empty(), "{what}: a request to the server");
        assert!(uids.iter().all(|seen| *seen == uid), "{what} of {uid}: {uids:?}");
    };
    for uid in [1000, 2000, 1000] {
        let file = File::open(mount.join("f")).expect("open");
        ask(uid, "read", READ, &|| assert!(file.read_at(&mut [0; 4], 0).is_ok()));
        let list = || assert_eq!(fs::read_dir(mount.path()).expect("list").count(), 2);
        ask(uid, "list", READDIR, &list);
        let free = || assert!(rustix::fs::statfs(mount.path()).is_ok());
        ask(uid, "statfs", STATFS, &free);
    }
    drop(mount);
    drop(server);
}
