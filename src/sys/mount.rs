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

/// Whether a mount exists, by its unique id (`STATX_MNT_ID_UNIQUE`), in the mount namespace with this id; `None`: in that of
/// the caller. Needs CAP_SYS_ADMIN in the initial user namespace: without it the kernel denies mounts that exist.
///
/// # Errors
/// ENOSYS before Linux 6.8; E2BIG or EINVAL before 6.11 for another mount namespace; EPERM for a mount that the caller cannot
/// reach.
pub fn exists(namespace: Option<u64>, unique: u64) -> io::Result<bool> {
    /// `struct mnt_id_req` of linux/mount.h.
    #[repr(C)]
    struct MntIdReq {
        size: u32,
        spare: u32,
        mnt_id: u64,
        param: u64,
        mnt_ns_id: u64,
    }
    /// The size without `mnt_ns_id` (`MNT_ID_REQ_SIZE_VER0`).
    const SIZE_VER0: u32 = 24;
    /// The same number on every architecture of this project (linux/unistd.h).
    const SYS_STATMOUNT: libc::c_long = 457;
    const STATMOUNT_MNT_BASIC: u64 = 2;
    let size = if namespace.is_some() { size_of::<MntIdReq>() as u32 } else { SIZE_VER0 };
    let request = MntIdReq {
        size,
        spare: 0,
        mnt_id: unique,
        param: STATMOUNT_MNT_BASIC,
        mnt_ns_id: namespace.unwrap_or(0),
    };
    let mut buffer = [0u64; 256];
    // SAFETY: the request has `size` bytes, and the kernel writes at most the buffer's size into it.
    let result = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            &raw const request,
            buffer.as_mut_ptr(),
            size_of_val(&buffer),
            0,
        )
    };
    match result {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            e => Err(e),
        },
    }
}

/// The id of a mount namespace, which is never used again (`NS_GET_MNTNS_ID`, Linux 6.11).
pub fn namespace_id(namespace: impl AsFd) -> io::Result<u64> {
    /// `_IOR(0xb7, 0x5, __u64)` of linux/nsfs.h.
    const NS_GET_MNTNS_ID: libc::Ioctl = 0x8008_b705u32 as libc::Ioctl;
    let mut id = 0u64;
    // SAFETY: the ioctl writes 64 bits to the address of `id`.
    match unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_MNTNS_ID, &raw mut id) } {
        0 => Ok(id),
        _ => Err(io::Error::last_os_error()),
    }
}
