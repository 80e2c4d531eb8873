//! The inode table: every inode that the kernel knows, by node id, with the count of look-ups it must give back.
//!
//! The node id is made from the inode number, so finding an inode is one step. Where that number is taken (two devices,
//! a number used again for another file while the kernel still knows the first), a number from a range of our own serves.
//!
//! Locks: `odd`, then a shard. Neither is held across a system call.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::inode::{Domain, Identity, Inode, NodeId};
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

type Shard = HashMap<u64, Entry, BuildHasherDefault<NodeHasher>>;

#[derive(Debug)]
struct Entry {
    inode: Arc<Inode>,
    lookups: u64,
}

/// Where an inode that was not known is entered.
pub(super) struct Newcomer {
    pub(super) identity: Identity,
    pub(super) mount: MountIndex,
    pub(super) kind: FileType,
    /// Keeps it reachable where it has no handle.
    pub(super) pin: Option<OwnedFd>,
    /// The link through which a directory was reached.
    pub(super) via: Option<Arc<Via>>,
}

/// See the module's head.
#[derive(Debug)]
pub struct InodeTable {
    shards: Vec<Mutex<Shard>>,
    odd: Mutex<HashMap<(Domain, u64), Vec<NodeId>>>,
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

impl InodeTable {
    /// Enters the root, which has the node id 1 and is never forgotten, or another in its place.
    pub(super) fn enter_root(&self, inode: Inode) -> Arc<Inode> {
        let inode = Arc::new(inode);
        let entry = Entry { inode: Arc::clone(&inode), lookups: 1 };
        self.shard(NodeId::ROOT).insert(NodeId::ROOT.0, entry);
        inode
    }

    /// The inode with this node id.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Arc<Inode>> {
        self.shard(node).get(&node.0).map(|entry| Arc::clone(&entry.inode))
    }

    /// The inode with this number, if the kernel knows it under its plain node id.
    #[must_use]
    pub fn find(&self, domain: Domain, ino: u64) -> Option<Arc<Inode>> {
        let node = plain(domain, ino)?;
        self.get(node)
    }

    /// All inodes that have or had this number and are known still, under whichever node ids.
    #[must_use]
    pub fn lives(&self, domain: Domain, ino: u64) -> Vec<Arc<Inode>> {
        let mut lives: Vec<_> = self.find(domain, ino).into_iter().collect();
        if self.odd_count.load(Ordering::Acquire) > 0 {
            let nodes = self.odd().get(&(domain, ino)).cloned().unwrap_or_default();
            lives.extend(nodes.into_iter().filter_map(|node| self.get(node)));
        }
        lives
    }

    /// The inode with this number and handle.
    #[must_use]
    pub fn find_life(&self, domain: Domain, ino: u64, handle: &FileHandle) -> Option<Arc<Inode>> {
        self.lives(domain, ino).into_iter().find(|inode| inode.handle() == Some(handle))
    }

