//! Locks of several clients on one file of the mount.

mod support;

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use support::LockKind::{Exclusive, None as Unlock, Shared};
use support::{
    ACCOUNT, Lock, Mount, Process, Served, as_user, eventually, loop_fs, program, scratch, serve,
    sh, sys,
};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

/// A child's exit status: 0 or the error number.
fn code(result: io::Result<()>) -> u8 {
    result.err().and_then(|error| error.raw_os_error()).map_or(0, |code| code as u8)
}

/// Whether another process can take this lock at once.
fn lockable_by_another(path: &Path, lock: Lock) -> bool {
    match Process::on(path, |file| code(lock.try_set(file))).wait() {
        Some(0) => true,
        Some(error) if [libc::EAGAIN, libc::EACCES].contains(&i32::from(error)) => false,
        other => panic!("F_SETLK said {other:?}"),
    }
}

#[test]
fn a_posix_lock_excludes_another_process_and_only_in_its_range() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let file = open(&path);
    Lock::range(Exclusive, 100, 50).try_set(&file).expect("lock");
    assert!(!lockable_by_another(&path, Lock::range(Exclusive, 149, 1)));
    assert!(!lockable_by_another(&path, Lock::range(Shared, 0, 0)));
    assert!(lockable_by_another(&path, Lock::range(Exclusive, 150, 0)));
    assert!(lockable_by_another(&path, Lock::range(Exclusive, 0, 100)));
    Lock::range(Shared, 100, 50).try_set(&file).expect("downgrade");
    assert!(lockable_by_another(&path, Lock::range(Shared, 100, 10)));
    assert!(!lockable_by_another(&path, Lock::range(Exclusive, 100, 10)));
    Lock::range(Unlock, 100, 25).try_set(&file).expect("unlock a part");
    assert!(lockable_by_another(&path, Lock::range(Exclusive, 100, 25)));
    assert!(!lockable_by_another(&path, Lock::range(Exclusive, 125, 1)));
    // Any close of the file releases all locks of the process (fcntl(2)).
    drop(open(&path));
    assert!(lockable_by_another(&path, Lock::whole(Exclusive)));
}

#[test]
fn a_posix_lock_at_the_mount_and_one_on_the_source_exclude_each_other() {
    let mount = Mount::identity();
    let file = open(&mount.join("f"));
    Lock::whole(Exclusive).try_set(&file).expect("lock");
    let other = Mount::builder().source(mount.source()).start();
    let through_other = lockable_by_another(&other.join("f"), Lock::whole(Exclusive));
    let on_source = lockable_by_another(&mount.in_source("f"), Lock::whole(Exclusive));
    assert_eq!((through_other, on_source), (false, false), "(another mount, the source)");
}

#[test]
fn getlk_names_the_lock_that_stands_in_the_way() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let file = open(&path);
    let holder = Process::on(&path, |file| {
        if Lock::range(Exclusive, 10, 20).try_set(file).is_err() {
            return 1;
        }
        thread::sleep(Duration::from_secs(30));
        0
    });
    let question = Lock::range(Shared, 0, 0);
    eventually("the child holds its lock", || question.query(&file).expect("F_GETLK").is_some());
    let found = question.query(&file).expect("F_GETLK");
    assert_eq!(found, Some((Exclusive, 10, 20, holder.pid().as_raw_pid())));
    assert_eq!(Lock::range(Exclusive, 30, 5).query(&file).expect("F_GETLK"), None);
    drop(holder);
    eventually("the lock goes with its holder", || {
        question.query(&file).expect("F_GETLK").is_none()
    });
}

#[test]
fn a_waiting_lock_is_granted_when_the_holder_lets_go() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let file = open(&path);
    Lock::whole(Exclusive).try_set(&file).expect("lock");
    let mut waiter = Process::on(&path, |file| code(Lock::whole(Exclusive).set(file)));
    thread::sleep(Duration::from_millis(100));
    assert!(waiter.is_running(), "it waits");
    Lock::whole(Unlock).try_set(&file).expect("unlock");
    assert_eq!(waiter.wait(), Some(0));
}

