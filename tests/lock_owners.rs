//! Tests that a lock belongs to its owner, with several threads, descriptors and access modes of one lock owner.
//!
//! Each test runs on a plain directory first and then at the mount.

mod support;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use support::LockKind::{Exclusive, None as Unlock, Shared};
use support::{
    FdTable, Lock, LockKind, Mount, Process, Stopped, eventually, patience, scratch, state_of, sys,
};

/// Runs a test on a plain directory and at a mount. The closure gets a file, and the same file on the source.
fn on_both(test: impl Fn(&Path, &Path)) {
    let (plain, mount) = (scratch(), Mount::identity());
    for (here, there) in [(plain.path(), plain.path()), (mount.path(), mount.source())] {
        fs::write(there.join("f"), "text").expect("make a file");
        test(&here.join("f"), &there.join("f"));
    }
}

/// Makes a thread of the table take a lock, or wait for it.
fn set(table: &FdTable, on: usize, fd: i32, lock: Lock, wait: bool) -> Receiver<io::Result<()>> {
    table.send(on, move || lock.set_raw(fd, wait))
}

#[track_caller]
fn granted(result: &Receiver<io::Result<()>>) {
    let limit = patience(Duration::from_secs(10));
    result.recv_timeout(limit).expect("an answer in time").expect("the lock");
}

#[track_caller]
fn waits(result: &Receiver<io::Result<()>>) {
    let ended = result.recv_timeout(Duration::from_millis(100));
    assert!(
        matches!(ended, Err(RecvTimeoutError::Timeout)),
        "the request does not wait: {ended:?}"
    );
}

/// Makes a table that has the file open for reading and writing, and holds a lock.
fn holder(path: &Path, lock: Lock) -> (FdTable, i32) {
    let table = FdTable::new(2);
    let fd = table.open(path, libc::O_RDWR).expect("open");
    granted(&set(&table, 0, fd, lock, false));
    (table, fd)
}

/// Returns whether another lock owner gets this lock without waiting.
fn another_gets(path: &Path, lock: Lock) -> bool {
    let table = FdTable::new(1);
    let fd = table.open(path, libc::O_RDWR).expect("open");
    let result = set(&table, 0, fd, lock, false).recv().expect("an answer");
    // Closed here, because the kernel closes the table a moment after its thread has ended.
    table.close(fd).expect("close");
    match result.as_ref().map_err(io::Error::raw_os_error) {
        Ok(()) => true,
        Err(Some(libc::EAGAIN)) => false,
        _ => panic!("F_SETLK returned {result:?}"),
    }
}

fn byte(kind: LockKind, at: i64) -> Lock {
    Lock::range(kind, at, 1)
}

#[test]
fn a_lock_that_one_thread_waited_for_is_held_while_other_threads_lock_and_unlock() {
    on_both(|path, _| {
        let (other, fd) = holder(path, byte(Exclusive, 50));
        let (own, first) = holder(path, byte(Exclusive, 10));
        let second = own.open(path, libc::O_RDWR).expect("open");
        let waiter = set(&own, 1, second, byte(Exclusive, 50), true);
        waits(&waiter);
        granted(&set(&own, 0, first, byte(Unlock, 10), false));
        granted(&set(&own, 0, first, byte(Exclusive, 20), false));
        granted(&set(&other, 0, fd, byte(Unlock, 50), false));
        granted(&waiter);
        assert!(
            !another_gets(path, byte(Exclusive, 50)),
            "the lock that the thread waited for is held"
        );
        assert!(!another_gets(path, byte(Exclusive, 20)), "the lock taken meanwhile is held");
        granted(&set(&own, 0, first, byte(Unlock, 50), false));
        assert!(another_gets(path, byte(Exclusive, 50)), "both threads are one owner");
    });
}

