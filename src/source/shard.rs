//! A part of the inode table: the inodes of some node ids, with their lookup counts.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use super::candidate::InodeCandidate;
use super::identity::MatchResult;
use super::inode::Inode;
use super::node_id::NodeId;

/// Numbers of inodes in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableStats {
    /// The current number.
    pub(super) len: usize,
    /// The highest number since `InodeTable::reset_peak`, or a little more: the shards reach their peaks at different
    /// times.
    pub(super) peak: usize,
}

/// A multiplicative hash, which spreads node ids well enough.
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

/// Do not shrink a shard below this many slots.
pub(super) const MIN_CAPACITY: usize = 128;

/// An inode, hashed by its node id. It is its own key, because there may be millions of inodes.
#[derive(Debug)]
struct InodeRef(Arc<Inode>);

impl Borrow<NodeId> for InodeRef {
    fn borrow(&self) -> &NodeId {
        self.0.key()
    }
}

impl PartialEq for InodeRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for InodeRef {}

impl Hash for InodeRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

/// The inodes of a part of the node ids, behind one mutex of the table.
#[derive(Debug, Default)]
pub(super) struct Shard {
    inodes: HashSet<InodeRef, BuildHasherDefault<NodeHasher>>,
    /// Highest number of inodes since [`InodeTable::reset_peak`].
    peak: usize,
}

impl Shard {
    pub(super) fn get(&self, node: NodeId) -> Option<&Arc<Inode>> {
        self.inodes.get(&node).map(|known| &known.0)
    }

    /// Makes an inode of what was found, and inserts it under a node id that is free.
    pub(super) fn insert_new(&mut self, node: NodeId, new: InodeCandidate) -> Arc<Inode> {
        let inode = Inode::new(node, new.identity, new.mount, new.kind, new.pin, new.via);
        inode.set_first_freshness(new.freshness);
        let inode = Arc::new(inode);
        self.insert(&inode);
        inode
    }

    /// Returns the node ids of its inodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.inodes.iter().map(|known| known.0.node())
    }

    /// Returns the number of inodes, and the highest number since [`Self::reset_peak`].
    pub(super) fn stats(&self) -> TableStats {
        TableStats { len: self.inodes.len(), peak: self.peak }
    }

    /// Returns how many inodes fit without an allocation.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.inodes.capacity()
    }

    /// Resets the peak to the current number.
    pub(super) fn reset_peak(&mut self) {
        self.peak = self.inodes.len();
    }

    /// Inserts an inode, replacing another one with the same node id.
    pub(super) fn insert(&mut self, inode: &Arc<Inode>) {
        self.inodes.replace(InodeRef(Arc::clone(inode)));
        self.peak = self.peak.max(self.inodes.len());
    }

    /// Looks up a node id, and increments the lookup count if it is the found inode.
    ///
    /// `Ok(None)`: there is none, or it is another inode. `Err`: the comparison is ambiguous.
    pub(super) fn look_up(
        &self,
        node: NodeId,
        new: &InodeCandidate,
    ) -> Result<Option<Arc<Inode>>, Arc<Inode>> {
        let Some(inode) = self.get(node) else { return Ok(None) };
        let compared = new.compared.iter().find(|(serial, _)| *serial == inode.serial());
        let compare = match compared {
            Some((_, compare)) => *compare,
            None => inode.compare(&new.identity, new.freshness),
        };
        match compare {
            MatchResult::Same => {
                inode.add_lookup();
                Ok(Some(Arc::clone(inode)))
            }
            MatchResult::Different => Ok(None),
            MatchResult::Ambiguous => Err(Arc::clone(inode)),
        }
    }

    /// Decrements the lookup count, and removes and returns the inode if the count reaches 0.
    ///
    /// Shrinks the shard if it is mostly empty.
    pub(super) fn forget(&mut self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        if !self.get(node)?.sub_lookups(lookups) {
            return None;
        }
        let InodeRef(inode) = self.inodes.take(&node)?;
        let (len, capacity) = (self.inodes.len(), self.inodes.capacity());
        if capacity > MIN_CAPACITY && len < capacity / 8 {
            self.inodes.shrink_to(len * 2);
        }
        Some(inode)
    }
}
