//! FUSE passthrough: which inodes the kernel reads and writes past us, and the backing ids under which it does.
//!
//! The kernel wants all opens of an inode to be of one sort: a second backing id, or an open without one beside an open
//! with one, is answered with EIO. So an inode keeps its sort while any file is open on it, and its id while it is
//! warm: a file that is opened again soon costs no ioctl.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::device::Backing;
use crate::fs::Result;
use crate::source::{Inode, NodeId};

const SHARDS: usize = 16;
/// Ids of closed files at most: each keeps a source file open in the kernel.
const MAX_IDLE: usize = 16384;
/// How many files that were used again are passed over to find one that was not.
const MAX_SECOND_CHANCES: usize = 16;
/// How long the id of a closed file is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module's head.
#[derive(Debug)]
pub(super) struct BackingIds {
    shards: Vec<Mutex<HashMap<NodeId, Opens>>>,
    /// Closed files, each once, with the time that it has in [`Opens::queued`], the oldest first. A file that was used
    /// again meanwhile goes back to the end when its turn comes.
    idle: Mutex<VecDeque<(NodeId, Instant)>>,
}

/// The opens of one inode.
#[derive(Debug)]
struct Opens {
    /// Tells an inode from a later one with the same node id.
    inode: Arc<Inode>,
    /// The backing id; `None` when the daemon reads and writes.
    id: Option<Arc<Backing>>,
    count: u32,
    /// When it was closed last.
    closed: Instant,
    /// With which time it stands in the queue of closed files.
    queued: Option<Instant>,
}

impl Opens {
    fn new(inode: &Arc<Inode>, id: Option<Arc<Backing>>) -> Self {
        let closed = Instant::now();
        Self { inode: Arc::clone(inode), id, count: 1, closed, queued: None }
    }
}