#[test]
fn a_wait_goes_on_when_its_process_closes_another_descriptor_of_the_file() {
    on_both(|path, _| {
        let (other, fd) = holder(path, byte(Exclusive, 50));
        let (own, first) = holder(path, byte(Exclusive, 10));
        let second = own.open(path, libc::O_RDWR).expect("open");
        let waiter = set(&own, 1, second, byte(Exclusive, 50), true);
        waits(&waiter);
        own.close(first).expect("close");
        assert!(another_gets(path, byte(Exclusive, 10)), "the close releases the locks held");
        waits(&waiter);
        other.close(fd).expect("close");
        granted(&waiter);
        assert!(!another_gets(path, byte(Exclusive, 50)), "the lock granted later is held");
    });
}

#[test]
fn a_wait_for_a_read_lock_goes_on_when_its_process_takes_a_write_lock() {
    on_both(|path, _| {
        let (other, fd) = holder(path, byte(Exclusive, 50));
        let own = FdTable::new(2);
        let reader = own.open(path, libc::O_RDONLY).expect("open");
        let writer = own.open(path, libc::O_RDWR).expect("open");
        granted(&set(&own, 0, reader, byte(Shared, 10), false));
        let waiter = set(&own, 1, reader, byte(Shared, 50), true);
        waits(&waiter);
        granted(&set(&own, 0, writer, byte(Exclusive, 20), false));
        granted(&set(&other, 0, fd, byte(Unlock, 50), false));
        granted(&waiter);
        for at in [10, 20, 50] {
            assert!(!another_gets(path, byte(Exclusive, at)), "byte {at}");
        }
        // The owner's own read lock does not conflict.
        granted(&set(&own, 0, writer, byte(Exclusive, 50), false));
        own.close(writer).expect("close");
        assert!(
            another_gets(path, Lock::whole(Exclusive)),
            "the close releases all locks of the owner"
        );
    });
}

#[test]
fn a_read_lock_is_held_at_every_moment_while_its_owner_takes_a_write_lock() {
    on_both(|path, there| {
        // While this is true, the other owner must not get the lock.
        let is_held = Arc::new(Mutex::new(false));
        let (seen, ends) = (Arc::clone(&is_held), Arc::new(AtomicBool::new(false)));
        let has_ended = Arc::clone(&ends);
        let thief = FdTable::new(1);
        let fd = thief.open(there, libc::O_RDWR).expect("open");
        let stolen = thief.send(0, move || {
            let mut stolen = 0;
            while !has_ended.load(Ordering::Relaxed) {
                let is_held = seen.lock().expect("a mutex");
                if *is_held && byte(Exclusive, 10).set_raw(fd, false).is_ok() {
                    stolen += 1;
                    byte(Unlock, 10).set_raw(fd, false).expect("unlock");
                }
            }
            stolen
        });
        for _ in 0..500 {
            let own = FdTable::new(1);
            let reader = own.open(path, libc::O_RDONLY).expect("open");
            let writer = own.open(path, libc::O_RDWR).expect("open");
            granted(&set(&own, 0, reader, byte(Shared, 10), true));
            *is_held.lock().expect("a mutex") = true;
            granted(&set(&own, 0, writer, byte(Exclusive, 20), true));
            *is_held.lock().expect("a mutex") = false;
        }
        ends.store(true, Ordering::Relaxed);
        assert_eq!(stolen.recv().expect("a count"), 0, "in 500 rounds");
    });
}

#[test]
fn a_close_of_any_descriptor_releases_a_read_lock_of_a_file_opened_for_reading() {
    on_both(|path, there| {
        let own = FdTable::new(1);
        let fd = own.open(path, libc::O_RDONLY).expect("open");
        let copy = own.dup(fd).expect("dup");
        let other = own.open(path, libc::O_RDONLY).expect("open");
        for closed in [copy, other, fd] {
            granted(&set(&own, 0, fd, Lock::whole(Shared), false));
            assert!(!another_gets(there, Lock::whole(Exclusive)));
            own.close(closed).expect("close");
            assert!(
                another_gets(there, Lock::whole(Exclusive)),
                "released when close(2) has returned"
            );
        }
    });
}

