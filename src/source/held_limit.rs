//! The limit of held inodes (`held.rs`), for the thread that has the kernel evict some.

use std::time::Duration;

use super::mounts::{MountIndex, ReopenMethod};
use super::node_id::NodeId;
use super::tree::SourceTree;

impl SourceTree {
    /// Sets how many inodes may be held by descriptors.
    pub fn set_max_held(&self, max: usize) {
        self.table.held.set_max(max);
    }

    /// Returns whether all inodes are held by descriptors, unless they are on another mount than the root.
    #[must_use]
    pub fn holds_inodes(&self) -> bool {
        self.mounts.reopen_method(MountIndex::ROOT) == ReopenMethod::HeldFd
    }

    /// Returns how many inodes that were held by descriptors the kernel has forgotten so far.
    #[must_use]
    pub fn forgotten_count(&self) -> usize {
        self.table.held.forgotten()
    }

    /// Returns how many inodes are held by descriptors.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.table.held.count()
    }

    /// Waits until so many inodes are held by descriptors that the kernel should evict some.
    pub fn wait_until_crowded(&self) {
        self.table.held.wait_until_crowded();
    }

    /// Returns whether so many inodes are still held by descriptors that the kernel should evict some.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.table.held.is_crowded()
    }

    /// Waits until the kernel has forgotten enough inodes that were held, for `time` at most.
    pub fn wait_for_evictions(&self, time: Duration) {
        self.table.held.wait_for_evictions(time);
    }

    /// Records that the kernel could evict none of the inodes that are held by descriptors.
    pub fn note_all_held_used(&self) {
        self.table.held.note_all_used();
    }

    /// Returns the node ids of inodes that are held by descriptors, those that were looked up first. The next call
    /// returns others, and these again after all others.
    #[must_use]
    pub fn oldest_held(&self, most: usize) -> Vec<NodeId> {
        self.table.held.oldest(most, |held| self.is_known(held))
    }
}
