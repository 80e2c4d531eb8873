//! `mount_setattr(2)`: changing the options of an existing mount.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mount::MountAttrFlags;

/// Clears, then sets options of the mount that `mount` is the root of.
pub fn mount_setattr(
    mount: impl AsFd,
    set: MountAttrFlags,
    clear: MountAttrFlags,
) -> io::Result<()> {
    change(mount, set, clear, 0, 0)
}

/// Gives all mounts of a tree private propagation (mount_namespaces(7)), and clears, then sets options of them.
pub fn make_private(tree: impl AsFd, set: MountAttrFlags, clear: MountAttrFlags) -> io::Result<()> {
    change(tree, set, clear, libc::MS_PRIVATE, libc::AT_RECURSIVE)
}

fn change(
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
    // SAFETY: the descriptor is borrowed for the call, the path is a NUL-terminated literal, and `attr` is a live struct
    // whose size is passed along; the kernel only reads it.
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
