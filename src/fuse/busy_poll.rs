//! Looking for the next request for a little while before waiting for it.
//!
//! A client who does one thing after the other asks again within microseconds. To fall asleep and be woken takes longer
//! than that, on virtual machines by far. But looking takes the processor from whoever else could use it: so it ends as
//! soon as somebody else wants the processor, and is not tried where it did not help the last times.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::device::Device;

/// How long to look. A client whose processor sleeps is slow to be woken himself: in 30 µs too many requests were
/// missed. Who asks again later than that costs less when we sleep meanwhile.
const POLL_WINDOW: Duration = Duration::from_micros(50);
/// Every so many looks, whoever waits for this processor is let in: the client, perhaps.
const YIELD_EVERY: u32 = 8;
/// Who was away for so long between two looks shares the processor with somebody who has much to do: a whole slice of
/// the scheduler's time. Less is an interrupt, or a host that runs other machines.
const PREEMPTED: Duration = Duration::from_millis(1);
/// How long it is left alone then, at first and after many times.
const BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// After so many good looks in a row, the processor counts as free again.
const RECOVERED: u32 = 1000;
/// How many requests at most are waited for without a look, after looks in vain.
const MAX_SKIPPED: u32 = 256;

/// See the module's head. One for each worker.
#[derive(Debug)]
pub(super) struct BusyPoller {
    skip: u32,
    misses: u32,
    hits: u32,
    backoff: Duration,
    backoff_until: Option<Instant>,
}

/// A request that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Polled {
    /// Its length.
    pub(super) len: usize,
    /// It was there already.
    pub(super) was_ready: bool,
}

impl Default for BusyPoller {
    fn default() -> Self {
        Self { skip: 0, misses: 0, hits: 0, backoff: BACKOFF, backoff_until: None }
    }
}

impl BusyPoller {
    /// Looks for a request on a device that does not wait. `None`: there is none, or this is no time to look.
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

/// Whether a client can run while we look.
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
