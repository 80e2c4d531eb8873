//! Names to inodes, and inodes forgotten.

use std::ffi::OsStr;

use rustix::io::Errno;

use super::{Caller, Fs, Lookup, Result};
use crate::source::{Found, Inode, NodeId};

impl Fs {
    /// Finds what a name in a directory means.
    pub fn lookup(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Lookup> {
        let dir = self.tree.inode(parent)?;
        self.may_search(caller, &dir).map_err(|e| self.refusal(e, &dir, name))?;
        if self.find_shown(&dir, name).is_err() {
            return Ok(Lookup::Missing(self.trust_in_absence(name)));
        }
        let place = self.place(&dir, name);
        let trust = place.trust;
        match self.find(&dir, name) {
            Ok(found) => {
                if let Err(e) = self.may_meet(caller, &found.inode, &found.stat) {
                    self.forget(found.inode.node(), 1);
                    return Err(self.refusal(e, &dir, name));
                }
                Ok(Lookup::Found(self.entry(caller, &place, &found)))
            }
            Err(Errno::NOENT) => Ok(Lookup::Missing(trust)),
            Err(e) => Err(e),
        }
    }

    /// The error of a look-up that is not permitted. The kernel asks for one whenever somebody walks by a name; told of any
    /// error but this one it forgets the name for all, and takes away what others have mounted on it or below.
    fn refusal(&self, error: Errno, dir: &Inode, name: &OsStr) -> Errno {
        match self.tree.has_mounts_at(dir, name) {
            true => Errno::NOMEM,
            false => error,
        }
    }

    /// Finds what a name in a directory means that is not excluded, and counts one look-up.
    pub(super) fn find(&self, dir: &Inode, name: &OsStr) -> Result<Found> {
        let found = self.tree.lookup(dir, name)?;
        if found.is_by_link && self.leads_to_absent(&self.view(), &found) {
            self.forget(found.inode.node(), 1);
            return self.tree.lookup_itself(dir, name);
        }
        Ok(found)
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
