//! Mirrors: each mirrored caller owns everything, also while other callers use the mount at the same moment.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{self as unix, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::mount_bind;
use rustix::process::{Pid, Signal, kill_process};
use support::{Mount, as_user, eventually};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn give(path: &Path, owner: u32, mode: u32) {
    unix::chown(path, Some(owner), Some(owner)).expect("chown on the source");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod on the source");
}

fn file_of(mount: &Mount, name: &str, owner: u32, mode: u32) {
    File::create(mount.in_source(name)).expect("create on the source");
    give(&mount.in_source(name), owner, mode);
}

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").uid()
}

fn user(uid: u32, run: impl FnOnce() + Send) {
    as_user(uid, uid, &[], run);
}

#[test]
fn a_mirrored_user_owns_everything_and_other_users_see_no_difference() {
    let mount = Mount::builder().arg("--mirror=1000:1001").start().open_to_all();
    file_of(&mount, "f", 5, 0o640);
    let path = mount.join("f");
    for uid in [1000, 1001] {
        user(uid, || {
            assert_eq!(owner(&path), uid);
            File::open(&path).expect("the owner reads");
            let mode = 0o600 + (uid & 0o77);
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the owner's chmod");
        });
    }
    assert_eq!(fs::metadata(mount.in_source("f")).unwrap().mode() & 0o7777, 0o600 + (1001 & 0o77));
    assert_eq!(owner(&mount.in_source("f")), 5);
    give(&mount.in_source("f"), 5, 0o640);
    user(1002, || {
        assert_eq!(owner(&path), 5);
        assert_eq!(errno(File::open(&path)), Some(libc::EACCES));
        let mode = Permissions::from_mode(0o666);
        assert_eq!(errno(fs::set_permissions(&path, mode)), Some(libc::EPERM));
    });
    user(5, || drop(File::open(&path).expect("the true owner reads")));
    assert_eq!(owner(&path), 5, "root is not in the list");
}

#[test]
fn mirror_only_leaves_nothing_to_other_users_but_root() {
    let mount = Mount::builder().arg("--mirror-only=1000").start().open_to_all();
    file_of(&mount, "f", 5, 0o666);
    let path = mount.join("f");
    user(1000, || assert_eq!(fs::read(&path).map(|data| data.len()).ok(), Some(0)));
    user(1001, || {
        assert_eq!(errno(fs::metadata(&path)), Some(libc::EACCES));
        assert_eq!(errno(fs::read_dir(mount.path())), Some(libc::EACCES));
        assert_eq!(fs::metadata(mount.path()).expect("stat of the root").mode() & 0o777, 0);
    });
    assert_eq!(owner(&path), 5);
    File::open(&path).expect("root reads");
}

#[test]
fn a_chown_to_the_owner_that_the_caller_sees_changes_nothing_on_the_source() {
    let mount = Mount::builder().arg("--mirror=1000").start().open_to_all();
    file_of(&mount, "f", 5, 0o644);
    let path = mount.join("f");
    user(1000, || {
        unix::chown(&path, Some(1000), None).expect("the caller sees itself as the owner");
        assert_eq!(errno(unix::chown(&path, Some(1001), None)), Some(libc::EPERM));
        assert_eq!(errno(unix::chown(&path, None, Some(60))), Some(libc::EPERM));
    });
    assert_eq!(owner(&mount.in_source("f")), 5);
    unix::chown(&path, Some(7), None).expect("root gives it away");
    assert_eq!(owner(&mount.in_source("f")), 7);
}

#[test]
fn a_setuid_bit_is_not_shown_under_a_mirror() {
    let mount = Mount::builder().arg("--mirror=1000:1001").start().open_to_all();
    file_of(&mount, "f", 1000, 0o6755);
    for uid in [0, 1000, 1001] {
        user(uid, || {
            let mode = fs::metadata(mount.join("f")).expect("stat").mode();
            assert_eq!(mode & 0o7777, 0o2755, "as {uid}");
        });
    }
    assert_eq!(fs::metadata(mount.in_source("f")).unwrap().mode() & 0o7777, 0o6755);
}

