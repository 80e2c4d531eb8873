//! Lookup and forget.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Caller, Fs, Lookup, Result};
use crate::source::{FoundInode, Inode, NodeId, OtherServers, component};

impl Fs {
    /// Looks up a name in a directory.
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

    /// Returns the errno of a lookup that is not permitted: ENOMEM if something is mounted there.
    ///
    /// The kernel revalidates a name for every process that walks past it. At any error but ENOMEM and EINTR it drops
    /// the name for all processes, and unmounts what is mounted on it or below (`fuse_dentry_revalidate`,
    /// `d_invalidate`).
    fn refusal(&self, error: Errno, dir: &Inode, name: &OsStr) -> Errno {
        match self.tree.has_mounts_at(dir, name) {
            true => Errno::NOMEM,
            false => error,
        }
    }

    /// Finds a name that is not excluded, and increments the inode's lookup count.
    pub(super) fn find(&self, dir: &Inode, name: &OsStr) -> Result<FoundInode> {
        let c_name = component(name)?;
        let unknown = FileType::Unknown;
        self.find_in(dir, &*self.tree.fd(dir)?, &c_name, unknown, OtherServers::Asked)
    }

    /// As [`Self::find`], in a directory that is open; `kind` is the type in its listing, or unknown.
    pub(super) fn find_in(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
        servers: OtherServers,
    ) -> Result<FoundInode> {
        let found = self.tree.lookup(dir, dir_fd, name, kind, servers)?;
        if found.is_by_link && self.leads_to_excluded(&self.view(), &found) {
            self.undo_lookup(found.inode.node());
            return self.tree.lookup_itself(dir, OsStr::from_bytes(name.to_bytes()));
        }
        Ok(found)
    }

    /// Returns whether a name exists on the source.
    #[must_use]
    pub fn is_there(&self, dir: NodeId, name: &OsStr) -> bool {
        let there = || {
            let fd = self.tree.fd(&*self.tree.inode(dir)?)?;
            Ok::<_, Errno>(self.tree.has_name(&fd, &component(name)?))
        };
        there().unwrap_or(false)
    }

    /// Decrements the lookup count, as the kernel tells. Returns whether it reached 0.
    pub fn forget(&self, node: NodeId, lookups: u64) -> bool {
        // A prefetched entry counts only while changes through the mount would show in the table, where a forgotten
        // inode is not.
        drop(self.prefetcher.begin_change());
        let is_gone = self.drop_lookups(node, lookups);
        if !is_gone && let Some(watch) = &self.watch {
            watch.lookups_left(&self.tree, node);
        }
        is_gone
    }

    /// Decrements the lookup count for a lookup of which the kernel does not learn.
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

    /// Returns the target of a symbolic link, as stored. ELOOP on a nosymfollow mount.
    pub fn readlink(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        self.may_follow(&inode)?;
        let fd = self.tree.fd(&inode)?;
        Ok(rustix::fs::readlinkat(&*fd, c"", Vec::with_capacity(256))?.into_bytes())
    }
}
