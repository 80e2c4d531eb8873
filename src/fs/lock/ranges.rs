//! The byte ranges that one lock owner holds on one file.

use std::collections::BTreeMap;

use crate::sys::lock::{LockKind, LockRange};

/// Ranges that do not overlap, each with the handle of the open file through which it was granted.
///
/// Adjacent ranges of the same kind and handle are merged, as in the kernel (`posix_lock_inode`).
#[derive(Debug, Default)]
pub(super) struct HeldRanges {
    by_start: BTreeMap<u64, Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// The last byte.
    end: u64,
    kind: LockKind,
    handle: u64,
}

impl Held {
    /// Returns whether adjacent ranges with these values can be merged.
    fn merges_with(&self, other: &Self) -> bool {
        (self.kind, self.handle) == (other.kind, other.handle)
    }
}

impl HeldRanges {
    /// Records that a range was granted through a handle, or unlocked.
    pub(super) fn set(&mut self, range: LockRange, handle: u64) {
        self.clear(range.start, range.end);
        if range.kind == LockKind::Unlock {
            return;
        }
        let (mut start, mut held) =
            (range.start, Held { end: range.end, kind: range.kind, handle });
        let before = self.by_start.range(..start).next_back().map(|(start, held)| (*start, *held));
        if let Some((first, before)) = before
            && before.end + 1 == start
            && before.merges_with(&held)
        {
            self.by_start.remove(&first);
            start = first;
        }
        if let Some(next) = held.end.checked_add(1)
            && let Some(after) = self.by_start.get(&next).copied()
            && after.merges_with(&held)
        {
            self.by_start.remove(&next);
            held.end = after.end;
        }
        self.by_start.insert(start, held);
    }

    /// Removes `start..=end` from all ranges, and keeps the rest of those that overlap it.
    fn clear(&mut self, start: u64, end: u64) {
        let before = self.by_start.range_mut(..start).next_back();
        if let Some((_, held)) = before
            && held.end >= start
        {
            let whole = *held;
            held.end = start - 1;
            if whole.end > end {
                self.by_start.insert(end + 1, whole);
            }
        }
        while let Some((first, held)) = self.by_start.range(start..=end).next() {
            let (first, held) = (*first, *held);
            self.by_start.remove(&first);
            if held.end > end {
                self.by_start.insert(end + 1, held);
            }
        }
    }

    pub(super) fn clear_all(&mut self) {
        self.by_start.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = LockRange> {
        self.by_start.iter().map(|(start, held)| LockRange {
            start: *start,
            end: held.end,
            kind: held.kind,
        })
    }

    /// Returns the ranges that were granted through a handle.
    pub(super) fn granted_through(&self, handle: u64) -> Vec<LockRange> {
        let through = self.by_start.iter().filter(|(_, held)| held.handle == handle);
        through
            .map(|(start, held)| LockRange { start: *start, end: held.end, kind: held.kind })
            .collect()
    }

    /// Returns the parts of the ranges that lie within another, each with the handle through which it was granted.
    pub(super) fn within(&self, range: &LockRange) -> Vec<(LockRange, u64)> {
        let overlaps = |start: u64, held: &Held| start <= range.end && range.start <= held.end;
        let part = |(start, held): (&u64, &Held)| {
            let (start, end) = ((*start).max(range.start), held.end.min(range.end));
            (LockRange { start, end, kind: held.kind }, held.handle)
        };
        self.by_start.iter().filter(|(start, held)| overlaps(**start, held)).map(part).collect()
    }

    /// Returns whether one of the ranges conflicts with a lock that another owner requests.
    pub(super) fn conflicts_with(&self, asked: &LockRange) -> bool {
        self.iter().any(|held| {
            (held.start <= asked.end && asked.start <= held.end)
                && (held.kind == LockKind::Write || asked.kind == LockKind::Write)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(kind: LockKind, start: u64, end: u64) -> LockRange {
        LockRange { start, end, kind }
    }

    #[test]
    fn unlocking_the_middle_leaves_both_ends() {
        let mut held = HeldRanges::default();
        held.set(range(LockKind::Read, 0, 9), 1);
        held.set(range(LockKind::Unlock, 3, 5), 1);
        let left: Vec<_> = held.iter().collect();
        assert_eq!(left, [range(LockKind::Read, 0, 2), range(LockKind::Read, 6, 9)]);
        held.set(range(LockKind::Unlock, 0, u64::MAX), 1);
        assert!(held.is_empty());
    }

    #[test]
    fn adjacent_ranges_are_merged_unless_they_came_through_different_files() {
        let mut held = HeldRanges::default();
        (0..1000).for_each(|at| held.set(range(LockKind::Write, at, at), 1));
        assert_eq!(held.iter().collect::<Vec<_>>(), [range(LockKind::Write, 0, 999)]);
        held.set(range(LockKind::Write, 1000, i64::MAX as u64), 2);
        assert_eq!(held.iter().count(), 2);
        assert_eq!(held.granted_through(1), [range(LockKind::Write, 0, 999)]);
    }

    #[test]
    fn readers_conflicts_with_writers_only() {
        let mut held = HeldRanges::default();
        held.set(range(LockKind::Read, 10, 19), 1);
        assert!(!held.conflicts_with(&range(LockKind::Read, 0, 50)));
        assert!(held.conflicts_with(&range(LockKind::Write, 19, 19)));
        assert!(!held.conflicts_with(&range(LockKind::Write, 20, 50)));
    }

    proptest! {
        #[test]
        fn each_byte_is_held_as_it_was_last_set(
            steps in proptest::collection::vec((0u8..3, 0u64..3, 0u64..30, 0u64..12), 0..25),
        ) {
            let mut held = HeldRanges::default();
            let mut bytes = [None; 50];
            for (kind, handle, start, len) in steps {
                let kind = [LockKind::Unlock, LockKind::Read, LockKind::Write][usize::from(kind)];
                let range = range(kind, start, start + len);
                held.set(range, handle);
                let set = (kind != LockKind::Unlock).then_some((kind, handle));
                bytes[start as usize..=(start + len) as usize].fill(set);
                for (at, byte) in bytes.iter().enumerate() {
                    let at = at as u64;
                    let mut over = held.by_start.iter().filter(|(s, h)| **s <= at && at <= h.end);
                    prop_assert_eq!(over.next().map(|(_, h)| (h.kind, h.handle)), *byte);
                    prop_assert!(over.next().is_none(), "two ranges cover one byte");
                }
            }
        }
    }
}
