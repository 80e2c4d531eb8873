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
const PATIENCE: Duration = Duration::from_micros(50);
/// Every so many looks, whoever waits for this processor is let in: the client, perhaps.
const YIELD: u32 = 8;
/// Who was away for so long between two looks shares the processor with somebody who has much to do: a whole slice of
/// the scheduler's time. Less is an interrupt, or a host that runs other machines.
const AWAY: Duration = Duration::from_millis(1);
/// How long it is left alone then, at first and after many times.
const LEAVE: Duration = Duration::from_millis(20);
const LONGEST_LEAVE: Duration = Duration::from_millis(500);
/// After so many good looks in a row, the processor counts as free again.
const GOOD: u32 = 1000;
/// How many requests at most are waited for without a look, after looks in vain.
const MOST_SKIPPED: u32 = 256;

/// See the module's head. One for each worker.
#[derive(Debug)]
pub(super) struct Spin {
    skip: u32,
    in_vain: u32,
    good: u32,
    leave: Duration,
    until: Option<Instant>,
}

/// A request that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Its length.
    pub(super) len: usize,
    /// It was there already.
    pub(super) at_once: bool,
}

impl Default for Spin {
    fn default() -> Self {
        Self { skip: 0, in_vain: 0, good: 0, leave: LEAVE, until: None }
    }
}

impl Spin {
    /// Looks for a request on a device that does not wait. `None`: there is none, or this is no time to look.
    pub(super) fn receive(
        &mut self,
        device: &Device,
        buffer: &mut [u8],
    ) -> Result<Option<Found>, Errno> {
        if !has_other_processors() || self.is_skipped() {
            return Ok(None);
        }
        let start = Instant::now();
        if self.until.is_some_and(|until| start < until) {
            return Ok(None);
        }
        let mut last = start;
        for look in 0.. {
            match device.receive(buffer) {
                Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
                Err(e) => return Err(e),
                Ok(len) => {
                    self.found();
                    return Ok(Some(Found { len, at_once: look == 0 }));
                }
            }
            if look % YIELD == YIELD - 1 {
                rustix::thread::sched_yield();
            }
            let now = Instant::now();
            if now - last > AWAY {
                self.make_way(now);
                break;
            }
            if now - start > PATIENCE {
                self.not_found();
                break;
            }
            last = now;
        }
        Ok(None)
    }

    fn is_skipped(&mut self) -> bool {
        let is_skipped = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        is_skipped
    }

    fn found(&mut self) {
        self.in_vain = 0;
        self.good += 1;
        if self.good >= GOOD {
            self.good = 0;
            self.leave = LEAVE;
        }
    }

    fn not_found(&mut self) {
        self.in_vain += 1;
        self.skip = (1 << self.in_vain.min(16)).min(MOST_SKIPPED);
    }

    fn make_way(&mut self, now: Instant) {
        self.good = 0;
        self.until = Some(now + self.leave);
        self.leave = (self.leave * 2).min(LONGEST_LEAVE);
    }
}

/// Whether a client can run while we look.
fn has_other_processors() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| std::thread::available_parallelism().is_ok_and(|n| n.get() > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_in_vain_become_rare() {
        let mut spin = Spin::default();
        assert!(!spin.is_skipped());
        spin.not_found();
        assert_eq!((spin.is_skipped(), spin.is_skipped(), spin.is_skipped()), (true, true, false));
        for _ in 0..40 {
            spin.not_found();
        }
        assert_eq!(spin.skip, MOST_SKIPPED);
        spin.found();
        spin.not_found();
        assert_eq!(spin.skip, 2);
    }

    #[test]
    fn who_shares_the_processor_leaves_it_for_longer_each_time() {
        let mut spin = Spin::default();
        let now = Instant::now();
        spin.make_way(now);
        assert_eq!(spin.until, Some(now + LEAVE));
        for _ in 0..20 {
            spin.make_way(now);
        }
        assert_eq!(spin.until, Some(now + LONGEST_LEAVE));
        (0..GOOD).for_each(|_| spin.found());
        spin.make_way(now);
        assert_eq!(spin.until, Some(now + LEAVE));
    }
}
