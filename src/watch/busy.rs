//! Files that somebody is writing to at this moment.
//!
//! A mark with FAN_MODIFY makes an event of each write, which takes longer than a small write itself. So after the first
//! event of a file its writes are left alone for a while: an ignore mask keeps them from becoming events, and the
//! file's attributes are not believed meanwhile. Whoever writes without a pause so pays for one event in [`REST`].

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::notice::Batch;
use crate::source::{Inode, NodeId, SourceTree, proc_path};
use crate::sys;

/// How long a file's writes are left alone.
pub(super) const REST: Duration = Duration::from_millis(100);
/// Files left alone at most; the writes of more become events.
const MOST: usize = 4096;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Busy {
    files: HashMap<NodeId, Left>,
}

#[derive(Debug)]
struct Left {
    inode: Arc<Inode>,
    /// The directory that told of the writes.
    dir: Option<NodeId>,
    until: Instant,
}

impl Busy {
    /// Whether none is left alone.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Leaves a file alone: it was written to, and not closed yet.
    pub(super) fn leave(
        &mut self,
        group: &OwnedFd,
        tree: &SourceTree,
        inode: Arc<Inode>,
        dir: Option<NodeId>,
    ) {
        if self.files.len() >= MOST || self.files.contains_key(&inode.node()) {
            return;
        }
        // Before the mask: from now on no answer is believed, so nothing is lost by what the mask hides.
        inode.set_busy(true);
        let ignored = tree
            .passing_fd(&inode)
            .and_then(|fd| sys::fanotify::ignore_modify(group, true, &proc_path(&fd)));
        if ignored.is_err() {
            // It is gone, or there are too many marks: its writes go on to be told.
            inode.set_busy(false);
            return;
        }
        let until = Instant::now() + REST;
        self.files.insert(inode.node(), Left { inode, dir, until });
    }

    /// Listens again to those whose time is over; what they were written meanwhile goes into the batch.
    pub(super) fn listen_again(&mut self, group: &OwnedFd, tree: &SourceTree, batch: &mut Batch) {
        let now = Instant::now();
        self.files.retain(|node, left| {
            if left.until > now {
                return true;
            }
            batch.changed(*node, left.dir);
            let heard = tree
                .passing_fd(&left.inode)
                .and_then(|fd| sys::fanotify::ignore_modify(group, false, &proc_path(&fd)));
            if let Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) = heard {
                // Still not to be believed: nobody would tell of its writes.
                left.until = now + REST;
                return true;
            }
            // Else an inode that is gone took its mark along.
            left.inode.set_busy(false);
            false
        });
    }
}
