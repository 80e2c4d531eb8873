//! The invalidations of one directory, which wait for its lock.

use std::collections::HashSet;
use std::ffi::OsString;

use super::notifier::Notifier;
use crate::source::NodeId;

/// The invalidations of one directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DirInvals {
    /// Names to invalidate.
    pub(super) names: HashSet<OsString>,
    /// Names to expire.
    pub(super) expired: HashSet<OsString>,
    /// Whether to invalidate its listing.
    pub(super) listing: bool,
    /// Inodes that a lookup under way in the directory may be about to bring to the kernel.
    pub(super) inodes: HashSet<NodeId>,
}

impl DirInvals {
    /// Adds more of the same directory.
    pub(super) fn merge(&mut self, more: Self) {
        self.names.extend(more.names);
        self.expired.extend(more.expired);
        self.listing |= more.listing;
        self.inodes.extend(more.inodes);
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.expired.is_empty() && !self.listing && self.inodes.is_empty()
    }

    /// Sends everything. Returns what is to be sent again: what the kernel did not know, and a lookup under way may be
    /// about to bring to it.
    pub(super) fn send(mut self, dir: NodeId, notifier: &impl Notifier) -> Self {
        let had_names = !self.names.is_empty();
        self.expired.retain(|name| !self.names.contains(name));
        self.names.retain(|name| !notifier.inval_entry(dir, name));
        self.expired.retain(|name| !notifier.expire_entry(dir, name));
        if std::mem::take(&mut self.listing) {
            notifier.inval_readdir(dir);
        }
        let waits = notifier.waits_for_lookups();
        // To invalidate a name has waited for the directory's lock already.
        if waits && !had_names && !self.inodes.is_empty() {
            notifier.barrier(dir);
        }
        self.inodes.retain(|node| !notifier.inval_inode(*node));
        if waits { Self::default() } else { self }
    }
}
