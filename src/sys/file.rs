//! System calls on files and directories.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

use rustix::io::Errno;

use super::creds::last_errno;

/// Changes the mode of the inode behind any descriptor, also one of O_PATH (fchmodat2(2), AT_EMPTY_PATH).
///
/// # Errors
/// ENOSYS before Linux 6.6.
pub fn chmod_fd(fd: impl AsFd, mode: u32) -> Result<(), Errno> {
    // SAFETY: the path is a NUL-terminated constant.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            mode,
            libc::AT_EMPTY_PATH,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Reads directory entries into a buffer (getdents64(2)). Returns the number of bytes filled, 0 at the end.
pub fn getdents(dir: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to the buffer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            dir.as_fd().as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    usize::try_from(result).map_err(|_| last_errno())
}

/// Has the filesystem write out what was written to an open file, as close(2) does, and returns what it reports.
///
/// NFS, SMB and FUSE filesystems send data to their server at close(2) (`f_op->flush`), and report its errors then, such
/// as EDQUOT. A copy of the descriptor is closed, so the file stays open.
pub fn flush(fd: impl AsFd) -> Result<(), Errno> {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0)?.into_raw_fd();
    // SAFETY: the number was just taken from its owner, so nothing else uses or closes it.
    let result = unsafe { libc::close(copy) };
    // Whatever it returns, the descriptor is closed.
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Changes the position of a directory or file: SEEK_SET to a directory cookie, SEEK_DATA, SEEK_HOLE and the others.
///
/// The offset is signed and unchecked: a directory cookie may be any 64 bit number.
pub fn lseek(fd: impl AsFd, offset: i64, whence: i32) -> Result<i64, Errno> {
    // SAFETY: takes integers only.
    let result = unsafe { libc::lseek64(fd.as_fd().as_raw_fd(), offset, whence) };
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}

/// Calls fallocate(2) with the mode that the client passed.
pub fn fallocate(fd: impl AsFd, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
    let (Ok(offset), Ok(len)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(len))
    else {
        return Err(Errno::FBIG);
    };
    // SAFETY: takes integers only.
    let result = unsafe { libc::fallocate64(fd.as_fd().as_raw_fd(), mode, offset, len) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The size of a block device in bytes (BLKGETSIZE64). ENOTTY for other files.
pub fn device_size(device: impl AsFd) -> Result<u64, Errno> {
    const BLKGETSIZE64: u32 = 0x8008_1272;
    let mut size = [0; 8];
    ioctl(device, BLKGETSIZE64, &mut size)?;
    Ok(u64::from_ne_bytes(size))
}

/// Calls ioctl(2) with a buffer as argument, which is read and written in place.
///
/// The caller guarantees that `request` transfers no more than the buffer's length.
pub(crate) fn ioctl(fd: impl AsFd, request: u32, argument: &mut [u8]) -> Result<i32, Errno> {
    let encoded = (request >> 16) & 0x3fff;
    if argument.len() < encoded as usize {
        return Err(Errno::INVAL);
    }
    // SAFETY: callers pass only requests of the FS_IOC and BLK families and this program's own, whose number encodes
    // the size of the transfer; the buffer has at least that size.
    let result = unsafe {
        libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, argument.as_mut_ptr())
    };
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}
