//! Operations that remove or rename: unlink, rmdir, rename.

use std::ffi::OsStr;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::{Caller, Fs, Moved, Result};
use crate::error::errno_field;
use crate::source::{Inode, LinkTarget, NodeId, UnlinkPin, component};
use crate::view::LinkRemoval;

/// The longest wait before the last attempt to remove a directory whose files are being closed; 127 ms in all. Chosen.
const MAX_WAIT_FOR_CLOSE: Duration = Duration::from_millis(64);

impl Fs {
    /// Removes a name. A file that is still open stays usable. Returns the inodes with one name less.
    pub fn unlink(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Vec<NodeId>> {
        self.remove(caller, parent, name, AtFlags::empty())
    }

    /// Removes an empty directory. Returns its inodes.
    pub fn rmdir(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Vec<NodeId>> {
        self.remove(caller, parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        how: AtFlags,
    ) -> Result<Vec<NodeId>> {
        if self.view().changes.deny_delete {
            return Err(Errno::PERM);
        }
        let _change = self.prefetcher.begin_change();
        let dir = self.tree.inode(parent)?;
        self.read_as(caller, &dir)?;
        self.check_name_shown(&dir, name)?;
        let dir_fd = self.tree.fd(&dir)?;
        let c_name = component(name)?;
        self.may_remove(caller, (&dir, &dir_fd), &c_name)?;
        if let Some(target) = self.tree.target(&dir, &dir_fd, &c_name)? {
            let unnamed = self.remove_link(caller, &dir, name, target, how)?;
            self.names_changed(&[&dir])?;
            return Ok(unnamed);
        }
        let acting = self.act_for(caller)?;
        let mut pin = match how.contains(AtFlags::REMOVEDIR) {
            true => self.tree.pin_for_unlink(&dir, &dir_fd, &c_name),
            false => self.tree.release_for_unlink(&dir, &dir_fd, &c_name),
        };
        let mut removed = acting.unlink(&dir_fd, &c_name, how);
        let mut wait = Duration::from_millis(1);
        while matches!(removed, Err(Errno::NOTEMPTY | Errno::EXIST))
            && wait <= MAX_WAIT_FOR_CLOSE
            && self.tree.has_removed_files_only(&dir, &dir_fd, &c_name)
        {
            std::thread::sleep(wait);
            wait *= 2;
            removed = acting.unlink(&dir_fd, &c_name, how);
        }
        let unnamed = if removed.is_ok() { pin.commit() } else { Vec::new() };
        self.tree.hold_again(pin, &dir_fd, &c_name);
        removed?;
        self.names_changed(&[&dir])?;
        Ok(unnamed)
    }

    /// Removes a symbolic link shown as its target: the link, the target or both, as the view says.
    ///
    /// Whether the caller uses rmdir or unlink depends on what is shown.
    fn remove_link(
        &self,
        caller: &Caller,
        dir: &Inode,
        name: &OsStr,
        target: LinkTarget,
        how: AtFlags,
    ) -> Result<Vec<NodeId>> {
        let policy = self.view().resolve_symlinks.unwrap_or_default();
        let dir_fd = self.tree.fd(dir)?;
        let c_name = component(name)?;
        if policy == LinkRemoval::Deny {
            return Err(Errno::PERM);
        }
        if how.contains(AtFlags::REMOVEDIR) != target.is_dir() {
            return Err(if target.is_dir() { Errno::ISDIR } else { Errno::NOTDIR });
        }
        let acting = self.act_for(caller)?;
        let remove_link = || {
            acting.unlink(&dir_fd, &c_name, AtFlags::empty())?;
            self.tree.retire_link(dir, name);
            Ok(Vec::new())
        };
        let remove_target = || {
            let (parent, name) = target.dir_entry().ok_or(Errno::NOTEMPTY)?;
            self.may_remove_target(caller, (parent, name))?;
            let mut pin = self.tree.pin_target_for_unlink(&target);
            acting.unlink(parent, name, how)?;
            Ok(pin.commit())
        };
        match policy {
            LinkRemoval::Deny | LinkRemoval::SymlinkOnly => remove_link(),
            LinkRemoval::SymlinkFirst => {
                remove_link()?;
                // The link is removed, so the operation succeeds even if the target stays.
                Ok(remove_target().unwrap_or_else(|e: Errno| {
                    log::debug!(
                        "removed a symbolic link but not its target: nodeid={} name={name:?} pid={} {}",
                        dir.node(),
                        caller.pid,
                        errno_field(e)
                    );
                    Vec::new()
                }))
            }
            LinkRemoval::TargetFirst => {
                let unnamed = remove_target()?;
                remove_link()?;
                Ok(unnamed)
            }
        }
    }

    /// Renames, with the flags of renameat2(2).
    ///
    /// Returns the inodes with one name less, too. A whiteout belongs to the caller. EOVERFLOW if an unmapped caller creates
    /// a new name or a whiteout.
    pub fn rename(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &OsStr),
        (new_parent, new_name): (NodeId, &OsStr),
        flags: RenameFlags,
    ) -> Result<(Moved, Vec<NodeId>)> {
        let (deny_rename, deny_delete) = {
            let changes = &self.view().changes;
            (changes.deny_rename, changes.deny_delete)
        };
        if deny_rename {
            return Err(Errno::PERM);
        }
        let _change = self.prefetcher.begin_change();
        let from = self.tree.inode(parent)?;
        let to = self.tree.inode(new_parent)?;
        self.read_as(caller, &from)?;
        self.check_name_shown(&from, name)?;
        self.read_as(caller, &to)?;
        self.check_new_name(&to, new_name)?;
        let (from_fd, to_fd) = (self.tree.fd(&from)?, self.tree.fd(&to)?);
        let (c_name, c_new_name) = (component(name)?, component(new_name)?);
        let replaces = !flags.intersects(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE);
        if deny_delete && replaces && self.tree.has_name(&to_fd, &c_new_name) {
            return Err(Errno::PERM);
        }
        if replaces
            && self.view().resolve_symlinks == Some(LinkRemoval::Deny)
            && self.tree.target(&to, &to_fd, &c_new_name).is_ok_and(|target| target.is_some())
        {
            return Err(Errno::PERM);
        }
        // A new name is created, which an unmapped caller cannot do (Linux `may_create`).
        if let Err(e) = self.may_add_names(caller)
            && !self.tree.has_name(&to_fd, &c_new_name)
        {
            return Err(e);
        }
        self.may_rename(caller, (&from, &from_fd, &c_name), (&to, &to_fd, &c_new_name), flags)?;
        let acting = match flags.contains(RenameFlags::WHITEOUT) {
            true => self.create_as(caller, FileType::CharacterDevice, 0, 0)?.0,
            false => self.act_for(caller)?,
        };
        let mut pin = match replaces {
            true => self.tree.pin_for_unlink(&to, &to_fd, &c_new_name),
            false => UnlinkPin::default(),
        };
        acting.rename((&from_fd, &c_name), (&to_fd, &c_new_name), flags)?;
        let unnamed = pin.commit();
        self.tree.retire_link(&from, name);
        self.tree.retire_link(&to, new_name);
        let changed: &[&Inode] = if parent == new_parent { &[&to] } else { &[&to, &from] };
        self.names_changed(changed)?;
        let is_dir = || {
            self.tree.is_dir(&to_fd, &c_new_name)
                || (flags.contains(RenameFlags::EXCHANGE) && self.tree.is_dir(&from_fd, &c_name))
        };
        let moved = match self.view().excluded.has_paths() && is_dir() {
            true => Moved::WithPaths,
            false => Moved::Alone,
        };
        Ok((moved, unnamed))
    }
}
