//! An error of the source at open(2) reaches the client, also where the kernel opens the file by itself (FUSE
//! passthrough); and a daemon that cannot see its callers' processes refuses no more than one that can.

mod support;

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};
use support::{Mount, as_user, eventually, loop_fs, scratch, sh, sh_output, sys};

/// Both data paths: with passthrough, and through the daemon.
const MOUNT_OPTIONS: [&str; 2] = ["--passthrough=auto", "--passthrough=off"];

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Opens a file for writing in three ways; returns the errors.
fn writes(path: &Path) -> [Option<i32>; 3] {
    let open = |options: &mut OpenOptions| errno(options.open(path));
    [
        open(OpenOptions::new().write(true)),
        open(OpenOptions::new().read(true).write(true)),
        open(OpenOptions::new().append(true)),
    ]
}

#[test]
fn a_source_that_became_read_only_says_so() {
    let ext4 = loop_fs("ext4", 32);
    let source = ext4.dir("s");
    for option in MOUNT_OPTIONS {
        fs::write(source.join("warm"), "text").expect("write");
        fs::write(source.join("cold"), "text").expect("write");
        let mount = Mount::builder().source(&source).arg(option).start();
        fs::write(mount.join("warm"), "more").expect("write");
        // The kernel sends RELEASE after close(2) has returned.
        eventually("no process has a file open for writing", || {
            let remount =
                Command::new("mount").args(["-o", "remount,ro"]).arg(ext4.path()).output();
            remount.expect("run mount").status.success()
        });
        for name in ["warm", "cold"] {
            assert_eq!(writes(&mount.join(name)), [Some(libc::EROFS); 3], "{name} {option}");
            fs::read(mount.join(name)).expect("it can be read");
        }
        sh(ext4.path(), "mount -o remount,rw .");
        assert_eq!(writes(&mount.join("cold")), [None; 3], "{option}");
    }
}

#[test]
fn a_read_only_snapshot_is_not_written() {
    let btrfs = loop_fs("btrfs", 200);
    sh(btrfs.path(), "btrfs -q subvolume create v && echo orig > v/f && chmod 666 v/f");
    sh(btrfs.path(), "btrfs -q subvolume snapshot -r v snap");
    for option in MOUNT_OPTIONS {
        let refused = [Some(libc::EROFS); 3];
        let of_both = Mount::builder().source(btrfs.path()).arg(option).start().open_to_all();
        let of_snapshot = Mount::builder().source(&btrfs.path().join("snap")).arg(option).start();
        for path in [of_both.join("snap/f"), of_snapshot.join("f")] {
            assert_eq!(writes(&path), refused, "{path:?} {option}");
            assert_eq!(fs::read_to_string(&path).expect("read"), "orig\n");
        }
        let path = of_both.join("snap/f");
        assert_eq!(as_user(1000, 1000, &[], || writes(&path)), refused, "a user, {option}");
    }
}

#[test]
fn a_program_that_runs_on_the_source_is_busy() {
    for option in MOUNT_OPTIONS {
        let mount = Mount::builder().arg(option).start();
        sh(mount.source(), "cp $(command -v sleep) program");
        let mut running = Command::new(mount.in_source("program"));
        let mut running = running.arg("60").spawn().expect("run it");
        let busy = writes(&mount.join("program"));
        running.kill().expect("kill");
        running.wait().expect("wait");
        assert_eq!(busy, [Some(libc::ETXTBSY); 3], "{option}");
        assert_eq!(writes(&mount.join("program")), [None; 3], "{option}");
    }
}

#[test]
fn an_open_with_o_nonblock_does_not_wait_for_a_lease() {
    for option in MOUNT_OPTIONS {
        let mount = Mount::builder().arg(option).start();
        fs::write(mount.in_source("f"), "text").expect("write");
        let holder = OpenOptions::new().read(true).write(true).open(mount.in_source("f"));
        let holder = holder.expect("open");
        // A child that a concurrent test has forked may have the file open for a moment.
        eventually("the lease is given", || sys::take_write_lease(&holder).is_ok());
        let mut reads = OpenOptions::new();
        reads.read(true).custom_flags(libc::O_NONBLOCK);
        let mut writes = OpenOptions::new();
        writes.write(true).custom_flags(libc::O_NONBLOCK);
        for options in [&reads, &writes] {
            assert_eq!(errno(options.open(mount.join("f"))), Some(libc::EAGAIN), "{option}");
        }
        drop(holder);
        for options in [&reads, &writes] {
            options.open(mount.join("f")).expect("open");
        }
    }
}

#[test]
fn root_is_root_even_if_the_daemon_cannot_see_its_processes() {
    let scratch_dir = scratch();
    let (source, point) = (scratch_dir.dir("source"), scratch_dir.dir("mnt"));
    let file = source.join("setuid");
    fs::write(&file, "").expect("write");
    chown(&file, Some(1000), Some(50)).expect("chown");
    fs::set_permissions(&file, Permissions::from_mode(0o4755)).expect("chmod");
    let device = |path: &Path| fs::metadata(path).expect("stat").dev();
    let before = device(&point);
    let mut daemon = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_shiftbind"), "-f"])
        .args([&source, &point])
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare");
    eventually("it is mounted", || device(&point) != before);
    let changed = chown(point.join("setuid"), Some(0), None);
    let mode = fs::metadata(&file).expect("stat").mode() & 0o7777;
    // The kernel refuses a user, as at any mount.
    let user = as_user(1234, 1234, &[], || errno(chown(point.join("setuid"), Some(1234), None)));
    unmount(&point, UnmountFlags::DETACH).expect("unmount");
    daemon.kill().expect("kill");
    daemon.wait().expect("wait");
    changed.expect("root changes owners");
    assert_eq!(mode, 0o755, "and the bit goes");
    assert_ne!(user, None);
    assert_eq!(sh_output(&source, "stat -c %u:%g setuid").trim(), "0:50");
}
