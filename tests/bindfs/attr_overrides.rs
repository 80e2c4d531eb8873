//! Attribute overrides other than owners and permissions: links, change times, block devices, the mounter's own
//! rights.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::process::Command;

use rustix::fs::CWD;

use super::observe::mode;
use super::support::sh_output;
use super::twins::{Mounter, Side, Twins, World};

#[test]
fn every_link_count_is_one() {
    let tree = "mkdir d d/sub; touch a; ln a b; ln a d/c";
    let mut twins = Twins::of(&[], tree);
    let links = |side: &Side| {
        ["", "d", "a", "b", "d/c"].map(|name| fs::metadata(side.at(name)).expect("stat").nlink())
    };
    assert_eq!(twins.same("as they are", links)[1..], [3, 3, 3, 3]);
    twins.again(&["--hide-hard-links"]);
    assert_eq!(twins.same("hidden", links), [1; 5]);
    let left = twins.same("more links", |side| {
        fs::hard_link(side.at("a"), side.at("e")).expect("link");
        fs::remove_file(side.at("b")).expect("unlink");
        (
            fs::metadata(side.at("e")).expect("stat").nlink(),
            fs::metadata(side.src("e")).expect("stat").nlink(),
        )
    });
    assert_eq!(left, (1, 3));
}

#[test]
fn the_change_time_is_the_modification_time() {
    let tree = "mkdir d; touch f; ln -s f l; touch -h -d 2001-02-03T04:05:06.789 f d l";
    let mut twins = Twins::of(&["--ctime-from-mtime"], tree);
    let times = |side: &Side| {
        ["f", "d", "l"].map(|name| {
            let meta = fs::symlink_metadata(side.at(name)).expect("stat");
            (meta.ctime(), meta.ctime_nsec())
        })
    };
    assert_eq!(twins.same("from mtime", times), [(981_173_106, 789_000_000); 3]);
    twins.again(&[]);
    for side in twins.both() {
        assert_ne!(times(side)[0], (981_173_106, 789_000_000));
    }
}

/// A loop device, detached when dropped.
struct Disk(String);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_a_file_of_its_size_with_its_data() {
    let mut twins = Twins::of(&["--block-devices-as-files"], "");
    let dir = twins.world().join("");
    let device = sh_output(&dir, "head -c 1048576 /dev/urandom > image; losetup -f --show image");
    let disk = Disk(device.trim().to_owned());
    let number = fs::metadata(&disk.0).expect("stat the device").rdev();
    for side in twins.both() {
        let kind = rustix::fs::FileType::BlockDevice;
        rustix::fs::mknodat(CWD, side.src("disk"), kind, 0o640.into(), number).expect("mknod");
    }
    let seen = twins.same("as a file", |side| {
        let meta = fs::metadata(side.at("disk")).expect("stat");
        let mut start = [0; 64];
        File::open(side.at("disk")).expect("open").read_exact_at(&mut start, 4096).expect("read");
        (meta.is_file(), meta.len(), mode(&side.at("disk")), start)
    });
    assert_eq!((seen.0, seen.1, seen.2), (true, 1 << 20, 0o640));
    let written = twins.same("written", |side| {
        let byte = if side.is_ours() { b'o' } else { b't' };
        let file = File::options().write(true).open(side.at("disk")).expect("open");
        file.write_all_at(&[byte; 512], 0).expect("write");
        file.sync_all().expect("fsync");
        let mut found = [0; 512];
        File::open(&disk.0).expect("open the device").read_exact(&mut found).expect("read");
        found == [byte; 512]
    });
    assert!(written);
    twins.again(&[]);
    let is_device = |side: &Side| {
        let meta = fs::metadata(side.at("disk")).expect("stat");
        (meta.file_type().is_block_device(), meta.rdev() == number)
    };
    assert_eq!(twins.same("as a device", is_device), (true, true));
}

/// bindfs shows an uninitialised size.
#[test]
fn a_block_device_that_cannot_be_opened_is_a_file_of_no_size() {
    let mount =
        World::new(Mounter::Root).ours(&["--block-devices-as-files"], "mknod gone b 240 77");
    let meta = fs::metadata(mount.ours.at("gone")).expect("stat");
    assert_eq!((meta.is_file(), meta.len()), (true, 0));
}

#[test]
fn a_user_mount_shows_no_permission_that_its_user_lacks() {
    let tree = "touch own roots locked run; chmod 666 own; chmod 604 roots; chmod 600 locked; chmod 4711 run; mkdir d shut; chmod 755 d; chmod 700 shut; chown 1000:1000 own";
    let mut twins = Twins::mounted_by(Mounter::User, &["--realistic-permissions"], tree);
    let modes = |side: &Side| {
        ["own", "roots", "locked", "run", "d", "shut"].map(|name| mode(&side.at(name)))
    };
    assert_eq!(twins.same("a user", modes), [0o666, 0o404, 0, 0o4111, 0o555, 0]);
    twins.again(&["--realistic-permissions", "--perms=a=rwx"]);
    assert_eq!(twins.same("after perms", modes), [0o666, 0o444, 0, 0o4111, 0o555, 0]);
    twins.again(&[]);
    assert_eq!(twins.same("without", modes), [0o666, 0o604, 0o600, 0o4711, 0o755, 0o700]);
}

#[test]
fn a_mount_by_root_shows_what_root_may_do() {
    let tree = "touch plain run; chmod 640 plain; chmod 711 run; mkdir d; chmod 700 d";
    let twins = Twins::of(&["--realistic-permissions"], tree);
    let modes = |side: &Side| ["plain", "run", "d"].map(|name| mode(&side.at(name)));
    assert_eq!(twins.same("root", modes), [0o640, 0o711, 0o700]);
}
