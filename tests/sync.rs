//! `-o sync` and `-o dirsync`: what a call has changed is on the disk when it returns.
//!
//! What is on the disk is told by a copy of the image on which the source's filesystem lies, taken at that moment: what a
//! loss of power would leave.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags};
use support::{LoopFs, Mount, Scratch, loop_fs, scratch, sh};

/// A mount of a directory on a filesystem whose image can be copied.
struct Disk {
    kind: &'static str,
    mount: Mount,
    copies: Scratch,
    fs: LoopFs,
}

impl Disk {
    fn new(kind: &'static str, options: &str) -> Self {
        let fs = loop_fs(kind, if kind == "xfs" { 300 } else { 64 });
        let source = fs.dir("source");
        if kind == "ext4" {
            // Else it writes its journal every five seconds.
            sh(&source, "mount -o remount,commit=300 ..");
        }
        sh(
            &source,
            "mkdir d; for name in f d/g old gone linked; do echo before > $name; done; mkfifo fifo
             mkdir empty; ln -s x link; head -c 300000 /dev/urandom > data; sync",
        );
        let mount = Mount::builder().source(&source).arg(format!("-o{options}")).start();
        Self { kind, mount, copies: scratch(), fs }
    }

    /// What a loss of power would leave of the source.
    fn after_power_loss<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        let image = self.fs.path().with_file_name("image");
        let copy = self.copies.path().join("copy");
        let at = self.copies.path().join("at");
        fs::create_dir_all(&at).expect("make a mount point");
        let run = |words: &str, paths: &[&Path]| {
            let mut command = Command::new("env");
            let status = command.args(words.split(' ')).args(paths).status().expect("run it");
            assert!(status.success(), "{words}");
        };
        run("cp --sparse=always", &[&image, &copy]);
        let options = if self.kind == "xfs" { "loop,nouuid" } else { "loop" };
        run(&format!("mount -o {options}"), &[&copy, &at]);
        let seen = look(&at.join("source"));
        run("umount", &[&at]);
        seen
    }
}

/// A change at the mount, and whether the source has it.
type Change = (&'static str, fn(&Path), fn(&Path) -> bool);

fn there(path: PathBuf) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn open(path: PathBuf) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("open")
}

const NAMES: &[Change] = &[
    ("mkdir", |at| fs::create_dir(at.join("d/new")).expect("mkdir"), |at| there(at.join("d/new"))),
    (
        "creat",
        |at| drop(File::create(at.join("d/made")).expect("create")),
        |at| there(at.join("d/made")),
    ),
    (
        "mknod",
        |at| {
            rustix::fs::mknodat(CWD, at.join("p"), FileType::Fifo, Mode::RWXU, 0).expect("mknod");
        },
        |at| there(at.join("p")),
    ),
    ("symlink", |at| symlink("x", at.join("s")).expect("symlink"), |at| there(at.join("s"))),
    (
        "link",
        |at| fs::hard_link(at.join("linked"), at.join("d/also")).expect("link"),
        |at| there(at.join("d/also")),
    ),
    (
        "unlink",
        |at| fs::remove_file(at.join("gone")).expect("unlink"),
        |at| !there(at.join("gone")),
    ),
    ("rmdir", |at| fs::remove_dir(at.join("empty")).expect("rmdir"), |at| !there(at.join("empty"))),
    (
        "rename",
        |at| fs::rename(at.join("old"), at.join("d/renamed")).expect("rename"),
        |at| there(at.join("d/renamed")) && !there(at.join("old")),
    ),
    (
        "exchange",
        |at| {
            let (one, other) = (at.join("fifo"), at.join("link"));
            rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("swap");
        },
        |at| fs::symlink_metadata(at.join("fifo")).is_ok_and(|link| link.is_symlink()),
    ),
];

