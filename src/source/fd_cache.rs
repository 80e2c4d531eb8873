//! Caches recently used O_PATH descriptors of inodes in a bounded LRU list.
//!
//! The number of descriptors does not depend on the number of inodes that the kernel knows. A descriptor is cached for
//! seconds only, because it keeps the disk space of a file that was deleted on the source.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lru::LruCache;

use super::inode::Inode;
use crate::sync::{Mutex, MutexGuard};

const SHARDS: usize = 16;
/// Number of sweeps (one a second) that a descriptor stays without being used (chosen).
const MAX_IDLE_SWEEPS: u32 = 3;

/// Keyed by the serial number of the inode, because a node id may be reused for another inode.
type Fds = LruCache<u64, (Arc<OwnedFd>, u32)>;

#[derive(Debug)]
struct Shard {
    fds: Fds,
    count: HitCount,
}

/// How often a cache had what was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HitCount {
    /// It had it.
    pub hits: u64,
    /// It did not.
    pub misses: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub struct FdCache {
    shards: Vec<Mutex<Shard>>,
    /// Number of sweeps so far.
    now: AtomicU32,
}

impl FdCache {
    /// Creates a cache for about `capacity` descriptors.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let each = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let empty = || Shard { fds: LruCache::new(each), count: HitCount::default() };
        let shards = (0..SHARDS).map(|_| Mutex::new(empty())).collect();
        Self { shards, now: AtomicU32::new(0) }
    }

    /// Returns the descriptor of an inode, and makes it the most recently used one.
    #[must_use]
    pub fn get(&self, inode: &Inode) -> Option<Arc<OwnedFd>> {
        let mut shard = self.shard(inode);
        let Shard { fds, count } = &mut *shard;
        let Some((fd, used)) = fds.get_mut(&inode.serial()) else {
            count.misses += 1;
            return None;
        };
        count.hits += 1;
        *used = self.now.load(Ordering::Relaxed);
        Some(Arc::clone(fd))
    }

    /// How often [`Self::get`] found a descriptor.
    #[must_use]
    pub fn hit_count(&self) -> HitCount {
        self.shards.iter().map(|shard| shard.lock().count).fold(HitCount::default(), |sum, one| {
            HitCount { hits: sum.hits + one.hits, misses: sum.misses + one.misses }
        })
    }

    /// Caches a descriptor, and evicts the least recently used one if the cache is full.
    pub fn put(&self, inode: &Inode, fd: Arc<OwnedFd>) {
        // Closed after the lock is released, because close(2) is a system call.
        let _evicted =
            self.shard(inode).fds.push(inode.serial(), (fd, self.now.load(Ordering::Relaxed)));
    }

    /// Closes the descriptor of an inode that the kernel has forgotten.
    pub fn remove(&self, inode: &Inode) {
        let _removed = self.shard(inode).fds.pop(&inode.serial());
    }

    /// Closes all descriptors.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut all = Vec::with_capacity(shard.fds.len());
            while let Some(one) = shard.fds.pop_lru() {
                all.push(one);
            }
            drop(shard);
        }
    }

    /// Closes the descriptors that were not used for `MAX_IDLE_SWEEPS` sweeps.
    pub fn sweep(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed);
        for shard in &self.shards {
            let mut old = Vec::new();
            let mut shard = shard.lock();
            while shard
                .fds
                .peek_lru()
                .is_some_and(|(_, (_, used))| now.wrapping_sub(*used) > MAX_IDLE_SWEEPS)
            {
                old.extend(shard.fds.pop_lru());
            }
            drop(shard);
        }
    }

    fn shard(&self, inode: &Inode) -> MutexGuard<'_, Shard> {
        self.shards[inode.serial() as usize % SHARDS].lock()
    }
}