#[test]
fn a_close_of_a_descriptor_for_reading_releases_a_write_lock() {
    on_both(|path, there| {
        let own = FdTable::new(1);
        let reader = own.open(path, libc::O_RDONLY).expect("open");
        let writer = own.open(path, libc::O_RDWR).expect("open");
        granted(&set(&own, 0, writer, Lock::whole(Exclusive), false));
        own.close(reader).expect("close");
        assert!(another_gets(there, Lock::whole(Exclusive)));
    });
}

#[test]
fn locks_of_a_process_end_with_it_though_its_child_has_the_file_open() {
    on_both(|path, there| {
        let own = FdTable::new(1);
        let fd = own.open(path, libc::O_RDONLY).expect("open");
        granted(&set(&own, 0, fd, byte(Shared, 0), false));
        granted(&set(&own, 0, fd, byte(Shared, 9).of_description(), false));
        let child = own.fork(1);
        let closed = child.dup(fd).expect("dup");
        child.close(closed).expect("close");
        assert!(
            !another_gets(there, byte(Exclusive, 0)),
            "a close by the child releases no lock of the parent"
        );
        drop(own);
        eventually("the process has ended", || another_gets(there, byte(Exclusive, 0)));
        assert!(!another_gets(there, byte(Exclusive, 9)), "the child has the open file");
        drop(child);
        eventually("the last close", || another_gets(there, byte(Exclusive, 9)));
    });
}

/// Makes a cycle of owners that each hold a byte and wait for that of the next owner.
fn deadlock(path: &Path, count: usize) {
    let owners: Vec<_> = (0..count).map(|at| holder(path, byte(Exclusive, at as i64))).collect();
    let next = |at: usize| byte(Exclusive, ((at + 1) % count) as i64);
    let start = |at: usize| set(&owners[at].0, 1, owners[at].1, next(at), true);
    let waiting: Vec<_> = (0..count - 1).map(start).collect();
    waiting.iter().for_each(waits);
    let last = start(count - 1).recv_timeout(patience(Duration::from_secs(10)));
    let error = last.expect("an answer").expect_err("EDEADLK").raw_os_error();
    assert_eq!(error, Some(libc::EDEADLK), "{count} owners");
    // The last owner keeps its lock; once it unlocks, the others get theirs in turn.
    for at in (0..count).rev() {
        let (table, fd) = &owners[at];
        granted(&set(table, 0, *fd, Lock::whole(Unlock), false));
        if let Some(before) = at.checked_sub(1) {
            granted(&waiting[before]);
        }
    }
}

#[test]
fn a_wait_that_closes_a_cycle_of_processes_fails_with_edeadlk() {
    on_both(|path, _| {
        deadlock(path, 2);
        deadlock(path, 3);
        deadlock(path, 8);
    });
}

#[test]
fn a_cycle_over_two_files_is_found() {
    on_both(|path, _| {
        let second = path.with_file_name("second");
        fs::write(&second, "text").expect("make a file");
        let ((one, one_fd), (two, two_fd)) =
            (holder(path, Lock::whole(Exclusive)), holder(&second, Lock::whole(Exclusive)));
        let one_other = one.open(&second, libc::O_RDWR).expect("open");
        let two_other = two.open(path, libc::O_RDWR).expect("open");
        let waiter = set(&one, 1, one_other, Lock::whole(Shared), true);
        waits(&waiter);
        let refused = set(&two, 1, two_other, Lock::whole(Shared), true);
        let refused = refused.recv_timeout(patience(Duration::from_secs(10))).expect("an answer");
        assert_eq!(refused.expect_err("EDEADLK").raw_os_error(), Some(libc::EDEADLK));
        granted(&set(&two, 0, two_fd, Lock::whole(Unlock), false));
        granted(&waiter);
        granted(&set(&one, 0, one_fd, Lock::whole(Unlock), false));
    });
}

