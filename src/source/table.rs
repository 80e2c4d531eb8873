//! The inode table: every inode that the kernel knows, by node id, with the count of look-ups it must give back.
//!
//! The node id is made from the inode number, so finding an inode is one step. Where that number is taken (two devices,
//! a number used again for another file while the kernel still knows the first), a number from a range of our own
//! serves.
//!
//! The counts are in the inodes, and change under the shard's lock: who finds an inode there counts before it can go.
//!
//! Locks: `odd`, then a shard. Neither is held across a system call.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::identity::{Identity, Life, Likeness, Sighting};
use super::inode::{Domain, Inode, NodeId};
use super::mounts::MountIndex;
use super::resolve::Via;
use crate::sys::handle::FileHandle;

/// The inode numbers of one domain: larger ones get a number of our own.
const DOMAIN_SHIFT: u32 = 48;
/// The domain of our own numbers.
const ODD: u64 = 0xFFFF << DOMAIN_SHIFT;
/// How many domains have room for plain node ids.
const PLAIN_DOMAINS: u32 = 0xFFFF;
const SHARDS: usize = 64;

/// Node ids are spread well enough by a multiplication.
#[derive(Default)]
struct NodeHasher(u64);

impl Hasher for NodeHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed");
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = (key ^ (key >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

/// Fewer places than this are not worth giving back.
const LEAST_ROOM: usize = 128;

/// An inode, found by its node id. It is the key itself: there are millions of them.
#[derive(Debug)]
struct Known(Arc<Inode>);

impl Borrow<NodeId> for Known {
    fn borrow(&self) -> &NodeId {
        self.0.key()
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

#[derive(Debug, Default)]
struct Shard {
    inodes: HashSet<Known, BuildHasherDefault<NodeHasher>>,
    /// The most inodes since [`InodeTable::start_anew`].
    most: usize,
}

impl Shard {
    fn get(&self, node: NodeId) -> Option<&Arc<Inode>> {
        self.inodes.get(&node).map(|known| &known.0)
    }

    /// Enters an inode, in the place of another with its node id.
    fn enter(&mut self, inode: &Arc<Inode>) {
        self.inodes.replace(Known(Arc::clone(inode)));
        self.most = self.most.max(self.inodes.len());
    }

    /// Finds an inode and counts one look-up, if it is what was found.
    fn look_up(&self, node: NodeId, new: &Newcomer) -> Result<Option<Arc<Inode>>, Arc<Inode>> {
        let Some(inode) = self.get(node) else { return Ok(None) };
        let judged = new.judged.iter().find(|(serial, _)| *serial == inode.serial());
        let likeness = match judged {
            Some((_, likeness)) => *likeness,
            None => inode.likeness(&new.identity, new.seen),
        };
        match likeness {
            Likeness::Same => {
                inode.count_lookup();
                Ok(Some(Arc::clone(inode)))
            }
            Likeness::Different => Ok(None),
            Likeness::Unsure => Err(Arc::clone(inode)),
        }
    }

    /// Gives back look-ups. If these were the last ones, takes the inode out, and gives back room that is unlikely to
    /// be needed again.
    fn forget(&mut self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        if !self.get(node)?.give_back_lookups(lookups) {
            return None;
        }
        let Known(inode) = self.inodes.take(&node)?;
        let (len, room) = (self.inodes.len(), self.inodes.capacity());
        if room > LEAST_ROOM && len < room / 8 {
            self.inodes.shrink_to(len * 2);
        }
        Some(inode)
    }
}

/// How many inodes there are and were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Now.
    pub(super) known: usize,
    /// At most since [`InodeTable::start_anew`], or a little more: each shard had its most at a time of its own.
    pub(super) most: usize,
}

/// Whether what was found is an inode that is known takes another look: at its handle, or a little later, or at the
/// descriptors of both.
#[derive(Debug)]
pub(super) struct Unsure {
    pub(super) known: Arc<Inode>,
    pub(super) found: Newcomer,
}

/// For whom another look is no use: an open inode is the only one with its number.
impl From<Unsure> for Errno {
    fn from(_: Unsure) -> Self {
        Self::STALE
    }
}

/// What was found, and may be known or not.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) identity: Identity,
    pub(super) seen: Sighting,
    pub(super) mount: MountIndex,
    pub(super) kind: FileType,
    /// Keeps it reachable where it has no handle.
    pub(super) pin: Option<OwnedFd>,
    /// The link through which a directory was reached.
    pub(super) via: Option<Arc<Via>>,
    /// To which known inodes it was compared by another look, by their serial numbers.
    pub(super) judged: Vec<(u64, Likeness)>,
}

/// A number of the source, and the handle of what is held: where all files of a source have the same number, only one
/// is looked at.
type OddKey = (Domain, u64, Option<FileHandle>);

fn odd_key(identity: &Identity) -> OddKey {
    let handle = match identity.life {
        Life::Held(handle) => handle,
        Life::Handle(_) | Life::Born(..) => None,
    };
    (identity.domain, identity.ino, handle)
}

/// See the module's head.
#[derive(Debug)]
pub struct InodeTable {
    shards: Vec<Mutex<Shard>>,
    odd: Mutex<HashMap<OddKey, Vec<NodeId>>>,
    /// How many are in `odd`: mostly none, and then nobody takes the mutex.
    odd_count: AtomicUsize,
    next_odd: AtomicU64,
}

impl Default for InodeTable {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect();
        Self {
            shards,
            odd: Mutex::default(),
            odd_count: AtomicUsize::new(0),
            next_odd: AtomicU64::new(ODD),
        }
    }
}

/// Whether an inode number fits into a node id, beside the part of the tree that it belongs to.
pub(super) fn is_plain(ino: u64) -> bool {
    ino > NodeId::ROOT.0 && ino < 1 << DOMAIN_SHIFT
}

/// The node id that an inode number has when nothing else took it. `None`: it always gets one of our own.
fn plain(domain: Domain, ino: u64) -> Option<NodeId> {
    let fits = domain.0 < PLAIN_DOMAINS && is_plain(ino);
    fits.then_some(NodeId((u64::from(domain.0) << DOMAIN_SHIFT) | ino))
}

impl Inode {
    /// The inode number that programs see. Of two files that live at the same time under one number on the source it is
    /// that number, as on the source: they may be names of one file that its filesystem knows as two.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self.identity().life {
            Life::Held(_) => {
                let Identity { domain, ino, .. } = *self.identity();
                plain(domain, ino).unwrap_or(self.node()).0
            }
            _ => self.node().0,
        }
    }
}