#[test]
fn a_signal_ends_a_waiting_lock_with_eintr() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let file = open(&path);
    Lock::whole(Exclusive).try_set(&file).expect("lock");
    let mut waiter = Process::on(&path, |file| {
        sys::interrupt_on(libc::SIGUSR1);
        code(Lock::whole(Exclusive).set(file))
    });
    thread::sleep(Duration::from_millis(200));
    assert!(waiter.is_running(), "it waits");
    waiter.signal(Signal::USR1);
    assert_eq!(waiter.wait(), Some(libc::EINTR as u8));
    Lock::whole(Unlock).try_set(&file).expect("unlock");
    assert!(
        lockable_by_another(&path, Lock::whole(Exclusive)),
        "the interrupted waiter was forgotten"
    );
}

#[test]
fn a_killed_waiter_leaves_no_lock_behind() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let file = open(&path);
    Lock::whole(Exclusive).try_set(&file).expect("lock");
    let waiter = Process::on(&path, |file| code(Lock::whole(Exclusive).set(file)));
    thread::sleep(Duration::from_millis(100));
    waiter.signal(Signal::KILL);
    assert_eq!(waiter.wait(), None);
    Lock::whole(Unlock).try_set(&file).expect("unlock");
    eventually("another process gets the lock", || {
        lockable_by_another(&path, Lock::whole(Exclusive))
    });
}

#[test]
fn sixty_four_waiting_locks_block_no_other_client() {
    let mount = Mount::builder().arg("--threads=2").start();
    let path = mount.join("f");
    let file = open(&path);
    Lock::whole(Exclusive).try_set(&file).expect("lock");
    let waiters: Vec<Process> = (0..64)
        .map(|_| Process::on(&path, |file| code(Lock::whole(Exclusive).set(file))))
        .collect();
    thread::sleep(Duration::from_millis(200));
    for n in 0..100 {
        std::fs::write(mount.join(format!("n{n}")), "text").expect("write beside the waiters");
        std::fs::read_dir(mount.path()).expect("list beside the waiters").count();
    }
    Lock::whole(Unlock).try_set(&file).expect("unlock");
    for waiter in waiters {
        assert_eq!(waiter.wait(), Some(0));
    }
}

#[test]
fn locks_of_open_file_descriptions_belong_to_them() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let (one, two) = (open(&path), open(&path));
    let lock = Lock::range(Exclusive, 0, 10).of_description();
    lock.try_set(&one).expect("lock");
    assert_eq!(lock.try_set(&two).err().and_then(|error| error.raw_os_error()), Some(libc::EAGAIN));
    assert!(!lockable_by_another(&path, Lock::whole(Exclusive)), "and exclude POSIX locks");
    drop(open(&path));
    assert!(lock.try_set(&two).is_err(), "another close does not release them");
    drop(one);
    eventually("the last close does", || lock.try_set(&two).is_ok());
}

