//! The ioctls of /dev/fuse (`FUSE_DEV_IOC_…`, linux/fuse.h).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::creds::last_errno;

// Of the type that ioctl(3) takes: an unsigned long with glibc, an int with musl.
const CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
const BACKING_OPEN: libc::Ioctl = 0x4010_e501_u32 as libc::Ioctl;
const BACKING_CLOSE: libc::Ioctl = 0x4004_e502_u32 as libc::Ioctl;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Attaches a fresh open file of /dev/fuse to the connection of `device` (FUSE_DEV_IOC_CLONE). EINVAL if it has none.
pub fn clone_device(fresh: impl AsFd, device: impl AsFd) -> Result<(), Errno> {
    let mut number = device.as_fd().as_raw_fd() as u32;
    // SAFETY: the kernel reads four bytes, the size of `number`.
    let result = unsafe { libc::ioctl(fresh.as_fd().as_raw_fd(), CLONE, &raw mut number) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Registers a backing file for FUSE passthrough (FUSE_DEV_IOC_BACKING_OPEN). Returns its backing id.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN; ELOOP if the file's filesystem is stacked too deep; EBADF for an O_PATH descriptor
/// before Linux 6.16.
pub fn open_backing(device: impl AsFd, file: impl AsFd) -> Result<i32, Errno> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads a structure of this layout.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_OPEN, &raw const map) };
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Releases a backing file (FUSE_DEV_IOC_BACKING_CLOSE). ENOENT if it is released already.
pub fn close_backing(device: impl AsFd, id: i32) -> Result<(), Errno> {
    // SAFETY: the kernel reads four bytes, the size of `id`.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_CLOSE, &raw const id) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}