#[test]
fn a_setgid_bit_is_given_by_members_of_the_group_only() {
    let mount = Mount::builder().arg("--mirror=1000").start().open_to_all();
    file_of(&mount, "f", 5, 0o755);
    let set = || fs::set_permissions(mount.join("f"), Permissions::from_mode(0o2755));
    let stored = || fs::metadata(mount.in_source("f")).unwrap().mode() & 0o7777;
    as_user(1000, 1000, &[], || set().expect("chmod"));
    assert_eq!(stored(), 0o755);
    as_user(1000, 1000, &[5], || set().expect("chmod"));
    assert_eq!(stored(), 0o2755);
    as_user(1000, 1000, &[], || {
        io::Write::write_all(
            &mut OpenOptions::new().write(true).open(mount.join("f")).unwrap(),
            b"x",
        )
        .expect("write");
    });
    assert_eq!(stored(), 0o755, "a write takes it");
}

#[test]
fn concurrent_callers_never_see_each_others_ids_and_are_never_refused() {
    const ROUNDS: u32 = 300;
    let mount = Mount::builder().arg("--mirror=1000:1001").start().open_to_all();
    for (dir, mode) in [("plain", 0o700), ("sticky", 0o1777)] {
        fs::create_dir(mount.in_source(dir)).expect("mkdir on the source");
        give(&mount.in_source(dir), 5, mode);
        for number in 0..4 {
            file_of(&mount, &format!("{dir}/{number}"), 6, 0o640);
        }
    }
    let done = AtomicBool::new(false);
    let hammer = |uid: u32, worker: u32| {
        for round in 0..ROUNDS {
            let dir =
                mount.join(if (round + worker).is_multiple_of(2) { "plain" } else { "sticky" });
            let path = dir.join((round % 4).to_string());
            let what = |what: &str| format!("{what} as {uid} in round {round}");
            assert_eq!(owner(&path), uid, "{}", what("stat"));
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.unwrap_or_else(|e| panic!("{}: {e}", what("open")));
            assert_eq!(file.metadata().expect("fstat").uid(), uid, "{}", what("fstat"));
            let mode = Permissions::from_mode(if round.is_multiple_of(3) { 0o600 } else { 0o640 });
            fs::set_permissions(&path, mode).unwrap_or_else(|e| panic!("{}: {e}", what("chmod")));
            // In every second round the worker removes the file of a worker with the other uid.
            let mine = dir.join(format!("of {worker}"));
            File::create(&mine).unwrap_or_else(|e| panic!("{}: {e}", what("create")));
            let theirs = dir.join(format!("of {}", worker ^ 1));
            match fs::remove_file(if round.is_multiple_of(2) { &mine } else { &theirs }) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => panic!("{}: {e}", what("unlink")),
                _ => {}
            }
            let listed = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", what("list")));
            for entry in listed {
                let Ok(meta) = entry.expect("entry").metadata() else { continue };
                assert_eq!(meta.uid(), uid, "{}", what("stat of an entry"));
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = [(1000, 0), (1001, 1), (1000, 2), (1001, 3)]
            .map(|(uid, worker)| {
                scope.spawn(move || as_user(uid, uid, &[], || hammer(uid, worker)))
            })
            .into_iter()
            .collect();
        // A caller that is not mirrored and sees the source's owner.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(owner(&mount.join("plain/1")), 6);
            }
        });
        let ends: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        for end in ends {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Mounts a user database over the system's, in this test's mount namespace.
fn database(at: &Path, passwd: &str, group: &str) {
    let root = "root:x:0:0::/root:/bin/sh\n";
    fs::write(at.join("passwd"), format!("{root}{passwd}")).expect("write");
    fs::write(at.join("group"), format!("root:x:0:\n{group}")).expect("write");
}

fn refresh(mount: &Mount) {
    let pid = mount.pid().and_then(|pid| Pid::from_raw(pid as i32)).expect("a daemon runs");
    kill_process(pid, Signal::USR1).expect("signal the daemon");
}

#[test]
fn a_group_of_any_size_is_mirrored_and_looked_up_again_on_sigusr1() {
    const MEMBERS: u32 = 50_000;
    let scratch = support::scratch();
    let names: Vec<String> =
        (0..MEMBERS).map(|n| format!("a-member-with-quite-a-long-name-{n}")).collect();
    let passwd: String = names
        .iter()
        .zip(100_000u32..)
        .map(|(name, uid)| format!("{name}:x:{uid}:{uid}::/:/bin/sh\n"))
        .collect();
    let passwd = format!("{passwd}login:x:7000:777::/:/bin/sh\nlate:x:7001:7001::/:/bin/sh\n");
    database(scratch.path(), &passwd, &format!("all:x:777:{}\n", names.join(",")));
    for file in ["passwd", "group"] {
        mount_bind(scratch.join(file), Path::new("/etc").join(file)).expect("bind the database");
    }
    let mount = Mount::builder().arg("--mirror=@all").start().open_to_all();
    file_of(&mount, "f", 5, 0o644);
    let seen_by = |uid| as_user(uid, uid, &[], || owner(&mount.join("f")));
    for (uid, sees) in [
        (100_000, 100_000),
        (100_000 + MEMBERS - 1, 100_000 + MEMBERS - 1),
        (7000, 7000),
        (7001, 5),
    ] {
        assert_eq!(seen_by(uid), sees);
    }
    database(scratch.path(), &passwd, "all:x:777:late\n");
    refresh(&mount);
    eventually("the new member is mirrored", || seen_by(7001) == 7001);
    assert_eq!(seen_by(100_000), 5);
    assert_eq!(seen_by(7000), 7000, "it is the user's login group");
}

#[test]
fn a_user_database_on_the_mount_itself_is_read_without_a_deadlock() {
    let mount = Mount::builder().arg("--mirror=7001:@root").start().open_to_all();
    database(mount.source(), "late:x:7000:0::/:/bin/sh\n", "");
    file_of(&mount, "f", 5, 0o644);
    // The daemon shares this mount namespace and sees them, too.
    for file in ["passwd", "group"] {
        mount_bind(mount.join(file), Path::new("/etc").join(file)).expect("bind the database");
    }
    assert_eq!(as_user(7000, 7000, &[], || owner(&mount.join("f"))), 5);
    refresh(&mount);
    eventually("the new member is mirrored", || {
        as_user(7000, 7000, &[], || owner(&mount.join("f"))) == 7000
    });
    for file in ["passwd", "group"] {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(Path::new("/etc").join(file), flags).expect("unmount the database");
    }
}

#[test]
fn sigusr1_does_nothing_to_a_mount_without_a_mirror() {
    let mount = Mount::identity();
    refresh(&mount);
    thread::sleep(std::time::Duration::from_millis(50));
    fs::metadata(mount.path()).expect("the daemon lives");
}

#[test]
fn a_fifo_or_socket_that_a_user_may_not_use_is_unreachable_and_devices_are_shut_off() {
    let mount = Mount::builder().arg("--chown-ignore").start().open_to_all();
    let make = |name, kind, dev| {
        mknodat(CWD, mount.in_source(name), kind, Mode::from_raw_mode(0o600), dev).expect("mknod");
        give(&mount.in_source(name), 1000, 0o600);
    };
    make("fifo", FileType::Fifo, 0);
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    user(1000, || {
        let mut options = OpenOptions::new();
        let fifo = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        fifo.open(mount.join("fifo")).expect("the owner opens it");
        std::os::unix::net::UnixListener::bind(mount.join("socket")).expect("bind");
    });
    for name in ["fifo", "socket"] {
        user(1001, || {
            assert_eq!(errno(fs::metadata(mount.join(name))), Some(libc::EACCES), "{name}")
        });
    }
    assert_eq!(errno(File::open(mount.join("null"))), Some(libc::EACCES), "even for root");
}

#[test]
fn a_user_without_search_permission_is_refused_even_if_the_path_is_cached() {
    let mount = Mount::builder().arg("--chmod-ignore").start().open_to_all();
    fs::create_dir_all(mount.in_source("d/e")).expect("mkdir on the source");
    file_of(&mount, "d/e/f", 1000, 0o666);
    give(&mount.in_source("d"), 1000, 0o700);
    let path = mount.join("d/e/f");
    user(1000, || drop(fs::read(&path).expect("the owner gets there")));
    for _ in 0..3 {
        user(1001, || {
            assert_eq!(errno(fs::metadata(&path)), Some(libc::EACCES));
            assert_eq!(errno(fs::metadata(mount.join("d/e"))), Some(libc::EACCES));
            let mode = Permissions::from_mode(0o777);
            fs::set_permissions(mount.join("d"), mode).expect("ignored");
        });
        user(1000, || drop(fs::read(&path).expect("the owner gets there")));
    }
    assert_eq!(fs::metadata(mount.in_source("d")).unwrap().mode() & 0o777, 0o700);
}