impl BackingIds {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), idle: Mutex::default() }
    }

    /// Counts an open of an inode and tells the backing id for it, `None` when the daemon is to read and write.
    ///
    /// `wanted` and `register` are asked only when the sort is free to choose.
    pub(super) fn open(
        &self,
        inode: &Arc<Inode>,
        wanted: impl FnOnce() -> bool,
        register: impl FnOnce() -> Result<Backing>,
    ) -> Option<Arc<Backing>> {
        let mut shard = self.shard(inode.node());
        let known = shard.get_mut(&inode.node()).filter(|opens| Arc::ptr_eq(&opens.inode, inode));
        if let Some(opens) = known {
            if opens.count > 0 || (opens.id.is_some() && wanted()) {
                opens.count += 1;
                return opens.id.clone();
            }
            let stale = shard.insert(inode.node(), Opens::new(inode, None));
            drop(shard);
            drop(stale);
            return None;
        }
        let id = wanted().then(register).and_then(|registered| match registered {
            Ok(id) => Some(Arc::new(id)),
            Err(e) => {
                log::debug!("no FUSE passthrough for a file: {e}");
                None
            }
        });
        let stale = shard.insert(inode.node(), Opens::new(inode, id.clone()));
        drop(shard);
        drop(stale);
        id
    }

    /// Counts a close.
    pub(super) fn close(&self, inode: &Arc<Inode>) {
        let (node, now) = (inode.node(), Instant::now());
        let evicted = {
            let mut shard = self.shard(node);
            let Some(opens) = shard.get_mut(&node) else { return };
            if !Arc::ptr_eq(&opens.inode, inode) {
                return;
            }
            opens.count = opens.count.saturating_sub(1);
            if opens.count > 0 {
                return;
            }
            if opens.id.is_none() {
                shard.remove(&node)
            } else {
                opens.closed = now;
                if opens.queued.is_some() {
                    // Its turn comes later then.
                    return;
                }
                opens.queued = Some(now);
                None
            }
        };
        if evicted.is_some() {
            return;
        }
        let mut idle = self.idle();
        idle.push_back((node, now));
        if idle.len() <= MAX_IDLE {
            return;
        }
        let mut first = idle.pop_front();
        drop(idle);
        // Who was used again meanwhile is spared for somebody who was not.
        for _ in 0..MAX_SECOND_CHANCES {
            let Some((node, queued)) = first else { return };
            let Some(again) = self.evict_or_requeue(node, queued, true) else { return };
            let mut idle = self.idle();
            idle.push_back((node, again));
            first = idle.pop_front();
        }
        if let Some((node, queued)) = first {
            self.evict_or_requeue(node, queued, false);
        }
    }

    /// The turn of a file that was taken from the queue: its id goes if nobody has it open, unless it was closed again
    /// since. Then it goes back to the queue, with this time.
    fn evict_or_requeue(
        &self,
        node: NodeId,
        queued: Instant,
        may_requeue: bool,
    ) -> Option<Instant> {
        let evicted = {
            let mut shard = self.shard(node);
            let opens = shard.get_mut(&node).filter(|opens| opens.queued == Some(queued))?;
            if opens.count > 0 {
                // Closed one day, it comes again.
                opens.queued = None;
                return None;
            }
            if opens.closed > queued && may_requeue {
                opens.queued = Some(opens.closed);
                return opens.queued;
            }
            shard.remove(&node)
        };
        // Closed without the lock: it is an ioctl.
        drop(evicted);
        None
    }

    /// Whether the kernel reads and writes a file by itself at present.
    pub(super) fn is_passthrough(&self, node: NodeId) -> bool {
        self.shard(node).get(&node).is_some_and(|opens| opens.count > 0 && opens.id.is_some())
    }

    /// The kernel has forgotten an inode, or it has lost its last name: its id goes if nobody has it open.
    pub(super) fn evict(&self, node: NodeId) {
        let evicted = {
            let mut shard = self.shard(node);
            match shard.get(&node) {
                Some(opens) if opens.count == 0 => shard.remove(&node),
                _ => None,
            }
        };
        // Closed without the lock: it is an ioctl.
        drop(evicted);
    }

    /// Lets go of ids that nobody has used for a while, so that files deleted on the source give their room back.
    pub(super) fn sweep(&self) {
        loop {
            let first = {
                let mut idle = self.idle();
                match idle.front() {
                    Some((_, since)) if since.elapsed() >= IDLE_TIMEOUT => idle.pop_front(),
                    _ => None,
                }
            };
            let Some((node, queued)) = first else { return };
            if let Some(again) = self.evict_or_requeue(node, queued, true) {
                self.idle().push_back((node, again));
            }
        }
    }

    fn shard(&self, node: NodeId) -> MutexGuard<'_, HashMap<NodeId, Opens>> {
        self.shards[node.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(NodeId, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_open_at_its_eviction_is_queued_again_when_it_is_closed() {
        let backing_ids = BackingIds::new();
        let files: Vec<_> =
            (0..=MAX_IDLE).map(|node| Arc::new(Inode::alone(NodeId(node as u64)))).collect();
        let open = |file| {
            backing_ids.open(file, || true, || Ok(Backing::of_no_mount())).expect("a backing id");
        };
        let close = |file| {
            open(file);
            backing_ids.close(file);
        };
        let (used, others) = files.split_at(MAX_SECOND_CHANCES + 1);
        used.iter().for_each(close);
        // Used again: so many of them are spared, and the last one is open.
        used.iter().for_each(close);
        open(&used[MAX_SECOND_CHANCES]);
        others.iter().for_each(close);
        let queued = |file: &Arc<Inode>| {
            backing_ids.idle().iter().filter(|(node, _)| *node == file.node()).count()
        };
        assert_eq!(queued(&used[MAX_SECOND_CHANCES]), 0, "its turn has come");
        backing_ids.close(&used[MAX_SECOND_CHANCES]);
        assert_eq!(queued(&used[MAX_SECOND_CHANCES]), 1);
    }
}
