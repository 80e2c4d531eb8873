//! ioctl(2): the inode flags of chattr(1) and lsattr(1) (ioctl_iflags(2), ioctl_fsxattr(2)).
//!
//! All others are refused, unless ioctls are forwarded.
//!
//! FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR come from the kernel's `vfs_fileattr_set`, which has checked the caller's
//! permissions and whether the mount is read-only; the kernel never passes on a program's own call with these numbers.
//! The variants for 32-bit programs have other numbers. In a 64-bit program the kernel does not know those, so they
//! would arrive unchecked.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::{Caller, Fs, OpenedFile, Result, buffer};
use crate::source::{ActingAs, NodeId};
use crate::sys;

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const GETVERSION: u32 = 0x8008_7601;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

/// Type of the ioctls of terminals (`tty_ioctl`).
///
/// No file on a filesystem has them, but isatty(3) sends one at many opens.
const TTY_IOCTL_TYPE: u32 = b'T' as u32;

/// Type and number of ioctls that create files.
///
/// Snapshots and subvolumes of btrfs (linux/btrfs.h) and bcachefs, reflinks of ocfs2.
const CREATING_IOCTLS: [(u32, u32); 6] =
    [(0x94, 1), (0x94, 14), (0x94, 23), (0x94, 24), (0xbc, 16), (b'o' as u32, 4)];

/// An ioctl on an open file or directory.
#[derive(Debug, Clone, Copy)]
pub struct Ioctl {
    /// The inode.
    pub node: NodeId,
    /// The handle of the open file.
    pub handle: u64,
    /// The handle is that of a directory.
    pub is_dir: bool,
    /// The ioctl comes from a 32-bit program, so its data may have another layout.
    pub is_compat: bool,
    /// The ioctl's number, which encodes the size and direction of its data.
    pub command: u32,
    /// Maximum size of the output in bytes.
    pub out_size: usize,
}

impl Ioctl {
    /// Returns the size of the argument in bytes, as encoded in the number (ioctl(2), `_IOC_SIZE`).
    fn arg_size(&self) -> usize {
        (self.command >> 16 & 0x3fff) as usize
    }

    fn ioc_type(&self) -> u32 {
        self.command >> 8 & 0xff
    }

    /// Returns whether the ioctl creates a file, which the caller then owns.
    fn creates(&self) -> bool {
        CREATING_IOCTLS.contains(&(self.ioc_type(), self.command & 0xff))
    }
}

/// Returns whether a request changes inode flags, and with them the inode's ctime.
///
/// After such a change the kernel invalidates nothing that it has cached (`fuse_fileattr_set`).
#[must_use]
pub fn sets_flags(command: u32) -> bool {
    matches!(command, SETFLAGS | FSSETXATTR)
}

impl Fs {
    /// Returns whether an ioctl is to be [forwarded](Self::forward_ioctl).
    pub fn forwards(&self, ioctl: &Ioctl) -> bool {
        let is_checked =
            matches!(ioctl.command, GETFLAGS | SETFLAGS | GETVERSION | FSGETXATTR | FSSETXATTR);
        let may_exist = !ioctl.is_compat && ioctl.ioc_type() != TTY_IOCTL_TYPE;
        !is_checked && may_exist && self.view().changes.forward_ioctls
    }

    /// Makes an ioctl on the source's file. Returns its result and the output data. May take long.
    ///
    /// The daemon checks no permission beyond the flags with which the file was opened. On the source the ioctl is made
    /// with the caller's source ids and capabilities, or with ids that own nothing if the caller is unmapped: many
    /// ioctls require only a capability, and freeze or shut down the whole filesystem. EOVERFLOW if an ioctl that
    /// creates a file comes from an unmapped caller.
    ///
    /// The ioctl cannot reach the daemon's memory and descriptors (`sys::apart`), because the numbers of some ioctls do
    /// not encode all that they access. Those fail with EFAULT, or with EBADF if they use descriptors.
    pub fn forward_ioctl(
        &self,
        caller: &Caller,
        ioctl: &Ioctl,
        input: &[u8],
    ) -> Result<(i32, Vec<u8>)> {
        let mut argument = buffer::zeroed(ioctl.arg_size())?;
        let given = input.len().min(argument.len());
        argument[..given].copy_from_slice(&input[..given]);
        let (file, dir);
        let fd = if ioctl.is_dir {
            dir = self.tree.open(&*self.tree.inode(ioctl.node)?, OFlags::RDONLY)?;
            &dir
        } else {
            file = self.files.get(ioctl.handle)?;
            file.open_and_wait()?
        };
        let creds = self.creds_of(caller);
        let acting = self.act_in_ioctl(caller, ioctl, fd, creds.umask())?;
        let capabilities = creds.capabilities();
        let returned = acting.sandboxed_ioctl(fd, ioctl.command, &mut argument, capabilities)?;
        argument.truncate(ioctl.out_size);
        self.data_changed(fd)?;
        Ok((returned, argument))
    }

