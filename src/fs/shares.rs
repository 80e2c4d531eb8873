//! Divides a limited resource among users, so that no user can take all of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Caller;
use crate::idmap::MountUid;
use crate::sync::{Mutex, MutexGuard};

/// The part of the whole that is kept for root and the mounter: a sixteenth. Chosen.
const RESERVE: usize = 16;

/// Counts what each user holds of a resource.
///
/// A user may have half of what the other users leave, of all but a sixteenth. That sixteenth is for root and the mounter,
/// which may take all that is left: the root of a container may act as thousands of users.
///
/// Callers whose ids the kernel does not tell count as one user together, until that one has its full share. From then on
/// each counts as the user of its thread, which takes a look at /proc.
#[derive(Debug)]
pub struct Shares {
    max: usize,
    /// The effective uid of the daemon when it mounted.
    mounter: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// `None`: callers whose user is not known.
    users: HashMap<Option<MountUid>, usize>,
}

/// One unit that a user holds, until this is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    uid: Option<MountUid>,
}

impl Shares {
    /// Divides `max` units among all users.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        let mounter = rustix::process::geteuid().as_raw();
        Arc::new(Self { max, mounter, counts: Mutex::default() })
    }

    /// Divides the files that may be open when the process may have `limit` descriptors and caches `cached` of them.
    ///
    /// An open file takes at most two descriptors; an eighth is left for the operations on them (chosen).
    #[must_use]
    pub fn of_descriptors(limit: u64, cached: usize) -> Arc<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self::new((limit - limit / 8).saturating_sub(cached) / 2)
    }

    /// Takes a unit for a caller's user. `None` if the user has its full share.
    #[must_use]
    pub(super) fn take_for(self: &Arc<Self>, caller: &Caller) -> Option<Share> {
        let as_thread = || match caller.uid() {
            Some(_) => None,
            None => self.take(Some(caller.limited_user()?)),
        };
        self.take(caller.uid()).or_else(as_thread)
    }

    /// Takes a unit for a user. `None` if the user has its full share.
    #[must_use]
    pub fn take(self: &Arc<Self>, uid: Option<MountUid>) -> Option<Share> {
        let mut counts = self.lock();
        let own = counts.users.get(&uid).copied().unwrap_or(0);
        let left = self.max.saturating_sub(counts.total - own);
        let is_exempt = uid.is_some_and(|uid| uid.raw() == 0 || uid.raw() == self.mounter);
        let share = || left.saturating_sub(self.max / RESERVE) / 2;
        if own >= if is_exempt { left } else { share() } {
            return None;
        }
        counts.total += 1;
        *counts.users.entry(uid).or_default() += 1;
        Some(Share { shares: Arc::clone(self), uid })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.lock();
        counts.total -= 1;
        if let Some(count) = counts.users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Option<MountUid> {
        MountUid::new(uid)
    }

    fn take_all(shares: &Arc<Shares>, uid: u32) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(user(uid))).collect()
    }

    #[test]
    fn a_user_gets_half_of_what_the_others_leave_and_root_all() {
        let shares = Shares::new(64);
        let first = take_all(&shares, 1001);
        let second = take_all(&shares, 1002);
        assert_eq!((first.len(), second.len()), (30, 15));
        let root = take_all(&shares, 0);
        assert_eq!(root.len(), 19);
        assert!(shares.take(user(1003)).is_none(), "nothing is left");
        drop(root);
        assert_eq!(take_all(&shares, 1003).len(), 7);
        drop(first);
        assert_eq!(take_all(&shares, 1001).len(), 22, "what was released is available again");
        let crowd: Vec<_> = (2000..3000).map(|uid| take_all(&shares, uid)).collect();
        assert!(!take_all(&shares, 0).is_empty(), "root's reserve");
        drop((second, crowd));
        assert!(shares.lock().users.is_empty() && shares.lock().total == 0);
    }

    #[test]
    fn callers_that_the_kernel_does_not_tell_count_by_their_thread_once_their_share_is_full() {
        let shares = Shares::new(64);
        let hidden = Caller { ids: None, creates_as: None, pid: u32::MAX };
        let here = Caller { pid: std::process::id(), ..hidden };
        let first: Vec<_> = std::iter::from_fn(|| shares.take_for(&hidden)).collect();
        assert_eq!(first.len(), 30, "half, like a user");
        let own = shares.take_for(&here).expect("counted by its own user");
        assert_eq!(own.uid, user(rustix::process::getuid().as_raw()));
        assert!(shares.take(user(1000)).is_some());
    }

    #[test]
    fn descriptors_are_left_for_operations_on_open_files() {
        assert_eq!(Shares::of_descriptors(1 << 20, 4096).max, 456_704);
        assert_eq!(Shares::of_descriptors(64, 16).max, 20);
        assert_eq!(Shares::of_descriptors(10, 16).max, 0);
    }
}
