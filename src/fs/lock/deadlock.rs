//! Detects deadlocks among POSIX locks of the mount's clients.
//!
//! The kernel detects them among POSIX locks (`posix_locks_deadlock`), but not among the open file description locks
//! that the daemon holds in their place on the source.
//!
//! Only waits for POSIX locks are in the graph, as in the kernel: any process may use an open file, so that a wait for
//! a lock of it does not say which process will unlock. All threads of a process count as one waiter, as in the kernel.
//! So two threads of one process that each wait for another process may get EDEADLK although a third thread would
//! unlock.

use std::collections::{HashSet, VecDeque};

use rustix::io::Errno;

use super::LockRange;
use crate::fs::Result;
use crate::source::NodeId;
use crate::sync::{Mutex, MutexGuard};

/// Maximum number of waits that one search visits.
///
/// It bounds the time for which a search blocks others. Chosen; the kernel visits 10 (MAX_DEADLK_ITERATIONS).
const MAX_VISITED: usize = 64;

/// The current waits for POSIX locks.
#[derive(Debug, Default)]
pub(super) struct WaitGraph {
    waits: Mutex<Vec<Wait>>,
}

/// An owner that waits for a range of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    /// The number of the request (`fuse_in_header.unique`).
    pub(super) unique: u64,
    pub(super) node: NodeId,
    pub(super) owner: u64,
    pub(super) range: LockRange,
}

/// Keeps a wait in the graph until it is dropped.
pub(super) struct GraphEntry<'a> {
    graph: &'a WaitGraph,
    unique: u64,
}

impl Drop for GraphEntry<'_> {
    fn drop(&mut self) {
        self.graph.lock().retain(|wait| wait.unique != self.unique);
    }
}

impl WaitGraph {
    /// Adds a wait for a POSIX lock. `blockers` are the owners whose locks one waits for.
    ///
    /// EDEADLK if an owner that holds the range waits for this owner, directly or over other owners.
    pub(super) fn begin(
        &self,
        wait: Wait,
        blockers: impl Fn(&Wait) -> Vec<u64>,
    ) -> Result<GraphEntry<'_>> {
        // Locked during the search: if two new waits form a cycle together, the second search finds it.
        let mut waits = self.lock();
        if closes_cycle(&wait, &waits, blockers) {
            return Err(Errno::DEADLK);
        }
        waits.push(wait);
        Ok(GraphEntry { graph: self, unique: wait.unique })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Wait>> {
        self.waits.lock()
    }
}

/// Returns whether a new wait closes a cycle with those in the graph.
fn closes_cycle(new: &Wait, waits: &[Wait], blockers: impl Fn(&Wait) -> Vec<u64>) -> bool {
    if waits.is_empty() {
        return false;
    }
    let (mut seen, mut next) = (HashSet::new(), VecDeque::from([*new]));
    for _ in 0..MAX_VISITED {
        let Some(wait) = next.pop_front() else { return false };
        for owner in blockers(&wait) {
            if owner == new.owner {
                return true;
            }
            if seen.insert(owner) {
                next.extend(waits.iter().filter(|wait| wait.owner == owner));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::lock::LockKind;

    /// Owner `owner` waits for a range that owner `at` holds.
    fn wait(owner: u64, at: u64) -> Wait {
        let range = LockRange { start: at, end: at, kind: LockKind::Write };
        Wait { unique: owner, node: NodeId(1), owner, range }
    }

    #[test]
    fn a_cycle_is_found_and_a_chain_is_none() {
        let holder = |wait: &Wait| vec![wait.range.start];
        let waits = [wait(2, 3), wait(3, 4)];
        assert!(!closes_cycle(&wait(1, 2), &waits, holder), "owner 4 does not wait");
        assert!(closes_cycle(&wait(4, 2), &waits, holder));
        assert!(closes_cycle(&wait(3, 2), &waits, holder), "another thread of owner 3");
        assert!(
            !closes_cycle(&wait(1, 2), &[wait(2, 3), wait(3, 2)], holder),
            "a cycle without owner 1"
        );
    }

    #[test]
    fn one_of_several_blockers_suffices() {
        let waits = [wait(8, 1)];
        assert!(closes_cycle(&wait(1, 5), &waits, |wait| match wait.owner {
            1 => vec![5, 8],
            _ => vec![wait.range.start],
        }));
    }

    #[test]
    fn a_search_visits_a_limited_number_of_waits() {
        let waits: Vec<_> = (2..5000).map(|owner| wait(owner, owner + 1)).collect();
        let visited = std::cell::Cell::new(0);
        let holder = |wait: &Wait| {
            visited.set(visited.get() + 1);
            vec![wait.range.start]
        };
        assert!(!closes_cycle(&wait(1, 2), &waits, holder));
        assert_eq!(visited.get(), MAX_VISITED);
    }
}