    /// Acts with the caller's ids for an ioctl on a file.
    fn act_in_ioctl(
        &self,
        caller: &Caller,
        ioctl: &Ioctl,
        fd: &OwnedFd,
        umask: u32,
    ) -> Result<ActingAs<'_>> {
        if !self.credentials.are_privileged() {
            return self.act_for(caller);
        }
        let ids = match ioctl.creates() {
            true => Some(self.owner_of_new(&self.view(), caller)?),
            false => self.source_ids(caller).ok(),
        };
        match ids {
            Some(ids) => self.credentials.creator(ids, umask),
            None => {
                let stat = rustix::fs::fstat(fd)?;
                self.credentials.as_ownerless(Some((stat.st_uid, stat.st_gid)))
            }
        }
    }

    /// Opens a directory as a file, which only an ioctl needs.
    pub fn open_for_ioctl(&self, caller: &Caller, node: NodeId) -> Result<OpenedFile> {
        let share = self.take_open_share(caller)?;
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        let fd = Arc::new(self.tree.open(&inode, OFlags::RDONLY)?);
        Ok(self.keep_open(inode, Arc::clone(&fd), Some(fd), OFlags::RDONLY, share))
    }

    /// Answers an ioctl for inode flags. ENOTTY for any other.
    ///
    /// The kernel has checked that the caller owns the inode and may set the flags (`vfs_fileattr_set`), by the owner
    /// in its cached attributes.
    pub fn ioctl(
        &self,
        caller: &Caller,
        node: NodeId,
        command: u32,
        input: &[u8],
        out_size: usize,
    ) -> Result<Vec<u8>> {
        // The kernel passes an int for the ioctls that are declared with a long.
        let (command, arg_size) = match command {
            GETFLAGS | SETFLAGS | GETVERSION => (command, 4),
            FSGETXATTR | FSSETXATTR => (command, 28),
            _ => return Err(Errno::NOTTY),
        };
        let mut argument = [0; 32];
        let given = input.len().min(arg_size);
        argument[..given].copy_from_slice(&input[..given]);
        let inode = self.tree.inode(node)?;
        let sets = sets_flags(command);
        if sets {
            self.may_act_as_owner(caller, &inode)?;
        }
        self.read_as(caller, &inode)?;
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if sets {
            self.set_flags(caller, &fd, command, &mut argument)?;
            self.inode_changed(&inode)?;
        } else {
            sys::file::ioctl(&fd, command, &mut argument)?;
        }
        Ok(argument[..out_size.min(argument.len())].to_vec())
    }

    /// Sets inode flags.
    ///
    /// The kernel has compared them with the flags that it read a moment ago. If a process has set the immutable flag
    /// since, only the source notices that the caller must not clear it.
    fn set_flags(
        &self,
        caller: &Caller,
        fd: &OwnedFd,
        command: u32,
        argument: &mut [u8],
    ) -> Result<()> {
        let acting = self.act_for(caller)?;
        let given = argument.to_vec();
        let set = acting.lend(CapabilitySet::empty())?.set_flags(fd, command, argument);
        let immutable = CapabilitySet::LINUX_IMMUTABLE;
        if set != Err(Errno::PERM) || !self.creds_of(caller).capabilities().contains(immutable) {
            return set;
        }
        argument.copy_from_slice(&given);
        acting.lend(immutable)?.set_flags(fd, command, argument)
    }
}