#[test]
fn open_file_descriptions_that_wait_for_each_other_wait() {
    on_both(|path, _| {
        let of = |at| byte(Exclusive, at).of_description();
        let ((one, one_fd), (two, two_fd)) = (holder(path, of(0)), holder(path, of(1)));
        let first = set(&one, 1, one_fd, of(1), true);
        waits(&first);
        let second = set(&two, 1, two_fd, of(0), true);
        // Another process may unlock, so the kernel does not look for a cycle (fcntl(2)).
        waits(&second);
        granted(&set(&one, 0, one_fd, byte(Unlock, 0).of_description(), false));
        granted(&second);
        granted(&set(&two, 0, two_fd, byte(Unlock, 1).of_description(), false));
        granted(&first);
    });
}

#[test]
fn a_lock_of_an_open_file_description_does_not_conflict_after_its_last_close() {
    let mount = Mount::identity();
    let path = mount.join("f");
    fs::write(&path, "text").expect("make a file");
    let own = FdTable::new(1);
    for round in 0..500 {
        let fd = own.open(&path, libc::O_RDWR).expect("open");
        let locked = set(&own, 0, fd, Lock::whole(Exclusive).of_description(), false);
        let locked = locked.recv().expect("an answer");
        assert!(locked.is_ok(), "round {round}: {locked:?}");
        own.close(fd).expect("close");
    }
}

#[test]
fn repeated_signals_neither_lose_nor_keep_a_lock() {
    sys::interrupt_on(libc::SIGUSR1);
    on_both(|path, _| {
        let (other, fd) = holder(path, byte(Exclusive, 0));
        let own = FdTable::new(2);
        let waiting = own.open(path, libc::O_RDWR).expect("open");
        for round in 0..100 {
            let result = set(&own, 1, waiting, byte(Exclusive, 0), true);
            thread::sleep(Duration::from_micros(100 * (round % 7)));
            if round % 2 == 0 {
                granted(&set(&other, 0, fd, byte(Unlock, 0), false));
            }
            let result = loop {
                own.signal(1, libc::SIGUSR1);
                if let Ok(result) = result.recv_timeout(Duration::from_millis(5)) {
                    break result;
                }
            };
            match result.map_err(|e| e.raw_os_error()) {
                Ok(()) => {
                    assert!(
                        !another_gets(path, byte(Exclusive, 0)),
                        "round {round}: the lock is held"
                    );
                    granted(&set(&own, 0, waiting, byte(Unlock, 0), false));
                }
                Err(error) => assert_eq!(error, Some(libc::EINTR), "round {round}"),
            }
            granted(&set(&other, 0, fd, byte(Exclusive, 0), false));
        }
    });
}

#[test]
fn a_lock_granted_after_its_client_was_killed_and_the_file_closed_is_held_by_no_client() {
    // The source's server is stopped while the daemon asks it for the lock.
    let server = Mount::builder().arg("--passthrough=off").start();
    fs::write(server.in_source("f"), "text").expect("make a file");
    let mount = Mount::builder().source(server.path()).start();
    let path = mount.join("f");
    let other = FdTable::new(1);
    let fd = other.open(&path, libc::O_RDWR).expect("open");
    // The FLUSH of a process that asks for a POSIX lock would wait for the answer to that.
    let lock = Lock::whole(Exclusive).of_description();
    let client = Process::on(&path, move |file| {
        let _ = kill_process(getpid(), Signal::STOP);
        u8::from(lock.try_set(file).is_err())
    });
    eventually("the client has opened the file", || state_of(&client) == Some('T'));
    let stopped = Stopped::new(&server);
    client.signal(Signal::CONT);
    eventually("the client waits", || matches!(state_of(&client), Some('S' | 'D')));
    thread::sleep(Duration::from_millis(100));
    client.signal(Signal::KILL);
    assert_eq!(client.wait(), None, "the client was killed");
    // The daemon has served its RELEASE by then, and later got the lock.
    thread::sleep(Duration::from_millis(300));
    drop(stopped);
    thread::sleep(Duration::from_millis(500));
    eventually("the lock is free", || {
        set(&other, 0, fd, Lock::whole(Exclusive), false).recv().expect("an answer").is_ok()
    });
}
