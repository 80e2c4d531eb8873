//! Enforces nosuid, nodev, noexec and nosymfollow of mounts below the source.
//!
//! FUSE has no flags for a part of a mount, so these operations hide what the kernel must not use.
//!
//! `ro` and the options for access times need nothing here: the daemon reads and writes the source through its own
//! mounts, where the kernel enforces them, with passthrough as well.

use rustix::fs::{Access, FileType, OFlags};
use rustix::io::Errno;

use super::checks::protects_hardlinks;
use super::mode_bits::{FMODE_EXEC, GROUP_EXECUTE, SETGID, SETUID};
use super::{Attr, Caller, Fs, Result};
use crate::source::{Inode, Restrictions};
use crate::translate::XattrKind;

/// A device number, as FUSE encodes it, that no driver can have.
///
/// Majors end at 511 (Linux `CHRDEV_MAJOR_MAX`, `BLKDEV_MAJOR_MAX`).
const NO_DEVICE: u32 = u32::MAX;
/// The device number of an overlayfs whiteout, which no driver has either (Linux `WHITEOUT_DEV`).
const WHITEOUT: u32 = 0;
const SECURITY_CAPABILITY: &[u8] = b"security.capability";

impl Fs {
    fn restrictions(&self, inode: &Inode) -> Restrictions {
        self.tree.restrictions(inode)
    }

    /// Hides what an inode's mount forbids: setuid and setgid bits of files, numbers of devices.
    pub(super) fn restricted(&self, inode: &Inode, mut attr: Attr) -> Attr {
        let forbids = self.restrictions(inode);
        match inode.kind() {
            FileType::RegularFile if forbids.nosuid => attr.mode &= !((SETUID | SETGID) as u16),
            // The kernel opens any valid device without a request to the daemon.
            FileType::CharacterDevice | FileType::BlockDevice
                if forbids.nodev && attr.rdev != WHITEOUT =>
            {
                attr.rdev = NO_DEVICE;
            }
            _ => {}
        }
        attr
    }

    /// Checks link(2) of a file whose setuid or setgid bits are hidden: EPERM unless the caller owns it.
    ///
    /// The kernel applies protected_hardlinks (proc_sys_fs(5)) to the mode that it sees, so it does not refuse the link
    /// itself.
    pub(super) fn may_link_hidden_bits(&self, caller: &Caller, inode: &Inode) -> Result<()> {
        if !self.restrictions(inode).nosuid || !inode.kind().is_file() || !protects_hardlinks() {
            return Ok(());
        }
        let stat = self.tree.stat(inode)?;
        let mode = u32::from(stat.stx_mode);
        let runs_as_group = mode & (SETGID | GROUP_EXECUTE) == SETGID | GROUP_EXECUTE;
        if mode & SETUID == 0 && !runs_as_group {
            return Ok(());
        }
        let file = self.shown(caller, &stat);
        match caller.owns(&file) || self.creds_of(caller).overrides_owner(&file) {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    /// Checks an open for execution: EACCES on a noexec mount.
    pub(super) fn may_run(&self, inode: &Inode, asked: OFlags) -> Result<()> {
        let runs = asked.bits() & FMODE_EXEC != 0;
        if runs && self.restrictions(inode).noexec { Err(Errno::ACCESS) } else { Ok(()) }
    }

    /// Applies the mount's options to access(2), for a caller with the permissions (Linux `do_faccessat`).
    ///
    /// EACCES for X_OK on a noexec mount, EROFS for W_OK on a read-only one.
    pub(super) fn mount_permits(&self, inode: &Inode, wanted: Access) -> Result<()> {
        let (forbids, kind) = (self.restrictions(inode), inode.kind());
        if wanted.contains(Access::EXEC_OK) && kind.is_file() && forbids.noexec {
            return Err(Errno::ACCESS);
        }
        let is_stored =
            matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink);
        if wanted.contains(Access::WRITE_OK) && is_stored && forbids.read_only {
            return Err(Errno::ROFS);
        }
        Ok(())
    }

    /// Checks readlink: ELOOP on a nosymfollow mount.
    ///
    /// The kernel does not say whether it reads a link to follow it.
    pub(super) fn may_follow(&self, inode: &Inode) -> Result<()> {
        if self.restrictions(inode).nosymfollow { Err(Errno::LOOP) } else { Ok(()) }
    }

    /// Returns whether an attribute is hidden: file capabilities on a nosuid mount.
    ///
    /// The kernel reads them when it executes the file, and does not say why it reads them.
    pub(super) fn hides_xattr(&self, inode: &Inode, kind: XattrKind) -> bool {
        kind == XattrKind::Capability && self.restrictions(inode).nosuid
    }

    /// Removes hidden attributes from a list of names, each ended by a NUL.
    pub(super) fn shown_names(&self, inode: &Inode, mut names: Vec<u8>) -> Vec<u8> {
        if self.restrictions(inode).nosuid {
            let kept = |name: &&[u8]| name.strip_suffix(b"\0") != Some(SECURITY_CAPABILITY);
            names =
                names.split_inclusive(|byte| *byte == 0).filter(kept).flatten().copied().collect();
        }
        names
    }
}
