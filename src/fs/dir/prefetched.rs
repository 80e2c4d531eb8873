//! Entries that were looked up before a client has asked for them.

use std::collections::VecDeque;
use std::time::Instant;

use crate::source::PeekedInode;

/// The prefetched entries of a stream, from its position on.
#[derive(Debug)]
pub(super) struct Prefetched {
    pub(super) since: Instant,
    /// Event count of the directory's mark before the prefetch.
    pub(super) event_seq: u32,
    /// Change count of the mount before the prefetch.
    pub(super) changes: u32,
    /// `None` for an entry that must be looked up.
    pub(super) entries: VecDeque<Option<PeekedInode>>,
}

impl Prefetched {
    /// Returns the event count of the directory's mark before the prefetch.
    pub(super) fn event_seq(&self) -> u32 {
        self.event_seq
    }

    /// Returns the prefetched inode of the entry at the stream's position.
    pub(super) fn first(&self) -> Option<&PeekedInode> {
        self.entries.front()?.as_ref()
    }

    /// Moves on by one entry. Returns whether any are left.
    pub(super) fn advance(&mut self) -> bool {
        self.entries.pop_front();
        !self.entries.is_empty()
    }
}
