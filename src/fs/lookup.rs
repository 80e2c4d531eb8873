//! Names to inodes, and inodes forgotten.

use std::ffi::OsStr;

use super::{Entry, Fs, Result};
use crate::source::NodeId;

impl Fs {
    /// Finds a name in a directory. ENOENT when there is none.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Entry> {
        let dir = self.tree.inode(parent)?;
        let found = self.tree.lookup(&dir, name)?;
        Ok(self.entry(&found))
    }

    /// The kernel gives back look-ups: whether they were the last.
    pub fn forget(&self, node: NodeId, lookups: u64) -> bool {
        self.tree.forget(node, lookups)
    }

    /// The target of a symbolic link, as stored.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        let inode = self.tree.inode(node)?;
        let fd = self.tree.fd(&inode)?;
        Ok(rustix::fs::readlinkat(&*fd, c"", Vec::with_capacity(256))?.into_bytes())
    }
}
