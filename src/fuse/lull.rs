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
const SHORTEST: Duration = Duration::from_millis(1);
/// How long a lull lasts at most; chosen as the time for which unwatched attributes are believed, too.
const LONGEST: Duration = Duration::from_secs(1);
/// How long it goes on after the lock was given back: another thread of the client may be asking.
const REST: Duration = Duration::from_millis(20);
/// How often [`Lulls::end`] is to be called.
pub(super) const TICK: Duration = REST;

/// The lulls of one mount. Notices are sent under its mutex: none of before lands within a lull.
#[derive(Debug, Default)]
pub(super) struct Lulls {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<NodeId, Lull>,
    /// Whether somebody ends the lulls.
    has_keeper: bool,
}

#[derive(Debug)]
struct Lull {
    until: Instant,
    /// Whether a notice waits for its end.
    is_owed: bool,
}

impl Lulls {
    /// Sends a notice of a file's attributes by `send`, which tells whether the kernel knew the file, or puts it off.
    pub(super) fn send(&self, file: NodeId, send: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        match state.files.get_mut(&file) {
            Some(lull) if Instant::now() < lull.until => {
                lull.is_owed = true;
                true
            }
            _ => send(),
        }
    }

    /// Begins a lull with a notice that it does not put off. Whether nobody ends the lulls yet: [`Self::end`] is to be
    /// called regularly from now on, or [`Self::abandon`].
    #[must_use]
    pub(super) fn begin(&self, file: NodeId, send: impl FnOnce()) -> bool {
        let mut state = self.lock();
        state.files.insert(file, Lull { until: Instant::now() + LONGEST, is_owed: false });
        send();
        !std::mem::replace(&mut state.has_keeper, true)
    }

    /// Lets a file's lull end soon: a client has given a lock back.
    pub(super) fn release(&self, file: NodeId) {
        if let Some(lull) = self.lock().files.get_mut(&file) {
            lull.until = lull.until.min(Instant::now() + REST);
        }
    }

    /// Ends the lulls whose time is over: the files of which notices were put off, and when it is to be called again.
    /// `None`: there is none left, and nobody ends them any more.
    pub(super) fn end(&self) -> Option<(Vec<NodeId>, Duration)> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.files.is_empty() {
            state.has_keeper = false;
            return None;
        }
        let mut owed = Vec::new();
        state.files.retain(|file, lull| {
            let goes_on = now < lull.until;
            if !goes_on && lull.is_owed {
                owed.push(*file);
            }
            goes_on
        });
        let next = state.files.values().map(|lull| lull.until - now).min();
        Some((owed, next.unwrap_or_default().clamp(SHORTEST, TICK)))
    }

    /// Ends all lulls at once.
    pub(super) fn abandon(&self) {
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
    fn a_notice_waits_for_the_end_of_a_lull_and_only_that_of_its_file() {
        let lulls = Lulls::default();
        let (one, two) = (NodeId(1), NodeId(2));
        assert!(lulls.begin(one, || {}), "a keeper is wanted");
        assert!(!lulls.begin(one, || {}), "one is enough");
        assert!(lulls.send(one, || panic!("it is put off")));
        assert!(!lulls.send(two, || false));
        std::thread::sleep(REST);
        assert!(lulls.send(one, || panic!("it is put off while the lock is held")));
        let released = Instant::now();
        lulls.release(one);
        let mut owed = Vec::new();
        while let Some((more, next)) = lulls.end() {
            assert!(next <= TICK);
            owed.extend(more);
            std::thread::sleep(next);
        }
        assert_eq!(owed, [one]);
        assert!(released.elapsed() < LONGEST, "it was given back");
        assert!(!lulls.send(one, || false));
        assert!(lulls.begin(two, || {}), "a new keeper is wanted");
        lulls.abandon();
        assert!(!lulls.send(two, || false));
    }
}
