//! Grows the pool of workers while requests are blocked on the source, and shrinks it afterwards.
//!
//! A request blocks its worker for as long as the source takes: a slow disk, a frozen filesystem, the server of a
//! submount. When no worker is left to read the next request, another is started: at once where the last one begins a
//! request that is usually slow (fsync, copy_file_range), else by the stall monitor, a thread that looks every two
//! milliseconds until workers have been idle for a while. A worker that finds the pool larger than it needs to be stops
//! reading /dev/fuse and goes on standby; it ends unless it is called back within [`STANDBY`].
//!
//! The last worker of a pool that cannot grow serves no request: it reads, so that the kernel's FUSE_INTERRUPT requests
//! are seen, and puts the other requests into the backlog (`backlog.rs`).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::backlog::QueuedRequest;
use super::protocol::{RequestHead, UNKNOWN_USER};
use super::worker_pool::WorkerPool;
use super::worker_shares::{MAX_PER_USER, WorkerShares};
use super::worker_slot::WorkerSlot;
use crate::error::errno_field;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The most workers beyond the base number. A blocked one takes about 40 KiB, with its kernel stack (measured).
pub(super) const MAX_EXTRA: usize = 256;
/// How long a surplus worker waits to be called back before it ends. Chosen.
const STANDBY: Duration = Duration::from_secs(10);
/// How often the stall monitor looks at the workers. Chosen.
const MONITOR_INTERVAL: Duration = Duration::from_millis(2);
/// Looks in a row with an idle worker after which the stall monitor sleeps. Chosen.
const MAX_QUIET_CHECKS: u32 = 20;
/// How long the daemon waits after the unmount for requests that are still being served. Chosen.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts a worker's thread in a slot.
type Start = Box<dyn Fn(usize) -> io::Result<()> + Send + Sync>;

/// The part of a pool that starts and ends workers. See the module's head.
pub(super) struct Growth {
    start: OnceLock<Start>,
    state: Mutex<State>,
    /// A worker on standby is called back, or the pool has stopped.
    called_back: Condvar,
    /// The stall monitor must look at the workers, or the pool has stopped.
    monitor_woken: Condvar,
    is_monitoring: AtomicBool,
    /// A worker's thread has ended, or the pool has stopped.
    worker_ended: Condvar,
}

#[derive(Debug)]
struct State {
    /// Slots without a thread.
    free: Vec<usize>,
    /// Workers on standby.
    standby: usize,
    /// How many of them are called back.
    called: usize,
    threads: usize,
    has_monitor: bool,
    has_stopped: bool,
    /// The first error that a worker has ended with.
    error: Option<Errno>,
    has_panicked: bool,
}

/// How the workers have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Unmounted,
    Failed(Errno),
    Panicked,
}

