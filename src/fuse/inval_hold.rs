//! Quiet periods: holds back invalidations of a file's attributes while a client holds a lock on it.
//!
//! An invalidation that arrives while the kernel fetches attributes makes it discard the reply
//! (`fuse_change_attributes` in Linux). The client that has just got the lock would go on with the size and the pages
//! from before. When that client asks depends on when it gets a CPU, so the quiet period lasts as long as the lock is
//! held, one second at most. Changes that other processes make to the file meanwhile are made without a lock; their
//! invalidation is sent when the period ends.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::source::NodeId;
use crate::sync::{Mutex, MutexGuard};

/// Periods that end this close to each other are ended together.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// The longest quiet period. Chosen like the time for which unwatched attributes are cached.
const MAX_QUIET: Duration = Duration::from_secs(1);
/// How long a period lasts beyond the unlock: another thread of the client may be fetching attributes.
const AFTER_RELEASE: Duration = Duration::from_millis(20);
/// The longest time between two calls of [`QuietPeriods::expire`].
pub(super) const TIMER_INTERVAL: Duration = AFTER_RELEASE;

/// The quiet periods of one mount.
///
/// Invalidations are sent under its mutex, so that none that was sent before a period arrives during it.
#[derive(Debug, Default)]
pub(super) struct QuietPeriods {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<NodeId, QuietPeriod>,
    /// Whether a thread calls [`QuietPeriods::expire`].
    has_timer: bool,
}

#[derive(Debug)]
struct QuietPeriod {
    until: Instant,
    /// Whether an invalidation was held back and is due at the end.
    is_pending: bool,
}

impl QuietPeriods {
    /// Invalidates a file's attributes by `send`, or holds that back during a quiet period.
    ///
    /// Returns what `send` returns: whether the kernel knew the file. An invalidation that is held back counts as
    /// known.
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

    /// Starts a quiet period with an invalidation that is not held back.
    ///
    /// Returns whether the caller has to start the timer: to call [`Self::expire`] regularly from now on, or else
    /// [`Self::end_all`].
    #[must_use]
    pub(super) fn begin(&self, file: NodeId, send: impl FnOnce()) -> bool {
        let mut state = self.lock();
        state
            .files
            .insert(file, QuietPeriod { until: Instant::now() + MAX_QUIET, is_pending: false });
        send();
        !std::mem::replace(&mut state.has_timer, true)
    }

    /// Lets a file's quiet period end soon, because a client releases a lock.
    pub(super) fn release(&self, file: NodeId) {
        if let Some(period) = self.lock().files.get_mut(&file) {
            period.until = period.until.min(Instant::now() + AFTER_RELEASE);
        }
    }

    /// Ends the periods that are over. Returns the files with an invalidation that was held back, and when to call it
    /// again.
    ///
    /// `None`: no period is left, and the timer is to stop.
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

    /// Ends all periods at once, and forgets what was held back.
    pub(super) fn end_all(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_waits_for_the_end_of_its_own_files_quiet_period() {
        let periods = QuietPeriods::default();
        let (one, two) = (NodeId(1), NodeId(2));
        assert!(periods.begin(one, || {}), "the caller must start the timer");
        assert!(!periods.begin(one, || {}), "one timer is enough");
        assert!(periods.send(one, || panic!("it is held back")));
        assert!(!periods.send(two, || false));
        std::thread::sleep(AFTER_RELEASE);
        assert!(periods.send(one, || panic!("it is held back while the lock is held")));
        let released = Instant::now();
        periods.release(one);
        let mut pending = Vec::new();
        while let Some((more, next)) = periods.expire() {
            assert!(next <= TIMER_INTERVAL);
            pending.extend(more);
            std::thread::sleep(next);
        }
        assert_eq!(pending, [one]);
        assert!(released.elapsed() < MAX_QUIET, "the lock was released");
        assert!(!periods.send(one, || false));
        assert!(periods.begin(two, || {}), "the caller must start a new timer");
        periods.end_all();
        assert!(!periods.send(two, || false));
    }
}
