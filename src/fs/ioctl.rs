//! ioctl: the inode flags that chattr(1) and lsattr(1) use (ioctl_iflags(2), ioctl_fsxattr(2)). Everything else is
//! refused, unless every ioctl is to be forwarded.
//!
//! FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR come from the kernel's own `vfs_fileattr_set`, which has looked at the caller's
//! rights and at a read-only mount; it never lets a program's own call of that number through. Its 32 bit twin has
//! another number, which the kernel does not know in a 64 bit program: it would come unchecked.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::caller::Process;
use super::{Caller, Fs, Opened, Result, buffer};
use crate::source::NodeId;
use crate::sys;
use crate::sys::apart::Rights;

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const GETVERSION: u32 = 0x8008_7601;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

/// The kind of ioctls that terminals have (`tty_ioctl`), and no file on a filesystem: isatty(3) asks for one at many an open.
const TERMINALS: u32 = b'T' as u32;

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
    pub room: usize,
}

impl Ioctl {
    /// How many bytes the number says that the request moves (ioctl(2), `_IOC_SIZE`).
    fn moves(&self) -> usize {
        (self.command >> 16 & 0x3fff) as usize
    }

    fn kind(&self) -> u32 {
        self.command >> 8 & 0xff
    }
}

impl Fs {
    /// Whether an ioctl is to be [forwarded](Self::forward_ioctl).
    pub fn forwards(&self, ioctl: &Ioctl) -> bool {
        let is_checked =
            matches!(ioctl.command, GETFLAGS | SETFLAGS | GETVERSION | FSGETXATTR | FSSETXATTR);
        let may_exist = !ioctl.is_compat && ioctl.kind() != TERMINALS;
        !is_checked && may_exist && self.view().changes.forward_ioctls
    }

    /// Makes an ioctl on the source's file: what it returns, and the data that goes back. May take long.
    ///
    /// Nobody's permission is asked beyond the flags with which the file was opened; what it may do on the source is what
    /// whoever mounted may, for callers with CAP_SYS_ADMIN, and what the caller may without a capability, for all others.
    /// Nothing of ours can be reached by it (`sys::apart`): the numbers of
    /// some requests do not tell all that they move. Those fail with EFAULT, or EBADF where they name descriptors.
    pub fn forward_ioctl(
        &self,
        caller: &Caller,
        ioctl: &Ioctl,
        input: &[u8],
    ) -> Result<(i32, Vec<u8>)> {
        let mut argument = buffer::zeroed(ioctl.moves())?;
        let given = input.len().min(argument.len());
        argument[..given].copy_from_slice(&input[..given]);
        // Many a request asks for no more than a capability, and freezes or shuts down the whole filesystem: ours are for
        // who has as much himself.
        let rights = match !self.credentials.are_privileged() || Process::of(caller.pid).is_admin()
        {
            true => {
                if self.credentials.are_privileged() {
                    self.credentials.act_as_self()?;
                }
                Rights::Ours
            }
            false => {
                self.act_for(caller)?;
                Rights::None
            }
        };
        let returned = if ioctl.is_dir {
            let inode = self.tree.inode(ioctl.node)?;
            let fd = self.tree.open(&inode, OFlags::RDONLY)?;
            sys::apart::ioctl(&fd, ioctl.command, &mut argument, rights)?
        } else {
            let file = self.files.get(ioctl.handle)?;
            sys::apart::ioctl(file.open_and_wait()?, ioctl.command, &mut argument, rights)?
        };
        argument.truncate(ioctl.room);
        Ok((returned, argument))
    }

    /// Opens a directory as a file, which only an ioctl on it needs.
    pub fn open_for_ioctl(&self, node: NodeId) -> Result<Opened> {
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
        room: usize,
    ) -> Result<Vec<u8>> {
        // The kernel's own interface moves an int for the requests that are declared with a long.
        let (command, moves) = match command {
            GETFLAGS | SETFLAGS | GETVERSION => (command, 4),
            FSGETXATTR | FSSETXATTR => (command, 28),
            _ => return Err(Errno::NOTTY),
        };
        let mut argument = [0; 32];
        let given = input.len().min(moves);
        argument[..given].copy_from_slice(&input[..given]);
        let inode = self.tree.inode(node)?;
        if matches!(command, SETFLAGS | FSSETXATTR) {
            self.may_act_as_owner(caller, &inode)?;
        }
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::NONBLOCK)?;
        sys::file::ioctl(&fd, command, &mut argument)?;
        Ok(argument[..room.min(argument.len())].to_vec())
    }
}