#[test]
fn flock_excludes_two_clients_of_the_mount() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let (one, two) = (open(&path), open(&path));
    flock(&one, FlockOperation::LockExclusive).expect("lock");
    assert_eq!(flock(&two, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    flock(&one, FlockOperation::LockShared).expect("downgrade");
    flock(&two, FlockOperation::NonBlockingLockShared).expect("share");
    flock(&two, FlockOperation::Unlock).expect("unlock");
    flock(&one, FlockOperation::LockExclusive).expect("upgrade");
    let waiter =
        Process::on(&path, |file| flock(file, FlockOperation::LockExclusive).map_or(1, |()| 0));
    thread::sleep(Duration::from_millis(50));
    drop((one, two));
    assert_eq!(waiter.wait(), Some(0));
}

#[test]
fn flock_at_the_mount_and_on_the_source_exclude_each_other() {
    let mount = Mount::identity();
    let (ours, theirs) = (open(&mount.join("f")), open(&mount.in_source("f")));
    flock(&theirs, FlockOperation::LockExclusive).expect("lock");
    let refused = Err(Errno::WOULDBLOCK);
    assert_eq!(flock(&ours, FlockOperation::NonBlockingLockShared), refused);
    flock(&theirs, FlockOperation::Unlock).expect("unlock");
    flock(&ours, FlockOperation::NonBlockingLockShared).expect("lock");
    flock(&theirs, FlockOperation::NonBlockingLockShared).expect("share");
    assert_eq!(flock(&theirs, FlockOperation::NonBlockingLockExclusive), refused);
    let copy = ours.try_clone().expect("dup");
    drop(ours);
    flock(&theirs, FlockOperation::NonBlockingLockShared).expect("share again");
    assert_eq!(
        flock(&theirs, FlockOperation::NonBlockingLockExclusive),
        refused,
        "a copy of the descriptor holds it"
    );
    drop(copy);
    eventually("the last close releases it", || {
        flock(&theirs, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    assert!(lockable_by_another(&mount.join("f"), Lock::whole(Exclusive)), "it is no POSIX lock");
}

#[test]
fn a_lock_that_was_just_closed_is_not_in_the_way() {
    let mount = Mount::identity();
    let path = mount.join("f");
    for round in 0..500 {
        let file = open(&path);
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(locked, Ok(()), "round {round}");
    }
}

#[test]
fn a_lock_whose_release_takes_long_is_not_in_the_way() {
    let room = scratch();
    let file = Served { name: "f", node: 2, ino: 2, mode: 0o666, owner: 0, content: "text" };
    let server = serve(&room.dir("source"), true, &[file]);
    let mount = Mount::builder().source(&room.join("source")).arg("--threads=4").start();
    let open = || File::open(mount.join("f")).expect("open");
    let other = open();
    let lock = || flock(&other, FlockOperation::NonBlockingLockExclusive);
    for round in 0..10 {
        let holder = open();
        flock(&holder, FlockOperation::NonBlockingLockExclusive).expect("lock");
        assert_eq!(lock(), Err(Errno::WOULDBLOCK), "round {round}");
        // The server keeps close(2) of the daemon, and with it the lock, for 15 ms.
        server.delay_flush(15);
        drop(holder);
        assert_eq!(lock(), Ok(()), "round {round}");
        server.delay_flush(0);
        flock(&other, FlockOperation::Unlock).expect("unlock");
    }
    drop(other);
    drop(mount);
    drop(server);
}

#[test]
fn a_wait_for_flock_is_interrupted_by_a_signal() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let holder = open(&mount.in_source("f"));
    flock(&holder, FlockOperation::LockExclusive).expect("lock");
    let waiter = Process::on(&path, |file| {
        sys::interrupt_on(libc::SIGUSR1);
        match flock(file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => 7,
            _ => 1,
        }
    });
    thread::sleep(Duration::from_millis(100));
    waiter.signal(Signal::USR1);
    assert_eq!(waiter.wait(), Some(7));
    flock(&holder, FlockOperation::Unlock).expect("unlock");
    flock(open(&path), FlockOperation::NonBlockingLockExclusive).expect("no other process took it");
}

#[test]
fn a_refused_flock_delays_no_other_client() {
    let mount = Mount::builder().arg("--threads=1").start();
    let path = mount.join("f");
    let holder = open(&mount.in_source("f"));
    flock(&holder, FlockOperation::LockExclusive).expect("lock");
    let other = open(&mount.join("other"));
    eventually("another client is served many times meanwhile", || {
        let (refused, ends) = (AtomicU32::new(0), AtomicBool::new(false));
        let mut served = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = open(&path);
                while !ends.load(Ordering::Relaxed) {
                    let answer = flock(&file, FlockOperation::NonBlockingLockShared);
                    assert_eq!(answer, Err(Errno::WOULDBLOCK));
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
            while refused.load(Ordering::Relaxed) < 50 {
                let lock = Lock::whole(Exclusive);
                assert_eq!(lock.query(&other).expect("F_GETLK"), None);
                served += 1;
            }
            ends.store(true, Ordering::Relaxed);
        });
        served > 4 * 50
    });
}

#[test]
fn a_user_mount_locks_a_file_that_its_user_may_not_read() {
    let scratch_dir = scratch();
    let (source, point) = (scratch_dir.dir("source"), scratch_dir.dir("point"));
    sh(
        scratch_dir.path(),
        &format!(
            "mkdir dev; mount -t tmpfs dev dev; mknod -m 666 dev/fuse c 10 229; mount --bind dev/fuse /dev/fuse; \
             umount -l dev; {ACCOUNT}; chmod 711 .; touch source/log; chmod 200 source/log; \
             chown 1000:1000 source/log point source"
        ),
    );
    let ours = scratch_dir.path().join("shiftbind");
    support::copy_program(&ours);
    as_user(1000, 1000, &[], || {
        let mut command = Command::new(&ours);
        sys::die_with_parent(&mut command);
        let mut daemon = command.arg("-f").args([&source, &point]).spawn().expect("start");
        let log = || OpenOptions::new().write(true).open(point.join("log"));
        eventually("it is mounted", || log().is_ok());
        let ours = log().expect("open");
        flock(&ours, FlockOperation::LockExclusive).expect("lock");
        let theirs = OpenOptions::new().write(true).open(source.join("log")).expect("open");
        let refused = flock(&theirs, FlockOperation::NonBlockingLockShared);
        assert_eq!(refused, Err(Errno::WOULDBLOCK));
        Lock::whole(Exclusive).try_set(&ours).expect("a POSIX lock as well");
        let asked = Lock::whole(Exclusive).of_description();
        assert!(asked.try_set(&theirs).is_err(), "the POSIX lock holds on the source");
        drop((ours, theirs));
        eventually("it is unmounted", || {
            let unmounted = program("fusermount3").arg("-u").arg(&point).output();
            unmounted.expect("run fusermount3").status.success()
        });
        assert!(daemon.wait().expect("reap").success());
    });
}

#[test]
fn a_caller_outside_allow_root_locks_an_inherited_descriptor() {
    let mount = Mount::builder().arg("--allow-root").start();
    let file = open(&mount.join("f"));
    as_user(2001, 2002, &[], || {
        assert!(File::open(mount.join("f")).is_err(), "the caller has no access");
        flock(&file, FlockOperation::LockExclusive).expect("flock");
        flock(&file, FlockOperation::Unlock).expect("unlock");
        Lock::whole(Exclusive).try_set(&file).expect("fcntl");
        assert_eq!(Lock::whole(Exclusive).query(&file).expect("F_GETLK"), None);
    });
}

#[test]
fn with_locks_kept_in_the_kernel_flock_holds_within_the_mount() {
    let mount = Mount::builder().arg("-o").arg("disable-lock-forwarding").start();
    let (ours, theirs) = (open(&mount.join("f")), open(&mount.in_source("f")));
    flock(&theirs, FlockOperation::LockExclusive).expect("lock");
    flock(&ours, FlockOperation::NonBlockingLockExclusive).expect("lock");
    let other = open(&mount.join("f"));
    assert_eq!(flock(&other, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
}

/// Each writer in turn takes the lock, checks the record of the one before, and appends a record with the next
/// number.
fn append_records(file: &File, take: fn(&File, bool) -> bool) -> u8 {
    let read = |at: u64| {
        let mut bytes = [0; 8];
        file.read_at(&mut bytes, at * 8)
            .is_ok_and(|len| len == 8)
            .then(|| u64::from_ne_bytes(bytes))
    };
    let write = |at: u64, number: u64| file.write_at(&number.to_ne_bytes(), at * 8).is_ok();
    for _ in 0..RECORDS {
        if !take(file, true) {
            return 1;
        }
        let Some(last) = read(0) else { return 2 };
        if last > 0 && read(last) != Some(last) {
            return 3;
        }
        if !write(last + 1, last + 1) || !write(0, last + 1) || !take(file, false) {
            return 4;
        }
    }
    0
}

/// Records of each writer.
const RECORDS: u64 = 2000;

#[test]
fn a_lock_holder_reads_what_earlier_holders_wrote() {
    let posix =
        |file: &File, on: bool| Lock::whole(if on { Exclusive } else { Unlock }).set(file).is_ok();
    let flocks = |file: &File, on: bool| {
        flock(file, if on { FlockOperation::LockExclusive } else { FlockOperation::Unlock }).is_ok()
    };
    for arg in ["--passthrough=auto", "--passthrough=off"] {
        let mount = Mount::builder().arg(arg).start();
        for (name, take) in [("posix", posix as fn(&File, bool) -> bool), ("flock", flocks)] {
            let (here, there) = (mount.join(name), mount.in_source(name));
            fs::write(&there, [0; 8]).expect("write");
            let writers = [&here, &there, &here, &there]
                .map(|path| Process::on(path, |file| append_records(file, take)));
            for writer in writers {
                assert_eq!(writer.wait(), Some(0), "{name}, {arg}");
            }
            let last = fs::read(&there).expect("read");
            assert_eq!(last[..8], (4 * RECORDS).to_ne_bytes(), "{name}, {arg}: none was lost");
        }
    }
}

/// Each writer in turn appends at the end of the file, and stores the number of records at its start. A writer that
/// reopens the file for each turn is reported when it closes it: when the next writer has the lock.
fn append_at_the_end(file: &CStr, reopens: bool) -> u8 {
    let open = || rustix::fs::open(file, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let Ok(mut now) = open().map(File::from) else { return 1 };
    for _ in 0..RECORDS {
        if reopens {
            let Ok(again) = open() else { return 1 };
            now = File::from(again);
        }
        if Lock::whole(Exclusive).set(&now).is_err() {
            return 2;
        }
        let mut bytes = [0; 8];
        if now.read_at(&mut bytes, 0).ok() != Some(8) {
            return 3;
        }
        let count = u64::from_ne_bytes(bytes);
        if rustix::fs::seek(&now, SeekFrom::End(0)) != Ok(8 + count * 8) {
            return 4;
        }
        let next = (count + 1).to_ne_bytes();
        if now.write_at(&next, 8 + count * 8).is_err() || now.write_at(&next, 0).is_err() {
            return 5;
        }
        if Lock::whole(Unlock).set(&now).is_err() {
            return 6;
        }
    }
    0
}

#[test]
fn a_lock_holder_sees_the_current_end_of_file() {
    for arg in ["--passthrough=auto", "--passthrough=off"] {
        let mount = Mount::builder().arg(arg).start();
        fs::write(mount.in_source("f"), [0; 8]).expect("write");
        let path = |path: PathBuf| CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        let (here, there) = (path(mount.join("f")), path(mount.in_source("f")));
        let start = |path: &CStr, reopens| {
            Process::on(Path::new("/dev/null"), |_| append_at_the_end(path, reopens))
        };
        let writers =
            [start(&here, false), start(&there, true), start(&here, false), start(&there, true)];
        for writer in writers {
            assert_eq!(writer.wait(), Some(0), "{arg}");
        }
    }
}

#[test]
fn a_lock_holder_reads_what_was_written_within_the_same_second() {
    // Its inodes of 128 bytes have timestamps in whole seconds.
    let disk = loop_fs("ext4 -I 128", 32);
    let source = disk.dir("s");
    let mount = Mount::builder().source(&source).arg("--passthrough=off").start();
    fs::write(source.join("f"), [0; 8]).expect("write");
    let (here, there) = (open(&mount.join("f")), open(&source.join("f")));
    let mut bytes = [0; 8];
    for number in 0..100_u64 {
        there.write_all_at(&number.to_ne_bytes(), 0).expect("write");
        Lock::whole(Exclusive).of_description().set(&here).expect("lock");
        here.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(u64::from_ne_bytes(bytes), number);
        Lock::whole(Unlock).of_description().set(&here).expect("unlock");
    }
}

/// RELEASE comes after close(2) has returned: beyond `max_background` files the kernel keeps it back for longer.
#[test]
fn a_lock_is_free_once_its_file_is_closed_while_many_files_are_closed() {
    const CLIENTS: usize = 512;
    let mount = Mount::identity();
    let (closes, refused) = (std::sync::Barrier::new(CLIENTS), AtomicU32::new(0));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (path, closes, refused) = (mount.join(format!("f{client}")), &closes, &refused);
            scope.spawn(move || {
                for _ in 0..10 {
                    let file = open(&path);
                    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    closes.wait();
                }
            });
        }
    });
    assert_eq!(refused.into_inner(), 0, "each file has one client");
}
