//! Size and times of a file, by which a later look tells whether it has changed.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use crate::source::MAX_TICK;

/// Size and times of a file at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    size: u64,
    modified: Time,
    changed: Time,
}

/// Seconds and nanoseconds since the epoch.
type Time = (i64, u32);

/// Longest granularity of times without fractions of a second, as on vfat (2 s).
const MAX_TIME_GRAIN: Duration = Duration::from_millis(2100);

impl FileState {
    /// Reads the state of an inode.
    pub(super) fn of(fd: impl AsFd) -> Result<Self, Errno> {
        let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let (modified, changed) = (time(stat.stx_mtime), time(stat.stx_ctime));
        Ok(Self { size: stat.stx_size, modified, changed })
    }

    /// Returns whether the times have fractions of a second.
    pub(super) fn has_fractions(&self) -> bool {
        self.modified.1 != 0 || self.changed.1 != 0
    }

    /// Returns whether every later change would give the file other times.
    ///
    /// That is so once the granularity of its last change has passed.
    pub(super) fn is_settled(&self, now: Time) -> bool {
        let nanoseconds = |(s, ns): Time| i128::from(s) * 1_000_000_000 + i128::from(ns);
        let age = nanoseconds(now) - nanoseconds(self.modified.max(self.changed));
        let grain = if self.has_fractions() { MAX_TICK } else { MAX_TIME_GRAIN };
        age > grain.as_nanos() as i128
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
