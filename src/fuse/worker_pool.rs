//! Worker threads, and which of them read requests from /dev/fuse.
//!
//! As a rule every worker blocks in read(2), and the kernel wakes one per request. When requests come one at a time and
//! in quick succession, one worker reads them all and the others are parked: exclusive mode. Waking a thread on a
//! sleeping CPU takes longer than most requests do, so the exclusive worker polls for a moment before it blocks
//! ([`BusyPoller`]). A second blocked reader would be woken for each of these requests, and for nothing.
//!
//! A slow request of the exclusive worker must not hold up the mount. One of the parked workers, the watchdog, looks
//! every two milliseconds, and ends exclusive mode when the worker is still busy with the same request, or when no
//! request has come for a while. When all workers are busy, the pool grows (`growth.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::backlog::{Backlog, QueuedRequest};
use super::busy_poll::BusyPoller;
use super::device::Device;
use super::growth::{Growth, MAX_EXTRA};
use super::interrupts::Interrupts;
use super::protocol::{RequestHead, opcode, reply_unserved};
use super::worker_slot::WorkerSlot;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Uncontended requests in a row that start exclusive mode.
const ENTER_AFTER: i32 = 64;
/// The same after exclusive mode has ended because a client had to wait.
const ENTER_AFTER_SLOW: i32 = 1024;
/// Requests in a row that were queued already when the worker asked: as many end exclusive mode.
const MAX_BACKLOG: u32 = 256;
/// A request that takes longer has probably blocked, on a disk for example.
const SLOW: Duration = Duration::from_micros(300);
/// So many slow requests among [`SLOW_WINDOW`] end exclusive mode.
const MAX_SLOW: u32 = 3;
const SLOW_WINDOW: u32 = 64;
/// How often the watchdog looks at the exclusive worker.
const WATCHDOG_INTERVAL: Duration = Duration::from_millis(2);
/// Looks in a row without a request that the watchdog tolerates; the next one ends exclusive mode.
const MAX_IDLE_CHECKS: u32 = 10;

/// The value of [`WorkerPool::exclusive`] outside exclusive mode: all workers read.
const SHARED: usize = usize::MAX;

/// Serves the requests that workers read.
pub(super) trait Service {
    /// Serves a request; its reply must go through the device.
    fn serve(&self, bytes: &[u8], device: &Arc<Device>);
    /// Runs after a request whose client was answered with EINTR before it ended: the kernel does not know its effects.
    fn was_abandoned(&self, bytes: &[u8]);
}

/// What a worker reads requests from, and the size of its buffer.
#[derive(Debug)]
pub(super) struct RequestSource<'a> {
    /// The index of the worker's slot.
    pub(super) index: usize,
    pub(super) device: &'a Arc<Device>,
    /// A device that does not block in read(2), for polling; `None` where none could be opened.
    pub(super) nonblocking: Option<&'a Arc<Device>>,
    /// The size of the largest request, in bytes.
    pub(super) buffer_size: usize,
}

/// The workers of one mount. See the module's head.
#[derive(Debug)]
pub(super) struct WorkerPool {
    exclusive: AtomicUsize,
    pub(super) slots: Vec<WorkerSlot>,
    /// The number of workers while none of them is blocked.
    pub(super) base: usize,
    /// Workers that read, are parked or serve a request: all but those on standby.
    pub(super) active: AtomicUsize,
    /// Requests being served at this moment.
    pub(super) serving: AtomicUsize,
    /// Requests in a row that were served alone and fast; negative after exclusive mode has ended because a client had
    /// to wait.
    uncontended: AtomicI32,
    parked: AtomicUsize,
    has_stopped: AtomicBool,
    parking: Mutex<Parking>,
    mode_changed: Condvar,
    pub(super) growth: Growth,
    pub(super) backlog: Backlog,
    pub(super) interrupts: Arc<Interrupts>,
    /// The effective uid of the daemon when it mounted: some workers are kept for this user, as for root.
    pub(super) mounter: u32,
    pub(super) hides_callers: bool,
}

#[derive(Debug, Default)]
struct Parking {
    /// Whether one of the parked workers is the watchdog.
    has_watchdog: bool,
}

/// What the watchdog found.
#[derive(Debug, PartialEq, Eq)]
enum Observed {
    Progress,
    Idle,
    /// The worker still serves the request that it served at the last look.
    Busy,
}

/// Why a worker no longer reads requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopReason {
    Unmounted,
    /// The pool has more workers than it needs.
    Surplus,
}

