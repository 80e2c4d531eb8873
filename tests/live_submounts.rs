//! What is unmounted on the host below the source is let go of by the mount, and disappears from it.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use support::{Mount, Scratch, eventually, needs_loop_devices, scratch, sh, sh_output};

/// A source with a directory `disk` that contains a file `below`. What a test mounts in it is unmounted at the end.
struct Host(Scratch);

impl Host {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A busy mount belongs to the daemon of a failed test and ends with it.
        let script = "for m in $(grep -o \"$PWD/[^ ]*\" /proc/self/mountinfo | sort -r); do umount -l $m || :; done";
        sh(self.path(), script);
    }
}

fn source() -> Host {
    let scratch = scratch();
    sh(scratch.path(), "mkdir -p source/disk shared && echo below > source/disk/below");
    Host(scratch)
}

fn shown(scratch: &Host, args: &[&str]) -> Mount {
    let builder = Mount::builder().source(&scratch.join("source"));
    args.iter().fold(builder, |builder, arg| builder.arg(*arg)).start()
}

fn tmpfs(at: &Path) {
    mount("none", at, "tmpfs", MountFlags::empty(), c"mode=755").expect("mount a tmpfs");
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// An ext4 on a loop device, mounted at `source/disk`. The loop device ends with the test.
struct Disk(PathBuf);

impl Disk {
    fn new(scratch: &Host) -> Self {
        needs_loop_devices();
        let script = "truncate -s 16M image && mkfs.ext4 -q -F image && losetup -f --show image";
        let disk = Self(sh_output(scratch.path(), script).trim().into());
        mount(&disk.0, scratch.join("source/disk"), "ext4", MountFlags::empty(), c"")
            .expect("mount the loop device");
        sh(&scratch.join("source/disk"), "mkdir -p dir/dir && echo on-disk | tee f > dir/dir/f");
        disk
    }

    /// Whether any filesystem uses the device.
    fn is_free(&self) -> bool {
        // For a block device O_EXCL without O_CREAT means exclusive use (open(2)), as mkfs(8) asks for it.
        let exclusive = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&self.0);
        match errno(exclusive) {
            None => true,
            Some(libc::EBUSY) => false,
            Some(e) => panic!("open {}: errno {e}", self.0.display()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It is freed for good when its last user is gone.
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

fn unmount_disk(scratch: &Host) {
    unmount(scratch.join("source/disk"), UnmountFlags::empty())
        .expect("an idle mount keeps nothing from being unmounted");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display()));
    entries.map(|entry| entry.expect("list").file_name().into_string().expect("text")).collect()
}

/// Whether a directory contains `below` alone. While it changes, a client that has it cached gets ESTALE.
fn is_below(dir: &Path) -> bool {
    let list = || -> std::io::Result<Vec<_>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    match list() {
        Ok(names) => names == ["below"],
        Err(e) if e.raw_os_error() == Some(libc::ESTALE) => false,
        Err(e) => panic!("list {}: {e}", dir.display()),
    }
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    eventually(what, is_so);
}

#[test]
fn an_unmount_on_the_host_frees_the_device_and_shows_the_directory_below() {
    for args in [&[][..], &["--cache=none"], &["--cache=timeout=1s"], &["--threads=1"]] {
        let scratch = source();
        let disk = Disk::new(&scratch);
        let mount = shown(&scratch, args);
        let at = mount.join("disk");
        // All that the daemon and the kernel keep of it: names, handles, listings, backing files.
        sh(&at, "find . -ls >/dev/null; cat f dir/dir/f >/dev/null; echo more >> dir/dir/f; sync");
        assert!(!disk.is_free(), "{args:?}");
        unmount_disk(&scratch);
        wait_for("the device is free", || disk.is_free());
        wait_for("the directory below", || is_below(&at));
        assert_eq!(errno(fs::metadata(at.join("f"))), Some(libc::ENOENT), "{args:?}");
        assert_eq!(fs::read_to_string(at.join("below")).expect("read"), "below\n");
        fs::write(at.join("new"), "text").expect("the directory below is the source's own");
        assert_eq!(names(&scratch.join("source/disk")).len(), 2);
    }
}

#[test]
fn a_file_that_a_client_has_open_keeps_the_device_until_it_is_closed() {
    let scratch = source();
    let disk = Disk::new(&scratch);
    let mount = shown(&scratch, &[]);
    let mut open = File::open(mount.join("disk/f")).expect("open");
    unmount_disk(&scratch);
    wait_for("the directory below", || is_below(&mount.join("disk")));
    assert!(!disk.is_free());
    let mut text = String::new();
    open.read_to_string(&mut text).expect("an open file can be read");
    assert_eq!(text, "on-disk\n");
    drop(open);
    wait_for("the device is free", || disk.is_free());
}

#[test]
fn a_client_whose_working_directory_is_unmounted_is_told_so_and_keeps_nothing() {
    let scratch = source();
    let disk = Disk::new(&scratch);
    let mount = shown(&scratch, &[]);
    let at = mount.join("disk/dir");
    let script = "echo ready; read line; ls . && exit 9; cat dir/f && exit 8; echo x > n && exit 7; cd / && exit 0";
    let mut client = Command::new("sh")
        .args(["-c", script])
        .current_dir(&at)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("run sh");
    let mut ready = [0; 6];
    client.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("it is there");
    unmount_disk(&scratch);
    wait_for("the device is free", || disk.is_free());
    // What the kernel knows of names and attributes there is a second old at most.
    thread::sleep(Duration::from_millis(1100));
    drop(client.stdin.take());
    assert_eq!(client.wait().expect("it ends").code(), Some(0));
    assert_eq!(names(&mount.join("disk")), ["below"]);
}

#[test]
fn mounts_in_mounts_and_one_of_two_of_a_filesystem_are_told_apart() {
    let scratch = source();
    let dir = scratch.join("source");
    sh(&dir, "mkdir twice file-dir && touch file");
    tmpfs(&dir.join("disk"));
    sh(&dir, "mkdir disk/inner && echo outer > disk/f && echo file > file-dir/f");
    tmpfs(&dir.join("disk/inner"));
    sh(&dir, "echo inner > disk/inner/f");
    mount_bind(dir.join("disk"), dir.join("twice")).expect("bind");
    mount_bind(dir.join("file-dir/f"), dir.join("file")).expect("bind a file");
    let mount = shown(&scratch, &[]);
    let read = |name: &str| fs::read_to_string(mount.join(name)).ok();
    let is = |name: &str, text: &str| read(name).as_deref() == Some(text);
    assert!(is("disk/inner/f", "inner\n") && is("twice/f", "outer\n") && is("file", "file\n"));
    unmount(dir.join("twice"), UnmountFlags::empty()).expect("umount");
    wait_for("one of two is gone", || read("twice/f").is_none());
    assert!(is("disk/f", "outer\n") && is("disk/inner/f", "inner\n"));
    unmount(dir.join("file"), UnmountFlags::empty()).expect("umount");
    wait_for("the file below", || is("file", ""));
    // The source may have another name by then.
    fs::rename(&dir, scratch.join("renamed")).expect("rename");
    let dir = scratch.join("renamed");
    thread::sleep(Duration::from_millis(100));
    assert!(is("disk/inner/f", "inner\n"), "it is mounted as before");
    unmount(dir.join("disk"), UnmountFlags::DETACH).expect("umount -l");
    wait_for("both are gone", || is_below(&mount.join("disk")));
}

#[test]
fn inodes_without_handles_are_let_go_of_at_once_or_when_their_files_are_closed() {
    const FILES: usize = 50;
    let scratch = source();
    let dir = scratch.join("source");
    sh(scratch.path(), "mkdir lower upper work && touch $(seq -f lower/%g 50)");
    // Without index and nfs_export an overlay has no handles, so the daemon holds each inode by a descriptor.
    let layers = ["lowerdir=lower", "upperdir=upper", "workdir=work"].map(|layer| {
        let (option, name) = layer.split_once('=').expect("an option");
        format!("{option}={}", scratch.join(name).display())
    });
    let options =
        std::ffi::CString::new(format!("{},index=off", layers.join(","))).expect("no NUL");
    mount("none", dir.join("disk"), "overlay", MountFlags::empty(), Some(&*options))
        .expect("mount an overlay");
    let mount = shown(&scratch, &[]);
    let before = mount.open_descriptors();
    let open = File::open(mount.join("disk/1")).expect("open");
    assert_eq!(names(&mount.join("disk")).len(), FILES);
    for n in 1..=FILES {
        fs::metadata(mount.join(format!("disk/{n}"))).expect("stat");
    }
    let held = mount.open_descriptors();
    assert!(held >= before + FILES, "{held} of {before}");
    unmount_disk(&scratch);
    wait_for("the descriptors are closed", || mount.open_descriptors() < before + 10);
    let with_open = mount.open_descriptors();
    drop(open);
    wait_for("that of the file is closed", || mount.open_descriptors() < with_open);
    wait_for("the directory below", || is_below(&mount.join("disk")));
}

#[test]
fn the_hosts_shared_mounts_stay_as_they_are() {
    let scratch = source();
    sh(scratch.path(), "mount -t tmpfs none shared && mount --make-shared shared");
    let dir = scratch.join("shared");
    sh(&dir, "mkdir -p source/disk other && mount -t tmpfs none other");
    tmpfs(&dir.join("source/disk"));
    let table = || fs::read_to_string("/proc/thread-self/mountinfo").expect("read");
    let before = table();
    let mount = Mount::builder().source(&dir.join("source")).start();
    assert!(names(&mount.join("disk")).is_empty());
    // The daemon's own namespace is ready when an unmount is followed.
    let own: Vec<String> =
        table().lines().filter(|line| !before.contains(line)).map(str::to_owned).collect();
    assert_eq!(own.len(), 1, "only the mount itself is new: {own:?}");
    unmount(dir.join("other"), UnmountFlags::empty()).expect("the daemon keeps no other mount");
    sh(&dir, "echo below > source/below");
    unmount(dir.join("source/disk"), UnmountFlags::empty()).expect("umount");
    assert!(before.lines().filter(|line| !table().contains(line)).count() == 2);
    drop(mount);
    unmount(&dir, UnmountFlags::empty()).expect("nothing is kept");
}

#[test]
fn clients_that_look_up_names_while_mounts_go_get_one_of_both_and_the_daemon_keeps_nothing() {
    const MOUNTS: usize = 100;
    let scratch = source();
    let dir = scratch.join("source");
    let at: Vec<PathBuf> = (0..MOUNTS).map(|n| dir.join(format!("m{n}"))).collect();
    for at in &at {
        fs::create_dir(at).expect("mkdir");
        fs::write(at.join("f"), "below").expect("write");
        tmpfs(at);
        fs::write(at.join("f"), "above").expect("write");
    }
    let mount = shown(&scratch, &[]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for n in 0..MOUNTS {
                        match fs::read_to_string(mount.join(format!("m{n}/f"))) {
                            Ok(text) => assert!(text == "below" || text == "above", "{text:?}"),
                            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ESTALE), "{e}"),
                        }
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        for at in &at {
            unmount_retrying(at);
        }
        thread::sleep(Duration::from_millis(1500));
        done.store(true, Ordering::Relaxed);
    });
    for n in 0..MOUNTS {
        assert_eq!(fs::read_to_string(mount.join(format!("m{n}/f"))).expect("read"), "below");
    }
    // Mounts that come and go, which are not followed, leave nothing either.
    let descriptors = || mount.open_descriptors();
    wait_for("descriptors of all mounts are closed", || descriptors() < MOUNTS);
    let before = descriptors();
    for _ in 0..1000 {
        tmpfs(&at[0]);
        unmount_retrying(&at[0]);
    }
    wait_for("no descriptor is left", || descriptors() <= before);
}

fn unmount_retrying(at: &Path) {
    unmount(at, UnmountFlags::empty()).unwrap_or_else(|e| panic!("umount {}: {e}", at.display()));
}

#[test]
fn where_the_daemon_gets_no_namespace_the_mounts_stay_as_they_were() {
    let scratch = source();
    tmpfs(&scratch.join("source/disk"));
    fs::write(scratch.join("source/disk/f"), "text").expect("write");
    // setns(2) takes CAP_SYS_CHROOT.
    let program = env!("CARGO_BIN_EXE_shiftbind");
    let script = scratch.join("program");
    let text = format!("#!/bin/sh\nexec setpriv --bounding-set=-sys_chroot {program} \"$@\"\n");
    fs::write(&script, text).expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mount = Mount::builder().source(&scratch.join("source")).program(&script).arg("-v").start();
    assert_eq!(fs::read_to_string(mount.join("disk/f")).expect("read"), "text");
    unmount(scratch.join("source/disk"), UnmountFlags::empty()).expect("umount");
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(fs::read_to_string(mount.join("disk/f")).expect("read"), "text");
    let log = mount.messages();
    assert!(log.contains("what is unmounted below the source stays in use"), "{log}");
}
