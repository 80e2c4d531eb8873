//! Names to inodes, and inodes forgotten.

use std::ffi::OsStr;

use rustix::io::Errno;

use super::{Caller, Fs, Lookup, Result};
use crate::source::NodeId;

impl Fs {
    /// Finds what a name in a directory means.
    pub fn lookup(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Lookup> {
        let dir = self.tree.inode(parent)?;
        self.may_search(caller, &dir)?;
        let trust = self.cover_names(&dir);
        let stirred = dir.stirred();
        match self.tree.lookup(&dir, name) {
            Ok(found) => {
                if let Err(e) = self.may_meet(caller, &found.inode, &found.stat) {
                    self.forget(found.inode.node(), 1);
                    return Err(e);
                }
                Ok(Lookup::Found(self.entry(caller, &dir, stirred, &found, trust)))
            }
            Err(Errno::NOENT) => Ok(Lookup::Missing(trust)),
            Err(e) => Err(e),
        }
    }

    /// The kernel gives back look-ups: whether they were the last.
    pub fn forget(&self, node: NodeId, lookups: u64) -> bool {
        let Some(inode) = self.tree.forget(node, lookups) else { return false };
        if let Some(watch) = &self.watch {
            watch.forget(&self.tree, &inode);
        }
        true
    }

    /// The target of a symbolic link, as stored.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        let inode = self.tree.inode(node)?;
        let fd = self.tree.fd(&inode)?;
        Ok(rustix::fs::readlinkat(&*fd, c"", Vec::with_capacity(256))?.into_bytes())
    }
}