const INODES: &[Change] = &[
    (
        "write",
        |at| open(at.join("f")).write_all(&[7; 200_000]).expect("write"),
        |at| fs::read(at.join("f")).is_ok_and(|data| data == [7; 200_000]),
    ),
    (
        "append",
        |at| {
            let mut file = OpenOptions::new().append(true).open(at.join("f")).expect("open");
            file.write_all(&[8; 100]).expect("append");
        },
        |at| fs::metadata(at.join("f")).is_ok_and(|f| f.len() == 200_100),
    ),
    (
        "write to a new file",
        |at| {
            let file = File::create(at.join("d/fresh")).expect("create");
            file.write_all_at(&[9; 5000], 0).expect("write");
        },
        |at| fs::read(at.join("d/fresh")).is_ok_and(|data| data == [9; 5000]),
    ),
    (
        "truncate",
        |at| open(at.join("data")).set_len(10).expect("truncate"),
        |at| fs::metadata(at.join("data")).is_ok_and(|f| f.len() == 10),
    ),
    (
        "fallocate",
        |at| {
            let file = open(at.join("d/g"));
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 70_000).expect("fallocate");
        },
        |at| fs::metadata(at.join("d/g")).is_ok_and(|f| f.len() == 70_000),
    ),
    (
        "copy_file_range",
        |at| {
            let (from, to) = (open(at.join("f")), open(at.join("linked")));
            let copied = rustix::fs::copy_file_range(&from, None, &to, None, 100_000);
            assert!(copied.expect("copy") > 0);
        },
        |at| fs::read(at.join("linked")).is_ok_and(|data| data.starts_with(&[7; 4096])),
    ),
    (
        "chmod",
        |at| {
            fs::set_permissions(at.join("f"), fs::Permissions::from_mode(0o601)).expect("chmod");
        },
        |at| fs::metadata(at.join("f")).is_ok_and(|f| f.mode() & 0o777 == 0o601),
    ),
    (
        "chmod of a FIFO",
        |at| {
            fs::set_permissions(at.join("fifo"), fs::Permissions::from_mode(0o601)).expect("chmod");
        },
        |at| fs::metadata(at.join("fifo")).is_ok_and(|f| f.mode() & 0o777 == 0o601),
    ),
    (
        "chown",
        |at| chown(at.join("d"), Some(17), None).expect("chown"),
        |at| fs::metadata(at.join("d")).is_ok_and(|d| d.uid() == 17),
    ),
    (
        "lchown of a link",
        |at| lchown(at.join("link"), Some(18), None).expect("lchown"),
        |at| fs::symlink_metadata(at.join("link")).is_ok_and(|link| link.uid() == 18),
    ),
    (
        "utimens",
        |at| open(at.join("f")).set_modified(std::time::UNIX_EPOCH).expect("utimens"),
        |at| fs::metadata(at.join("f")).is_ok_and(|f| f.mtime() == 0),
    ),
    (
        "setxattr",
        |at| {
            rustix::fs::setxattr(at.join("f"), "user.a", b"1", XattrFlags::empty()).expect("set");
        },
        |at| rustix::fs::getxattr(at.join("f"), "user.a", &mut [0u8; 8]) == Ok(1),
    ),
    (
        "removexattr",
        |at| rustix::fs::removexattr(at.join("f"), "user.a").expect("remove"),
        |at| rustix::fs::getxattr(at.join("f"), "user.a", &mut [0u8; 8]).is_err(),
    ),
    (
        "chattr",
        |at| sh(at, "chattr +d f"),
        |at| support::sh_output(at, "lsattr f").split(' ').next().unwrap_or("").contains('d'),
    ),
];

fn all_are_on_disk(disk: &Disk, changes: &[Change], options: &str) {
    for (what, change, is_there) in changes {
        assert!(!disk.after_power_loss(is_there), "{what}: before it is made");
        change(disk.mount.path());
        assert!(disk.after_power_loss(is_there), "{}: -o {options}: {what}", disk.kind);
    }
}

#[test]
fn every_change_of_names_is_on_the_disk_when_the_call_returns() {
    for options in ["sync", "dirsync"] {
        all_are_on_disk(&Disk::new("ext4", options), NAMES, options);
    }
    all_are_on_disk(&Disk::new("xfs", "dirsync"), NAMES, "dirsync");
}

#[test]
fn with_sync_every_change_of_data_and_attributes_is_on_the_disk_when_the_call_returns() {
    for options in ["sync", "sync,passthrough=off"] {
        all_are_on_disk(&Disk::new("ext4", options), INODES, options);
    }
    all_are_on_disk(&Disk::new("xfs", "sync"), INODES, "sync");
}

#[test]
fn without_sync_nothing_is_written_at_once() {
    let disk = Disk::new("ext4", "async");
    let lazy = |(what, change, is_there): &Change| {
        change(disk.mount.path());
        assert!(!disk.after_power_loss(is_there), "{what}: else the other tests show nothing");
    };
    lazy(&NAMES[0]);
    lazy(&INODES[0]);
}

#[test]
fn a_file_that_was_open_before_for_reading_is_written_through_as_well() {
    let disk = Disk::new("ext4", "sync");
    let reader = File::open(disk.mount.join("f")).expect("open for reading");
    let (_, change, is_there) = INODES[0];
    change(disk.mount.path());
    assert!(disk.after_power_loss(is_there));
    drop(reader);
}

#[test]
fn sync_changes_by_a_reload_and_a_remount_that_would_change_it_is_refused() {
    let disk = Disk::new("ext4", "async");
    let at = disk.mount.path();
    let remount = |options: &str| {
        let program = env!("CARGO_BIN_EXE_shiftbind");
        let output = Command::new(program).args(["-o", options]).arg(at).output().expect("run it");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = remount("remount,sync");
    assert!(code == Some(1) && message.contains("'sync' cannot change by a remount"), "{message}");
    let (code, message) = remount("remount,nosuid");
    assert_eq!(code, Some(0), "{message}");
}