impl std::fmt::Debug for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Growth").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Growth {
    /// Creates the state of a pool with this number of slots, all of them free.
    pub(super) fn new(slots: usize) -> Self {
        let state = State {
            free: (0..slots).rev().collect(),
            standby: 0,
            called: 0,
            threads: 0,
            has_monitor: false,
            has_stopped: false,
            error: None,
            has_panicked: false,
        };
        Self {
            start: OnceLock::new(),
            state: Mutex::new(state),
            called_back: Condvar::new(),
            monitor_woken: Condvar::new(),
            is_monitoring: AtomicBool::new(false),
            worker_ended: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl WorkerPool {
    /// Starts the base number of workers. `start` starts a worker's thread in a slot, now and when the pool grows.
    ///
    /// # Errors
    /// That of `start`, when a thread cannot be started.
    pub(super) fn start(
        &self,
        start: impl Fn(usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let start = self.growth.start.get_or_init(|| Box::new(start));
        let slots: Vec<usize> = {
            let mut state = self.growth.state();
            state.threads += self.base;
            let from = state.free.len() - self.base;
            state.free.drain(from..).rev().collect()
        };
        slots.into_iter().try_for_each(start)
    }

    /// Adds `count` workers, or as many as the pool has slots for.
    pub(super) fn grow(&self, count: usize) {
        for _ in 0..count {
            let mut state = self.growth.state();
            if state.has_stopped {
                return;
            }
            if state.standby > state.called {
                state.called += 1;
                self.active.fetch_add(1, Ordering::SeqCst);
                self.growth.called_back.notify_one();
                continue;
            }
            let Some(slot) = state.free.pop() else { return };
            state.threads += 1;
            drop(state);
            self.active.fetch_add(1, Ordering::SeqCst);
            self.end_sole_exclusive();
            let started = self.growth.start.get().map_or(Ok(()), |start| start(slot));
            if let Err(e) = started {
                log::warn!("cannot start another worker: {}", errno_field(e));
                self.active.fetch_sub(1, Ordering::SeqCst);
                let mut state = self.growth.state();
                state.free.push(slot);
                state.threads -= 1;
                return;
            }
            log::debug!("started another worker: workers={}", self.active.load(Ordering::Relaxed));
        }
    }

    /// Whether more workers are idle than the base number.
    pub(super) fn is_surplus(&self) -> bool {
        let active = self.active.load(Ordering::Relaxed);
        active > self.base
            && active.saturating_sub(self.serving.load(Ordering::Relaxed)) > self.base
    }

    /// Waits to be called back. Returns `false` when the worker must end.
    pub(super) fn stand_by(&self) -> bool {
        let mut state = self.growth.state();
        if !self.is_surplus() || state.has_stopped {
            return true;
        }
        self.active.fetch_sub(1, Ordering::SeqCst);
        state.standby += 1;
        let waits = |state: &mut State| state.called == 0 && !state.has_stopped;
        let mut state = self.growth.called_back.wait_timeout_while(state, STANDBY, waits);
        state.standby -= 1;
        if state.called > 0 {
            // `grow` has counted this worker as active.
            state.called -= 1;
            return true;
        }
        // It counts as active until `remove`.
        self.active.fetch_add(1, Ordering::SeqCst);
        false
    }

    /// Removes a worker whose thread ends.
    pub(super) fn remove(&self, slot: usize, outcome: Outcome) {
        self.active.fetch_sub(1, Ordering::SeqCst);
        let mut state = self.growth.state();
        state.threads -= 1;
        state.free.push(slot);
        match outcome {
            Outcome::Unmounted => {}
            Outcome::Failed(error) => state.error = state.error.or(Some(error)),
            Outcome::Panicked => state.has_panicked = true,
        }
        self.growth.worker_ended.notify_all();
    }

    /// Ends the workers on standby and the stall monitor.
    pub(super) fn stop_growth(&self) {
        self.growth.state().has_stopped = true;
        self.growth.called_back.notify_all();
        self.growth.monitor_woken.notify_all();
        self.growth.worker_ended.notify_all();
    }

    /// Waits until the filesystem is unmounted and the workers have ended.
    ///
    /// Stops waiting [`DRAIN_TIMEOUT`] after the unmount: a source that never answers must not keep the daemon alive.
    pub(super) fn wait(&self) -> Outcome {
        let mut state = self.growth.state();
        let mut deadline = None;
        while state.threads > 0 {
            if state.has_stopped && deadline.is_none() {
                deadline = Some(Instant::now() + DRAIN_TIMEOUT);
            }
            state = match deadline {
                None => self.growth.worker_ended.wait(state),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        log::warn!(
                            "workers are still blocked on the source: workers={}",
                            state.threads
                        );
                        break;
                    }
                    self.growth.worker_ended.wait_timeout(state, left)
                }
            };
        }
        match state.error {
            _ if state.has_panicked => Outcome::Panicked,
            Some(error) => Outcome::Failed(error),
            None => Outcome::Unmounted,
        }
    }

    /// Wakes the stall monitor, because no worker reads requests at this moment; cheap while it is awake.
    pub(super) fn wake_stall_monitor(self: &Arc<Self>) {
        if self.growth.is_monitoring.load(Ordering::SeqCst)
            || self.growth.is_monitoring.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let mut state = self.growth.state();
        if state.has_monitor {
            self.growth.monitor_woken.notify_one();
            return;
        }
        state.has_monitor = true;
        drop(state);
        let pool = Arc::clone(self);
        let monitor = move || pool.monitor_stalls();
        let thread =
            std::thread::Builder::new().name("stall-monitor".into()).stack_size(128 * 1024);
        if let Err(e) = thread.spawn(monitor) {
            log::warn!("cannot start the stall monitor: {}", errno_field(e));
            self.growth.state().has_monitor = false;
            self.growth.is_monitoring.store(false, Ordering::SeqCst);
        }
    }

    fn monitor_stalls(&self) {
        let mut before: Vec<u64> = self.slots.iter().map(WorkerSlot::progress).collect();
        let mut quiet = 0;
        let mut state = self.growth.state();
        while !state.has_stopped {
            drop(self.growth.monitor_woken.wait_timeout(state, MONITOR_INTERVAL));
            if self.has_reader() {
                quiet += 1;
            } else {
                quiet = 0;
                self.grow_by_stalled(&before);
            }
            before.clear();
            before.extend(self.slots.iter().map(WorkerSlot::progress));
            state = self.growth.state();
            if quiet >= MAX_QUIET_CHECKS {
                quiet = 0;
                self.growth.is_monitoring.store(false, Ordering::SeqCst);
                while !self.growth.is_monitoring.load(Ordering::SeqCst) && !state.has_stopped {
                    // A worker that finds no reader left wakes the monitor.
                    state = self.growth.monitor_woken.wait(state);
                }
            }
        }
    }

    /// Adds a worker for each one that has been blocked in the same request since the last look.
    ///
    /// The base number of workers is then free for other requests.
    fn grow_by_stalled(&self, before: &[u64]) {
        let is_stalled = |(slot, before): &(&WorkerSlot, &u64)| {
            **before % 2 == 1 && slot.progress() == **before && slot.is_sleeping()
        };
        let stalled = self.slots.iter().zip(before).filter(is_stalled).count();
        let active = self.active.load(Ordering::SeqCst);
        self.grow((self.base + stalled).saturating_sub(active));
    }

    /// Whether any worker reads requests.
    fn has_reader(&self) -> bool {
        self.serving.load(Ordering::SeqCst) < self.active.load(Ordering::SeqCst)
    }

    /// The head of a request. Where the kernel does not tell callers, the user is unknown until a limit needs it.
    pub(super) fn head(&self, bytes: &[u8]) -> RequestHead {
        let head = RequestHead::of(bytes);
        match self.hides_callers {
            true => RequestHead { uid: UNKNOWN_USER, ..head },
            false => head,
        }
    }

    /// Whether a request must wait in the backlog: its user has a full share of the workers, or the last worker that
    /// reads has read it and the pool cannot grow. Fills in the user that the kernel does not tell, if it decides.
    pub(super) fn must_queue(&self, head: &mut RequestHead, concurrent: usize) -> bool {
        let is_last = concurrent + 1 >= self.base + MAX_EXTRA;
        if !head.needs_reply() || !(is_last || self.may_have_full_share()) {
            return false;
        }
        head.uid = head.user();
        is_last || self.full_shares()(head.uid)
    }

    /// Takes from the backlog the oldest request that may be served now, and begins with it in a slot. `concurrent`: how many
    /// requests are served.
    pub(super) fn next_queued(&self, slot: usize, concurrent: usize) -> Option<QueuedRequest> {
        let is_last = concurrent + 1 >= self.base + MAX_EXTRA;
        if is_last || self.backlog.is_empty() {
            return None;
        }
        let is_full = self.full_shares();
        let begin = |next: &QueuedRequest| self.slots[slot].begin(next.head, &next.device);
        self.backlog.pop(|uid| !is_full(uid), begin)
    }

    /// Whether any user may have as many workers as it may have.
    ///
    /// Up to this number, which one user may have whatever the others have, the slots need not be counted.
    fn may_have_full_share(&self) -> bool {
        self.serving.load(Ordering::Relaxed) > MAX_PER_USER
    }

    /// Returns which users have as many workers as they may have at this moment.
    pub(super) fn full_shares(&self) -> impl Fn(u32) -> bool + use<> {
        let shares = WorkerShares::count(self.slots.iter());
        // The last one reads requests.
        let (workers, base, mounter) = (self.slots.len() - 1, self.base, self.mounter);
        move |uid| shares.is_full(uid, workers, base, mounter)
    }
}