impl InodeTable {
    /// Enters the root, which has the node id 1 and is never forgotten, or another in its place.
    pub(super) fn enter_root(&self, inode: Inode) -> Arc<Inode> {
        let inode = Arc::new(inode);
        self.shard(NodeId::ROOT).enter(&inode);
        inode
    }

    /// The inode with this node id.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Arc<Inode>> {
        self.shard(node).get(node).cloned()
    }

    /// The inode with this number, if the kernel knows it under its plain node id.
    #[must_use]
    pub fn find(&self, domain: Domain, ino: u64) -> Option<Arc<Inode>> {
        let node = plain(domain, ino)?;
        self.get(node)
    }

    /// All inodes that have or had this number and are known still, under whichever node ids; of those that are held, the
    /// first one alone.
    #[must_use]
    pub fn lives(&self, domain: Domain, ino: u64) -> Vec<Arc<Inode>> {
        let mut lives: Vec<_> = self.find(domain, ino).into_iter().collect();
        if self.odd_count.load(Ordering::Acquire) > 0 {
            let nodes = self.odd().get(&(domain, ino, None)).cloned().unwrap_or_default();
            lives.extend(nodes.into_iter().filter_map(|node| self.get(node)));
        }
        lives
    }

    /// The node ids of all inodes in the table.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let keys = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.inodes.iter().map(|known| known.0.node()).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(keys).collect()
    }

    /// The inode number to show in a directory listing.
    #[must_use]
    pub fn shown_ino(&self, domain: Domain, ino: u64) -> u64 {
        plain(domain, ino).map_or(ino, |node| node.0)
    }

    /// Finds or enters an inode and counts one look-up.
    pub(super) fn enter(&self, new: Newcomer) -> Result<Arc<Inode>, Unsure> {
        let unsure = |known, found| Err(Unsure { known, found });
        // One that got a number of our own keeps it, also when its plain one is free by now.
        if self.odd_count.load(Ordering::Acquire) > 0 {
            match self.find_odd(&new) {
                Ok(Some(inode)) => return Ok(inode),
                Ok(None) => {}
                Err(known) => return unsure(known, new),
            }
        }
        if let Some(node) = plain(new.identity.domain, new.identity.ino) {
            let mut shard = self.shard(node);
            match shard.look_up(node, &new) {
                Ok(Some(inode)) => return Ok(inode),
                Ok(None) if shard.get(node).is_none() => return Ok(insert(&mut shard, node, new)),
                // Taken by another file that has the number or had it before: answering with its node id would let
                // requests meant for the one reach the other.
                Ok(None) => {}
                Err(known) => {
                    drop(shard);
                    return unsure(known, new);
                }
            }
        }
        self.enter_odd(new)
    }

    /// Enters an inode and counts one look-up, unless one that has or had its number is known, or it takes a number of
    /// our own.
    pub(super) fn enter_unknown(&self, new: Newcomer) -> Option<Arc<Inode>> {
        let node = plain(new.identity.domain, new.identity.ino)?;
        if self.odd_count.load(Ordering::Acquire) > 0 {
            return None;
        }
        let mut shard = self.shard(node);
        if shard.get(node).is_some() { None } else { Some(insert(&mut shard, node, new)) }
    }

    /// Finds an inode under a number of our own and counts one look-up.
    fn find_odd(&self, new: &Newcomer) -> Result<Option<Arc<Inode>>, Arc<Inode>> {
        let odd = self.odd();
        self.find_among(odd.get(&odd_key(&new.identity)), new)
    }

    fn find_among(
        &self,
        nodes: Option<&Vec<NodeId>>,
        new: &Newcomer,
    ) -> Result<Option<Arc<Inode>>, Arc<Inode>> {
        let mut nodes = nodes.into_iter().flatten();
        let found = nodes.find_map(|node| self.shard(*node).look_up(*node, new).transpose());
        found.transpose()
    }

    fn enter_odd(&self, new: Newcomer) -> Result<Arc<Inode>, Unsure> {
        let mut odd = self.odd();
        let key = odd_key(&new.identity);
        match self.find_among(odd.get(&key), &new) {
            Ok(Some(inode)) => return Ok(inode),
            Ok(None) => {}
            Err(known) => return Err(Unsure { known, found: new }),
        }
        let node = NodeId(self.next_odd.fetch_add(1, Ordering::Relaxed));
        odd.entry(key).or_default().push(node);
        self.odd_count.fetch_add(1, Ordering::Release);
        Ok(insert(&mut self.shard(node), node, new))
    }

    fn odd(&self) -> MutexGuard<'_, HashMap<OddKey, Vec<NodeId>>> {
        self.odd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back look-ups. The inode, when these were the last ones: it is then no longer in the table.
    pub(super) fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        if node == NodeId::ROOT {
            return None;
        }
        let inode = self.shard(node).forget(node, lookups)?;
        if node.0 >= ODD {
            let key = odd_key(inode.identity());
            let mut odd = self.odd();
            if let Some(nodes) = odd.get_mut(&key) {
                let before = nodes.len();
                nodes.retain(|known| *known != node);
                self.odd_count.fetch_sub(before - nodes.len(), Ordering::Release);
                if nodes.is_empty() {
                    odd.remove(&key);
                }
            }
        }
        Some(inode)
    }

    /// How many inodes the kernel knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.extent().known
    }

    /// How many inodes the kernel knows and knew. The most is counted as they come: between two looks at the table
    /// thousands may come and go.
    pub(super) fn extent(&self) -> Extent {
        let mut extent = Extent { known: 0, most: 0 };
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            extent.known += shard.inodes.len();
            extent.most += shard.most;
        }
        extent
    }

    /// From now on the most is counted anew.
    pub(super) fn start_anew(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.most = shard.inodes.len();
        }
    }

    /// Whether the kernel knows nothing, not even the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, node: NodeId) -> MutexGuard<'_, Shard> {
        let at = (node.0 ^ (node.0 >> 7)) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert(shard: &mut Shard, node: NodeId, new: Newcomer) -> Arc<Inode> {
    let inode = Arc::new(Inode::new(node, new.identity, new.mount, new.kind, new.pin, new.via));
    inode.set_found(new.seen);
    shard.enter(&inode);
    inode
}

