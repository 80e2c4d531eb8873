//! Setuid and setgid bits of regular files: who may keep them, and who may take them by a change of owner.
//!
//! With HANDLE_KILLPRIV_V2 the kernel leaves them to us: the caller's rights are looked up, but only for the few files
//! that have such bits.

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::caller::CallerCreds;
use super::types::stored;
use super::{Caller, Fs, Result};
use crate::idmap::SourceGid;
use crate::source::Inode;
use crate::view::{Checks, View};

pub(super) const SETUID: u32 = 0o4000;
pub(super) const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// With what rights a caller's change is made on the source, as far as these bits go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KillprivRights {
    /// CAP_FSETID: whoever has it keeps the bits of what he writes. `None` where there are none.
    pub(super) fsetid: Option<bool>,
    /// Membership of the file's group: its members keep the setgid bit of a file that the group may not execute.
    pub(super) membership: Membership,
}

/// Whether one acts as a member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    /// It matters not.
    Any,
    /// As a member.
    Of(SourceGid),
    /// As no member, even if the caller's own number is, by chance, the group's on the source.
    NotOf(SourceGid),
}

impl Membership {
    /// The group to act as, for a caller whose own is this.
    pub(super) fn acting_gid(self, own: u32) -> u32 {
        match self {
            Self::Of(group) => group.raw(),
            // 4294967295 is no id.
            Self::NotOf(group) if group.raw() == own => own.checked_sub(1).unwrap_or(1),
            Self::Any | Self::NotOf(_) => own,
        }
    }
}

impl KillprivRights {
    /// There is nothing to take.
    pub(super) const ANY: Self = Self { fsetid: None, membership: Membership::Any };
    /// Nothing is taken.
    pub(super) const ALL: Self = Self { fsetid: Some(true), membership: Membership::Any };
}

impl Fs {
    /// The rights with which a caller writes to a file (Linux `setattr_should_drop_suidgid`).
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

    /// The rights with which a caller writes who lacks CAP_FSETID, as the kernel says: it may act for somebody else than the
    /// thread that it names.
    pub(super) fn rights_without_fsetid(
        &self,
        caller: &Caller,
        inode: &Inode,
    ) -> Result<KillprivRights> {
        let stat = self.tree.stat(inode)?;
        if bits(&stat) == 0 {
            return Ok(KillprivRights::ANY);
        }
        let creds = self.creds_of(caller);
        let keeps = self.keeps_setgid(&creds, caller, &stat);
        Ok(KillprivRights { fsetid: Some(false), membership: membership(&stat, keeps) })
    }

    /// What is known of a caller's groups and capabilities. A caller whom we cannot see, in a pid namespace that is not
    /// below ours, is root by his number, where the kernel has judged what he does; who is not has no groups and no
    /// capabilities.
    pub(super) fn creds_of(&self, caller: &Caller) -> CallerCreds {
        if caller.pid == 0 && caller.uid.raw() == 0 && self.needs.checks == Checks::Kernel {
            return CallerCreds::invisible_root();
        }
        CallerCreds::of(caller.pid).with_request_ids(caller)
    }

    /// The rights with which a caller changes a file's access ACL: the setgid bit stays with members of the group (Linux
    /// `posix_acl_update_mode`), as far as the source's filesystem looks at it.
    pub(super) fn rights_to_set_acl(
        &self,
        caller: &Caller,
        inode: &Inode,
    ) -> Result<KillprivRights> {
        let stat = self.tree.stat(inode)?;
        if u32::from(stat.stx_mode) & SETGID == 0 {
            return Ok(KillprivRights::ANY);
        }
        let creds = self.creds_of(caller);
        let keeps = creds.keeps_setgid(caller, &self.shown(caller, &stat));
        Ok(KillprivRights { fsetid: Some(keeps), membership: membership(&stat, keeps) })
    }

    /// Whether the setgid bit survives: without group execute it stays with members of the group (Linux
    /// `setattr_should_drop_sgid`).
    fn keeps_setgid(&self, creds: &CallerCreds, caller: &Caller, stat: &Statx) -> bool {
        if u32::from(stat.stx_mode) & GROUP_EXECUTE != 0 {
            return false;
        }
        creds.keeps_setgid(caller, &self.shown(caller, stat))
    }

    /// A mode to be set, without the bits by which whoever runs the file would get what its owner or group may do, where
    /// they are the caller's only as far as is shown: he would get it on the source. (Linux `setattr_prepare` asks no more
    /// than whose the file is shown to be.)
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
        if owner.uid != Some(caller.uid) && !creds.overrides_owner(&owner) {
            kept &= !SETUID;
        }
        if !creds.keeps_setgid(caller, &owner) {
            kept &= !SETGID;
        }
        Ok(kept)
    }

    /// Whether a change of owner leaves the setgid bit. It takes the setuid bit whoever asks (chown(2)), and to take a bit
    /// is a change of mode: EPERM for who neither owns the file nor has CAP_FOWNER over it (Linux `notify_change`).
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
        if file.uid == Some(caller.uid) || creds.overrides_owner(&file) {
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

/// The bits that a regular file has.
fn bits(stat: &Statx) -> u32 {
    let mode = u32::from(stat.stx_mode);
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => mode & (SETUID | SETGID),
        _ => 0,
    }
}
