//! Backing ids of FUSE passthrough: which inodes the kernel reads and writes without the daemon.
//!
//! The kernel requires all opens of an inode to be of one mode: it answers EIO to an open with a second backing id, and
//! to an open without one beside an open with one. So an inode keeps its mode while any file is open on it. It keeps
//! its backing id a while longer, so that a file that is opened again soon costs no ioctl.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::device::Backing;
use crate::error::errno_field;
use crate::fs::Result;
use crate::source::{Inode, NodeId};
use crate::sync::{Mutex, MutexGuard};

const SHARDS: usize = 16;
/// The most ids of closed files: each keeps a source file open in the kernel. Chosen.
const MAX_IDLE: usize = 16384;
/// How many files that were used again are requeued to find one that was not. Chosen.
const MAX_SECOND_CHANCES: usize = 16;
/// How long the id of a closed file is kept. Chosen.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The backing ids of one mount. See the module's head.
#[derive(Debug)]
pub(super) struct BackingIds {
    shards: Vec<Mutex<HashMap<NodeId, Opens>>>,
    /// Closed files, oldest first, each once, with the time that it has in [`Opens::queued`]. A file that was used
    /// again meanwhile is requeued when it comes first.
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
    /// When the last open file was closed.
    closed: Instant,
    /// The time under which the inode is in the queue of closed files.
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

    /// Counts an open of an inode. Returns its backing id, or `None` when the daemon is to read and write.
    ///
    /// `wanted` and `register` are called only when the mode is free to choose.
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
                let (node, errno) = (inode.node(), errno_field(e));
                log::debug!("no FUSE passthrough for a file: nodeid={node} {errno}");
                None
            }
        });
        let stale = shard.insert(inode.node(), Opens::new(inode, id.clone()));
        drop(shard);
        drop(stale);
        id
    }

    /// Counts a close of an inode.
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
                    // It is requeued when it comes first.
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
        // A file that was used again gets a second chance, at the cost of one that was not.
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

    /// Evicts a file that was taken from the queue: drops its id, unless a file is open on it.
    ///
    /// Returns the time to requeue it under, if it was closed again since and `may_requeue`.
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
                // It is queued again when it is closed.
                opens.queued = None;
                return None;
            }
            if opens.closed > queued && may_requeue {
                opens.queued = Some(opens.closed);
                return opens.queued;
            }
            shard.remove(&node)
        };
        // Outside the lock, since it is an ioctl.
        drop(evicted);
        None
    }

    /// Whether the kernel reads and writes an inode's open files by itself at present.
    pub(super) fn is_passthrough(&self, node: NodeId) -> bool {
        self.shard(node).get(&node).is_some_and(|opens| opens.count > 0 && opens.id.is_some())
    }

    /// How many backing files are registered, in JSON: those of open files, and those that are kept for the next open.
    pub(super) fn describe(&self) -> Value {
        let (mut open, mut idle) = (0, 0);
        for shard in &self.shards {
            for opens in shard.lock().values().filter(|opens| opens.id.is_some()) {
                *(if opens.count > 0 { &mut open } else { &mut idle }) += 1_u64;
            }
        }
        json!({ "open": open, "idle": idle })
    }

    /// Drops the id of an inode that no file is open on: the kernel has forgotten it, or its last name is gone.
    pub(super) fn evict(&self, node: NodeId) {
        let evicted = {
            let mut shard = self.shard(node);
            match shard.get(&node) {
                Some(opens) if opens.count == 0 => shard.remove(&node),
                _ => None,
            }
        };
        // Outside the lock, since it is an ioctl.
        drop(evicted);
    }

    /// Drops ids that were not used for a while. Files deleted on the source then free their space.
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
        self.shards[node.0 as usize % SHARDS].lock()
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(NodeId, Instant)>> {
        self.idle.lock()
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
        // Used again: all but the last are requeued, and the last is open.
        used.iter().for_each(close);
        open(&used[MAX_SECOND_CHANCES]);
        others.iter().for_each(close);
        let queued = |file: &Arc<Inode>| {
            backing_ids.idle().iter().filter(|(node, _)| *node == file.node()).count()
        };
        assert_eq!(queued(&used[MAX_SECOND_CHANCES]), 0, "it was taken from the queue");
        backing_ids.close(&used[MAX_SECOND_CHANCES]);
        assert_eq!(queued(&used[MAX_SECOND_CHANCES]), 1);
    }
}
