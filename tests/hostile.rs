//! Local attackers: a user of the mount, or one who may write to the source, gains no access to other users' files.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{self as unix, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use support::sys::{buffer_ioctl, raw_ioctl};
use support::{Mount, as_user, eventually, scratch, sh};

const ALICE: u32 = 1000;
const OVERFLOW_ID: u32 = 65534;

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn as_alice<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    as_user(ALICE, ALICE, &[], run)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

// --- permissions that are shown ---

#[test]
fn an_acl_grants_no_more_than_the_permissions_that_are_shown() {
    for args in [&["--perms=a-w"][..], &["--perms=a-w", "--chown-ignore"]] {
        let source = scratch();
        sh(
            source.path(),
            "echo x > f; chown 500:500 f; chmod 660 f; setfacl -m u:1000:rw,g:77:rw f",
        );
        let mut builder = Mount::builder().source(source.path());
        for arg in args {
            builder = builder.arg(*arg);
        }
        let mount = builder.start();
        let f = mount.join("f");
        assert_eq!(mode(&f), 0o440, "{args:?}");
        as_alice(|| {
            assert_eq!(fs::read_to_string(&f).expect("the user may read"), "x\n");
            assert_eq!(errno(write(&f, "y")), Some(libc::EACCES), "{args:?}");
        });
        as_user(2000, 77, &[], || {
            assert_eq!(errno(write(&f, "y")), Some(libc::EACCES), "{args:?}");
        });
        assert_eq!(fs::read_to_string(mount.in_source("f")).expect("read"), "x\n");
    }
}

#[test]
fn what_the_group_is_shown_to_have_beyond_an_acl_the_owning_group_has() {
    let source = scratch();
    sh(source.path(), "echo x > f; chown 500:77 f; chmod 600 f; setfacl -m u:1000:-,g::- f");
    let mount = Mount::builder().source(source.path()).arg("--perms=g+r").start();
    as_user(2000, 77, &[], || fs::read(mount.join("f")).expect("the group reads"));
    as_alice(|| assert_eq!(errno(fs::read(mount.join("f"))), Some(libc::EACCES)));
}

// --- setuid and setgid ---

#[test]
fn a_setuid_file_does_not_run_as_a_user_that_only_the_mount_shows_as_its_owner() {
    for args in [
        &["--force-user=0", "--force-group=0"][..],
        &["-o", "idmap=b:5000:5000:1,unmapped=squash=0:0"],
    ] {
        let source = scratch();
        sh(source.path(), "cp $(which id) id; chown 1000:1000 id; chmod 6755 id");
        let mut builder = Mount::builder().source(source.path());
        for arg in args {
            builder = builder.arg(*arg);
        }
        let mount = builder.start();
        let id = mount.join("id");
        assert_eq!((mode(&id), fs::metadata(&id).expect("stat").uid()), (0o755, 0), "{args:?}");
        let said = as_alice(|| Command::new(&id).arg("-u").output().expect("run id"));
        assert_eq!(String::from_utf8_lossy(&said.stdout), "1000\n", "{args:?}");
        assert_eq!(mode(&mount.in_source("id")), 0o6755);
    }
}

#[test]
fn an_owner_by_the_mounts_view_alone_cannot_make_a_file_setuid() {
    for arg in ["--force-user=1000", "--mirror=1000"] {
        let mount = Mount::builder().arg(arg).start();
        let (f, own) = (mount.in_source("f"), mount.in_source("own"));
        sh(mount.source(), "echo x > f; chmod 755 f; echo y > own; chown 1000:1000 own");
        as_alice(|| {
            write(&mount.join("f"), "written").expect("the mount shows the user as the owner");
            chmod(&mount.join("f"), 0o6711).expect("chmod");
            chmod(&mount.join("own"), 0o4711).expect("chmod");
        });
        assert_eq!((mode(&f), mode(&own)), (0o711, 0o4711), "{arg}");
        // Root may do so, as on the source.
        chmod(&mount.join("f"), 0o4711).expect("chmod");
        assert_eq!(mode(&f), 0o4711, "{arg}");
    }
}

#[test]
fn a_file_created_for_another_user_is_never_setuid() {
    let mount = Mount::builder()
        .arg("--create-for-user=0")
        .arg("--create-for-group=0")
        .start()
        .open_to_all();
    as_alice(|| {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o6755).open(mount.join("f")).expect("create");
        let kind = rustix::fs::FileType::RegularFile;
        rustix::fs::mknodat(CWD, mount.join("n"), kind, 0o6755.into(), 0).expect("mknod");
    });
    for name in ["f", "n"] {
        let meta = fs::metadata(mount.in_source(name)).expect("stat");
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o755), "{name}");
    }
}

// --- out of the source ---

#[test]
fn a_source_path_that_a_user_replaces_by_a_link_is_not_followed() {
    let scratch_dir = scratch();
    let users_dir = scratch_dir.dir("users");
    sh(scratch_dir.path(), "mkdir secret users/data; echo top > secret/x; chmod 755 .");
    unix::chown(&users_dir, Some(ALICE), Some(ALICE)).expect("chown");
    let mount = Mount::builder()
        .source(&users_dir.join("data"))
        .arg("--follow-source")
        .arg("--force-user=1000")
        .start();
    as_alice(|| {
        fs::rename(users_dir.join("data"), users_dir.join("old")).expect("rename");
        unix::symlink("../secret", users_dir.join("data")).expect("make the link");
    });
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(errno(fs::read(mount.join("x"))), Some(libc::ENOENT));
    // A directory that replaces the link is followed.
    as_alice(|| {
        fs::remove_file(users_dir.join("data")).expect("remove the link");
        fs::create_dir(users_dir.join("data")).expect("mkdir");
        File::create(users_dir.join("data/new")).expect("create");
    });
    eventually("the new directory is shown", || mount.join("new").exists());
}

