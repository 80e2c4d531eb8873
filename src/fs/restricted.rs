//! Files on a mount below the source that is nosuid, nodev, noexec or nosymfollow. FUSE has no flags for a part of a mount,
//! so what the kernel must not use is not shown to it.
//!
//! `ro` and the options for times of access need nothing here: the source is reached through its own mounts, whose kernel
//! keeps to them, also where it passes data by us.

use rustix::fs::{Access, FileType, OFlags};
use rustix::io::Errno;

use super::checks::{GROUP_EXECUTE, protects_hardlinks};
use super::killpriv::{SETGID, SETUID};
use super::{Attr, Caller, Fs, Result};
use crate::source::{Inode, Restrictions};
use crate::translate::XattrKind;

/// The kernel's mark of an open that is to run the file; no program can set it (linux/fs.h, `__FMODE_EXEC`).
pub(super) const FMODE_EXEC: u32 = 0o40;

/// A device number in the encoding of FUSE that no driver can have: majors end at 511 (Linux `CHRDEV_MAJOR_MAX`,
/// `BLKDEV_MAJOR_MAX`).
const NO_DEVICE: u32 = u32::MAX;
/// The number of a whiteout of overlayfs, which no driver has either (Linux `WHITEOUT_DEV`).
const WHITEOUT: u32 = 0;
const SECURITY_CAPABILITY: &[u8] = b"security.capability";

impl Fs {
    fn restrictions(&self, inode: &Inode) -> Restrictions {
        self.tree.restrictions(inode)
    }

    /// An inode's attributes without what its mount forbids the kernel to use: set bits of files, numbers of devices.
    pub(super) fn restricted(&self, inode: &Inode, mut attr: Attr) -> Attr {
        let forbids = self.restrictions(inode);
        match inode.kind() {
            FileType::RegularFile if forbids.nosuid => attr.mode &= !((SETUID | SETGID) as u16),
            // The kernel opens devices without asking us, as long as they are any.
            FileType::CharacterDevice | FileType::BlockDevice
                if forbids.nodev && attr.rdev != WHITEOUT =>
            {
                attr.rdev = NO_DEVICE;
            }
            _ => {}
        }
        attr
    }

    /// EPERM for one more name of a file with set bits that the caller does not own (proc_sys_fs(5), protected_hardlinks):
    /// the kernel, which sees no such bits, refuses it only without.
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
        match file.uid == Some(caller.uid) || self.creds_of(caller).overrides_owner(&file) {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    /// EACCES for an open that is to run a file on a mount from which nothing is run.
    pub(super) fn may_run(&self, inode: &Inode, asked: OFlags) -> Result<()> {
        let runs = asked.bits() & FMODE_EXEC != 0;
        if runs && self.restrictions(inode).noexec { Err(Errno::ACCESS) } else { Ok(()) }
    }

    /// What access(2) says of an inode's mount, to a caller who has the rights: EACCES for running what is not run, EROFS for
    /// writing where nothing is written (Linux `do_faccessat`).
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

    /// ELOOP for a symbolic link on a mount where none is followed. The kernel does not say whether a link is read to be
    /// followed.
    pub(super) fn may_follow(&self, inode: &Inode) -> Result<()> {
        if self.restrictions(inode).nosymfollow { Err(Errno::LOOP) } else { Ok(()) }
    }

    /// Whether an attribute is not shown: the kernel reads capabilities when it runs a file, and does not say so.
    pub(super) fn hides_xattr(&self, inode: &Inode, kind: XattrKind) -> bool {
        kind == XattrKind::Capability && self.restrictions(inode).nosuid
    }

    /// A list of names of attributes, each ended by a NUL, without those that are not shown.
    pub(super) fn shown_names(&self, inode: &Inode, mut names: Vec<u8>) -> Vec<u8> {
        if self.restrictions(inode).nosuid {
            let kept = |name: &&[u8]| name.strip_suffix(b"\0") != Some(SECURITY_CAPABILITY);
            names =
                names.split_inclusive(|byte| *byte == 0).filter(kept).flatten().copied().collect();
        }
        names
    }
}
