//! How many workers may serve one user.
//!
//! Requests that are blocked on the source, by a dead server of a submount for example, must not take all workers. So a
//! user may have at most [`MAX_PER_USER`] of them, and at most half of what the other users leave; some are kept for root
//! and the mounter. A user whose further requests wait in the backlog (`backlog.rs`) leaves workers to the next user,
//! however many users there are before: the root of a container may act as thousands of users.

use std::collections::HashMap;

use super::worker_slot::WorkerSlot;

/// The most workers that serve one user, or the base number where that is larger. Chosen.
pub(super) const MAX_PER_USER: usize = 64;
/// How many workers are kept for root and the mounter. Chosen.
const RESERVED: usize = 32;

/// How many workers serve each user at one moment.
#[derive(Debug, Default)]
pub(super) struct WorkerShares {
    by_user: HashMap<u32, usize>,
    total: usize,
}

impl WorkerShares {
    pub(super) fn count<'a>(slots: impl Iterator<Item = &'a WorkerSlot>) -> Self {
        slots.filter_map(WorkerSlot::current_user).collect()
    }

    /// Whether a user has as many workers as it may have of those of a pool. `base`: the number of the pool's workers while
    /// none is blocked; `mounter`: the user that has what root has.
    pub(super) fn is_full(&self, uid: u32, workers: usize, base: usize, mounter: u32) -> bool {
        let own = self.by_user.get(&uid).copied().unwrap_or(0);
        let left = workers.saturating_sub(self.total - own);
        let share = match uid == 0 || uid == mounter {
            true => left,
            false => fair_share(left.saturating_sub(RESERVED)),
        };
        own >= share.min(MAX_PER_USER.max(base))
    }
}

impl FromIterator<u32> for WorkerShares {
    fn from_iter<T: IntoIterator<Item = u32>>(uids: T) -> Self {
        let mut shares = Self::default();
        for uid in uids {
            *shares.by_user.entry(uid).or_default() += 1;
            shares.total += 1;
        }
        shares
    }
}

/// Half of what the other users leave; one as long as they leave any, so that a user without any is served.
pub(super) fn fair_share(left: usize) -> usize {
    left.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: usize = 258;

    /// Lets a user take as many workers as it may; returns how many.
    fn take_all(serving: &mut Vec<u32>, uid: u32) -> usize {
        let before = serving.len();
        let is_full = |serving: &[u32]| {
            let shares: WorkerShares = serving.iter().copied().collect();
            shares.is_full(uid, WORKERS, 2, 500)
        };
        while !is_full(serving) {
            serving.push(uid);
        }
        serving.len() - before
    }

    #[test]
    fn users_that_take_all_they_may_leave_workers_to_others_and_to_root() {
        let mut serving = Vec::new();
        let taken: Vec<usize> = (1000..1005).map(|uid| take_all(&mut serving, uid)).collect();
        assert_eq!(taken, [64, 64, 49, 25, 12]);
        assert!((1005..3000).all(|uid| take_all(&mut serving, uid) < 12));
        assert_eq!(serving.len(), WORKERS - RESERVED);
        assert_eq!((take_all(&mut serving, 500), take_all(&mut serving, 0)), (32, 0));
        serving.retain(|uid| *uid != 500);
        assert_eq!(take_all(&mut serving, 0), 32);
        serving.retain(|uid| *uid != 1000);
        assert_eq!(take_all(&mut serving, 4000), 16, "half of what was released");
    }

    #[test]
    fn a_user_alone_has_at_most_its_maximum_or_the_base_number() {
        assert_eq!(take_all(&mut Vec::new(), 1000), MAX_PER_USER);
        let many: WorkerShares = std::iter::repeat_n(1000, 80).collect();
        assert!(many.is_full(1000, 356, 64, 0) && !many.is_full(1000, 356, 100, 0));
    }
}
