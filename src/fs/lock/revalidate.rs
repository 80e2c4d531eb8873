//! Revalidates the kernel's caches when a lock is granted.
//!
//! Its holder must read what the holders before have written. The kernel may have cached the file before the lock was
//! granted, and events of later writes may still be on their way. So its caches are invalidated before the grant,
//! unless the file is as it was at the last lock through the same open file. It would not suffice to invalidate the
//! attributes: the kernel updates the file's times first and drops the pages after that, and a reader in between gets
//! the old pages.

use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

use crate::fs::file_state::FileState;
use crate::fs::{Fs, OpenFile};

/// What to do before a lock is granted: the kernel's caches of the file may be outdated.
#[derive(Debug)]
pub struct Revalidation {
    file: Arc<OpenFile>,
    /// The file's state, if it would detect later changes.
    state: Option<FileState>,
}

impl Revalidation {
    /// Records that the kernel's caches were invalidated, and are valid until the next change.
    pub fn done(self) {
        *self.file.state_at_lock() = self.state;
    }
}

impl Fs {
    /// Returns what to do before a lock is granted through an open file.
    ///
    /// `None` if the file is as it was at the last lock through it.
    #[must_use]
    pub fn revalidation(&self, handle: u64) -> Option<Revalidation> {
        let file = self.files.get(handle).ok()?;
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let seen = FileState::of(file.anchor()).ok();
        let is_multigrain = self.tree.is_multigrain(file.inode());
        let is_settled = |state: &FileState| {
            (is_multigrain && state.has_fractions())
                || state.is_settled((now.tv_sec, now.tv_nsec as u32))
        };
        let state = seen.filter(is_settled);
        let is_as_before = seen.is_some() && *file.state_at_lock() == seen;
        (!is_as_before).then_some(Revalidation { file, state })
    }
}
