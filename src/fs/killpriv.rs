//! Setuid and setgid bits of regular files: which callers keep them at a write, truncate or chown.
//!
//! With FUSE_HANDLE_KILLPRIV_V2 the kernel leaves this to the daemon. It reads the caller's credentials only for the
//! few files that have such bits.

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::caller::CallerCreds;
use super::mode_bits::{GROUP_EXECUTE, SETGID, SETUID};
use super::types::stored;
use super::{Caller, Fs, Result};
use crate::idmap::SourceGid;
use crate::source::Inode;
use crate::view::{Checks, View};

/// The rights, for setuid and setgid bits, with which a caller's change is made on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KillprivRights {
    /// CAP_FSETID, with which the bits survive a write. `None`: the file has no such bits.
    pub(super) fsetid: Option<bool>,
    /// Membership of the file's group.
    ///
    /// A member keeps the setgid bit of a file that the group cannot execute.
    pub(super) membership: Membership,
}

/// Whether to act as a member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    /// It makes no difference.
    Any,
    /// As a member.
    Of(SourceGid),
    /// As no member, even if the caller's gid happens to be the group's number on the source.
    NotOf(SourceGid),
}

impl Membership {
    /// Returns the gid to act with, for a caller with this gid.
    pub(super) fn acting_gid(self, own: u32) -> u32 {
        match self {
            Self::Of(group) => group.raw(),
            // 4294967295 is no valid id.
            Self::NotOf(group) if group.raw() == own => own.checked_sub(1).unwrap_or(1),
            Self::Any | Self::NotOf(_) => own,
        }
    }
}

impl KillprivRights {
    /// The file has no bits to clear.
    pub(super) const ANY: Self = Self { fsetid: None, membership: Membership::Any };
    /// The bits survive.
    pub(super) const ALL: Self = Self { fsetid: Some(true), membership: Membership::Any };
}

impl Fs {
    /// Returns the rights with which a caller writes to a file (Linux `setattr_should_drop_suidgid`).
    pub(super) fn rights_to_write(&self, caller: &Caller, inode: &Inode) -> Result<KillprivRights> {
        let has_bits = bits(&self.tree.stat(inode)?) != 0;
        if has_bits && self.creds_of(caller).may_keep_bits() {
            return Ok(KillprivRights::ALL);
        }
        match has_bits {
            true => self.rights_without_fsetid(caller, inode),
            false => Ok(KillprivRights::ANY),
        }
    }

    /// Returns the rights with which a caller truncates a file. `kills_suidgid`: the kernel says that it lacks CAP_FSETID.
    ///
    /// If the kernel does not tell the caller's ids, its word decides.
    pub(super) fn rights_to_truncate(
        &self,
        caller: &Caller,
        inode: &Inode,
        kills_suidgid: bool,
    ) -> Result<KillprivRights> {
        match (caller.ids, kills_suidgid) {
            (Some(_), _) => self.rights_to_write(caller, inode),
            (None, true) => self.rights_without_fsetid(caller, inode),
            (None, false) if bits(&self.tree.stat(inode)?) != 0 => Ok(KillprivRights::ALL),
            (None, false) => Ok(KillprivRights::ANY),
        }
    }

    /// Returns the rights of a caller that lacks CAP_FSETID, as the kernel says with FUSE_WRITE_KILL_SUIDGID.
    ///
    /// The kernel may write on behalf of another process than the thread that the request names, so its word counts,
    /// not /proc.
    pub(super) fn rights_without_fsetid(
        &self,
        caller: &Caller,
        inode: &Inode,
    ) -> Result<KillprivRights> {
        let stat = self.tree.stat(inode)?;
        if bits(&stat) == 0 {
            return Ok(KillprivRights::ANY);
        }
        // A caller whose ids the kernel does not tell is not known to be a member of the group.
        let keeps =
            caller.ids.is_some() && self.keeps_setgid(&self.creds_of(caller), caller, &stat);
        Ok(KillprivRights { fsetid: Some(false), membership: membership(&stat, keeps) })
    }

