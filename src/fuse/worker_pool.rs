//! Worker threads, and which of them read requests from /dev/fuse.
//!
//! As a rule every worker blocks in read(2), and the kernel wakes one per request. When requests come one at a time and
//! in quick succession, one worker reads them all and the others are parked: exclusive mode. Waking a thread on a
//! sleeping CPU takes longer than most requests do, so the exclusive worker polls for a moment before it blocks
//! ([`BusyPoller`]). A second blocked reader would be woken for each of these requests, and for nothing.
//!
//! A slow request of the exclusive worker must not hold up the mount. One of the parked workers, the watchdog, looks
//! every two milliseconds, and ends exclusive mode when the worker is still busy with the same request, or when no
//! request has come for a while.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::busy_poll::BusyPoller;
use super::device::Device;

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

/// The workers of one mount. See the module's head.
#[derive(Debug)]
pub(super) struct WorkerPool {
    exclusive: AtomicUsize,
    slots: Vec<WorkerSlot>,
    /// Requests being served at this moment, outside exclusive mode.
    serving: AtomicUsize,
    /// Requests in a row that were served alone and fast; negative after exclusive mode has ended because a client had
    /// to wait.
    uncontended: AtomicI32,
    parked: AtomicUsize,
    has_stopped: AtomicBool,
    parking: Mutex<Parking>,
    mode_changed: Condvar,
}

/// The state of one worker.
#[derive(Debug)]
struct WorkerSlot {
    device: Arc<Device>,
    /// Incremented when a request of exclusive mode begins and when it ends: odd while it is served.
    progress: AtomicU64,
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

impl WorkerPool {
    /// Creates a pool with one worker for each device.
    pub(super) fn new(devices: Vec<Arc<Device>>) -> Self {
        let slots: Vec<_> = devices
            .into_iter()
            .map(|device| WorkerSlot { device, progress: AtomicU64::new(0) })
            .collect();
        // A single worker is always in exclusive mode.
        let exclusive = AtomicUsize::new(if slots.len() == 1 { 0 } else { SHARED });
        Self {
            exclusive,
            slots,
            serving: AtomicUsize::new(0),
            uncontended: AtomicI32::new(0),
            parked: AtomicUsize::new(0),
            has_stopped: AtomicBool::new(false),
            parking: Mutex::default(),
            mode_changed: Condvar::new(),
        }
    }

    /// Runs worker `index` until the filesystem is unmounted.
    ///
    /// `nonblocking` is a device that does not block in read(2), for polling; `None` where none could be opened.
    /// `serve` gets each request together with the device that its reply must go through.
    ///
    /// # Errors
    /// What read(2) of /dev/fuse says, except ENODEV (unmounted) and what means "try again".
    pub(super) fn run(
        &self,
        index: usize,
        nonblocking: Option<&Arc<Device>>,
        buffer_size: usize,
        mut serve: impl FnMut(&[u8], &Arc<Device>),
    ) -> Result<(), Errno> {
        let result = self.read_requests(index, nonblocking, buffer_size, &mut serve);
        self.stop();
        match result {
            Err(Errno::NODEV) => Ok(()),
            result => result,
        }
    }

    fn read_requests(
        &self,
        index: usize,
        nonblocking: Option<&Arc<Device>>,
        buffer_size: usize,
        serve: &mut impl FnMut(&[u8], &Arc<Device>),
    ) -> Result<(), Errno> {
        // Pages of it that no request reaches are never allocated.
        let mut buffer = vec![0; buffer_size];
        let mut reader = ExclusiveReader::default();
        let device = &self.slots[index].device;
        while !self.has_stopped.load(Ordering::Acquire) {
            match self.exclusive.load(Ordering::Acquire) {
                SHARED => {
                    if let Some(len) = receive_request(device, &mut buffer)? {
                        self.serve_shared(index, || serve(&buffer[..len], device));
                    }
                }
                worker if worker == index => {
                    // A second blocked reader would be woken for nothing.
                    let is_only_reader =
                        self.parked.load(Ordering::Acquire) + 1 == self.slots.len();
                    let nonblocking = nonblocking.filter(|_| is_only_reader);
                    let Some((len, from)) = reader.receive(device, nonblocking, &mut buffer)?
                    else {
                        continue;
                    };
                    let progress = &self.slots[index].progress;
                    progress.fetch_add(1, Ordering::Release);
                    let elapsed = timed(|| serve(&buffer[..len], from));
                    progress.fetch_add(1, Ordering::Release);
                    if !reader.may_continue(elapsed) {
                        self.end_exclusive(index, ENTER_AFTER - ENTER_AFTER_SLOW);
                    }
                }
                _ => self.park(),
            }
        }
        Ok(())
    }

    /// Serves a request beside other workers. Starts exclusive mode after enough uncontended requests.
    fn serve_shared(&self, index: usize, serve: impl FnOnce()) {
        let concurrent = self.serving.fetch_add(1, Ordering::AcqRel);
        let elapsed = timed(serve);
        self.serving.fetch_sub(1, Ordering::AcqRel);
        if concurrent > 0 || elapsed > SLOW {
            self.uncontended.fetch_min(0, Ordering::Relaxed);
        } else if self.uncontended.fetch_add(1, Ordering::Relaxed) + 1 >= ENTER_AFTER {
            self.uncontended.store(0, Ordering::Relaxed);
            let _ =
                self.exclusive.compare_exchange(SHARED, index, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    fn end_exclusive(&self, worker: usize, uncontended: i32) {
        if self.slots.len() == 1 {
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
    }

    /// Waits until exclusive mode ends; becomes the watchdog if there is none.
    fn park(&self) {
        self.parked.fetch_add(1, Ordering::AcqRel);
        let mut parking = self.lock();
        while let Some(worker) = self.exclusive_worker() {
            if parking.has_watchdog {
                parking = self.mode_changed.wait(parking).unwrap_or_else(PoisonError::into_inner);
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
        let progress = || self.slots[worker].progress.load(Ordering::Acquire);
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
        self.parking.lock().unwrap_or_else(PoisonError::into_inner)
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