#[cfg(test)]
mod tests {
    use super::super::identity::{Birth, ext_handle};
    use super::*;

    fn newcomer(domain: u32, ino: u64, generation: u32) -> Newcomer {
        let handle = ext_handle(7, generation).unwrap();
        Newcomer {
            identity: Identity { domain: Domain(domain), ino, life: Life::Handle(handle) },
            seen: Sighting::Old,
            mount: MountIndex::ROOT,
            kind: FileType::RegularFile,
            pin: None,
            via: None,
            judged: Vec::new(),
        }
    }

    #[test]
    fn an_inode_is_shown_under_its_own_number_and_forgotten_with_its_last_look_up() {
        let table = InodeTable::default();
        let one = table.enter(newcomer(0, 42, 0)).unwrap();
        let again = table.enter(newcomer(0, 42, 0)).unwrap();
        assert_eq!(one.node(), NodeId(42));
        assert!(Arc::ptr_eq(&one, &again));
        assert!(table.forget(NodeId(42), 1).is_none());
        assert!(table.forget(NodeId(42), 1).is_some());
        assert!(table.get(NodeId(42)).is_none());
        assert!(table.is_empty());
    }

    #[test]
    fn look_ups_and_forgets_at_once_lose_no_count() {
        const ROUNDS: usize = 20_000;
        let table = InodeTable::default();
        let gone = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        // Two lives of one number: one of them gets a node id of our own.
                        let (one, other) = (newcomer(0, 42, 0), newcomer(0, 42, 1));
                        let known = [one, other].map(|new| table.enter(new).unwrap());
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
        assert!(gone.into_inner() >= 2, "the last of each was the last");
        assert_eq!(table.odd_count.load(Ordering::Relaxed), 0);
        assert!(table.odd().is_empty());
    }

