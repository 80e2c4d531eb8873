//! What was mounted below the source and is unmounted on the host is let go of, and disappears from the mount.

use std::sync::Arc;

use super::{Fs, spawn_blocking};
use crate::source::NodeId;
use crate::watch::Notifier;

impl Fs {
    /// Returns whether there are mounts below the source whose unmounting can be followed.
    #[must_use]
    pub fn follows_unmounts(&self) -> bool {
        self.tree.follows_unmounts()
    }

    /// Follows unmounts on the host. Returns only if this cannot be done; needs a thread of its own.
    ///
    /// `evict` closes the backing file of an inode that no client has open.
    pub fn follow_unmounts<N>(&self, notifier: &Arc<N>, evict: impl Fn(NodeId))
    where
        N: Notifier + Send + Sync + 'static,
    {
        self.tree.follow_unmounts(|gone| {
            self.idle_streams.clear();
            gone.inodes.iter().for_each(|inode| evict(inode.node()));
            let Some((dirs, name)) = gone.place else { return };
            let notifier = Arc::clone(notifier);
            // The kernel waits for the directory's lock, which a client may hold.
            spawn_blocking(move || {
                for dir in dirs {
                    notifier.inval_entry(dir, &name);
                }
            });
        });
    }
}