    /// The node ids of all inodes in the table.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let keys = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.keys().map(|node| NodeId(*node)).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(keys).collect()
    }

    /// The inode number to show in a directory listing.
    #[must_use]
    pub fn shown_ino(&self, domain: Domain, ino: u64) -> u64 {
        plain(domain, ino).map_or(ino, |node| node.0)
    }

    /// Finds or enters an inode and counts one look-up.
    pub(super) fn enter(&self, new: Newcomer) -> Arc<Inode> {
        // One that got a number of our own keeps it, also when its plain one is free by now.
        if self.odd_count.load(Ordering::Acquire) > 0
            && let Some(inode) = self.find_odd(&new.identity)
        {
            return inode;
        }
        if let Some(node) = plain(new.identity.domain, new.identity.ino) {
            let mut shard = self.shard(node);
            match shard.get_mut(&node.0) {
                Some(entry) if *entry.inode.identity() == new.identity => {
                    entry.lookups += 1;
                    return Arc::clone(&entry.inode);
                }
                // Taken by a file that had the number before: answering with its node id would let requests meant for
                // the one reach the other.
                Some(_) => {}
                None => return insert(&mut shard, node, new),
            }
        }
        self.enter_odd(new)
    }

    /// Enters an inode and counts one look-up, unless one that has or had its number is known, or it takes a number of our
    /// own.
    pub(super) fn enter_unknown(&self, new: Newcomer) -> Option<Arc<Inode>> {
        let node = plain(new.identity.domain, new.identity.ino)?;
        if self.odd_count.load(Ordering::Acquire) > 0 {
            return None;
        }
        let mut shard = self.shard(node);
        if shard.contains_key(&node.0) { None } else { Some(insert(&mut shard, node, new)) }
    }

    /// Finds an inode under a number of our own and counts one look-up.
    fn find_odd(&self, identity: &Identity) -> Option<Arc<Inode>> {
        let odd = self.odd();
        odd.get(&(identity.domain, identity.ino))?.iter().find_map(|node| {
            let mut shard = self.shard(*node);
            let entry = shard.get_mut(&node.0).filter(|e| e.inode.identity() == identity)?;
            entry.lookups += 1;
            Some(Arc::clone(&entry.inode))
        })
    }

    fn enter_odd(&self, new: Newcomer) -> Arc<Inode> {
        let mut odd = self.odd();
        let nodes = odd.entry((new.identity.domain, new.identity.ino)).or_default();
        for node in nodes.iter() {
            if let Some(entry) = self.shard(*node).get_mut(&node.0)
                && *entry.inode.identity() == new.identity
            {
                entry.lookups += 1;
                return Arc::clone(&entry.inode);
            }
        }
        let node = NodeId(self.next_odd.fetch_add(1, Ordering::Relaxed));
        nodes.push(node);
        self.odd_count.fetch_add(1, Ordering::Release);
        insert(&mut self.shard(node), node, new)
    }

    fn odd(&self) -> MutexGuard<'_, HashMap<(Domain, u64), Vec<NodeId>>> {
        self.odd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back look-ups. The inode, when these were the last ones: it is then no longer in the table.
    pub(super) fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        if node == NodeId::ROOT {
            return None;
        }
        let inode = {
            let mut shard = self.shard(node);
            let entry = shard.get_mut(&node.0)?;
            debug_assert!(entry.lookups >= lookups, "the kernel forgets no more than it looked up");
            entry.lookups = entry.lookups.saturating_sub(lookups);
            if entry.lookups > 0 {
                return None;
            }
            let inode = shard.remove(&node.0)?.inode;
            if shard.capacity() > 128 && shard.len() < shard.capacity() / 8 {
                let room = shard.len() * 2;
                shard.shrink_to(room);
            }
            inode
        };
        if node.0 >= ODD {
            let key = (inode.identity().domain, inode.identity().ino);
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
        let count =
            |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(count).sum()
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
    shard.insert(node.0, Entry { inode: Arc::clone(&inode), lookups: 1 });
    inode
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomer(domain: u32, ino: u64, generation: u8) -> Newcomer {
        let dir = std::fs::File::open("/").unwrap();
        // Any handle will do; what tells two apart here is the pin.
        let handle = crate::sys::handle::name_to_handle(&dir, c"")
            .ok()
            .map(|(handle, _)| handle)
            .filter(|_| generation == 0);
        Newcomer {
            identity: Identity { domain: Domain(domain), ino, handle },
            mount: MountIndex::ROOT,
            kind: FileType::RegularFile,
            pin: None,
            via: None,
        }
    }

    #[test]
    fn an_inode_is_shown_under_its_own_number_and_forgotten_with_its_last_look_up() {
        let table = InodeTable::default();
        let one = table.enter(newcomer(0, 42, 0));
        let again = table.enter(newcomer(0, 42, 0));
        assert_eq!(one.node(), NodeId(42));
        assert!(Arc::ptr_eq(&one, &again));
        assert!(table.forget(NodeId(42), 1).is_none());
        assert!(table.forget(NodeId(42), 1).is_some());
        assert!(table.get(NodeId(42)).is_none());
        assert!(table.is_empty());
    }

    #[test]
    fn only_what_has_no_life_in_the_table_is_entered_as_unknown() {
        let table = InodeTable::default();
        assert!(table.enter_unknown(newcomer(0, 1 << 48, 0)).is_none(), "it has no plain number");
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_some());
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_none());
        assert!(table.enter_unknown(newcomer(0, 42, 1)).is_none(), "a later life");
        assert!(table.forget(NodeId(42), 1).is_some(), "one look-up was counted");
        let odd = table.enter(newcomer(0, 1, 0)).node();
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_none(), "it may be an odd one");
        table.forget(odd, 1);
        assert!(table.enter_unknown(newcomer(0, 42, 0)).is_some());
    }

    #[test]
    fn the_same_number_on_another_device_gets_another_node_id() {
        let table = InodeTable::default();
        let one = table.enter(newcomer(0, 42, 0)).node();
        let other = table.enter(newcomer(3, 42, 0)).node();
        assert_ne!(one, other);
        assert_eq!(other.0 & 0xFFFF_FFFF, 42, "the number stays readable");
    }

    #[test]
    fn numbers_that_do_not_fit_or_are_taken_get_one_of_our_own_and_keep_it() {
        let table = InodeTable::default();
        for (domain, ino) in
            [(0, 0), (0, 1), (0, 1 << 48), (0, u64::MAX), (0xFFFF, 42), (u32::MAX, 42)]
        {
            let node = table.enter(newcomer(domain, ino, 0)).node();
            assert!(node.0 >= ODD, "{ino}");
            assert_eq!(table.enter(newcomer(domain, ino, 0)).node(), node);
        }
        let first = table.enter(newcomer(0, 42, 0)).node();
        let reused = table.enter(newcomer(0, 42, 1)).node();
        assert_ne!(first, reused);
        assert_eq!(table.enter(newcomer(0, 42, 1)).node(), reused);
        assert!(table.forget(reused, 2).is_some());
        assert!(table.get(first).is_some());
    }
}