    #[test]
    fn what_comes_and_goes_between_two_looks_is_counted_and_leaves_no_room_behind() {
        let table = InodeTable::default();
        let many = 100..100_100;
        for ino in many.clone() {
            table.enter(newcomer(0, ino, 1)).unwrap();
        }
        for ino in many {
            assert!(table.forget(NodeId(ino), 1).is_some());
        }
        assert_eq!(table.extent(), Extent { known: 0, most: 100_000 });
        let room = |shard: &Mutex<Shard>| shard.lock().unwrap().inodes.capacity();
        let room: usize = table.shards.iter().map(room).sum();
        assert!(room <= SHARDS * LEAST_ROOM, "room for {room} entries is left");
        table.enter(newcomer(0, 42, 1)).unwrap();
        table.start_anew();
        assert_eq!(table.extent(), Extent { known: 1, most: 1 });
    }

    #[test]
    fn only_what_has_no_life_in_the_table_is_entered_as_unknown() {
        let table = InodeTable::default();
        assert!(table.enter_unknown(newcomer(0, 1 << 48, 0)).is_none(), "it has no plain number");
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_some());
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_none());
        assert!(table.enter_unknown(newcomer(0, 42, 1)).is_none(), "a later life");
        assert!(table.forget(NodeId(42), 1).is_some(), "one look-up was counted");
        let odd = table.enter(newcomer(0, 1, 0)).unwrap().node();
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_none(), "it may be an odd one");
        table.forget(odd, 1);
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_some());
    }

    #[test]
    fn the_same_number_on_another_device_gets_another_node_id() {
        let table = InodeTable::default();
        let one = table.enter(newcomer(0, 42, 0)).unwrap().node();
        let other = table.enter(newcomer(3, 42, 0)).unwrap().node();
        assert_ne!(one, other);
        assert_eq!(other.0 & 0xFFFF_FFFF, 42, "the number stays readable");
    }

    #[test]
    fn numbers_that_do_not_fit_or_are_taken_get_one_of_our_own_and_keep_it() {
        let table = InodeTable::default();
        for (domain, ino) in
            [(0, 0), (0, 1), (0, 1 << 48), (0, u64::MAX), (0xFFFF, 42), (u32::MAX, 42)]
        {
            let node = table.enter(newcomer(domain, ino, 0)).unwrap().node();
            assert!(node.0 >= ODD, "{ino}");
            assert_eq!(table.enter(newcomer(domain, ino, 0)).unwrap().node(), node);
        }
        let first = table.enter(newcomer(0, 42, 0)).unwrap().node();
        let reused = table.enter(newcomer(0, 42, 1)).unwrap().node();
        assert_ne!(first, reused);
        assert_eq!(table.enter(newcomer(0, 42, 1)).unwrap().node(), reused);
        assert!(table.forget(reused, 2).is_some());
        assert!(table.get(first).is_some());
    }

    #[test]
    fn who_may_be_another_life_is_looked_at_again() {
        let table = InodeTable::default();
        let birth = Birth::at(1_000_000, 5).unwrap();
        let born = |generation, seen| {
            let life = Life::Born(birth, generation);
            let identity = Identity { domain: Domain(0), ino: 42, life };
            Newcomer { identity, seen, ..newcomer(0, 42, 0) }
        };
        let young = table.enter(born(Some(7), Sighting::Young)).unwrap();
        assert_eq!(
            table.enter(born(None, Sighting::Old)).err().map(|e| e.known.node()),
            Some(NodeId(42))
        );
        assert!(table.enter_unknown(born(None, Sighting::Old)).is_none());
        let twin = table.enter(born(Some(8), Sighting::Old)).unwrap();
        assert!(twin.node().0 >= ODD, "a later life of the same birth");
        assert!(table.forget(twin.node(), 1).is_some());
        // Its handle tells that it lives on, and then its birth will do.
        assert!(Arc::ptr_eq(&young, &table.enter(born(Some(7), Sighting::Old)).unwrap()));
        assert!(Arc::ptr_eq(&young, &table.enter(born(None, Sighting::Old)).unwrap()));
        assert!(table.forget(NodeId(42), 3).is_some());

        let old = table.enter(born(None, Sighting::Old)).unwrap();
        assert_eq!(
            table.enter(born(Some(7), Sighting::Young)).err().map(|e| e.known.node()),
            Some(NodeId(42))
        );
        assert!(Arc::ptr_eq(&old, &table.enter(born(Some(7), Sighting::Open)).unwrap()));
        assert!(table.forget(NodeId(42), 2).is_some());
    }

    #[test]
    fn two_that_are_held_under_one_number_are_two_if_that_was_seen_and_show_the_number() {
        let table = InodeTable::default();
        let held = |life, judged: &[(u64, Likeness)]| {
            let identity = Identity { domain: Domain(0), ino: 42, life: Life::Held(life) };
            Newcomer { identity, judged: judged.to_vec(), ..newcomer(0, 42, 0) }
        };
        let one = table.enter(held(None, &[])).unwrap();
        let unsure = table.enter(held(None, &[])).expect_err("nothing tells");
        assert_eq!(unsure.known.serial(), one.serial());
        let other = table.enter(held(None, &[(one.serial(), Likeness::Different)])).unwrap();
        assert!(other.node() != one.node() && other.number() == 42 && one.number() == 42);
        let both = [(one.serial(), Likeness::Different), (other.serial(), Likeness::Same)];
        assert!(Arc::ptr_eq(&other, &table.enter(held(None, &both)).unwrap()));
        let same = [(one.serial(), Likeness::Same), (other.serial(), Likeness::Different)];
        assert!(Arc::ptr_eq(&one, &table.enter(held(None, &same)).unwrap()));
        let [third, fourth] = [1, 2].map(|n| table.enter(held(ext_handle(42, n), &[])).unwrap());
        assert_ne!(third.node(), fourth.node(), "the handles tell");
        assert!(Arc::ptr_eq(&third, &table.enter(held(ext_handle(42, 1), &[])).unwrap()));
        for (inode, lookups) in [(one, 2), (other, 2), (third, 2), (fourth, 1)] {
            assert!(table.forget(inode.node(), lookups).is_some());
        }
        assert!(table.is_empty() && table.odd().is_empty());
    }
}
