//! The workers: who of them listens to the kernel for requests.
//!
//! As a rule all do: each waits in read(2), and a request wakes one. Where requests come one at a time and closely
//! after each other, one worker serves them all and the others rest: a solo. To wake a worker whose processor sleeps
//! takes longer than most requests do, so that a soloist may look for the next request a little before he waits for it
//! ([`Spin`]); a worker that waits beside him would be woken for each request, and for nothing.
//!
//! A soloist must not keep the mount waiting when a request takes him long. So one of those who rest looks after him
//! every two milliseconds, and ends the solo when he is busy with the same request as before, or when nothing was asked
//! for a while.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::device::Device;
use super::spin::Spin;

/// Requests one at a time before a solo begins.
const ALONE: i32 = 64;
/// The same after a solo that kept somebody waiting.
const ALONE_AFTER_LONG: i32 = 1024;
/// Requests that came while another waited already, after which a solo ends.
const BACKLOG: u32 = 256;
/// A request that takes so long has waited for something: for a disk, perhaps.
const LONG: Duration = Duration::from_micros(300);
/// So many of them among so many requests end a solo.
const MOST_LONG: u32 = 3;
const STRETCH: u32 = 64;
/// How often the soloist is looked after.
const TICK: Duration = Duration::from_millis(2);
/// So many times without a request before a solo ends.
const QUIET_TICKS: u32 = 10;

/// Nobody plays solo.
const ALL: usize = usize::MAX;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Crew {
    soloist: AtomicUsize,
    posts: Vec<Post>,
    /// How many serve a request at this moment, outside a solo.
    serving: AtomicUsize,
    /// How many requests in a row nobody served another beside; below 0 after a bad solo.
    alone: AtomicI32,
    resting: AtomicUsize,
    has_ended: AtomicBool,
    rest: Mutex<Rest>,
    changed: Condvar,
}

/// One worker's.
#[derive(Debug)]
struct Post {
    device: Arc<Device>,
    /// Rises when a request of a solo begins and when it ends: odd while it is served.
    steps: AtomicU64,
}

#[derive(Debug, Default)]
struct Rest {
    /// Whether one of those who rest looks after the soloist.
    has_watchman: bool,
}

/// What the watchman saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Progress,
    Quiet,
    /// The same request as a tick ago.
    Long,
}

