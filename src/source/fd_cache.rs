//! Recently used O_PATH descriptors of inodes, in a bounded LRU: a million cached inodes need no more than its size.
//!
//! They are kept for seconds only: a descriptor keeps the room of a file that was deleted on the source.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::inode::Inode;

const SHARDS: usize = 16;
/// Sweeps that a descriptor survives without being used.
const MAX_IDLE_SWEEPS: u32 = 3;

/// By serial number of the inode: a node id may come to mean another inode.
type Shard = LruCache<u64, (Arc<OwnedFd>, u32)>;

/// See the module's head.
#[derive(Debug)]
pub struct FdCache {
    shards: Vec<Mutex<Shard>>,
    /// Counts the sweeps.
    now: AtomicU32,
}

impl FdCache {
    /// Holds about `capacity` descriptors at most.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let each = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shards = (0..SHARDS).map(|_| Mutex::new(LruCache::new(each))).collect();
        Self { shards, now: AtomicU32::new(0) }
    }

    /// The descriptor of an inode, which is then the last to go.
    #[must_use]
    pub fn get(&self, inode: &Inode) -> Option<Arc<OwnedFd>> {
        let mut shard = self.shard(inode);
        let (fd, used) = shard.get_mut(&inode.serial())?;
        *used = self.now.load(Ordering::Relaxed);
        Some(Arc::clone(fd))
    }

    /// Keeps a descriptor; the one used longest ago may go for it.
    pub fn put(&self, inode: &Inode, fd: Arc<OwnedFd>) {
        // Dropped after the lock: closing is a system call.
        let _evicted =
            self.shard(inode).push(inode.serial(), (fd, self.now.load(Ordering::Relaxed)));
    }

    /// Lets go of the descriptor of an inode that was forgotten.
    pub fn remove(&self, inode: &Inode) {
        let _removed = self.shard(inode).pop(&inode.serial());
    }

    /// Lets go of all.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut all = Vec::with_capacity(shard.len());
            while let Some(one) = shard.pop_lru() {
                all.push(one);
            }
            drop(shard);
        }
    }

    /// Lets go of the descriptors that were not used since a few sweeps ago.
    pub fn sweep(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed);
        for shard in &self.shards {
            let mut old = Vec::new();
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            while shard
                .peek_lru()
                .is_some_and(|(_, (_, used))| now.wrapping_sub(*used) > MAX_IDLE_SWEEPS)
            {
                old.extend(shard.pop_lru());
            }
            drop(shard);
        }
    }

    fn shard(&self, inode: &Inode) -> MutexGuard<'_, Shard> {
        self.shards[inode.serial() as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
