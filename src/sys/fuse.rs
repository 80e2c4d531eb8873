//! The ioctls of /dev/fuse (`FUSE_DEV_IOC_…`, linux/fuse.h).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::creds::last_errno;

const CLONE: u32 = 0x8004_e500;
const BACKING_OPEN: u32 = 0x4010_e501;
const BACKING_CLOSE: u32 = 0x4004_e502;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Makes a fresh open file of /dev/fuse one more of the connection that `device` has. EINVAL when it has none.
pub fn clone_device(fresh: impl AsFd, device: impl AsFd) -> Result<(), Errno> {
    let mut number = device.as_fd().as_raw_fd() as u32;
    // SAFETY: the kernel reads four bytes, which are there.
    let result = unsafe { libc::ioctl(fresh.as_fd().as_raw_fd(), CLONE.into(), &raw mut number) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Hands a file over to the kernel, for it to read and write by itself: the number under which it knows it. EPERM
/// without CAP_SYS_ADMIN; ELOOP for a file of a filesystem that is stacked too deep; EBADF for an O_PATH descriptor
/// before Linux 6.16.
pub fn open_backing(device: impl AsFd, file: impl AsFd) -> Result<i32, Errno> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads a structure of this layout, which is there.
    let result =
        unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_OPEN.into(), &raw const map) };
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Has the kernel let go of such a file. ENOENT when it has.
pub fn close_backing(device: impl AsFd, id: i32) -> Result<(), Errno> {
    // SAFETY: the kernel reads four bytes, which are there.
    let result =
        unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_CLOSE.into(), &raw const id) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}
