//! What a lock is for: whoever gets one reads what those who held it before him have written.
//!
//! The kernel's caches of the file are from before he got it. Notices of what others have changed come milliseconds later,
//! and one that comes while the kernel asks for attributes makes it disregard the answer (Linux
//! `fuse_change_attributes`), so that it reads on from the pages that it has. So they are dropped before the lock is
//! granted, unless the file is as it was at the last lock through the same open file.

use std::ffi::CStr;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp, fstatfs, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::fs::{Fs, OpenFile};
use crate::source::LONGEST_TICK;

/// What a file was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct State {
    size: u64,
    modified: Time,
    changed: Time,
}

/// Seconds and nanoseconds since the epoch.
type Time = (i64, u32);

impl State {
    fn of(file: &OpenFile) -> Result<Self, Errno> {
        let stat = statx(file.anchor(), c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let (modified, changed) = (time(stat.stx_mtime), time(stat.stx_ctime));
        Ok(Self { size: stat.stx_size, modified, changed })
    }

    /// Whether every change after this time leaves other times: not in the tick of the last one.
    fn is_settled(&self, now: Time) -> bool {
        let nanoseconds = |(s, ns): Time| i128::from(s) * 1_000_000_000 + i128::from(ns);
        let age = nanoseconds(now) - nanoseconds(self.modified.max(self.changed));
        age > LONGEST_TICK.as_nanos() as i128
    }
}

impl Fs {
    /// Whether a file may have changed since the last lock that was granted through an open file of it: true for the
    /// first. To be asked when one is granted.
    #[must_use]
    pub fn has_changed_since_lock(&self, handle: u64) -> bool {
        let Ok(file) = self.files.get(handle) else { return true };
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let state = State::of(&file).ok();
        let is_settled = |state: &State| {
            state.is_settled((now.tv_sec, now.tv_nsec as u32)) || tells_all_changes(&file)
        };
        let settled = state.filter(is_settled);
        let before = std::mem::replace(&mut *file.at_lock(), settled);
        before.is_none() || before != state
    }
}

/// The magic numbers of the filesystems with times of many grains: ext4, xfs, btrfs, tmpfs.
const MULTIGRAIN: [i64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];
/// The first kernel that has them.
const MULTIGRAIN_SINCE: (u32, u32) = (6, 13);

/// Whether each change after a look at a file gives it other times, within a tick as well (Linux
/// Documentation/filesystems/multigrain-ts.rst).
fn tells_all_changes(file: &OpenFile) -> bool {
    static KERNEL: OnceLock<bool> = OnceLock::new();
    let has_kernel = *KERNEL.get_or_init(|| {
        version(rustix::system::uname().release()).is_some_and(|v| v >= MULTIGRAIN_SINCE)
    });
    has_kernel && fstatfs(file.anchor()).is_ok_and(|fs| MULTIGRAIN.contains(&fs.f_type))
}

fn version(release: &CStr) -> Option<(u32, u32)> {
    let mut numbers = release.to_str().ok()?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_read_from_its_release() {
        assert_eq!(version(c"6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version(c"7.0"), Some((7, 0)));
        assert_eq!(version(c"6.1-rc3+"), Some((6, 1)));
        assert_eq!(version(c"next"), None);
        assert!(version(c"7.0") > Some(MULTIGRAIN_SINCE));
    }

    #[test]
    fn a_state_is_settled_when_the_tick_of_its_last_change_is_over() {
        let state = State { size: 1, modified: (5, 999_999_999), changed: (5, 0) };
        assert!(!state.is_settled((5, 999_999_999)));
        assert!(!state.is_settled((6, 10_000_000)), "a tick of HZ=100");
        assert!(state.is_settled((6, 20_000_000)));
        let changed = State { changed: (6, 15_000_000), ..state };
        assert!(!changed.is_settled((6, 20_000_000)));
        assert!(!state.is_settled((4, 0)), "the clock was set");
    }
}
