//! Every change that is made through the mount is seen in the inode's ctime at the mount, by the next stat(2).

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, XattrFlags};
use support::{LoopFs, Mount, loop_fs, sh};

/// The ctime of a name: seconds and nanoseconds.
fn ctime(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).expect("stat");
    (meta.ctime(), meta.ctime_nsec())
}

/// A mount of a directory on an ext4 whose inodes have versions that can be set.
fn on_ext4(args: &[&str]) -> (Mount, LoopFs) {
    let disk = loop_fs("ext4 -O ^metadata_csum", 64);
    let source = disk.dir("source");
    sh(&source, "echo text > f; mkdir d; ln -s x s; mkfifo p; ln f g");
    let mut mount = Mount::builder().source(&source);
    for arg in args {
        mount = mount.arg(*arg);
    }
    (mount.start(), disk)
}

type Change = (&'static str, &'static str, fn(&Path));

const CHANGES: &[Change] = &[
    ("f", "chattr", |at| sh(at, "chattr +d f")),
    ("f", "chattr back", |at| sh(at, "chattr -d f")),
    ("d", "chattr of a directory", |at| sh(at, "chattr +d d")),
    ("f", "FS_IOC_FSSETXATTR", |at| sh(at, "xfs_io -r -c 'chattr +s' f")),
    ("f", "setxattr", |at| {
        rustix::fs::setxattr(at.join("f"), "user.a", b"1", XattrFlags::empty()).expect("set");
    }),
    ("d", "setxattr of a directory", |at| {
        rustix::fs::setxattr(at.join("d"), "user.a", b"1", XattrFlags::empty()).expect("set");
    }),
    ("f", "removexattr", |at| {
        rustix::fs::removexattr(at.join("f"), "user.a").expect("remove");
    }),
    ("f", "an ACL", |at| sh(at, "setfacl -m u:5:r f")),
    ("d", "a default ACL", |at| sh(at, "setfacl -d -m u:5:r d")),
    ("f", "chmod", |at| {
        fs::set_permissions(at.join("f"), Permissions::from_mode(0o640)).expect("chmod");
    }),
    ("f", "chown", |at| chown(at.join("f"), Some(5), None).expect("chown")),
    ("s", "chown of a link", |at| sh(at, "chown -h 7 s")),
    ("p", "chmod of a FIFO", |at| sh(at, "chmod 601 p")),
    ("f", "utimens", |at| {
        let file = File::open(at.join("f")).expect("open");
        file.set_modified(SystemTime::UNIX_EPOCH).expect("utimens");
    }),
    ("f", "write", |at| {
        let mut file = OpenOptions::new().append(true).open(at.join("f")).expect("open");
        file.write_all(b"x").expect("write");
    }),
    ("f", "truncate", |at| {
        let file = OpenOptions::new().write(true).open(at.join("f")).expect("open");
        file.set_len(2).expect("truncate");
    }),
    ("f", "fallocate", |at| {
        let file = OpenOptions::new().write(true).open(at.join("f")).expect("open");
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 9000).expect("fallocate");
    }),
    ("g", "copy_file_range", |at| {
        let open = |name| OpenOptions::new().read(true).write(true).open(at.join(name));
        let (from, to) = (open("f").expect("open"), open("g").expect("open"));
        rustix::fs::copy_file_range(&from, Some(&mut 0), &to, Some(&mut 20_000), 100)
            .expect("copy");
    }),
    ("g", "link", |at| fs::hard_link(at.join("g"), at.join("h")).expect("link")),
    ("g", "unlink of another name", |at| fs::remove_file(at.join("h")).expect("unlink")),
    ("d", "rename of a directory and back", |at| {
        fs::rename(at.join("d"), at.join("e")).expect("rename");
        fs::rename(at.join("e"), at.join("d")).expect("rename back");
    }),
    ("g", "rename over another name", |at| {
        fs::hard_link(at.join("g"), at.join("h")).expect("link");
        fs::write(at.join("new"), "").expect("write");
        fs::rename(at.join("new"), at.join("h")).expect("rename over it");
    }),
    ("d", "a new name in a directory", |at| symlink("x", at.join("d/s")).expect("symlink")),
];

#[test]
fn every_change_through_the_mount_is_seen_in_the_ctime_at_once() {
    for args in [&["--cache=coherent"][..], &["--cache=forever"], &["-opassthrough=off"]] {
        let (mount, _disk) = on_ext4(args);
        for (name, what, change) in CHANGES {
            let path = mount.join(name);
            let before = ctime(&path);
            // Beyond a tick of the clock.
            std::thread::sleep(Duration::from_millis(15));
            change(mount.path());
            let after = ctime(&path);
            assert!(after > before, "{args:?}: {what}: {before:?} {after:?}");
            assert_eq!(after, ctime(&mount.in_source(name)), "{args:?}: {what}: the source");
        }
    }
}

#[test]
fn a_forwarded_ioctl_that_changes_an_inode_is_seen_in_its_ctime_at_once() {
    const EXT4_IOC_SETVERSION: u32 = 0x4008_6604;
    let (mount, _disk) = on_ext4(&["--cache=forever", "--enable-ioctl"]);
    let (path, file) = (mount.join("f"), File::open(mount.join("f")).expect("open"));
    let before = ctime(&path);
    std::thread::sleep(Duration::from_millis(15));
    support::sys::raw_ioctl(&file, EXT4_IOC_SETVERSION, 5).expect("set the version");
    assert!(ctime(&path) > before);
    assert_eq!(ctime(&path), ctime(&mount.in_source("f")));
}
