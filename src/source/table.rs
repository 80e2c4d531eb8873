//! The inode table: every inode that the kernel knows, by node id, with its lookup count.
//!
//! The node id is made from the inode number (native), so that finding an inode is one step. If another inode has that
//! node id (of another device, or a former one of the same number that the kernel still knows), the inode gets a
//! synthetic node id from a range of its own.
//!
//! The lookup counts are in the inodes and change under the lock of the shard: a worker that finds an inode increments
//! the count before another worker can remove the inode.
//!
//! Lock order: `synthetic`, then a shard, then that of `held`. None is held across a system call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::candidate::{Ambiguous, InodeCandidate};
use super::held::HeldInodes;
use super::identity::{Generation, InodeIdentity};
use super::inode::Inode;
use super::node_id::{Domain, NodeId};
use super::shard::{Shard, TableStats};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::handle::FileHandle;

/// Number of bits of an inode number in a native node id; larger numbers get a synthetic one.
const DOMAIN_SHIFT: u32 = 48;
/// The domain of synthetic node ids.
const SYNTHETIC: u64 = 0xFFFF << DOMAIN_SHIFT;
/// Number of domains that can have native node ids.
const NATIVE_DOMAINS: u32 = 0xFFFF;
const SHARDS: usize = 64;

/// Domain, inode number and, for held inodes, the handle.
///
/// With the handle in the key, a source where all files have the same number needs only one comparison for each lookup.
type SyntheticKey = (Domain, u64, Option<FileHandle>);

fn synthetic_key(identity: &InodeIdentity) -> SyntheticKey {
    let handle = match identity.generation {
        Generation::Held(handle) => handle,
        Generation::Handle(_) | Generation::Btime(..) => None,
    };
    (identity.domain, identity.ino, handle)
}

/// See the head of this file.
#[derive(Debug)]
pub struct InodeTable {
    shards: Vec<Mutex<Shard>>,
    synthetic: Mutex<HashMap<SyntheticKey, Vec<NodeId>>>,
    /// Number of entries in `synthetic`. While it is 0, as on most mounts, lookups do not take the mutex.
    synthetic_count: AtomicUsize,
    next_synthetic: AtomicU64,
    pub(super) held: HeldInodes,
}

impl Default for InodeTable {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect();
        Self {
            shards,
            synthetic: Mutex::default(),
            synthetic_count: AtomicUsize::new(0),
            next_synthetic: AtomicU64::new(SYNTHETIC),
            held: HeldInodes::default(),
        }
    }
}

/// Returns whether an inode number fits into a native node id, together with the domain.
pub(super) fn is_native(ino: u64) -> bool {
    ino > NodeId::ROOT.0 && ino < 1 << DOMAIN_SHIFT
}

/// Returns the native node id of an inode number.
///
/// `None`: the inode always gets a synthetic one.
fn native(domain: Domain, ino: u64) -> Option<NodeId> {
    let fits = domain.0 < NATIVE_DOMAINS && is_native(ino);
    fits.then_some(NodeId((u64::from(domain.0) << DOMAIN_SHIFT) | ino))
}

impl InodeTable {
    /// Inserts or replaces the root, which has the node id 1 and is never forgotten.
    pub(super) fn set_root(&self, inode: Inode) -> Arc<Inode> {
        let inode = Arc::new(inode);
        self.shard(NodeId::ROOT).insert(&inode);
        inode
    }

