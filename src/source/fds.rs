//! Recently used O_PATH descriptors of inodes, in a bounded LRU: a million cached inodes need no more than its size.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::inode::NodeId;

const SHARDS: usize = 16;

/// See the module's head.
#[derive(Debug)]
pub struct FdCache {
    shards: Vec<Mutex<LruCache<u64, Arc<OwnedFd>>>>,
}

impl FdCache {
    /// Holds about `room` descriptors at most.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let each = NonZeroUsize::new(room / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self { shards: (0..SHARDS).map(|_| Mutex::new(LruCache::new(each))).collect() }
    }

    /// The descriptor of an inode, which is then the last to go.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Arc<OwnedFd>> {
        self.shard(node).get(&node.0).cloned()
    }

    /// Keeps a descriptor; the one used longest ago may go for it.
    pub fn put(&self, node: NodeId, fd: Arc<OwnedFd>) {
        // Dropped after the lock: closing is a system call.
        let _evicted = self.shard(node).push(node.0, fd);
    }

    /// Lets go of an inode's descriptor: the node id may come to mean another inode.
    pub fn remove(&self, node: NodeId) {
        let _removed = self.shard(node).pop(&node.0);
    }

    fn shard(&self, node: NodeId) -> MutexGuard<'_, LruCache<u64, Arc<OwnedFd>>> {
        self.shards[node.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
