//! Bounds how many inodes are held by descriptors.
//!
//! Where a filesystem has no file handles, each inode that the kernel knows takes a descriptor, and the kernel knows an
//! inode for as long as it has memory to spare. Before the daemon runs out of descriptors it therefore asks the kernel
//! to evict those that it only caches, the oldest first; the FORGET of each closes its descriptor. The daemon does not
//! see which inodes a client uses from the kernel's cache, so the order is that in which they were looked up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::node_id::NodeId;
use crate::sync::{Condvar, Mutex};

/// How long a lookup waits at most for the kernel to evict another inode. Chosen: evictions take microseconds, and a
/// client must not wait for long where all inodes are in use.
const MAX_WAIT: Duration = Duration::from_millis(200);
/// The queue also has entries of inodes that are gone, which are removed when there are more than so many of them and
/// more than of known ones. Chosen.
const MAX_STALE: usize = 1024;

/// A held inode: its node id, and its serial number, since the node id may be used again.
type HeldInode = (NodeId, u64);

/// The inodes that are held by descriptors. See the module's head.
#[derive(Debug)]
pub(super) struct HeldInodes {
    /// In the order of the lookups, with some that are gone.
    queue: Mutex<VecDeque<HeldInode>>,
    count: AtomicUsize,
    max: AtomicUsize,
    /// How many the kernel has forgotten so far; it wraps around.
    forgotten: AtomicUsize,
    /// The kernel was asked to evict each of them and evicted none: they are in use.
    all_used: AtomicBool,
    /// Notified when more are held than [`Self::high`].
    crowded: Condvar,
    /// Notified when one is gone while many are held.
    freed: Condvar,
}

impl Default for HeldInodes {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            count: AtomicUsize::new(0),
            max: AtomicUsize::new(usize::MAX),
            forgotten: AtomicUsize::new(0),
            all_used: AtomicBool::new(false),
            crowded: Condvar::default(),
            freed: Condvar::default(),
        }
    }
}

impl HeldInodes {
    /// Sets how many may be held.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// How many are held.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// How many the kernel has forgotten so far.
    pub(super) fn forgotten(&self) -> usize {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// The number above which the kernel is asked to evict some.
    fn high(&self) -> usize {
        let max = self.max.load(Ordering::Relaxed);
        max - max / 4
    }

    /// The number down to which it is asked.
    fn low(&self) -> usize {
        self.max.load(Ordering::Relaxed) / 2
    }

    /// Adds an inode that was looked up first.
    pub(super) fn add(&self, node: NodeId, serial: u64) {
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.queue.lock().push_back((node, serial));
        if count > self.high() {
            self.crowded.notify_one();
        }
    }

    /// Records that the kernel could evict none of them: until it forgets one, a lookup does not wait.
    pub(super) fn note_all_used(&self) {
        self.all_used.store(true, Ordering::Relaxed);
        drop(self.queue.lock());
        self.freed.notify_all();
    }

    /// Removes one that the kernel has forgotten.
    pub(super) fn remove(&self) {
        let before = self.count.fetch_sub(1, Ordering::AcqRel);
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        if self.all_used.load(Ordering::Relaxed) {
            self.all_used.store(false, Ordering::Relaxed);
        }
        if before > self.low() {
            // With the lock, or the notification could come between a waiter's look at the count and its wait.
            drop(self.queue.lock());
            self.freed.notify_all();
        }
    }

    /// Waits until more are held than [`Self::high`].
    pub(super) fn wait_until_crowded(&self) {
        let mut queue = self.queue.lock();
        while self.count() <= self.high() {
            queue = self.crowded.wait(queue);
        }
    }

    /// Whether the kernel is to evict more.
    pub(super) fn is_crowded(&self) -> bool {
        self.count() > self.low()
    }

    /// Waits until the kernel has forgotten enough, for `time` at most.
    pub(super) fn wait_for_evictions(&self, time: Duration) {
        self.wait_while(time, || self.is_crowded());
    }

    /// Waits for room for one more, for a moment at most.
    pub(super) fn wait_for_room(&self) {
        let max = self.max.load(Ordering::Relaxed);
        let waits = || self.count() >= max && !self.all_used.load(Ordering::Relaxed);
        if waits() {
            self.wait_while(MAX_WAIT, waits);
        }
    }

    fn wait_while(&self, time: Duration, holds: impl Fn() -> bool) {
        let end = Instant::now() + time;
        let mut queue = self.queue.lock();
        while holds() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.freed.wait_timeout(queue, left);
        }
    }

