//! Quiet periods, in which no notice of a file's attributes is sent: while a client holds a lock on it.
//!
//! A notice that comes while the kernel asks for attributes makes it disregard the answer (Linux
//! `fuse_change_attributes`): the client that has just got the lock would go on with the size and the pages from before.
//! When the client asks depends on how soon it gets a processor, so the quiet lasts for as long as it holds the lock. What
//! other processes do to the file meanwhile they do without a lock, and it is told after a second at the latest.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::source::NodeId;

/// Ends that are so near to each other come at once.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// How long a lull lasts at most; chosen as the time for which unwatched attributes are believed, too.
const MAX_QUIET: Duration = Duration::from_secs(1);
/// How long it goes on after the lock was given back: another thread of the client may be asking.
const AFTER_RELEASE: Duration = Duration::from_millis(20);
/// How often [`QuietPeriods::expire`] is to be called.
pub(super) const TIMER_INTERVAL: Duration = AFTER_RELEASE;

/// The lulls of one mount. Notices are sent under its mutex: none of before lands within a lull.
#[derive(Debug, Default)]
pub(super) struct QuietPeriods {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<NodeId, QuietPeriod>,
    /// Whether somebody ends the lulls.
    has_timer: bool,
}

#[derive(Debug)]
struct QuietPeriod {
    until: Instant,
    /// Whether a notice waits for its end.
    is_pending: bool,
}

impl QuietPeriods {
    /// Sends a notice of a file's attributes by `send`, which tells whether the kernel knew the file, or puts it off.
    pub(super) fn send(&self, file: NodeId, send: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        match state.files.get_mut(&file) {
            Some(period) if Instant::now() < period.until => {
                period.is_pending = true;
                true
            }
            _ => send(),
        }
    }

    /// Begins a lull with a notice that it does not put off. Whether nobody ends the lulls yet: [`Self::expire`] is to be
    /// called regularly from now on, or [`Self::end_all`].
    #[must_use]
    pub(super) fn begin(&self, file: NodeId, send: impl FnOnce()) -> bool {
        let mut state = self.lock();
        state
            .files
            .insert(file, QuietPeriod { until: Instant::now() + MAX_QUIET, is_pending: false });
        send();
        !std::mem::replace(&mut state.has_timer, true)
    }

    /// Lets a file's lull end soon: a client has given a lock back.
    pub(super) fn release(&self, file: NodeId) {
        if let Some(period) = self.lock().files.get_mut(&file) {
            period.until = period.until.min(Instant::now() + AFTER_RELEASE);
        }
    }

    /// Ends the lulls whose time is over: the files of which notices were put off, and when it is to be called again.
    /// `None`: there is none left, and nobody ends them any more.
    pub(super) fn expire(&self) -> Option<(Vec<NodeId>, Duration)> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.files.is_empty() {
            state.has_timer = false;
            return None;
        }
        let mut pending = Vec::new();
        state.files.retain(|file, period| {
            let lasts = now < period.until;
            if !lasts && period.is_pending {
                pending.push(*file);
            }
            lasts
        });
        let next = state.files.values().map(|period| period.until - now).min();
        Some((pending, next.unwrap_or_default().clamp(MIN_INTERVAL, TIMER_INTERVAL)))
    }

    /// Ends all lulls at once.
    pub(super) fn end_all(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_waits_for_the_end_of_its_own_files_quiet_period() {
        let periods = QuietPeriods::default();
        let (one, two) = (NodeId(1), NodeId(2));
        assert!(periods.begin(one, || {}), "a keeper is wanted");
        assert!(!periods.begin(one, || {}), "one is enough");
        assert!(periods.send(one, || panic!("it is put off")));
        assert!(!periods.send(two, || false));
        std::thread::sleep(AFTER_RELEASE);
        assert!(periods.send(one, || panic!("it is put off while the lock is held")));
        let released = Instant::now();
        periods.release(one);
        let mut pending = Vec::new();
        while let Some((more, next)) = periods.expire() {
            assert!(next <= TIMER_INTERVAL);
            pending.extend(more);
            std::thread::sleep(next);
        }
        assert_eq!(pending, [one]);
        assert!(released.elapsed() < MAX_QUIET, "it was given back");
        assert!(!periods.send(one, || false));
        assert!(periods.begin(two, || {}), "a new keeper is wanted");
        periods.end_all();
        assert!(!periods.send(two, || false));
    }
}
