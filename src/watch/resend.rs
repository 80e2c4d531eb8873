//! Sends invalidations again whose notification has found nothing (ENOENT).
//!
//! A lookup or listing that was answered before a change may reach the kernel's caches after the invalidation for that
//! change, and what it brings is stale.
//!
//! - **Inodes.** No notification waits for an answer in flight that brings an inode. The change is often reported for
//!   another directory than that of the answer, or for none (`deferred.rs`), so no directory's lock tells when the answer
//!   has arrived; and a client that lists into memory of its own server holds an answer back for as long as it likes. So
//!   the invalidation is sent again until the kernel knows the inode or has forgotten it: every inode in an answer is in
//!   the daemon's table until a FORGET, also one of an answer that the kernel throws away.
//! - **Names.** The notification waits for the directory's lock, which the lookup holds, and finds what the lookup
//!   brought. From Linux 6.19 to 7.1.6 it does not wait: it is sent again for a second. Listings there bring names with
//!   a short timeout (`fuse/ttl.rs`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::dir_invals::DirInvals;
use crate::source::NodeId;

/// When the invalidation of a name is sent again, counted from the time before. The client's thread takes a reply in within
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

/// When the invalidation of an inode is sent again, counted from the time before; the last for any further time. The
/// longest bounds how long stale attributes are trusted: less than a second. Chosen.
const INODE_DELAYS: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_millis(500),
];

/// Inodes that the kernel did not know when they were invalidated.
#[derive(Debug, Default)]
pub(super) struct UnknownInodes {
    queue: BTreeSet<(Instant, NodeId)>,
    /// How often each was sent again before.
    tries: HashMap<NodeId, usize>,
}

impl UnknownInodes {
    /// Adds inodes that the kernel did not know. One that waits already keeps its place.
    pub(super) fn add(&mut self, now: Instant, nodes: HashSet<NodeId>) {
        nodes.into_iter().for_each(|node| self.push(now, node, 0));
    }

    /// Adds inodes that the kernel did not know when they were sent again.
    pub(super) fn add_again(&mut self, now: Instant, sent: Vec<(NodeId, usize)>) {
        sent.into_iter().for_each(|(node, tries)| self.push(now, node, tries + 1));
    }

    fn push(&mut self, now: Instant, node: NodeId, tries: usize) {
        if let Entry::Vacant(entry) = self.tries.entry(node) {
            entry.insert(tries);
            let delay = INODE_DELAYS[tries.min(INODE_DELAYS.len() - 1)];
            self.queue.insert((now + delay, node));
        }
    }

    /// Takes the inodes that are due, each with how often it was sent again before.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(NodeId, usize)> {
        let mut due = Vec::new();
        while let Some((_, node)) = self.queue.first().copied().filter(|(at, _)| *at <= now) {
            self.queue.pop_first();
            due.extend(self.tries.remove(&node).map(|tries| (node, tries)));
        }
        due
    }

    /// When the next inode is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
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

    #[test]
    fn an_unknown_inode_is_invalidated_at_least_every_half_second_until_it_is_known() {
        let (mut unknown, mut now) = (UnknownInodes::default(), Instant::now());
        unknown.add(now, [NodeId(6)].into());
        for _ in 0..50 {
            let due = unknown.next_due().unwrap();
            assert!(due > now && due - now <= Duration::from_millis(500));
            // A change in between neither postpones it nor adds a second one.
            unknown.add(now, [NodeId(6)].into());
            now = due;
            let sent = unknown.take_due(now);
            assert_eq!(sent.len(), 1);
            unknown.add_again(now, sent);
        }
        let sent = unknown.take_due(now + Duration::from_secs(1));
        assert_eq!((sent.len(), unknown.next_due()), (1, None));
    }
}
