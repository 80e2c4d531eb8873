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
}

impl DirInvals {
    /// Adds more of the same directory.
    pub(super) fn merge(&mut self, more: Self) {
        self.names.extend(more.names);
        self.expired.extend(more.expired);
        self.listing |= more.listing;
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.expired.is_empty() && !self.listing
    }

    /// Sends everything. Returns what is to be sent again: names that the kernel did not know, where a lookup under way
    /// may be about to bring them to it.
    pub(super) fn send(mut self, dir: NodeId, notifier: &impl Notifier) -> Self {
        self.expired.retain(|name| !self.names.contains(name));
        self.names.retain(|name| !notifier.inval_entry(dir, name));
        self.expired.retain(|name| !notifier.expire_entry(dir, name));
        if std::mem::take(&mut self.listing) {
            notifier.inval_readdir(dir);
        }
        // Else the notification has waited for the lookups under way.
        if notifier.waits_for_lookups() { Self::default() } else { self }
    }
}
