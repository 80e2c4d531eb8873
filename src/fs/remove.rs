//! What takes names away or moves them: unlink, rmdir, rename.

use std::ffi::OsStr;

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::{Caller, Fs, Result};
use crate::source::{LastName, NodeId, component};

impl Fs {
    /// Removes a name. A file that is still open stays usable.
    pub fn unlink(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(caller, parent, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(caller, parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, caller: &Caller, parent: NodeId, name: &OsStr, how: AtFlags) -> Result<()> {
        if self.view().changes.deny_delete {
            return Err(Errno::PERM);
        }
        let dir = self.tree.inode(parent)?;
        let dir_fd = self.tree.fd(&dir)?;
        let c_name = component(name)?;
        self.may_remove(caller, (&dir, &dir_fd), &c_name)?;
        let last = self.tree.held_by_last_name(&dir, &dir_fd, &c_name);
        self.act_for(caller)?;
        rustix::fs::unlinkat(&*dir_fd, &*c_name, how)?;
        last.is_gone();
        Ok(())
    }

    /// Moves a name, with the flags of renameat2(2). A whiteout belongs to the caller. EOVERFLOW when a name or a whiteout is
    /// made by a caller without a counterpart on the source.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        new_parent: NodeId,
        new_name: &OsStr,
        flags: RenameFlags,
    ) -> Result<()> {
        let (deny_rename, deny_delete) = {
            let changes = &self.view().changes;
            (changes.deny_rename, changes.deny_delete)
        };
        if deny_rename {
            return Err(Errno::PERM);
        }
        let from = self.tree.inode(parent)?;
        let to = self.tree.inode(new_parent)?;
        let (from_fd, to_fd) = (self.tree.fd(&from)?, self.tree.fd(&to)?);
        let (c_name, c_new_name) = (component(name)?, component(new_name)?);
        let replaces = !flags.intersects(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE);
        if deny_delete && replaces && self.tree.has_name(&to_fd, &c_new_name) {
            return Err(Errno::PERM);
        }
        // A name that is new is made, and only who has a counterpart on the source makes anything (Linux `may_create`).
        if self.owner_of_new(caller).is_err() && !self.tree.has_name(&to_fd, &c_new_name) {
            return Err(Errno::OVERFLOW);
        }
        self.may_rename(caller, (&from, &from_fd, &c_name), (&to, &to_fd, &c_new_name), flags)?;
        if flags.contains(RenameFlags::WHITEOUT) {
            self.create_as(caller, FileType::CharacterDevice, 0, 0)?;
        } else {
            self.act_for(caller)?;
        }
        let last = match replaces {
            true => self.tree.held_by_last_name(&to, &to_fd, &c_new_name),
            false => LastName::default(),
        };
        rustix::fs::renameat_with(&*from_fd, &*c_name, &*to_fd, &*c_new_name, flags)?;
        last.is_gone();
        Ok(())
    }
}
