//! Threads that wait for a lock or for the end of a lease, one for each request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::Pid;

use crate::error::errno_field;
use crate::fs::caller::ClientState;
use crate::fs::{Caller, Result};
use crate::idmap::MountUid;
use crate::sync::{Mutex, MutexGuard};
use crate::sys;

/// Maximum number of waiting requests, in all and for one user; others get ENOLCK. One user thus cannot keep others
/// from waiting.
const MAX_WAITERS: usize = 4096;
const MAX_WAITERS_OF_USER: usize = 1024;
/// How many of them are kept for root: the root of a container may act as thousands of users. Chosen.
const RESERVED_FOR_ROOT: usize = 512;
/// How often interrupted threads are woken, and clients are checked for a fatal signal.
///
/// A signal that comes just before the system call is lost, so it is sent again.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of INTERRUPT requests that are kept because their request has not come yet.
///
/// Chosen to exceed the number of requests that are in flight at a time.
const MAX_EARLY: usize = 1024;

/// See the head of this file.
#[derive(Debug, Default)]
pub(in crate::fs) struct Waiters {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    waiters: Vec<Waiter>,
    /// Whether a thread polls the waiting requests.
    is_watched: bool,
    /// Numbers of interrupted requests that have not begun to wait: another worker may get the INTERRUPT first.
    early: VecDeque<u64>,
}

#[derive(Debug, Clone)]
struct Waiter {
    thread: Pid,
    client: u32,
    /// The user whose limit counts.
    uid: Option<MountUid>,
    /// The number of the client's request (`fuse_in_header.unique`).
    unique: u64,
    is_interrupted: bool,
    /// Interrupts the system call, but not the request, once it is true.
    wake: Option<Arc<AtomicBool>>,
}

impl Waiter {
    fn must_wake(&self) -> bool {
        self.is_interrupted || self.wake.as_ref().is_some_and(|wake| wake.load(Ordering::Acquire))
    }
}

/// The waiting request of the current thread.
#[derive(Debug)]
pub(in crate::fs) struct Waiting<'a> {
    waiters: &'a Waiters,
    thread: Pid,
}

impl Waiting<'_> {
    /// Returns whether the request was interrupted and must fail with EINTR.
    ///
    /// The thread's system call may be interrupted for other reasons.
    pub(super) fn is_interrupted(&self) -> bool {
        let list = self.waiters.lock();
        let own = list.waiters.iter().find(|waiter| waiter.thread == self.thread);
        own.is_some_and(|waiter| waiter.is_interrupted)
    }

    /// Interrupts the system call that the thread makes next, once the flag is true.
    ///
    /// The flag replaces that of an earlier call.
    pub(super) fn wake_when(&self, flag: &Arc<AtomicBool>) {
        let mut list = self.waiters.lock();
        let own = list.waiters.iter_mut().find(|waiter| waiter.thread == self.thread);
        if let Some(waiter) = own {
            waiter.wake = Some(Arc::clone(flag));
        }
    }
}

impl List {
    fn has_room_for(&self, uid: Option<MountUid>) -> bool {
        let is_root = uid.is_some_and(|uid| uid.raw() == 0);
        let reserved = if is_root { 0 } else { RESERVED_FOR_ROOT };
        self.waiters.len() < MAX_WAITERS - reserved
            && self.waiters.iter().filter(|waiter| waiter.uid == uid).count() < MAX_WAITERS_OF_USER
    }
}

