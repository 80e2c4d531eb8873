//! System calls on mounts and mount namespaces, and the mount table as the server needs it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mount::MountAttrFlags;

/// Clears, then sets attributes of the mount that `mount` is the root of (mount_setattr(2)).
pub fn mount_setattr(
    mount: impl AsFd,
    set: MountAttrFlags,
    clear: MountAttrFlags,
) -> io::Result<()> {
    setattr(mount, set, clear, 0, 0)
}

/// Makes all mounts of a tree private (mount_namespaces(7)), and clears, then sets attributes of them.
pub fn make_private(tree: impl AsFd, set: MountAttrFlags, clear: MountAttrFlags) -> io::Result<()> {
    setattr(tree, set, clear, libc::MS_PRIVATE, libc::AT_RECURSIVE)
}

/// Makes one mount private. EINVAL for a directory that is not the root of a mount.
pub fn make_mount_private(mount: impl AsFd) -> io::Result<()> {
    setattr(mount, MountAttrFlags::empty(), MountAttrFlags::empty(), libc::MS_PRIVATE, 0)
}

/// Gives the calling thread its own mount namespace (unshare(2), CLONE_NEWNS).
///
/// This implies CLONE_FS: the thread gets its own root directory, working directory and umask.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS, and the CLONE_FS that it implies, change no memory or descriptors of this process.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Moves the calling thread into a mount namespace (setns(2)), whose root becomes its root and working directory.
///
/// # Errors
/// EINVAL if the thread shares these with another thread.
pub fn enter_mounts(namespace: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call; memory and descriptors stay as they are.
    if unsafe { libc::setns(namespace.as_fd().as_raw_fd(), libc::CLONE_NEWNS) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn setattr(
    mount: impl AsFd,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: u64,
    flags: libc::c_int,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: u64::from(set.bits()),
        attr_clr: u64::from(clear.bits()),
        propagation,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is borrowed for the call, the path is a NUL-terminated literal, and `attr` is a live
    // struct whose size is passed along; the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
