//! Suppresses write events of files that are being written.
//!
//! A mark with FAN_MODIFY makes an event of each write, which takes longer than a small write itself. So the first
//! event of a file suppresses its further write events for a while: an ignore mask hides them, and the file's
//! attributes are not cached meanwhile. A process that writes without a pause pays for one event in [`SUPPRESSION`].

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::inval_batch::InvalBatch;
use crate::source::{Inode, NodeId, SourceTree, proc_path};
use crate::sys;

/// How long a file's write events are suppressed. Chosen.
pub(super) const SUPPRESSION: Duration = Duration::from_millis(100);
/// The most files with suppressed events; the writes to any further file are reported. Chosen.
const MAX_FILES: usize = 4096;

/// The files with suppressed write events. See the module's head.
#[derive(Debug, Default)]
pub(super) struct WriteThrottle {
    files: HashMap<NodeId, Suppressed>,
}

#[derive(Debug)]
struct Suppressed {
    inode: Arc<Inode>,
    until: Instant,
}

impl WriteThrottle {
    /// Whether no file is suppressed.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Suppresses the write events of a file that was written to and is not closed yet.
    pub(super) fn suppress(&mut self, group: &OwnedFd, tree: &SourceTree, inode: Arc<Inode>) {
        if self.files.len() >= MAX_FILES || self.files.contains_key(&inode.node()) {
            return;
        }
        // Before the mask is set: from now on no answer about the file is cached, so nothing is lost by what the mask
        // hides.
        inode.set_busy(true);
        let ignored = tree
            .uncached_fd(&inode)
            .and_then(|fd| sys::fanotify::ignore_modify(group, true, &proc_path(&fd)));
        if ignored.is_err() {
            // The file is gone, or there are too many marks: its writes are reported as before.
            inode.set_busy(false);
            return;
        }
        let until = Instant::now() + SUPPRESSION;
        self.files.insert(inode.node(), Suppressed { inode, until });
    }

    /// Re-enables write events after the suppression, and adds to the batch the writes that were hidden meanwhile.
    pub(super) fn resume(&mut self, group: &OwnedFd, tree: &SourceTree, batch: &mut InvalBatch) {
        let now = Instant::now();
        self.files.retain(|node, suppressed| {
            if suppressed.until > now {
                return true;
            }
            batch.add_inode(*node);
            let resumed = tree
                .uncached_fd(&suppressed.inode)
                .and_then(|fd| sys::fanotify::ignore_modify(group, false, &proc_path(&fd)));
            if let Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) = resumed {
                // Its attributes must still not be cached: no event would report its writes.
                suppressed.until = now + SUPPRESSION;
                return true;
            }
            // With any other error the inode is gone, and the mask with it.
            suppressed.inode.set_busy(false);
            false
        });
    }
}
