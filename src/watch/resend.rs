//! Sends invalidations again, for kernels with notifications that do not wait for lookups under way.
//!
//! A lookup that was answered before a change may reach the kernel's caches after the invalidation for that change.
//! Where the notification waits for the directory's lock, which the lookup holds, it finds what the lookup brought.
//! From Linux 6.19 to 7.1.6 it does not wait: it finds nothing (ENOENT), and what the lookup brings later is stale.
//! There the invalidation is sent again until the kernel knows what it is about, or until no lookup can be in flight
//! any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::dir_invals::DirInvals;
use crate::source::NodeId;

/// When an invalidation is sent again, counted from the time before. The client's thread takes a reply in within
/// microseconds once it runs; a second is for a client that does not get a CPU. Chosen.
const DELAYS: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_millis(1000),
];

/// Invalidations to be sent again.
#[derive(Debug)]
pub(super) struct Resend {
    pub(super) dir: NodeId,
    pub(super) invals: DirInvals,
    /// How often they were sent again before.
    tries: usize,
}

/// Everything that is to be sent again in one mount.
#[derive(Debug, Default)]
pub(super) struct Resends {
    /// By the time when each is due; the number tells entries of the same instant apart.
    queue: BTreeMap<(Instant, u64), Resend>,
    count: u64,
}

impl Resends {
    /// Adds what the kernel did not know the first time.
    pub(super) fn add(&mut self, now: Instant, dir: NodeId, invals: DirInvals) {
        self.push(now, Resend { dir, invals, tries: 0 });
    }

    /// Adds what the kernel did not know when it was sent again. Drops it after the last of [`DELAYS`].
    pub(super) fn add_again(&mut self, now: Instant, sent: Resend) {
        self.push(now, Resend { tries: sent.tries + 1, ..sent });
    }

    fn push(&mut self, now: Instant, resend: Resend) {
        let Some(delay) = DELAYS.get(resend.tries).filter(|_| !resend.invals.is_empty()) else {
            return;
        };
        self.count += 1;
        self.queue.insert((now + *delay, self.count), resend);
    }

    /// Takes an entry that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Resend> {
        let first = self.queue.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    /// When the next entry is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invals() -> DirInvals {
        DirInvals { names: ["n".into()].into(), ..DirInvals::default() }
    }

    #[test]
    fn invalidations_of_unknown_names_are_resent_for_a_second_and_then_dropped() {
        let (mut resends, begin) = (Resends::default(), Instant::now());
        resends.add(begin, NodeId(5), invals());
        assert!(resends.take_due(begin).is_none(), "not at once");
        let (mut now, mut sent) = (begin, 0);
        while let Some(due) = resends.next_due() {
            now = due;
            let resend = resends.take_due(now).unwrap();
            assert_eq!((resend.dir, &resend.invals), (NodeId(5), &invals()));
            sent += 1;
            resends.add_again(now, resend);
        }
        assert_eq!((sent, now - begin), (4, DELAYS.iter().sum()));
        assert!(now - begin >= Duration::from_secs(1));
    }

    #[test]
    fn nothing_is_kept_once_the_kernel_knew_everything() {
        let (mut resends, begin) = (Resends::default(), Instant::now());
        resends.add(begin, NodeId(5), DirInvals::default());
        assert_eq!(resends.next_due(), None);
    }

    #[test]
    fn what_is_due_first_comes_first() {
        let (mut resends, begin) = (Resends::default(), Instant::now());
        resends.add(begin + Duration::from_millis(1), NodeId(6), invals());
        resends.add(begin, NodeId(5), invals());
        resends.add(begin, NodeId(7), invals());
        let late = begin + Duration::from_secs(1);
        let order: Vec<NodeId> =
            std::iter::from_fn(|| resends.take_due(late)).map(|resend| resend.dir).collect();
        assert_eq!(order, [NodeId(5), NodeId(7), NodeId(6)]);
    }
}
