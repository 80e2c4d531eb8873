//! Setuid and setgid bits of regular files: who may keep them, and who may take them by a change of owner.
//!
//! With HANDLE_KILLPRIV_V2 the kernel leaves them to us, and fuser does not pass on what the kernel says about them in a
//! setattr: the caller's rights are looked up, but only for the few files that have such bits.

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::caller::Process;
use super::{Attr, Caller, Fs, Result, Trust};
use crate::source::Inode;

pub(super) const SETUID: u32 = 0o4000;
pub(super) const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

impl Fs {
    /// Whether the bits survive what a caller writes (Linux `setattr_should_drop_suidgid`).
    pub(super) fn keeps_privileges(&self, caller: &Caller, inode: &Inode, stat: &Statx) -> bool {
        let bits = bits(stat);
        if bits == 0 {
            return true;
        }
        let process = Process::of(caller.pid);
        process.may_keep_bits()
            || (bits == SETGID && self.keeps_setgid(&process, caller, inode, stat))
    }

    /// Whether the setgid bit alone survives: without group execute it stays with members of the group.
    fn keeps_setgid(
        &self,
        process: &Process,
        caller: &Caller,
        inode: &Inode,
        stat: &Statx,
    ) -> bool {
        if u32::from(stat.stx_mode) & GROUP_EXECUTE != 0 {
            return false;
        }
        let attr = Attr::shown(inode, stat, &self.ids, Trust::Fresh);
        process.keeps_setgid(caller, &attr)
    }

    /// What a change of owner does to the bits: whether they survive. It takes them whoever asks (chown(2)), and to take
    /// them is a change of mode: EPERM for who neither owns the file nor has CAP_FOWNER over it (Linux
    /// `notify_change`).
    pub(super) fn chown_keeps_privileges(
        &self,
        caller: &Caller,
        inode: &Inode,
        stat: &Statx,
    ) -> Result<bool> {
        let bits = bits(stat);
        if bits == 0 {
            return Ok(true);
        }
        let process = Process::of(caller.pid);
        if bits == SETGID && self.keeps_setgid(&process, caller, inode, stat) {
            return Ok(true);
        }
        let attr = Attr::shown(inode, stat, &self.ids, Trust::Fresh);
        if attr.uid == Some(caller.uid) || process.overrides_owner(&attr) {
            return Ok(false);
        }
        Err(Errno::PERM)
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
