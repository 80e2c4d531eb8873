//! Sources on filesystems that have no owners (FAT, exFAT, NTFS) or cannot be written to (squashfs, erofs).

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};

use crate::probe;
use crate::support::{Lock, LockKind, Mount, Scratch, needs_loop_devices, scratch, sh};
use crate::survey::{self, tell};

/// A filesystem on a loop device; unmounted when dropped.
struct Disk {
    dir: PathBuf,
    _scratch: Scratch,
}

impl Disk {
    /// Makes a filesystem by a command that turns the directory `tree` or the empty file `image` into it.
    fn make(kind: &str, command: &str, options: &str) -> Self {
        needs_loop_devices();
        let scratch = scratch();
        let image = scratch.join("image");
        File::create(&image).expect("make the image").set_len(64 << 20).expect("size the image");
        let dir = scratch.dir("mounted");
        let tree = scratch.dir("tree");
        survey::fill(&{
            fs::create_dir(tree.join("files")).expect("mkdir");
            tree.join("files")
        });
        sh(scratch.path(), "chown 1005:1006 tree/files/f1; chmod 640 tree/files/f1");
        sh(
            scratch.path(),
            &format!("{command} > log; mount -t {kind} -o loop,{options} image mounted"),
        );
        Self { dir, _scratch: scratch }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
    }
}

fn without_owners(name: &str, kind: &str, mkfs: &str, options: &str) {
    if !probe::has(&[kind], &[mkfs]) {
        return;
    }
    let force = if kind == "ntfs3" { "-Q -F" } else { "" };
    let disk = Disk::make(kind, &format!("{mkfs} {force} image"), options);
    let files = disk.dir.join("files");
    fs::create_dir(&files).expect("mkdir");
    survey::fill(&files);
    survey::measure(name, &disk.dir, &files);
    survey::compare(name, &disk.dir, &disk.dir, &[]);
}

#[test]
fn fat_does_the_same_through_a_map() {
    without_owners("vfat", "vfat", "mkfs.vfat", "uid=1000,gid=1000,umask=022");
}

/// FAT gives an inode that was dropped from memory another number and another handle.
#[test]
fn a_directory_of_fat_stays_usable_when_memory_is_short() {
    if !probe::has(&["vfat"], &["mkfs.vfat"]) {
        return;
    }
    let disk = Disk::make("vfat", "mkfs.vfat image", "uid=1000,gid=1000,umask=022");
    fs::create_dir_all(disk.dir.join("d/e")).expect("mkdir");
    fs::write(disk.dir.join("d/e/f"), "text").expect("write");
    let mount = survey::mount(&disk.dir);
    let dir = rustix::fs::open(
        mount.join("d/e"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .expect("open");
    for round in 0..2 {
        // Longer than the daemon keeps a descriptor that it need not keep.
        thread::sleep(Duration::from_secs(6));
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop caches");
        let size = rustix::fs::statat(&dir, "f", AtFlags::empty()).map(|stat| stat.st_size);
        assert_eq!(size, Ok(4), "round {round}");
    }
}

#[test]
fn a_hidden_name_of_fat_is_not_found_by_its_short_name() {
    if !probe::has(&["vfat"], &["mkfs.vfat"]) {
        return;
    }
    for (options, secret, shown) in [
        ("umask=022", "SECRET~1.TXT", "SHOWN-~1.TXT"),
        ("umask=022,nonumtail", "SECRET-N.TXT", "SHOWN-NA.TXT"),
    ] {
        let disk = Disk::make("vfat", "mkfs.vfat image", options);
        for (name, text) in [("secret-name.txt", "secret"), ("shown-name.txt", "shown")] {
            fs::write(disk.dir.join(name), text).expect("write");
        }
        assert_eq!(fs::read(disk.dir.join(secret)).expect("the short name"), b"secret");
        let mount = Mount::builder().source(&disk.dir).arg("--exclude=secret-name.txt").start();
        assert_eq!(fs::read(disk.dir.join("secret-name.txt.")).expect("a dot"), b"secret");
        let dots = ["secret-name.txt.", "SECRET-name.txt..."];
        for name in ["secret-name.txt", secret, &secret.to_lowercase(), "SECRET-NAME.TXT"]
            .into_iter()
            .chain(dots)
        {
            let found = fs::read(mount.join(name)).map_err(|e| e.kind());
            assert_eq!(found, Err(std::io::ErrorKind::NotFound), "{options}: {name}");
        }
        for name in ["shown-name.txt", shown] {
            assert_eq!(fs::read(mount.join(name)).ok().as_deref(), Some(&b"shown"[..]), "{name}");
        }
    }
}

#[test]
fn exfat_does_the_same_through_a_map() {
    without_owners("exfat", "exfat", "mkfs.exfat", "uid=1000,gid=1000,umask=022");
}

#[test]
fn ntfs_does_the_same_through_a_map() {
    without_owners("ntfs3", "ntfs3", "mkfs.ntfs", "uid=1000,gid=1000,umask=022");
}

fn read_only(name: &str, program: &str, command: &str) {
    if !probe::has(&[name], &[program]) {
        return;
    }
    let prepared = format!(
        "setfattr -n user.test -v value tree/files/f1; setfacl -m u:1007:r tree/files/f2; {command}"
    );
    let disk = Disk::make(name, &prepared, "ro");
    survey::measure(name, &disk.dir, &disk.dir.join("files"));
    let mount = survey::mount(&disk.dir);
    let meta = fs::metadata(mount.join("files/f1")).expect("stat");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (101_005, 101_006, 0o640));
    tell(name, "owners", "those stored; EROFS for every change");
    let attempts = |dir: &Path| {
        let file = dir.join("files/f1");
        [
            fs::write(dir.join("new"), "text"),
            fs::set_permissions(&file, Permissions::from_mode(0o600)),
            chown(&file, Some(0), None),
            fs::remove_file(&file),
            fs::rename(&file, dir.join("moved")),
            fs::hard_link(&file, dir.join("linked")),
            File::options().append(true).open(&file).map(drop),
        ]
        .map(|result| result.err().and_then(|error| error.raw_os_error()))
    };
    assert_eq!(attempts(&disk.dir), [Some(libc::EROFS); 7], "{name} itself");
    assert_eq!(attempts(mount.path()), [Some(libc::EROFS); 7], "{name} at the mount");
    let value = survey::get_xattr(&mount.join("files/f1"), "user.test");
    tell(name, "xattrs", &survey::outcome(value));
    let at = |dir: &Path| {
        survey::outcome(survey::get_xattr(&dir.join("files/f2"), "system.posix_acl_access"))
    };
    tell(name, "ACLs", &at(mount.path()));
    // The kernel asks the daemon for ACLs, and takes EOPNOTSUPP for an error.
    let expected = if at(&disk.dir) == "EOPNOTSUPP" { "ENODATA".to_owned() } else { at(&disk.dir) };
    assert_eq!(at(mount.path()), expected, "{name}: an ACL");
    let file = File::open(mount.join("files/f1")).expect("open");
    let lock = Lock::whole(LockKind::Shared).try_set(&file);
    tell(name, "locks", &survey::outcome(lock));
}

#[test]
fn squashfs_is_read_through_a_map() {
    read_only("squashfs", "mksquashfs", "rm image; mksquashfs tree image -quiet -no-progress");
}

#[test]
fn erofs_is_read_through_a_map() {
    read_only("erofs", "mkfs.erofs", "mkfs.erofs image tree");
}
