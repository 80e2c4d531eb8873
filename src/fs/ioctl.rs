//! ioctl: the inode flags that chattr(1) and lsattr(1) use (ioctl_iflags(2), ioctl_fsxattr(2)). Everything else is
//! refused: an ioctl reaches the source with our rights, not with the caller's.
//!
//! FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR come from the kernel's own `vfs_fileattr_set`, which has looked at the caller's
//! rights and at a read-only mount; it never lets a program's own call of that number through. Its 32 bit twin has
//! another number, which the kernel does not know in a 64 bit program: it would come unchecked.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Fs, Opened, Result};
use crate::source::NodeId;
use crate::sys;

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const GETVERSION: u32 = 0x8008_7601;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

impl Fs {
    /// Opens a directory as a file, which only an ioctl on it needs.
    pub fn open_for_ioctl(&self, node: NodeId) -> Result<Opened> {
        let inode = self.tree.inode(node)?;
        let fd = Arc::new(self.tree.open(&inode, OFlags::RDONLY)?);
        Ok(self.keep_open(inode, Arc::clone(&fd), Some(fd), OFlags::RDONLY))
    }

    /// The answer to an ioctl on a file or directory. ENOTTY for a request that is not passed on.
    ///
    /// The kernel has checked that the caller owns the inode and may set the flags (`vfs_fileattr_set`).
    pub fn ioctl(&self, node: NodeId, command: u32, input: &[u8], room: usize) -> Result<Vec<u8>> {
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
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::NONBLOCK)?;
        sys::file::ioctl(&fd, command, &mut argument)?;
        Ok(argument[..room.min(argument.len())].to_vec())
    }
}