    /// Returns the oldest that are still known, and makes them the newest, since the kernel may use them.
    pub(super) fn oldest(&self, most: usize, is_known: impl Fn(HeldInode) -> bool) -> Vec<NodeId> {
        // Not under the lock: `is_known` takes that of a shard, under which inodes are added here.
        let mut nodes = Vec::new();
        loop {
            let (taken, is_all): (Vec<HeldInode>, bool) = {
                let mut queue = self.queue.lock();
                let len = (most - nodes.len()).min(queue.len());
                (queue.drain(..len).collect(), queue.is_empty())
            };
            let known: Vec<HeldInode> = taken.into_iter().filter(|held| is_known(*held)).collect();
            nodes.extend(known.iter().map(|(node, _)| *node));
            self.queue.lock().extend(known);
            if is_all || nodes.len() >= most {
                return nodes;
            }
        }
    }

    /// Removes the entries of inodes that are gone, if they are many; to be called every second.
    pub(super) fn sweep(&self, is_known: impl Fn(HeldInode) -> bool) {
        let len = self.queue.lock().len();
        if len.saturating_sub(self.count()) <= self.count().max(MAX_STALE) {
            return;
        }
        let all = std::mem::take(&mut *self.queue.lock());
        let mut known: VecDeque<HeldInode> =
            all.into_iter().filter(|held| is_known(*held)).collect();
        let mut queue = self.queue.lock();
        known.append(&mut queue);
        *queue = known;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(count: u64, max: usize) -> HeldInodes {
        let held = HeldInodes::default();
        held.set_max(max);
        (0..count).for_each(|at| held.add(NodeId(at), at));
        held
    }

    #[test]
    fn the_oldest_come_first_and_those_in_use_once_more_after_all_others() {
        let held = held(5, 8);
        assert_eq!(held.oldest(2, |_| true), [NodeId(0), NodeId(1)]);
        assert_eq!(held.oldest(2, |(node, _)| node != NodeId(2)), [NodeId(3), NodeId(4)]);
        assert_eq!(held.oldest(9, |_| true), [NodeId(0), NodeId(1), NodeId(3), NodeId(4)]);
        assert!(held.oldest(9, |_| false).is_empty());
        assert!(held.oldest(9, |_| true).is_empty());
    }

    #[test]
    fn a_lookup_waits_for_room_but_not_for_ever() {
        let held = held(8, 8);
        let begin = Instant::now();
        held.wait_for_room();
        assert!(begin.elapsed() >= MAX_WAIT, "all are in use");
        held.note_all_used();
        let begin = Instant::now();
        held.wait_for_room();
        assert!(begin.elapsed() < MAX_WAIT, "that is known");
        held.remove();
        held.add(NodeId(8), 8);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let begin = Instant::now();
                held.wait_for_room();
                begin.elapsed()
            });
            std::thread::sleep(Duration::from_millis(10));
            held.remove();
            assert!(waits.join().unwrap() < MAX_WAIT);
        });
        held.wait_until_crowded();
        assert!(held.is_crowded());
        (0..3).for_each(|_| held.remove());
        assert!(!held.is_crowded());
        held.wait_for_evictions(Duration::from_secs(60));
    }

    #[test]
    fn entries_of_forgotten_inodes_do_not_accumulate() {
        let held = held(5000, usize::MAX);
        (0..4990).for_each(|_| held.remove());
        held.sweep(|(node, _)| node.0 >= 4990);
        assert_eq!((held.count(), held.queue.lock().len()), (10, 10));
    }
}
