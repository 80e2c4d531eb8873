//! Revalidates the kernel's caches when a lock is granted.
//!
//! Its holder must read what the holders before have written. The kernel may have cached the file before the lock was
//! granted, and events of later writes may still be on their way. So its caches are invalidated before the grant,
//! unless the file is as it was at the last lock through the same open file. It would not suffice to invalidate the
//! attributes: the kernel updates the file's times first and drops the pages after that, and a reader in between gets
//! the old pages.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::fs::{Fs, OpenFile};
use crate::source::MAX_TICK;

/// Size and times of a file at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct FileState {
    size: u64,
    modified: Time,
    changed: Time,
}

/// Seconds and nanoseconds since the epoch.
type Time = (i64, u32);

/// Longest granularity of times without fractions of a second, as on vfat (2 s).
const MAX_TIME_GRAIN: Duration = Duration::from_millis(2100);

impl FileState {
    fn of(file: &OpenFile) -> Result<Self, Errno> {
        let stat = statx(file.anchor(), c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let (modified, changed) = (time(stat.stx_mtime), time(stat.stx_ctime));
        Ok(Self { size: stat.stx_size, modified, changed })
    }

    fn has_fractions(&self) -> bool {
        self.modified.1 != 0 || self.changed.1 != 0
    }

    /// Returns whether every later change would give the file other times.
    ///
    /// That is so once the granularity of its last change has passed.
    fn is_settled(&self, now: Time) -> bool {
        let nanoseconds = |(s, ns): Time| i128::from(s) * 1_000_000_000 + i128::from(ns);
        let age = nanoseconds(now) - nanoseconds(self.modified.max(self.changed));
        let grain = if self.has_fractions() { MAX_TICK } else { MAX_TIME_GRAIN };
        age > grain.as_nanos() as i128
    }
}

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
        let seen = FileState::of(&file).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_settled_when_the_grain_of_its_last_change_is_over() {
        let state = FileState { size: 1, modified: (5, 999_999_999), changed: (5, 0) };
        assert!(!state.is_settled((5, 999_999_999)));
        assert!(!state.is_settled((6, 10_000_000)), "a tick of HZ=100");
        assert!(state.is_settled((6, 20_000_000)));
        let changed = FileState { changed: (6, 15_000_000), ..state };
        assert!(!changed.is_settled((6, 20_000_000)));
        assert!(!state.is_settled((4, 0)), "the clock was set");
        let coarse = FileState { modified: (6, 0), ..state };
        assert!(!coarse.is_settled((7, 999_999_999)) && coarse.is_settled((8, 200_000_000)));
    }
}
