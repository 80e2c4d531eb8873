//! Open files: open, read, write, flush, release, fsync, fallocate, lseek, copy_file_range.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Caller, Fs, Result};
use crate::source::{Inode, NodeId};
use crate::sys;

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    fd: Arc<OwnedFd>,
    inode: Arc<Inode>,
    flags: OFlags,
}

/// A file that was just opened.
#[derive(Debug)]
pub struct Opened {
    /// The number that later requests carry.
    pub handle: u64,
    /// The file.
    pub file: Arc<OpenFile>,
}

impl OpenFile {
    /// The source file's descriptor, opened as the caller asked.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The inode.
    #[must_use]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// Whether it was opened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags.intersects(OFlags::WRONLY | OFlags::RDWR)
    }
}

/// The flags with which the source is opened for a caller's flags: what the kernel has dealt with is left out, and
/// O_DIRECT, whose alignment our buffers do not keep.
pub(super) fn source_flags(flags: OFlags) -> OFlags {
    flags - (OFlags::CREATE | OFlags::EXCL | OFlags::NOCTTY | OFlags::DIRECT | OFlags::NONBLOCK)
}

impl Fs {
    /// Opens a regular file. ESTALE when it is gone: the kernel looks the name up again.
    pub fn open(&self, node: NodeId, flags: OFlags) -> Result<Opened> {
        let inode = self.tree.inode(node)?;
        if inode.kind() == FileType::Directory {
            // The kernel opens a directory as a file for an ioctl on it.
            return Err(Errno::ISDIR);
        }
        let flags = source_flags(flags);
        let fd = Arc::new(self.tree.open(&inode, flags)?);
        Ok(self.keep_open(inode, fd, flags))
    }

    pub(super) fn keep_open(&self, inode: Arc<Inode>, fd: Arc<OwnedFd>, flags: OFlags) -> Opened {
        inode.opened(&fd);
        let spread = inode.node().0;
        let file = Arc::new(OpenFile { fd, inode, flags });
        let handle = self.files.insert(Arc::clone(&file), spread);
        Opened { handle, file }
    }

    /// An open file by its number. EBADF when it was closed.
    pub fn file(&self, handle: u64) -> Result<Arc<OpenFile>> {
        self.files.get(handle)
    }

    /// Reads into a buffer until it is full or the file ends: how many bytes there are.
    pub fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.files.get(handle)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(&*file.fd, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(e) if filled == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(filled)
    }

    /// Writes a buffer: how many bytes were taken.
    pub fn write(&self, caller: &Caller, handle: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let file = self.files.get(handle)?;
        self.write_as(caller)?;
        let mut written = 0;
        while written < data.len() {
            match rustix::io::pwrite(&*file.fd, &data[written..], offset + written as u64) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(e) if written == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(written)
    }

    /// A descriptor of the file was closed: the owner's locks on it go (fcntl(2)).
    pub fn flush(&self, handle: u64, owner: u64) -> Result<()> {
        let file = self.files.get(handle)?;
        self.locks.release(file.inode.node(), owner);
        Ok(())
    }

    /// The last descriptor was closed.
    pub fn release(&self, handle: u64) -> Result<Arc<OpenFile>> {
        let file = self.files.remove(handle)?;
        file.inode.closed();
        Ok(file)
    }

    /// Writes the file to disk; with `data_only` without what is not needed to read it again.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let file = self.files.get(handle)?;
        sync(&file.fd, data_only)
    }

    /// fallocate(2) with any mode that the source knows.
    pub fn fallocate(
        &self,
        caller: &Caller,
        handle: u64,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let file = self.files.get(handle)?;
        self.write_as(caller)?;
        sys::file::fallocate(&*file.fd, mode, offset, len)
    }

    /// SEEK_DATA and SEEK_HOLE, and whatever else the kernel leaves to us.
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let file = self.files.get(handle)?;
        sys::file::lseek(&*file.fd, offset, whence)
    }

    /// Copies within the source, by reference where it can (copy_file_range(2)).
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
    ) -> Result<usize> {
        let (source, target) = (self.files.get(from.0)?, self.files.get(to.0)?);
        self.write_as(caller)?;
        let (mut offset_in, mut offset_out) = (from.1, to.1);
        // The reply has 32 bits for the count.
        let len = usize::try_from(len.min(0x7fff_f000)).unwrap_or(0x7fff_f000);
        rustix::fs::copy_file_range(
            &*source.fd,
            Some(&mut offset_in),
            &*target.fd,
            Some(&mut offset_out),
            len,
        )
    }
}

pub(super) fn sync(fd: &OwnedFd, data_only: bool) -> Result<()> {
    if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) }
}
