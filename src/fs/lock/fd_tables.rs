//! Remembers lock owners that are known to be descriptor tables of processes.
//!
//! Their locks are POSIX locks. The other owners may be open files.

use std::collections::{HashSet, VecDeque};

use crate::sync::{Mutex, MutexGuard};

/// Maximum number of owners that are remembered, the most recent ones.
///
/// Chosen to exceed the number of processes that hold locks on most machines. A lock that conflicts with one of a
/// forgotten owner is refused 0.75 ms later.
const MAX_OWNERS: usize = 4096;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct KnownFdTables {
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    owners: HashSet<u64>,
    in_order: VecDeque<u64>,
}

impl KnownFdTables {
    pub(super) fn insert(&self, owner: u64) {
        let mut recent = self.lock();
        if recent.owners.insert(owner) {
            recent.in_order.push_back(owner);
            if recent.in_order.len() > MAX_OWNERS
                && let Some(oldest) = recent.in_order.pop_front()
            {
                recent.owners.remove(&oldest);
            }
        }
    }

    pub(super) fn contains(&self, owner: u64) -> bool {
        self.lock().owners.contains(&owner)
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_recent_owners_are_known() {
        let known = KnownFdTables::default();
        (0..=MAX_OWNERS as u64).for_each(|owner| known.insert(owner));
        known.insert(MAX_OWNERS as u64);
        assert!(known.contains(1) && known.contains(MAX_OWNERS as u64));
        assert!(!known.contains(0), "the number is limited");
    }
}
