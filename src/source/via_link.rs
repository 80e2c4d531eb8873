//! The symbolic links through which directories were reached, with resolve-symlinks.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ino_tag::link_tag;
use super::node_id::NodeId;
use super::path::strip_dir;
use crate::sync::{Mutex, MutexGuard};

/// From this number of known links on, the sweep removes unused ones (chosen).
pub(super) const SWEEP_THRESHOLD: usize = 1024;

/// A symbolic link through which directories were reached.
#[derive(Debug)]
pub(super) struct ViaLink {
    /// Unique, never reused.
    pub(super) id: u32,
    /// The path of the directory that contains the link.
    dir_path: Vec<u8>,
    /// The link through which that directory was reached.
    above: Option<Arc<ViaLink>>,
    /// What the inode numbers of directories below the link are combined with (`ino.rs`).
    pub(super) tag: u64,
}

impl ViaLink {
    /// Returns whether a directory, by its path, is at or above the directory of this link or of one that led to it.
    pub(super) fn is_below(&self, target: &[u8]) -> bool {
        let mut links = std::iter::successors(Some(self), |via| via.above.as_deref());
        links.any(|via| strip_dir(target, &via.dir_path).is_some())
    }
}

/// The directory of a link, and its name.
type LinkKey = (NodeId, OsString);

/// The links to directories, by directory and name.
#[derive(Debug, Default)]
pub(super) struct ViaLinks {
    known: Mutex<HashMap<LinkKey, Arc<ViaLink>>>,
    last: AtomicU32,
}

impl ViaLinks {
    fn lock(&self) -> MutexGuard<'_, HashMap<LinkKey, Arc<ViaLink>>> {
        self.known.lock()
    }

    /// Returns the link with this name, and creates it if it is new.
    ///
    /// `above`: the link through which the directory `dir` was reached, whose path is `dir_path`.
    pub(super) fn enter(
        &self,
        (dir, name): (NodeId, &OsStr),
        dir_path: Vec<u8>,
        above: Option<Arc<ViaLink>>,
    ) -> Arc<ViaLink> {
        let new = || {
            let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
            let tag = link_tag(&dir_path, name.as_bytes(), above.as_ref().map_or(0, |via| via.tag));
            Arc::new(ViaLink { id, dir_path, above, tag })
        };
        Arc::clone(self.lock().entry((dir, name.to_owned())).or_insert_with(new))
    }

    /// Removes the link with this name.
    pub(super) fn remove(&self, dir: NodeId, name: &OsStr) {
        self.lock().remove(&(dir, name.to_owned()));
    }

    /// Removes links below which the kernel knows no directory, if there are many. Returns the ids of the remaining
    /// ones.
    ///
    /// `are_many`: there are, counting removed and renamed ones.
    pub(super) fn sweep(&self, are_many: bool) -> Option<HashSet<u32>> {
        let mut known = self.lock();
        if known.len() < SWEEP_THRESHOLD && !are_many {
            return None;
        }
        known.retain(|_, via| Arc::strong_count(via) > 1);
        Some(known.values().map(|via| via.id).collect())
    }
}

/// Returns the id by which domains know a link, 0 for none.
pub(super) fn via_id(via: Option<&Arc<ViaLink>>) -> u32 {
    via.map_or(0, |via| via.id)
}
