//! Busy polling: looks for the next request for a moment before the worker blocks in read(2).
//!
//! A client that makes one system call after another sends its next request within microseconds. To fall asleep and be
//! woken takes longer than that, by far so on virtual machines. But polling occupies a CPU that other threads could
//! use: it stops as soon as another thread wants the CPU, and is skipped after polls that found nothing.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::device::Device;

/// How long one poll lasts. Measured: 30 µs missed too many requests, since a client on a sleeping CPU is itself slow
/// to wake up. For a client that takes longer than 50 µs, it costs less to sleep meanwhile.
const POLL_WINDOW: Duration = Duration::from_micros(50);
/// After so many attempts the worker yields the CPU once, to the client perhaps.
const YIELD_EVERY: u32 = 8;
/// A gap of this length between two attempts means that a busy thread shares the CPU: it is a whole time slice of the
/// scheduler. Shorter gaps are interrupts, or a host that runs other machines.
const PREEMPTED: Duration = Duration::from_millis(1);
/// How long the worker does not poll after such a gap: at first, and at most. Doubled each time.
const BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// Successful polls without such a gap after which the CPU counts as free. The backoff then starts over.
const RECOVERED: u32 = 1000;
/// The most requests that are read without polling after polls that found nothing.
const MAX_SKIPPED: u32 = 256;

/// Decides when to poll, for one worker. See the module's head.
#[derive(Debug)]
pub(super) struct BusyPoller {
    skip: u32,
    misses: u32,
    hits: u32,
    backoff: Duration,
    backoff_until: Option<Instant>,
}

/// A request that a poll has read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Polled {
    /// Its length, in bytes.
    pub(super) len: usize,
    /// It was queued already at the first attempt.
    pub(super) was_ready: bool,
}

impl Default for BusyPoller {
    fn default() -> Self {
        Self { skip: 0, misses: 0, hits: 0, backoff: BACKOFF, backoff_until: None }
    }
}

impl BusyPoller {
    /// Polls a nonblocking device for a request. `None`: there is none, or polling is not worth it now.
    ///
    /// # Errors
    /// What read(2) of /dev/fuse says, except what means "try again".
    pub(super) fn receive(
        &mut self,
        device: &Device,
        buffer: &mut [u8],
    ) -> Result<Option<Polled>, Errno> {
        if !has_other_cpus() || self.take_skip() {
            return Ok(None);
        }
        let start = Instant::now();
        if self.backoff_until.is_some_and(|until| start < until) {
            return Ok(None);
        }
        let mut last = start;
        for attempt in 0.. {
            match device.receive(buffer) {
                Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
                Err(e) => return Err(e),
                Ok(len) => {
                    self.record_hit();
                    return Ok(Some(Polled { len, was_ready: attempt == 0 }));
                }
            }
            if attempt % YIELD_EVERY == YIELD_EVERY - 1 {
                rustix::thread::sched_yield();
            }
            let now = Instant::now();
            if now - last > PREEMPTED {
                self.back_off(now);
                break;
            }
            if now - start > POLL_WINDOW {
                self.record_miss();
                break;
            }
            last = now;
        }
        Ok(None)
    }

    fn take_skip(&mut self) -> bool {
        let is_skipped = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        is_skipped
    }

    fn record_hit(&mut self) {
        self.misses = 0;
        self.hits += 1;
        if self.hits >= RECOVERED {
            self.hits = 0;
            self.backoff = BACKOFF;
        }
    }

    fn record_miss(&mut self) {
        self.misses += 1;
        self.skip = (1 << self.misses.min(16)).min(MAX_SKIPPED);
    }

    fn back_off(&mut self, now: Instant) {
        self.hits = 0;
        self.backoff_until = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }
}

/// Whether a client can run on another CPU while this thread polls.
fn has_other_cpus() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| std::thread::available_parallelism().is_ok_and(|n| n.get() > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_without_a_request_become_rare() {
        let mut poller = BusyPoller::default();
        assert!(!poller.take_skip());
        poller.record_miss();
        assert_eq!(
            (poller.take_skip(), poller.take_skip(), poller.take_skip()),
            (true, true, false)
        );
        for _ in 0..40 {
            poller.record_miss();
        }
        assert_eq!(poller.skip, MAX_SKIPPED);
        poller.record_hit();
        poller.record_miss();
        assert_eq!(poller.skip, 2);
    }

    #[test]
    fn a_preempted_poller_backs_off_for_longer_each_time() {
        let mut poller = BusyPoller::default();
        let now = Instant::now();
        poller.back_off(now);
        assert_eq!(poller.backoff_until, Some(now + BACKOFF));
        for _ in 0..20 {
            poller.back_off(now);
        }
        assert_eq!(poller.backoff_until, Some(now + MAX_BACKOFF));
        (0..RECOVERED).for_each(|_| poller.record_hit());
        poller.back_off(now);
        assert_eq!(poller.backoff_until, Some(now + BACKOFF));
    }
}