impl Crew {
    /// A worker for each device.
    pub(super) fn new(devices: Vec<Arc<Device>>) -> Self {
        let posts: Vec<_> =
            devices.into_iter().map(|device| Post { device, steps: AtomicU64::new(0) }).collect();
        // A single worker plays solo always.
        let soloist = AtomicUsize::new(if posts.len() == 1 { 0 } else { ALL });
        Self {
            soloist,
            posts,
            serving: AtomicUsize::new(0),
            alone: AtomicI32::new(0),
            resting: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            rest: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Runs the worker `own` until the filesystem is unmounted. `quick`: a device that does not wait, if there is one.
    /// `serve` is handed each request with the device through which it is to be answered.
    pub(super) fn work(
        &self,
        own: usize,
        quick: Option<&Arc<Device>>,
        room: usize,
        mut serve: impl FnMut(&[u8], &Arc<Device>),
    ) -> Result<(), Errno> {
        let result = self.listen(own, quick, room, &mut serve);
        self.end();
        match result {
            Err(Errno::NODEV) => Ok(()),
            result => result,
        }
    }

    fn listen(
        &self,
        own: usize,
        quick: Option<&Arc<Device>>,
        room: usize,
        serve: &mut impl FnMut(&[u8], &Arc<Device>),
    ) -> Result<(), Errno> {
        // Untouched pages cost nothing.
        let mut buffer = vec![0; room];
        let mut solo = Solo::default();
        let device = &self.posts[own].device;
        while !self.has_ended.load(Ordering::Acquire) {
            match self.soloist.load(Ordering::Acquire) {
                ALL => {
                    if let Some(len) = receive(device, &mut buffer)? {
                        self.serve_in_company(own, || serve(&buffer[..len], device));
                    }
                }
                soloist if soloist == own => {
                    // Who waits beside us would be woken in vain.
                    let is_alone = self.resting.load(Ordering::Acquire) + 1 == self.posts.len();
                    let quick = quick.filter(|_| is_alone);
                    let Some((len, from)) = solo.receive(device, quick, &mut buffer)? else {
                        continue;
                    };
                    let steps = &self.posts[own].steps;
                    steps.fetch_add(1, Ordering::Release);
                    let took = timed(|| serve(&buffer[..len], from));
                    steps.fetch_add(1, Ordering::Release);
                    if !solo.goes_on(took) {
                        self.end_solo(own, ALONE - ALONE_AFTER_LONG);
                    }
                }
                _ => self.rest(),
            }
        }
        Ok(())
    }

    /// Serves a request beside others, and plays solo from then on when nobody else had anything to do for long.
    fn serve_in_company(&self, own: usize, serve: impl FnOnce()) {
        let others = self.serving.fetch_add(1, Ordering::AcqRel);
        let took = timed(serve);
        self.serving.fetch_sub(1, Ordering::AcqRel);
        if others > 0 || took > LONG {
            self.alone.fetch_min(0, Ordering::Relaxed);
        } else if self.alone.fetch_add(1, Ordering::Relaxed) + 1 >= ALONE {
            self.alone.store(0, Ordering::Relaxed);
            let _ = self.soloist.compare_exchange(ALL, own, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    fn end_solo(&self, soloist: usize, alone: i32) {
        if self.posts.len() == 1 {
            return;
        }
        let guard = self.lock();
        if self.soloist.compare_exchange(soloist, ALL, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            self.alone.store(alone, Ordering::Relaxed);
        }
        drop(guard);
        self.changed.notify_all();
    }

    fn end(&self) {
        let guard = self.lock();
        self.has_ended.store(true, Ordering::Release);
        drop(guard);
        self.changed.notify_all();
    }

    /// Waits for the end of a solo, and looks after the soloist if nobody else does.
    fn rest(&self) {
        self.resting.fetch_add(1, Ordering::AcqRel);
        let mut rest = self.lock();
        while let Some(soloist) = self.current_soloist() {
            if rest.has_watchman {
                rest = self.changed.wait(rest).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            rest.has_watchman = true;
            drop(rest);
            self.look_after(soloist);
            rest = self.lock();
            rest.has_watchman = false;
        }
        drop(rest);
        self.resting.fetch_sub(1, Ordering::AcqRel);
    }

    fn current_soloist(&self) -> Option<usize> {
        let soloist = self.soloist.load(Ordering::Acquire);
        let plays = soloist != ALL && !self.has_ended.load(Ordering::Acquire);
        plays.then_some(soloist)
    }

    fn look_after(&self, soloist: usize) {
        let steps = || self.posts[soloist].steps.load(Ordering::Acquire);
        let (mut before, mut quiet) = (steps(), 0);
        loop {
            let guard = self.lock();
            if self.current_soloist() != Some(soloist) {
                return;
            }
            // Woken when the solo ends.
            drop(self.changed.wait_timeout(guard, TICK));
            let now = steps();
            match seen(before, now) {
                Seen::Progress => quiet = 0,
                Seen::Long => return self.end_solo(soloist, ALONE - ALONE_AFTER_LONG),
                Seen::Quiet if quiet == QUIET_TICKS => return self.end_solo(soloist, 0),
                Seen::Quiet => quiet += 1,
            }
            before = now;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A soloist's own account.
#[derive(Debug, Default)]
struct Solo {
    spin: Spin,
    /// Requests in a row that were waiting already.
    backlog: u32,
    /// Requests in this stretch of [`STRETCH`], and those of them that took long.
    count: u32,
    long: u32,
}

impl Solo {
    /// Reads the next request: its length and where it was read. `None`: there was none after all.
    fn receive<'a>(
        &mut self,
        device: &'a Arc<Device>,
        quick: Option<&'a Arc<Device>>,
        buffer: &mut [u8],
    ) -> Result<Option<(usize, &'a Arc<Device>)>, Errno> {
        if let Some(quick) = quick
            && let Some(found) = self.spin.receive(quick, buffer)?
        {
            self.backlog = if found.at_once { self.backlog + 1 } else { 0 };
            return Ok(Some((found.len, quick)));
        }
        // Without a look it would not be noticed how many wait.
        self.backlog = if device.has_request() { self.backlog + 1 } else { 0 };
        Ok(receive(device, buffer)?.map(|len| (len, device)))
    }

    /// Whether the solo goes on after a request that took so long.
    fn goes_on(&mut self, took: Duration) -> bool {
        if self.count == STRETCH {
            (self.count, self.long) = (0, 0);
        }
        self.count += 1;
        self.long += u32::from(took > LONG);
        let goes_on = self.backlog < BACKLOG && self.long < MOST_LONG;
        if !goes_on {
            (self.backlog, self.count, self.long) = (0, 0, 0);
        }
        goes_on
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn seen(before: u64, now: u64) -> Seen {
    match (before == now, now % 2) {
        (false, _) => Seen::Progress,
        (true, 0) => Seen::Quiet,
        (true, _) => Seen::Long,
    }
}

/// Reads a request. `None`: there was none after all.
fn receive(device: &Device, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
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
    fn a_solo_ends_where_requests_wait_or_are_waited_for() {
        let mut solo = Solo::default();
        assert!((0..100_000).all(|_| solo.goes_on(Duration::from_micros(5))));
        // Now and then somebody takes the processor.
        assert!((0..1000).all(|at| solo.goes_on(LONG * u32::from(at % STRETCH == 7) * 2)));
        assert!((0..100).any(|_| !solo.goes_on(LONG * 2)));
        solo.backlog = BACKLOG;
        assert!(!solo.goes_on(Duration::ZERO));
        assert!(solo.goes_on(Duration::ZERO), "from the beginning");
    }

    #[test]
    fn a_soloist_who_does_not_look_notices_those_who_wait() {
        let (reads, writes) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writes, &[0; 1000]).unwrap();
        let device = Arc::new(Device::new(reads));
        let mut solo = Solo::default();
        let mut next = || {
            let received = solo.receive(&device, None, &mut [0]).unwrap();
            received.is_some() && solo.goes_on(Duration::ZERO)
        };
        assert_eq!((0..1000).take_while(|_| next()).count(), BACKLOG as usize - 1);
    }

    #[test]
    fn the_watchman_tells_a_long_request_from_a_quiet_mount() {
        assert_eq!(seen(4, 6), Seen::Progress);
        assert_eq!(seen(4, 5), Seen::Progress);
        assert_eq!(seen(6, 6), Seen::Quiet);
        assert_eq!(seen(5, 5), Seen::Long);
    }
}