impl WorkerPool {
    /// Creates a pool of `base` workers, which [`Self::start`] starts. `hides_callers`: the kernel does not tell callers.
    pub(super) fn new(base: usize, interrupts: Arc<Interrupts>, hides_callers: bool) -> Self {
        let slots = base + MAX_EXTRA;
        Self {
            exclusive: AtomicUsize::new(SHARED),
            slots: std::iter::repeat_with(WorkerSlot::default).take(slots).collect(),
            base,
            active: AtomicUsize::new(base),
            serving: AtomicUsize::new(0),
            uncontended: AtomicI32::new(0),
            parked: AtomicUsize::new(0),
            has_stopped: AtomicBool::new(false),
            parking: Mutex::default(),
            mode_changed: Condvar::new(),
            growth: Growth::new(slots),
            backlog: Backlog::default(),
            interrupts,
            mounter: rustix::process::geteuid().as_raw(),
            hides_callers,
        }
    }

    /// Runs a worker until the filesystem is unmounted or the pool no longer needs the worker.
    ///
    /// # Errors
    /// What read(2) of /dev/fuse says, except ENODEV (unmounted) and what means "try again".
    pub(super) fn run(
        self: &Arc<Self>,
        source: &RequestSource<'_>,
        service: &impl Service,
    ) -> Result<(), Errno> {
        self.slots[source.index].occupy();
        // Pages of it that no request reaches are never allocated.
        let mut buffer = vec![0; source.buffer_size];
        loop {
            match self.read_requests(source, &mut buffer, service) {
                Ok(StopReason::Surplus) if self.stand_by() => {}
                Ok(StopReason::Surplus) => return Ok(()),
                result => {
                    self.stop();
                    return match result {
                        Ok(_) | Err(Errno::NODEV) => Ok(()),
                        Err(e) => Err(e),
                    };
                }
            }
        }
    }

    fn read_requests(
        self: &Arc<Self>,
        source: &RequestSource<'_>,
        buffer: &mut [u8],
        service: &impl Service,
    ) -> Result<StopReason, Errno> {
        let (index, device) = (source.index, source.device);
        let mut reader = ExclusiveReader::default();
        while !self.has_stopped.load(Ordering::Acquire) {
            match self.exclusive.load(Ordering::Acquire) {
                // A single worker is always in exclusive mode.
                SHARED if self.base == 1 && self.active.load(Ordering::SeqCst) == 1 => {
                    self.begin_exclusive(index);
                }
                SHARED => {
                    if let Some(len) = receive_request(device, buffer)? {
                        self.serve_shared(index, &buffer[..len], device, service);
                    }
                    if self.is_surplus() {
                        return Ok(StopReason::Surplus);
                    }
                }
                worker if worker == index => {
                    // A second blocked reader would be woken for nothing.
                    let active = self.active.load(Ordering::Acquire);
                    let is_only_reader = self.parked.load(Ordering::Acquire) + 1 == active;
                    let nonblocking = source.nonblocking.filter(|_| is_only_reader);
                    let Some((len, from)) = reader.receive(device, nonblocking, buffer)? else {
                        continue;
                    };
                    let elapsed = self.serve_exclusive(index, &buffer[..len], from, service);
                    if !reader.may_continue(elapsed) {
                        self.end_exclusive(index, ENTER_AFTER - ENTER_AFTER_SLOW);
                    }
                }
                _ => self.park(),
            }
        }
        Ok(StopReason::Unmounted)
    }

    /// Serves a request in exclusive mode; returns how long it took.
    fn serve_exclusive(
        self: &Arc<Self>,
        index: usize,
        bytes: &[u8],
        device: &Arc<Device>,
        service: &impl Service,
    ) -> Duration {
        let serving = ServingGuard::enter(&self.serving);
        if serving.concurrent + 1 >= self.active.load(Ordering::SeqCst) {
            self.wake_stall_monitor();
        }
        timed(|| self.serve(index, bytes, device, service))
    }

