//! ioctl: the inode flags that chattr(1) and lsattr(1) use (ioctl_iflags(2), ioctl_fsxattr(2)). Everything else is
//! refused, unless every ioctl is to be forwarded.
//!
//! FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR come from the kernel's own `vfs_fileattr_set`, which has looked at the caller's
//! rights and at a read-only mount; it never lets a program's own call of that number through. Its 32 bit twin has
//! another number, which the kernel does not know in a 64 bit program: it would come unchecked.

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

/// The kind of ioctls that terminals have (`tty_ioctl`), and no file on a filesystem: isatty(3) asks for one at many an open.
const TTY_IOCTL_TYPE: u32 = b'T' as u32;

/// Kind and number of those that make files, as far as Linux has any: snapshots and subvolumes of btrfs (linux/btrfs.h)
/// and bcachefs, reflinks of ocfs2.
const CREATING_IOCTLS: [(u32, u32); 6] =
    [(0x94, 1), (0x94, 14), (0x94, 23), (0x94, 24), (0xbc, 16), (b'o' as u32, 4)];

/// An ioctl on an open file or directory.
#[derive(Debug, Clone, Copy)]
pub struct Ioctl {
    /// What it is for.
    pub node: NodeId,
    /// The open file's number.
    pub handle: u64,
    /// The number is a directory's.
    pub is_dir: bool,
    /// It comes from a 32 bit program, and its data may be laid out as such a program has it.
    pub is_compat: bool,
    /// The request's number. It encodes how many bytes move, and whither.
    pub command: u32,
    /// How many bytes the answer may have.
    pub out_size: usize,
}

impl Ioctl {
    /// How many bytes the number says that the request moves (ioctl(2), `_IOC_SIZE`).
    fn arg_size(&self) -> usize {
        (self.command >> 16 & 0x3fff) as usize
    }

    fn ioc_type(&self) -> u32 {
        self.command >> 8 & 0xff
    }

    /// Whether it makes something that belongs to whoever calls.
    fn creates(&self) -> bool {
        CREATING_IOCTLS.contains(&(self.ioc_type(), self.command & 0xff))
    }
}

impl Fs {
    /// Whether an ioctl is to be [forwarded](Self::forward_ioctl).
    pub fn forwards(&self, ioctl: &Ioctl) -> bool {
        let is_checked =
            matches!(ioctl.command, GETFLAGS | SETFLAGS | GETVERSION | FSGETXATTR | FSSETXATTR);
        let may_exist = !ioctl.is_compat && ioctl.ioc_type() != TTY_IOCTL_TYPE;
        !is_checked && may_exist && self.view().changes.forward_ioctls
    }

    /// Makes an ioctl on the source's file: what it returns, and the data that goes back. May take long.
    ///
    /// Nobody's permission is asked beyond the flags with which the file was opened. On the source it is made as the caller,
    /// with the capabilities that he has himself, or as somebody who owns nothing if he has no counterpart there. Many a
    /// request asks for no more than a capability, and freezes or shuts down the whole filesystem. EOVERFLOW for one that
    /// makes something by a caller to whom nothing can belong.
    ///
    /// Nothing of ours can be reached by it (`sys::apart`): the numbers of some requests do not tell all that they move.
    /// Those fail with EFAULT, or EBADF where they name descriptors.
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
        Ok((returned, argument))
    }

    /// Acts as the caller in an ioctl on a file.
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

    /// Opens a directory as a file, which only an ioctl on it needs.
    pub fn open_for_ioctl(&self, node: NodeId) -> Result<OpenedFile> {
        let inode = self.tree.inode(node)?;
        let fd = Arc::new(self.tree.open(&inode, OFlags::RDONLY)?);
        Ok(self.keep_open(inode, Arc::clone(&fd), Some(fd), OFlags::RDONLY))
    }

    /// The answer to an ioctl on a file or directory. ENOTTY for a request that is not passed on.
    ///
    /// The kernel has checked that the caller owns the inode and may set the flags (`vfs_fileattr_set`), by the owner that
    /// it was told last.
    pub fn ioctl(
        &self,
        caller: &Caller,
        node: NodeId,
        command: u32,
        input: &[u8],
        out_size: usize,
    ) -> Result<Vec<u8>> {
        // The kernel's own interface moves an int for the requests that are declared with a long.
        let (command, arg_size) = match command {
            GETFLAGS | SETFLAGS | GETVERSION => (command, 4),
            FSGETXATTR | FSSETXATTR => (command, 28),
            _ => return Err(Errno::NOTTY),
        };
        let mut argument = [0; 32];
        let given = input.len().min(arg_size);
        argument[..given].copy_from_slice(&input[..given]);
        let inode = self.tree.inode(node)?;
        let sets = matches!(command, SETFLAGS | FSSETXATTR);
        if sets {
            self.may_act_as_owner(caller, &inode)?;
        }
        self.read_as(caller, &inode)?;
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if sets {
            self.set_flags(caller, &fd, command, &mut argument)?;
        } else {
            sys::file::ioctl(&fd, command, &mut argument)?;
        }
        Ok(argument[..out_size.min(argument.len())].to_vec())
    }

    /// Sets inode flags. The kernel has compared them to those that it was told a moment ago; that the immutable flag is
    /// set meanwhile, which its owner may not take off, only the source can see.
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