impl Waiters {
    /// Runs `wait` on a thread of its own, and passes the result to `done`.
    ///
    /// EINTR if the client was interrupted; ENOLCK if too many requests wait, in all or of the caller's user. If no
    /// thread can be started, `done` is dropped, and the reply that it owns answers with EIO.
    pub(super) fn wait<T>(
        self: &Arc<Self>,
        caller: Caller,
        unique: u64,
        wait: impl FnOnce(&Waiting<'_>) -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let user = caller.limited_user();
        if !self.lock().has_room_for(user) {
            return done(Err(Errno::NOLCK));
        }
        let waiters = Arc::clone(self);
        let run = move || done(waiters.during((caller.pid, user), unique, wait));
        let started =
            std::thread::Builder::new().name("lock-wait".into()).stack_size(128 * 1024).spawn(run);
        if let Err(e) = started {
            let (pid, errno) = (caller.pid, errno_field(e));
            log::warn!(
                "cannot start a thread to wait for a lock, so the request fails with EIO: unique={unique} pid={pid} {errno}"
            );
        }
    }

    fn during<T>(
        self: &Arc<Self>,
        (client, uid): (u32, Option<MountUid>),
        unique: u64,
        wait: impl FnOnce(&Waiting<'_>) -> Result<T>,
    ) -> Result<T> {
        // Before the thread can be woken: without the handler, the signal would end the daemon.
        if let Err(e) = sys::signal::install_wake_handler() {
            log::warn!(
                "cannot install the signal handler that interrupts waits for locks: unique={unique} {}",
                errno_field(e)
            );
            return Err(e);
        }
        let thread = rustix::thread::gettid();
        let is_watched = {
            let mut list = self.lock();
            if let Some(at) = list.early.iter().position(|early| *early == unique) {
                list.early.remove(at);
                return Err(Errno::INTR);
            }
            let waiter = Waiter { thread, client, uid, unique, is_interrupted: false, wake: None };
            list.waiters.push(waiter);
            std::mem::replace(&mut list.is_watched, true)
        };
        if !is_watched {
            self.watch();
        }
        let result = wait(&Waiting { waiters: self, thread });
        self.lock().waiters.retain(|waiter| waiter.thread != thread);
        result
    }

    /// Interrupts a waiting request, or records that it must not begin to wait.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut list = self.lock();
        match list.waiters.iter_mut().find(|waiter| waiter.unique == unique) {
            Some(waiter) => {
                waiter.is_interrupted = true;
                sys::signal::wake(waiter.thread);
            }
            None => {
                list.early.push_back(unique);
                if list.early.len() > MAX_EARLY {
                    list.early.pop_front();
                }
            }
        }
    }

    /// Starts the thread that polls the waiting requests, which runs as long as there are any.
    fn watch(self: &Arc<Self>) {
        let waiters: Weak<Self> = Arc::downgrade(self);
        let watch = move || {
            let mut next_look = Instant::now();
            while let Some(waiters) = waiters.upgrade() {
                let Some(list) = waiters.watched() else { return };
                let start = Instant::now();
                let looks = start >= next_look;
                for waiter in list {
                    // The kernel reports every signal (FUSE_INTERRUPT). A pending signal that another thread of the
                    // client takes must not end this wait: the caller has none then, and the kernel would return
                    // ERESTARTSYS to the program.
                    if looks && ClientState::of(waiter.client) != ClientState::Alive {
                        waiters.interrupt(waiter.unique);
                    } else if waiter.must_wake() {
                        sys::signal::wake(waiter.thread);
                    }
                }
                drop(waiters);
                if looks {
                    next_look = Instant::now() + ClientState::rest_after(start.elapsed());
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        };
        if let Err(e) = std::thread::Builder::new().name("lock-watch".into()).spawn(watch) {
            let errno = errno_field(e);
            log::warn!("cannot start the thread that interrupts waits for locks: {errno}");
            self.lock().is_watched = false;
        }
    }

    /// Returns the waiting requests. `None` if there are none, and the polling thread ends.
    fn watched(&self) -> Option<Vec<Waiter>> {
        let mut list = self.lock();
        list.is_watched = !list.waiters.is_empty();
        list.is_watched.then(|| list.waiters.clone())
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: (u32, Option<MountUid>) = (0, None);

    #[test]
    fn one_user_cannot_take_all_waiter_slots() {
        let mut list = List::default();
        let thread = rustix::thread::gettid();
        let wait = |list: &mut List, uid, count| {
            let (uid, client) = (MountUid::new(uid), 0);
            let waiter =
                Waiter { thread, client, uid, unique: 0, is_interrupted: false, wake: None };
            list.waiters.extend(std::iter::repeat_n(waiter, count));
        };
        wait(&mut list, 1000, MAX_WAITERS_OF_USER);
        let has_room_for = |list: &List, uid| list.has_room_for(MountUid::new(uid));
        assert!(!has_room_for(&list, 1000) && has_room_for(&list, 1001));
        wait(&mut list, 1001, MAX_WAITERS_OF_USER);
        wait(&mut list, 1002, MAX_WAITERS_OF_USER);
        wait(&mut list, 1003, MAX_WAITERS_OF_USER);
        assert!(!has_room_for(&list, 1004), "the total is limited as well");
    }

    #[test]
    fn an_interrupt_that_comes_before_its_request_is_kept_for_it() {
        let waiters = Arc::new(Waiters::default());
        waiters.interrupt(7);
        assert_eq!(waiters.during(CLIENT, 8, |_| Ok(())), Ok(()));
        assert_eq!(waiters.during(CLIENT, 7, |_| Ok(())), Err(Errno::INTR));
        assert_eq!(waiters.during(CLIENT, 7, |_| Ok(())), Ok(()), "once");
        (0..5000).for_each(|unique| waiters.interrupt(unique));
        assert_eq!(waiters.lock().early.len(), MAX_EARLY);
    }

    #[test]
    fn one_thread_polls_all_waiters() {
        let waiters = Arc::new(Waiters::default());
        let watches = || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap();
            let names = threads.filter_map(|thread| {
                std::fs::read_to_string(thread.ok()?.path().join("comm")).ok()
            });
            names.filter(|name| name.trim() == "lock-watch").count()
        };
        // There is always a waiting request, but never the same one for long.
        for unique in 0..60 {
            let wait = |_: &Waiting<'_>| {
                std::thread::sleep(POLL_INTERVAL / 4);
                Ok(())
            };
            assert_eq!(waiters.during(CLIENT, unique, wait), Ok(()));
        }
        // Threads of other tests are counted as well.
        let count = watches();
        assert!(count < 10, "{count}");
    }
}
