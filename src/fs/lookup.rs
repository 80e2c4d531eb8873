//! Names to inodes, and inodes forgotten.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Caller, Fs, Lookup, Result};
use crate::source::{FoundInode, Inode, NodeId, component};

impl Fs {
    /// Finds what a name in a directory means.
    pub fn lookup(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Lookup> {
        let dir = self.tree.inode(parent)?;
        self.read_as(caller, &dir)?;
        self.may_search(caller, &dir).map_err(|e| self.refusal(e, &dir, name))?;
        if self.check_name_shown(&dir, name).is_err() {
            return Ok(Lookup::Missing(self.absence_validity(name)));
        }
        let entry_ref = self.entry_ref(&dir, name);
        let validity = entry_ref.validity;
        let mut found = self.find(&dir, name);
        if matches!(found, Err(Errno::NOENT)) && self.contended.wait(parent, name) {
            found = self.find(&dir, name);
        }
        match found {
            Ok(found) => {
                if let Err(e) = self.may_reach_special(caller, &found.inode, &found.stat) {
                    self.undo_lookup(found.inode.node());
                    return Err(self.refusal(e, &dir, name));
                }
                Ok(Lookup::Found(self.entry(caller, &entry_ref, &found)))
            }
            Err(Errno::NOENT) => Ok(Lookup::Missing(validity)),
            Err(e) => Err(e),
        }
    }

    /// The error of a look-up that is not permitted. The kernel asks for one whenever somebody walks by a name; told of
    /// any error but this one it forgets the name for all, and takes away what others have mounted on it or below.
    fn refusal(&self, error: Errno, dir: &Inode, name: &OsStr) -> Errno {
        match self.tree.has_mounts_at(dir, name) {
            true => Errno::NOMEM,
            false => error,
        }
    }

    /// Finds what a name in a directory means that is not excluded, and counts one look-up.
    pub(super) fn find(&self, dir: &Inode, name: &OsStr) -> Result<FoundInode> {
        let c_name = component(name)?;
        self.find_in(dir, &*self.tree.fd(dir)?, &c_name, FileType::Unknown)
    }

    /// As [`Self::find`], where the directory is open already; `kind` is what it says of the name, or unknown.
    pub(super) fn find_in(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
    ) -> Result<FoundInode> {
        let found = self.tree.lookup(dir, dir_fd, name, kind)?;
        if found.is_by_link && self.leads_to_excluded(&self.view(), &found) {
            self.undo_lookup(found.inode.node());
            return self.tree.lookup_itself(dir, OsStr::from_bytes(name.to_bytes()));
        }
        Ok(found)
    }

    /// Whether the source has such a name at this moment.
    #[must_use]
    pub fn is_there(&self, dir: NodeId, name: &OsStr) -> bool {
        let there = || {
            let fd = self.tree.fd(&*self.tree.inode(dir)?)?;
            Ok::<_, Errno>(self.tree.has_name(&fd, &component(name)?))
        };
        there().unwrap_or(false)
    }

    /// The kernel gives back look-ups: whether they were the last.
    pub fn forget(&self, node: NodeId, lookups: u64) -> bool {
        // What was done to it through the mount is soon no longer told by its being known.
        drop(self.prefetcher.begin_change());
        self.drop_lookups(node, lookups)
    }

    /// Gives back a look-up that the kernel was not told of.
    pub(super) fn undo_lookup(&self, node: NodeId) {
        self.drop_lookups(node, 1);
    }

    fn drop_lookups(&self, node: NodeId, lookups: u64) -> bool {
        let Some(inode) = self.tree.forget(node, lookups) else { return false };
        if let Some(watch) = &self.watch {
            watch.forget(&self.tree, &inode);
        }
        true
    }

    /// The target of a symbolic link, as stored. ELOOP where links are not followed.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        let inode = self.tree.inode(node)?;
        self.may_follow(&inode)?;
        let fd = self.tree.fd(&inode)?;
        Ok(rustix::fs::readlinkat(&*fd, c"", Vec::with_capacity(256))?.into_bytes())
    }
}