    /// Returns what is known of a caller's groups and capabilities.
    ///
    /// A caller in a pid namespace that the daemon cannot see has none, except that uid 0 counts as root where the
    /// kernel checks permissions.
    pub(super) fn creds_of(&self, caller: &Caller) -> CallerCreds {
        let is_root = caller.uid().is_some_and(|uid| uid.raw() == 0);
        if caller.pid == 0 && is_root && self.needs.checks == Checks::Kernel {
            return CallerCreds::invisible_root();
        }
        CallerCreds::of(caller.pid).numbered_by(self.container.as_ref()).with_request_ids(caller)
    }

    /// Returns the rights with which a caller changes a file's access ACL.
    ///
    /// A member of the group keeps the setgid bit (Linux `posix_acl_update_mode`), if the source's filesystem checks
    /// that. `kills_sgid`: what the kernel says about it, if it does not tell the caller's ids; it says nothing where an
    /// ACL is removed.
    pub(super) fn rights_to_set_acl(
        &self,
        caller: &Caller,
        inode: &Inode,
        kills_sgid: Option<bool>,
    ) -> Result<KillprivRights> {
        let stat = self.tree.stat(inode)?;
        if u32::from(stat.stx_mode) & SETGID == 0 {
            return Ok(KillprivRights::ANY);
        }
        let keeps = match (caller.ids, kills_sgid) {
            (None, Some(kills_sgid)) => !kills_sgid,
            _ => self.creds_of(caller).keeps_setgid(caller, &self.shown(caller, &stat)),
        };
        Ok(KillprivRights { fsetid: Some(keeps), membership: membership(&stat, keeps) })
    }

    /// Returns whether the setgid bit survives a write.
    ///
    /// Without the group's execute bit it stays for members of the group (Linux `setattr_should_drop_sgid`).
    fn keeps_setgid(&self, creds: &CallerCreds, caller: &Caller, stat: &Statx) -> bool {
        if u32::from(stat.stx_mode) & GROUP_EXECUTE != 0 {
            return false;
        }
        creds.keeps_setgid(caller, &self.shown(caller, stat))
    }

    /// Clears setuid and setgid bits in a mode, unless the caller is the real owner or group.
    ///
    /// The view may show an owner that the file does not have on the source, and a program with the bit runs with the
    /// real one there. (Linux `setattr_prepare` checks only the owner that is shown.)
    pub(super) fn permitted_setid_bits(
        &self,
        view: &View,
        caller: &Caller,
        inode: &Inode,
        mode: u32,
    ) -> Result<u32> {
        if mode & (SETUID | SETGID) == 0 || inode.kind().is_dir() {
            return Ok(mode);
        }
        let stored = stored(&self.tree.stat(inode)?);
        let (shown, owner) =
            (view.present(stored, self.viewer(view, caller)), view.mapped_owner(stored));
        if (shown.uid, shown.gid) == (owner.uid, owner.gid) {
            return Ok(mode);
        }
        let creds = self.creds_of(caller);
        let mut kept = mode;
        if !caller.owns(&owner) && !creds.overrides_owner(&owner) {
            kept &= !SETUID;
        }
        if !creds.keeps_setgid(caller, &owner) {
            kept &= !SETGID;
        }
        Ok(kept)
    }

    /// Returns whether a chown leaves the setgid bit.
    ///
    /// chown(2) clears the setuid bit for every caller, and clearing a bit is a change of mode: EPERM unless the caller
    /// owns the file or has CAP_FOWNER over it (Linux `notify_change`).
    pub(super) fn chown_keeps_setgid(&self, caller: &Caller, inode: &Inode) -> Result<bool> {
        let stat = self.tree.stat(inode)?;
        let bits = bits(&stat);
        if bits == 0 {
            return Ok(true);
        }
        let creds = self.creds_of(caller);
        let keeps = self.keeps_setgid(&creds, caller, &stat);
        if bits == SETGID && keeps {
            return Ok(true);
        }
        let file = self.shown(caller, &stat);
        if caller.owns(&file) || creds.overrides_owner(&file) {
            return Ok(keeps);
        }
        Err(Errno::PERM)
    }
}

fn membership(stat: &Statx, is_member: bool) -> Membership {
    match SourceGid::new(stat.stx_gid) {
        Some(group) if is_member => Membership::Of(group),
        Some(group) => Membership::NotOf(group),
        None => Membership::Any,
    }
}

/// Returns the setuid and setgid bits of a regular file.
fn bits(stat: &Statx) -> u32 {
    let mode = u32::from(stat.stx_mode);
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => mode & (SETUID | SETGID),
        _ => 0,
    }
}
