//! Clones of mounts with another id mapping: `open_tree_attr(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Clones a mount, given by its root, with all mounts below it, detached, and gives the clone the id mapping of a user
/// namespace, or none, whatever mapping the mounts have (`open_tree_attr(2)`, Linux 6.15).
///
/// # Errors
/// ENOSYS where the kernel lacks the call; those of [`super::idmapped::idmap_mount`].
pub fn clone_with_idmap(
    mount: impl AsFd,
    user_namespace: Option<impl AsFd>,
) -> io::Result<OwnedFd> {
    /// The numbers of all architectures have the same distance from each other since Linux 5.0.
    const SYS_OPEN_TREE_ATTR: libc::c_long = libc::SYS_mount_setattr - 442 + 467;
    const OPEN_TREE_CLONE: libc::c_int = 1;
    let namespace = match &user_namespace {
        None => 0,
        Some(namespace) => u64::try_from(namespace.as_fd().as_raw_fd())
            .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
    };
    let attributes = libc::mount_attr {
        attr_set: if user_namespace.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        attr_clr: libc::MOUNT_ATTR_IDMAP,
        propagation: libc::MS_PRIVATE,
        userns_fd: namespace,
    };
    // SAFETY: the descriptors are borrowed for the call, the path is a NUL-terminated constant, and the kernel only reads
    // the live struct whose size is passed along.
    let result = unsafe {
        libc::syscall(
            SYS_OPEN_TREE_ATTR,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE | libc::O_CLOEXEC | OPEN_TREE_CLONE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    let fd = RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