    /// Serves a request beside other workers. Starts exclusive mode after enough uncontended requests.
    fn serve_shared(
        self: &Arc<Self>,
        index: usize,
        bytes: &[u8],
        device: &Arc<Device>,
        service: &impl Service,
    ) {
        let mut head = self.head(bytes);
        let serving = ServingGuard::enter(&self.serving);
        let concurrent = serving.concurrent;
        let elapsed = if self.must_queue(&mut head, concurrent) {
            if !self.backlog.push(head, bytes, device) {
                reply_unserved(device, bytes, Errno::AGAIN);
            }
            Duration::MAX
        } else {
            if concurrent + 1 >= self.active.load(Ordering::SeqCst) {
                match head.is_usually_slow() && self.base > 1 {
                    true => self.grow(1),
                    false => self.wake_stall_monitor(),
                }
            }
            timed(|| self.serve(index, bytes, device, service))
        };
        drop(serving);
        if !self.backlog.is_empty() {
            self.serve_backlog(index, service);
        }
        if concurrent > 0 || elapsed > SLOW || self.active.load(Ordering::Relaxed) != self.base {
            self.uncontended.fetch_min(0, Ordering::Relaxed);
        } else if self.uncontended.fetch_add(1, Ordering::Relaxed) + 1 >= ENTER_AFTER {
            self.uncontended.store(0, Ordering::Relaxed);
            self.begin_exclusive(index);
        }
    }

    /// Serves the requests of the backlog that may be served now.
    fn serve_backlog(self: &Arc<Self>, index: usize, service: &impl Service) {
        loop {
            let serving = ServingGuard::enter(&self.serving);
            let next = self.next_queued(index, serving.concurrent);
            let Some(QueuedRequest { bytes, device, .. }) = next else { return };
            self.serve_begun(index, &bytes, &device, service);
        }
    }

    fn serve(
        self: &Arc<Self>,
        index: usize,
        bytes: &[u8],
        device: &Arc<Device>,
        service: &impl Service,
    ) {
        self.slots[index].begin(self.head(bytes), device);
        self.serve_begun(index, bytes, device, service);
    }

    /// As [`Self::serve`], a request with which the slot has begun.
    fn serve_begun(
        self: &Arc<Self>,
        index: usize,
        bytes: &[u8],
        device: &Arc<Device>,
        service: &impl Service,
    ) {
        let (head, slot) = (RequestHead::of(bytes), &self.slots[index]);
        service.serve(bytes, device);
        if slot.end() {
            service.was_abandoned(bytes);
        }
        if head.opcode == opcode::INTERRUPT {
            self.watch_interrupts();
        }
    }