#[test]
fn a_links_target_is_removed_only_if_the_caller_may_remove_it_there() {
    for (policy, link_goes) in [("target-first", false), ("symlink-first", true)] {
        let scratch_dir = scratch();
        let source = scratch_dir.dir("source");
        sh(
            scratch_dir.path(),
            "chmod 777 source; mkdir -m 755 priv; mkdir -m 1777 tmp; mkdir -m 777 open; \
             touch priv/f tmp/f open/f; for d in priv tmp open; do ln -s ../$d/f source/$d; done",
        );
        let mount = Mount::builder()
            .source(&source)
            .arg("--resolve-symlinks")
            .arg(format!("--resolved-symlink-deletion={policy}"))
            .start();
        as_alice(|| {
            for (dir, refused) in [("priv", libc::EACCES), ("tmp", libc::EPERM)] {
                let expected = (!link_goes).then_some(refused);
                assert_eq!(errno(fs::remove_file(mount.join(dir))), expected, "{policy}, {dir}");
            }
            fs::remove_file(mount.join("open")).expect("the user may");
        });
        let there = |name: &str| scratch_dir.path().join(name).exists();
        assert!(there("priv/f") && there("tmp/f") && !there("open/f"), "{policy}");
    }
}

// --- where the daemon checks permissions ---

#[test]
fn a_user_without_search_permission_does_not_unmount_what_is_mounted_below() {
    let made = Mount::builder().arg("--chown-ignore").start();
    sh(made.source(), "mkdir -p priv/a/b; chmod 700 priv");
    let at = made.join("priv/a/b");
    mount("none", &at, "tmpfs", MountFlags::empty(), None).expect("mount below");
    File::create(at.join("inside")).expect("create");
    as_alice(|| {
        for name in ["priv/a", "priv/a/b", "priv/a/b/inside"] {
            assert!(fs::symlink_metadata(made.join(name)).is_err(), "{name}");
        }
        // Besides the path to the mount below, the errno is the ordinary one.
        assert_eq!(errno(fs::symlink_metadata(made.join("priv/x"))), Some(libc::EACCES));
    });
    assert!(at.join("inside").exists(), "still mounted");
    unmount(&at, UnmountFlags::empty()).expect("unmount");
}

#[test]
fn devices_stay_shut_when_the_mounts_options_change() {
    let scratch_dir = scratch();
    let config = scratch_dir.path().join("config");
    fs::write(&config, "chown-ignore\n").expect("write the options");
    let mount = Mount::builder().arg(format!("--config={}", config.display())).start();
    sh(mount.source(), "mknod null c 1 3; chmod 600 null");
    let opened = || as_alice(|| errno(File::open(mount.join("null"))));
    assert_eq!(opened(), Some(libc::EACCES));
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shiftbind"));
        assert!(command.args(args).arg(mount.path()).status().expect("run").success(), "{args:?}");
    };
    run(&["-o", "remount,rw", "none"]);
    assert_eq!(opened(), Some(libc::EACCES), "after a remount");
    fs::write(&config, "chown-ignore\nnoexec\n").expect("write the options");
    run(&["--reload"]);
    assert_eq!(opened(), Some(libc::EACCES), "after a reload");
}

/// FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_NODUMP_FL (ioctl_iflags(2)).
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const NODUMP: u32 = 0x40;

#[test]
fn a_caller_with_the_overflow_id_does_not_own_unmapped_files() {
    let mount = Mount::builder().arg("--mirror=5000").arg("--idmap=b:5000:5000:1").start();
    let f = mount.in_source("f");
    sh(mount.source(), "touch f; chown 77:77 f; chmod 644 f");
    let refused = as_user(OVERFLOW_ID, OVERFLOW_ID, &[], || {
        let file = File::open(mount.join("f")).expect("every user may read");
        assert_eq!(file.metadata().expect("stat").uid(), OVERFLOW_ID);
        raw_ioctl(&file, SETFLAGS, u64::from(NODUMP)).map(drop)
    });
    assert_eq!(errno(refused), Some(libc::EPERM));
    let mut flags = [0; 8];
    buffer_ioctl(&File::open(&f).expect("open"), GETFLAGS, &mut flags).expect("flags");
    assert_eq!(u64::from_ne_bytes(flags) as u32 & NODUMP, 0);
}

// --- what is left behind ---

#[test]
fn links_that_come_and_go_leave_nothing_in_memory() {
    let mount = Mount::builder().arg("--resolve-symlinks").arg("--cache=none").start();
    fs::create_dir(mount.in_source("d")).expect("mkdir");
    let round = |count: usize| {
        for _ in 0..count {
            unix::symlink("/usr", mount.in_source("l")).expect("make a link");
            fs::remove_dir(mount.join("l")).expect("remove it");
        }
        // The daemon sweeps once a second.
        std::thread::sleep(Duration::from_millis(1500));
    };
    round(5000);
    round(5000);
    let before = mount.resident_kib();
    (0..2).for_each(|_| round(5000));
    let grown = mount.resident_kib().saturating_sub(before);
    assert!(grown < 500, "{grown} KiB more");
}
