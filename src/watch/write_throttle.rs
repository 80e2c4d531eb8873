//! Files that somebody is writing to at this moment.
//!
//! A mark with FAN_MODIFY makes an event of each write, which takes longer than a small write itself. So after the first
//! event of a file its writes are left alone for a while: an ignore mask keeps them from becoming events, and the
//! file's attributes are not believed meanwhile. Whoever writes without a pause so pays for one event in [`SUPPRESSION`].

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::inval_batch::InvalBatch;
use crate::source::{Inode, NodeId, SourceTree, proc_path};
use crate::sys;

/// How long a file's writes are left alone.
pub(super) const SUPPRESSION: Duration = Duration::from_millis(100);
/// Files left alone at most; the writes of more become events.
const MAX_FILES: usize = 4096;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct WriteThrottle {
    files: HashMap<NodeId, Suppressed>,
}

#[derive(Debug)]
struct Suppressed {
    inode: Arc<Inode>,
    /// The directory that told of the writes.
    dir: Option<NodeId>,
    until: Instant,
}

impl WriteThrottle {
    /// Whether none is left alone.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Leaves a file alone: it was written to, and not closed yet.
    pub(super) fn suppress(
        &mut self,
        group: &OwnedFd,
        tree: &SourceTree,
        inode: Arc<Inode>,
        dir: Option<NodeId>,
    ) {
        if self.files.len() >= MAX_FILES || self.files.contains_key(&inode.node()) {
            return;
        }
        // Before the mask: from now on no answer is believed, so nothing is lost by what the mask hides.
        inode.set_busy(true);
        let ignored = tree
            .uncached_fd(&inode)
            .and_then(|fd| sys::fanotify::ignore_modify(group, true, &proc_path(&fd)));
        if ignored.is_err() {
            // It is gone, or there are too many marks: its writes go on to be told.
            inode.set_busy(false);
            return;
        }
        let until = Instant::now() + SUPPRESSION;
        self.files.insert(inode.node(), Suppressed { inode, dir, until });
    }

    /// Listens again to those whose time is over; what they were written meanwhile goes into the batch.
    pub(super) fn resume(&mut self, group: &OwnedFd, tree: &SourceTree, batch: &mut InvalBatch) {
        let now = Instant::now();
        self.files.retain(|node, suppressed| {
            if suppressed.until > now {
                return true;
            }
            batch.add_inode(*node, suppressed.dir);
            let resumed = tree
                .uncached_fd(&suppressed.inode)
                .and_then(|fd| sys::fanotify::ignore_modify(group, false, &proc_path(&fd)));
            if let Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) = resumed {
                // Still not to be believed: nobody would tell of its writes.
                suppressed.until = now + SUPPRESSION;
                return true;
            }
            // Else an inode that is gone took its mark along.
            suppressed.inode.set_busy(false);
            false
        });
    }
}
