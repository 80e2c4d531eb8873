//! What is in use and how often caches had what was asked for, for `shiftbind stat`.

use super::Fs;
use crate::source::HitCount;

/// Numbers of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Files that clients have open, each open counted.
    pub files: usize,
    /// Directories that clients have open.
    pub directories: usize,
    /// Descriptors of inodes: cached, or opened by handle.
    pub descriptors: HitCount,
    /// Prefetched directories: used, or discarded because something had changed.
    pub listings: HitCount,
}

impl Fs {
    /// Takes the numbers of this moment.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            files: self.files.len(),
            directories: self.dirs.len(),
            descriptors: self.tree.descriptor_hits(),
            listings: self.prefetcher.hit_count(),
        }
    }
}
