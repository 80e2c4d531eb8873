//! The table of lock owners, by file.
//!
//! A request that uses an owner has a [`Claim`] on it. An owner stays in the table, with the description that holds its
//! locks, while it holds a lock or a request has a claim. Both are checked under the table's mutex, so that no request
//! can get a lock on a description that is about to be closed.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::LockRange;
use super::closing::Closing;
use super::deadlock::{GraphEntry, Wait, WaitGraph};
use super::fd_tables::KnownFdTables;
use super::owner::Owner;
use super::waiters::Waiters;
use crate::fs::Result;
use crate::source::NodeId;
use crate::sync::{Mutex, MutexGuard};

/// The locks of one mount.
#[derive(Debug, Default)]
pub(in crate::fs) struct Locks {
    files: Mutex<HashMap<NodeId, HashMap<u64, Entry>>>,
    /// Number of files with owners. While it is 0, as on most mounts, requests do not take the mutex.
    count: AtomicUsize,
    waits: WaitGraph,
    pub(super) fd_tables: KnownFdTables,
    pub(super) closing: Closing,
    pub(in crate::fs) waiters: Arc<Waiters>,
}

#[derive(Debug)]
struct Entry {
    owner: Arc<Owner>,
    claims: usize,
}

/// Keeps an owner in the table until it is dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    locks: &'a Locks,
    node: NodeId,
    owner: Arc<Owner>,
}

impl Deref for Claim<'_> {
    type Target = Owner;

    fn deref(&self) -> &Owner {
        &self.owner
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut files = self.locks.lock();
        let Some(owners) = files.get_mut(&self.node) else { return };
        let Some(entry) = owners.get_mut(&self.owner.id()) else { return };
        entry.claims -= 1;
        if entry.claims == 0 && entry.owner.is_idle() {
            // The description is closed with `self.owner`, after the mutex is unlocked.
            owners.remove(&self.owner.id());
        }
        if owners.is_empty() {
            files.remove(&self.node);
            self.locks.count.store(files.len(), Ordering::Release);
        }
    }
}

impl Locks {
    /// Claims an owner on a file, and adds it to the table if it is new.
    pub(super) fn claim(&self, node: NodeId, owner: u64) -> Claim<'_> {
        let mut files = self.lock();
        let new = || Entry { owner: Arc::new(Owner::new(owner)), claims: 0 };
        let entry = files.entry(node).or_default().entry(owner).or_insert_with(new);
        entry.claims += 1;
        let owner = Arc::clone(&entry.owner);
        self.count.store(files.len(), Ordering::Release);
        Claim { locks: self, node, owner }
    }

    /// Claims an owner on a file, if it is in the table.
    pub(super) fn claim_known(&self, node: NodeId, owner: u64) -> Option<Claim<'_>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut files = self.lock();
        let entry = files.get_mut(&node)?.get_mut(&owner)?;
        entry.claims += 1;
        Some(Claim { locks: self, node, owner: Arc::clone(&entry.owner) })
    }

    /// Releases all locks of an owner on a file.
    ///
    /// The kernel sends FLUSH when a process closes any descriptor of the file, which releases its locks (fcntl(2)).
    pub(in crate::fs) fn release(&self, node: NodeId, owner: u64) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        self.fd_tables.insert(owner);
        if let Some(owner) = self.claim_known(node, owner) {
            owner.release();
        }
    }

    /// Releases the locks that were granted through an open file, at its last close.
    ///
    /// Those are open file description locks: POSIX locks have been released by the FLUSH before.
    pub(in crate::fs) fn release_through(&self, node: NodeId, handle: u64) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let owners: Vec<u64> = {
            let files = self.lock();
            let Some(owners) = files.get(&node) else { return };
            let through = |entry: &Entry| !entry.owner.held().granted_through(handle).is_empty();
            owners.iter().filter(|(_, entry)| through(entry)).map(|(id, _)| *id).collect()
        };
        for owner in owners {
            if let Some(owner) = self.claim_known(node, owner) {
                owner.release_through(handle);
            }
        }
    }

    /// Returns the process that holds a conflicting lock through this mount; 0 if it is held elsewhere.
    pub(super) fn holder(&self, node: NodeId, not: u64, range: LockRange) -> i32 {
        let owners = self.owners(node);
        let mut owners = owners.iter().filter(|owner| owner.id() != not);
        let holder = owners.find(|owner| {
            let held = owner.held();
            held.iter().any(|held| held.start <= range.end && range.start <= held.end)
        });
        holder.map_or(0, |owner| owner.pid() as i32)
    }

    /// Adds a wait for a POSIX lock, until the result is dropped. EDEADLK as [`WaitGraph::begin`] says.
    pub(super) fn begin_wait(&self, wait: Wait) -> Result<GraphEntry<'_>> {
        self.waits.begin(wait, |wait| self.blockers(wait.node, wait.owner, &wait.range))
    }

    /// Returns the owners whose locks conflict with a range that owner `of` requests.
    pub(super) fn blockers(&self, node: NodeId, of: u64, range: &LockRange) -> Vec<u64> {
        let owners = self.owners(node);
        let blocks = |owner: &Arc<Owner>| owner.id() != of && owner.held().conflicts_with(range);
        owners.iter().filter(|owner| blocks(owner)).map(|owner| owner.id()).collect()
    }

    fn owners(&self, node: NodeId) -> Vec<Arc<Owner>> {
        let files = self.lock();
        let owners = files.get(&node).into_iter().flatten();
        owners.map(|(_, entry)| Arc::clone(&entry.owner)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, HashMap<u64, Entry>>> {
        self.files.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);

    fn is_known(locks: &Locks, owner: u64) -> bool {
        locks.claim_known(NODE, owner).is_some()
    }

    #[test]
    fn an_owner_stays_while_a_request_has_a_claim_on_it() {
        let locks = Locks::default();
        let (one, two) = (locks.claim(NODE, 1), locks.claim(NODE, 1));
        assert!(Arc::ptr_eq(&one.owner, &two.owner), "all requests share the owner");
        locks.release(NODE, 1);
        drop(one);
        assert!(is_known(&locks, 1), "the other request uses it");
        drop(two);
        assert!(!is_known(&locks, 1) && locks.count.load(Ordering::Relaxed) == 0);
    }
}
