//! Idmapped mounts of the kernel: `mount_setattr(2)` with MOUNT_ATTR_IDMAP.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Applies the id mapping of a user namespace to a detached mount, given by its root, and to all mounts below it.
///
/// # Errors
/// EINVAL where one of the filesystems has no idmapped mounts; EPERM where one is idmapped already, or belongs to a user
/// namespace over which the caller has no CAP_SYS_ADMIN.
pub fn idmap_mount(mount: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    let namespace = u64::try_from(user_namespace.as_fd().as_raw_fd())
        .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace,
    };
    // SAFETY: both descriptors are borrowed for the call, the path is a NUL-terminated constant, and the kernel only
    // reads the live struct whose size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
