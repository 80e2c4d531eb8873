//! Reads extended attributes relative to a directory (getxattrat(2), Linux 6.13), or by path on older kernels.

use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::creds::last_errno;
use super::descriptors::DescriptorPath;

const SYS_GETXATTRAT: libc::c_long = 464;

/// `struct xattr_args` of linux/xattr.h.
#[repr(C)]
struct Args {
    value: u64,
    size: u32,
    flags: u32,
}

/// Cleared when the kernel returns ENOSYS.
static SUPPORTED: AtomicBool = AtomicBool::new(true);

/// Reads an attribute of the inode that a descriptor's path leads to. Returns its size in bytes.
///
/// # Errors
/// ERANGE if the buffer is too small.
pub fn get(path: &DescriptorPath<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    if !SUPPORTED.load(Ordering::Relaxed) {
        return rustix::fs::getxattr(path.absolute(), name, buffer);
    }
    let (dir, short) = path.relative();
    let args =
        Args { value: buffer.as_mut_ptr() as u64, size: buffer.len().min(65536) as u32, flags: 0 };
    // SAFETY: both strings are NUL-terminated, `args` has the layout of struct xattr_args, and the kernel writes at
    // most `size` bytes to the buffer, which is exclusively borrowed.
    let result = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_raw_fd(),
            short.as_ptr(),
            0,
            name.as_ptr(),
            &raw const args,
            size_of::<Args>(),
        )
    };
    match usize::try_from(result) {
        Ok(length) => Ok(length),
        Err(_) => match last_errno() {
            Errno::NOSYS => {
                SUPPORTED.store(false, Ordering::Relaxed);
                rustix::fs::getxattr(path.absolute(), name, buffer)
            }
            e => Err(e),
        },
    }
}