    /// Returns the inode with this node id.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Arc<Inode>> {
        self.shard(node).get(node).cloned()
    }

    /// Returns the inode with this number, if the kernel knows it under its native node id.
    #[must_use]
    pub fn find(&self, domain: Domain, ino: u64) -> Option<Arc<Inode>> {
        let node = native(domain, ino)?;
        self.get(node)
    }

    /// Returns all known inodes that have or had this number, whatever their node ids.
    ///
    /// Of held inodes that have the number, only the first one.
    #[must_use]
    pub fn all_generations(&self, domain: Domain, ino: u64) -> Vec<Arc<Inode>> {
        let mut inodes: Vec<_> = self.find(domain, ino).into_iter().collect();
        if self.synthetic_count.load(Ordering::Acquire) > 0 {
            let nodes = self.synthetic().get(&(domain, ino, None)).cloned().unwrap_or_default();
            inodes.extend(nodes.into_iter().filter_map(|node| self.get(node)));
        }
        inodes
    }

    /// Returns the node ids of all inodes in the table.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let keys = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.nodes().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(keys).collect()
    }

    /// Finds or inserts an inode and increments its lookup count.
    pub(super) fn find_or_insert(&self, new: InodeCandidate) -> Result<Arc<Inode>, Ambiguous> {
        let ambiguous = |known, found| Err(Ambiguous { known, found });
        // An inode with a synthetic node id keeps it, even if its native one is free by now.
        if self.synthetic_count.load(Ordering::Acquire) > 0 {
            match self.find_synthetic(&new) {
                Ok(Some(inode)) => return Ok(inode),
                Ok(None) => {}
                Err(known) => return ambiguous(known, new),
            }
        }
        if let Some(node) = native(new.identity.domain, new.identity.ino) {
            let mut shard = self.shard(node);
            match shard.look_up(node, &new) {
                Ok(Some(inode)) => return Ok(inode),
                Ok(None) if shard.get(node).is_none() => {
                    return Ok(self.insert_new(&mut shard, node, new));
                }
                // The node id is that of another inode, which has or had the number. Answering with it would send
                // requests for one inode to the other.
                Ok(None) => {}
                Err(known) => {
                    drop(shard);
                    return ambiguous(known, new);
                }
            }
        }
        self.find_or_insert_synthetic(new)
    }

    /// Inserts an inode, unless the table has one that has or had its number.
    ///
    /// `None` in that case, and if it needs a synthetic node id.
    pub(super) fn insert_unknown(&self, new: InodeCandidate) -> Option<Arc<Inode>> {
        let node = native(new.identity.domain, new.identity.ino)?;
        if self.synthetic_count.load(Ordering::Acquire) > 0 {
            return None;
        }
        let mut shard = self.shard(node);
        if shard.get(node).is_some() { None } else { Some(self.insert_new(&mut shard, node, new)) }
    }

    /// Finds an inode with a synthetic node id and increments its lookup count.
    fn find_synthetic(&self, new: &InodeCandidate) -> Result<Option<Arc<Inode>>, Arc<Inode>> {
        let synthetic = self.synthetic();
        self.find_among(synthetic.get(&synthetic_key(&new.identity)), new)
    }

    fn find_among(
        &self,
        nodes: Option<&Vec<NodeId>>,
        new: &InodeCandidate,
    ) -> Result<Option<Arc<Inode>>, Arc<Inode>> {
        let mut nodes = nodes.into_iter().flatten();
        let found = nodes.find_map(|node| self.shard(*node).look_up(*node, new).transpose());
        found.transpose()
    }

    fn find_or_insert_synthetic(&self, new: InodeCandidate) -> Result<Arc<Inode>, Ambiguous> {
        let mut synthetic = self.synthetic();
        let key = synthetic_key(&new.identity);
        match self.find_among(synthetic.get(&key), &new) {
            Ok(Some(inode)) => return Ok(inode),
            Ok(None) => {}
            Err(known) => return Err(Ambiguous { known, found: new }),
        }
        let node = NodeId(self.next_synthetic.fetch_add(1, Ordering::Relaxed));
        synthetic.entry(key).or_default().push(node);
        self.synthetic_count.fetch_add(1, Ordering::Release);
        Ok(self.insert_new(&mut self.shard(node), node, new))
    }

    fn insert_new(&self, shard: &mut Shard, node: NodeId, new: InodeCandidate) -> Arc<Inode> {
        let inode = shard.insert_new(node, new);
        if inode.is_always_held() {
            self.held.add(node, inode.serial());
        }
        inode
    }

    fn synthetic(&self) -> MutexGuard<'_, HashMap<SyntheticKey, Vec<NodeId>>> {
        self.synthetic.lock()
    }

    /// Decrements the lookup count. Returns the inode if the count reached 0 and the table has removed it.
    pub(super) fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        if node == NodeId::ROOT {
            return None;
        }
        let inode = self.shard(node).forget(node, lookups)?;
        if inode.is_always_held() {
            self.held.remove();
        }
        if node.0 >= SYNTHETIC {
            let key = synthetic_key(inode.identity());
            let mut synthetic = self.synthetic();
            if let Some(nodes) = synthetic.get_mut(&key) {
                let before = nodes.len();
                nodes.retain(|known| *known != node);
                self.synthetic_count.fetch_sub(before - nodes.len(), Ordering::Release);
                if nodes.is_empty() {
                    synthetic.remove(&key);
                }
            }
        }
        Some(inode)
    }

    /// Returns the current and the peak number of inodes.
    ///
    /// The peak is updated at each insertion, because thousands of inodes may come and go between two sweeps.
    pub(super) fn stats(&self) -> TableStats {
        let mut stats = TableStats { len: 0, peak: 0 };
        for shard in &self.shards {
            let shard = shard.lock();
            let TableStats { len, peak } = shard.stats();
            stats.len += len;
            stats.peak += peak;
        }
        stats
    }

    /// Resets the peak to the current number.
    pub(super) fn reset_peak(&self) {
        for shard in &self.shards {
            shard.lock().reset_peak();
        }
    }

    /// Returns whether the table is empty, without even the root.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.stats().len == 0
    }

    fn shard(&self, node: NodeId) -> MutexGuard<'_, Shard> {
        let at = (node.0 ^ (node.0 >> 7)) as usize % SHARDS;
        self.shards[at].lock()
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::super::identity::{Btime, Freshness, MatchResult, ext_handle};
    use super::super::mounts::MountIndex;
    use super::*;

    fn candidate(domain: u32, ino: u64, i_generation: u32) -> InodeCandidate {
        let handle = ext_handle(7, i_generation).unwrap();
        InodeCandidate {
            identity: InodeIdentity {
                domain: Domain(domain),
                ino,
                generation: Generation::Handle(handle),
            },
            freshness: Freshness::PastTick,
            mount: MountIndex::ROOT,
            kind: FileType::RegularFile,
            pin: None,
            via: None,
            compared: Vec::new(),
        }
    }

    #[test]
    fn an_inode_keeps_its_own_number_and_goes_with_its_last_lookup() {
        let table = InodeTable::default();
        let one = table.find_or_insert(candidate(0, 42, 0)).unwrap();
        let again = table.find_or_insert(candidate(0, 42, 0)).unwrap();
        assert_eq!(one.node(), NodeId(42));
        assert!(Arc::ptr_eq(&one, &again));
        assert!(table.forget(NodeId(42), 1).is_none());
        assert!(table.forget(NodeId(42), 1).is_some());
        assert!(table.get(NodeId(42)).is_none());
        assert!(table.is_empty());
    }

    #[test]
    fn concurrent_lookups_and_forgets_lose_no_count() {
        const ROUNDS: usize = 20_000;
        let table = InodeTable::default();
        let gone = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        // Two generations of one number: one of them gets a synthetic node id.
                        let (one, other) = (candidate(0, 42, 0), candidate(0, 42, 1));
                        let known = [one, other].map(|new| table.find_or_insert(new).unwrap());
                        let last = known.map(|inode| {
                            let found = table.get(inode.node()).expect("it was looked up");
                            assert!(Arc::ptr_eq(&found, &inode), "in round {round}");
                            table.forget(inode.node(), 1)
                        });
                        gone.fetch_add(last.iter().flatten().count(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(table.is_empty());
        assert!(gone.into_inner() >= 2, "each inode was removed at its last forget");
        assert_eq!(table.synthetic_count.load(Ordering::Relaxed), 0);
        assert!(table.synthetic().is_empty());
    }

    #[test]
    fn the_peak_counts_forgotten_inodes_and_the_capacity_shrinks() {
        let table = InodeTable::default();
        let many = 100..100_100;
        for ino in many.clone() {
            table.find_or_insert(candidate(0, ino, 1)).unwrap();
        }
        for ino in many {
            assert!(table.forget(NodeId(ino), 1).is_some());
        }
        assert_eq!(table.stats(), TableStats { len: 0, peak: 100_000 });
        let capacity = |shard: &Mutex<Shard>| shard.lock().capacity();
        let capacity: usize = table.shards.iter().map(capacity).sum();
        assert!(
            capacity <= SHARDS * super::super::shard::MIN_CAPACITY,
            "capacity for {capacity} entries is left"
        );
        table.find_or_insert(candidate(0, 42, 1)).unwrap();
        table.reset_peak();
        assert_eq!(table.stats(), TableStats { len: 1, peak: 1 });
    }

    #[test]
    fn insert_unknown_refuses_a_number_that_the_table_has() {
        let table = InodeTable::default();
        assert!(
            table.insert_unknown(candidate(0, 1 << 48, 0)).is_none(),
            "it has no native number"
        );
        assert!(table.insert_unknown(candidate(0, 42, 0)).is_some());
        assert!(table.insert_unknown(candidate(0, 42, 0)).is_none());
        assert!(table.insert_unknown(candidate(0, 42, 1)).is_none(), "a later generation");
        assert!(table.forget(NodeId(42), 1).is_some(), "one lookup was counted");
        let synthetic = table.find_or_insert(candidate(0, 1, 0)).unwrap().node();
        assert!(table.insert_unknown(candidate(0, 42, 0)).is_none(), "it may be a synthetic one");
        table.forget(synthetic, 1);
        assert!(table.insert_unknown(candidate(0, 42, 0)).is_some());
    }

    #[test]
    fn the_same_number_on_another_device_gets_another_node_id() {
        let table = InodeTable::default();
        let one = table.find_or_insert(candidate(0, 42, 0)).unwrap().node();
        let other = table.find_or_insert(candidate(3, 42, 0)).unwrap().node();
        assert_ne!(one, other);
        assert_eq!(other.0 & 0xFFFF_FFFF, 42, "the number stays readable");
    }

    #[test]
    fn numbers_that_do_not_fit_or_are_taken_get_a_synthetic_one_and_keep_it() {
        let table = InodeTable::default();
        for (domain, ino) in
            [(0, 0), (0, 1), (0, 1 << 48), (0, u64::MAX), (0xFFFF, 42), (u32::MAX, 42)]
        {
            let node = table.find_or_insert(candidate(domain, ino, 0)).unwrap().node();
            assert!(node.0 >= SYNTHETIC, "{ino}");
            assert_eq!(table.find_or_insert(candidate(domain, ino, 0)).unwrap().node(), node);
        }
        let first = table.find_or_insert(candidate(0, 42, 0)).unwrap().node();
        let reused = table.find_or_insert(candidate(0, 42, 1)).unwrap().node();
        assert_ne!(first, reused);
        assert_eq!(table.find_or_insert(candidate(0, 42, 1)).unwrap().node(), reused);
        assert!(table.forget(reused, 2).is_some());
        assert!(table.get(first).is_some());
    }

    #[test]
    fn an_inode_that_may_be_another_generation_is_ambiguous() {
        let table = InodeTable::default();
        let btime = Btime::at(1_000_000, 5).unwrap();
        let with_btime = |i_generation, freshness| {
            let generation = Generation::Btime(btime, i_generation);
            let identity = InodeIdentity { domain: Domain(0), ino: 42, generation };
            InodeCandidate { identity, freshness, ..candidate(0, 42, 0) }
        };
        let young = table.find_or_insert(with_btime(Some(7), Freshness::WithinTick)).unwrap();
        assert_eq!(
            table
                .find_or_insert(with_btime(None, Freshness::PastTick))
                .err()
                .map(|e| e.known.node()),
            Some(NodeId(42))
        );
        assert!(table.insert_unknown(with_btime(None, Freshness::PastTick)).is_none());
        let twin = table.find_or_insert(with_btime(Some(8), Freshness::PastTick)).unwrap();
        assert!(twin.node().0 >= SYNTHETIC, "a later generation of the same btime");
        assert!(table.forget(twin.node(), 1).is_some());
        // The handle shows that the inode still exists; after that its btime suffices.
        assert!(Arc::ptr_eq(
            &young,
            &table.find_or_insert(with_btime(Some(7), Freshness::PastTick)).unwrap()
        ));
        assert!(Arc::ptr_eq(
            &young,
            &table.find_or_insert(with_btime(None, Freshness::PastTick)).unwrap()
        ));
        assert!(table.forget(NodeId(42), 3).is_some());

        let old = table.find_or_insert(with_btime(None, Freshness::PastTick)).unwrap();
        assert_eq!(
            table
                .find_or_insert(with_btime(Some(7), Freshness::WithinTick))
                .err()
                .map(|e| e.known.node()),
            Some(NodeId(42))
        );
        assert!(Arc::ptr_eq(
            &old,
            &table.find_or_insert(with_btime(Some(7), Freshness::HeldOpen)).unwrap()
        ));
        assert!(table.forget(NodeId(42), 2).is_some());
    }

    #[test]
    fn two_held_inodes_with_one_number_stay_two_and_show_that_number() {
        let table = InodeTable::default();
        let held = |generation, compared: &[(u64, MatchResult)]| {
            let identity = InodeIdentity {
                domain: Domain(0),
                ino: 42,
                generation: Generation::Held(generation),
            };
            InodeCandidate { identity, compared: compared.to_vec(), ..candidate(0, 42, 0) }
        };
        let one = table.find_or_insert(held(None, &[])).unwrap();
        let ambiguous =
            table.find_or_insert(held(None, &[])).expect_err("nothing distinguishes them");
        assert_eq!(ambiguous.known.serial(), one.serial());
        let other =
            table.find_or_insert(held(None, &[(one.serial(), MatchResult::Different)])).unwrap();
        assert!(other.node() != one.node() && other.identity().ino == 42);
        let both = [(one.serial(), MatchResult::Different), (other.serial(), MatchResult::Same)];
        assert!(Arc::ptr_eq(&other, &table.find_or_insert(held(None, &both)).unwrap()));
        let same = [(one.serial(), MatchResult::Same), (other.serial(), MatchResult::Different)];
        assert!(Arc::ptr_eq(&one, &table.find_or_insert(held(None, &same)).unwrap()));
        let [third, fourth] =
            [1, 2].map(|n| table.find_or_insert(held(ext_handle(42, n), &[])).unwrap());
        assert_ne!(third.node(), fourth.node(), "the handles tell");
        assert!(Arc::ptr_eq(&third, &table.find_or_insert(held(ext_handle(42, 1), &[])).unwrap()));
        for (inode, lookups) in [(one, 2), (other, 2), (third, 2), (fourth, 1)] {
            assert!(table.forget(inode.node(), lookups).is_some());
        }
        assert!(table.is_empty() && table.synthetic().is_empty());
    }
}