    fn begin_exclusive(&self, index: usize) {
        let _ = self.exclusive.compare_exchange(SHARED, index, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Ends the exclusive mode of a worker that was the only one.
    pub(super) fn end_sole_exclusive(&self) {
        if self.base == 1 {
            self.end_exclusive(self.exclusive.load(Ordering::Acquire), 0);
        }
    }

    fn end_exclusive(&self, worker: usize, uncontended: i32) {
        if worker == SHARED || self.active.load(Ordering::SeqCst) == 1 {
            return;
        }
        let guard = self.lock();
        if self
            .exclusive
            .compare_exchange(worker, SHARED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.uncontended.store(uncontended, Ordering::Relaxed);
        }
        drop(guard);
        self.mode_changed.notify_all();
    }

    fn stop(&self) {
        let guard = self.lock();
        self.has_stopped.store(true, Ordering::Release);
        drop(guard);
        self.mode_changed.notify_all();
        self.stop_growth();
    }

    /// Waits until exclusive mode ends; becomes the watchdog if there is none.
    fn park(&self) {
        self.parked.fetch_add(1, Ordering::AcqRel);
        let mut parking = self.lock();
        while let Some(worker) = self.exclusive_worker() {
            if parking.has_watchdog {
                parking = self.mode_changed.wait(parking);
                continue;
            }
            parking.has_watchdog = true;
            drop(parking);
            self.watchdog(worker);
            parking = self.lock();
            parking.has_watchdog = false;
        }
        drop(parking);
        self.parked.fetch_sub(1, Ordering::AcqRel);
    }

    fn exclusive_worker(&self) -> Option<usize> {
        let worker = self.exclusive.load(Ordering::Acquire);
        let is_exclusive = worker != SHARED && !self.has_stopped.load(Ordering::Acquire);
        is_exclusive.then_some(worker)
    }

    fn watchdog(&self, worker: usize) {
        let progress = || self.slots[worker].progress();
        let (mut before, mut idle) = (progress(), 0);
        loop {
            let guard = self.lock();
            if self.exclusive_worker() != Some(worker) {
                return;
            }
            // The end of exclusive mode ends the wait early.
            drop(self.mode_changed.wait_timeout(guard, WATCHDOG_INTERVAL));
            let now = progress();
            match observe(before, now) {
                Observed::Progress => idle = 0,
                Observed::Busy => {
                    return self.end_exclusive(worker, ENTER_AFTER - ENTER_AFTER_SLOW);
                }
                Observed::Idle if idle == MAX_IDLE_CHECKS => return self.end_exclusive(worker, 0),
                Observed::Idle => idle += 1,
            }
            before = now;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Parking> {
        self.parking.lock()
    }
}

/// Counts a request as being served until it is dropped.
struct ServingGuard<'a> {
    serving: &'a AtomicUsize,
    /// Requests that were being served before.
    concurrent: usize,
}

impl<'a> ServingGuard<'a> {
    fn enter(serving: &'a AtomicUsize) -> Self {
        Self { serving, concurrent: serving.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Drop for ServingGuard<'_> {
    fn drop(&mut self) {
        self.serving.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the exclusive worker remembers of its requests.
#[derive(Debug, Default)]
struct ExclusiveReader {
    poller: BusyPoller,
    /// Requests in a row that were queued already.
    backlog: u32,
    /// Requests in this window of [`SLOW_WINDOW`], and the slow ones among them.
    count: u32,
    slow: u32,
}

impl ExclusiveReader {
    /// Reads the next request; returns its length and the device that it came through. `None`: try again.
    fn receive<'a>(
        &mut self,
        device: &'a Arc<Device>,
        nonblocking: Option<&'a Arc<Device>>,
        buffer: &mut [u8],
    ) -> Result<Option<(usize, &'a Arc<Device>)>, Errno> {
        if let Some(nonblocking) = nonblocking
            && let Some(polled) = self.poller.receive(nonblocking, buffer)?
        {
            self.backlog = if polled.was_ready { self.backlog + 1 } else { 0 };
            return Ok(Some((polled.len, nonblocking)));
        }
        // Without polling, only poll(2) tells whether requests are queued.
        self.backlog = if device.has_request() { self.backlog + 1 } else { 0 };
        Ok(receive_request(device, buffer)?.map(|len| (len, device)))
    }

    /// Whether exclusive mode may continue after a request that took `elapsed`.
    fn may_continue(&mut self, elapsed: Duration) -> bool {
        if self.count == SLOW_WINDOW {
            (self.count, self.slow) = (0, 0);
        }
        self.count += 1;
        self.slow += u32::from(elapsed > SLOW);
        let may_continue = self.backlog < MAX_BACKLOG && self.slow < MAX_SLOW;
        if !may_continue {
            (self.backlog, self.count, self.slow) = (0, 0, 0);
        }
        may_continue
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn observe(before: u64, now: u64) -> Observed {
    match (before == now, now % 2) {
        (false, _) => Observed::Progress,
        (true, 0) => Observed::Idle,
        (true, _) => Observed::Busy,
    }
}

/// Reads a request; returns its length. `None`: try again.
fn receive_request(device: &Device, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    match device.receive(buffer) {
        Ok(len) => Ok(Some(len)),
        Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_mode_ends_when_requests_queue_up_or_are_slow() {
        let mut reader = ExclusiveReader::default();
        assert!((0..100_000).all(|_| reader.may_continue(Duration::from_micros(5))));
        // Now and then another thread preempts the worker.
        assert!(
            (0..1000).all(|at| reader.may_continue(SLOW * u32::from(at % SLOW_WINDOW == 7) * 2))
        );
        assert!((0..100).any(|_| !reader.may_continue(SLOW * 2)));
        reader.backlog = MAX_BACKLOG;
        assert!(!reader.may_continue(Duration::ZERO));
        assert!(reader.may_continue(Duration::ZERO), "counted from zero again");
    }

    #[test]
    fn a_worker_that_does_not_poll_notices_a_backlog() {
        let (reads, writes) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writes, &[0; 1000]).unwrap();
        let device = Arc::new(Device::new(reads));
        let mut reader = ExclusiveReader::default();
        let mut next = || {
            let received = reader.receive(&device, None, &mut [0]).unwrap();
            received.is_some() && reader.may_continue(Duration::ZERO)
        };
        assert_eq!((0..1000).take_while(|_| next()).count(), MAX_BACKLOG as usize - 1);
    }

    #[test]
    fn the_watchdog_tells_a_slow_request_from_an_idle_mount() {
        assert_eq!(observe(4, 6), Observed::Progress);
        assert_eq!(observe(4, 5), Observed::Progress);
        assert_eq!(observe(6, 6), Observed::Idle);
        assert_eq!(observe(5, 5), Observed::Busy);
    }
}
