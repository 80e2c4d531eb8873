//! Writes inodes to the disk.

use rustix::fs::{OFlags, fsync, syncfs};
use rustix::io::Errno;

use super::descriptor::reopen;
use super::inode::Inode;
use super::mounts::MountIndex;
use super::tree::SourceTree;

impl SourceTree {
    /// Writes an inode to the disk, with the names if it is a directory.
    ///
    /// An inode that cannot be opened (a symbolic link, a device, a FIFO, a socket, a file under a lease) is written with
    /// its whole filesystem. EIO, ENOSPC, EDQUOT as from fsync(2).
    pub fn sync(&self, inode: &Inode) -> Result<(), Errno> {
        let opened = self.open(inode, OFlags::RDONLY | OFlags::NONBLOCK);
        match opened.and_then(fsync) {
            Err(e) if !matches!(e, Errno::IO | Errno::NOSPC | Errno::DQUOT) => {
                self.sync_filesystem(inode.mount())
            }
            result => result,
        }
    }

    /// Writes the filesystem of a mount to the disk, or all filesystems if no descriptor of it is held.
    fn sync_filesystem(&self, mount: MountIndex) -> Result<(), Errno> {
        match self.mounts.sync(mount) {
            Err(Errno::BADF) => {}
            result => return result,
        }
        let root = self.root().held().filter(|_| mount == MountIndex::ROOT).ok_or(Errno::BADF);
        match root.and_then(|fd| reopen(&fd, OFlags::RDONLY | OFlags::NONBLOCK)).and_then(syncfs) {
            Err(Errno::IO) => Err(Errno::IO),
            Err(_) => {
                rustix::fs::sync();
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
