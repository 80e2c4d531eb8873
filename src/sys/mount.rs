//! System calls on mounts and mount namespaces, and the mount table as the server needs it.

use std::collections::HashMap;
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

/// The mount points in the filesystem with this device, as paths from the filesystem's root.
///
/// Only mounts in this process's mount namespace are found.
pub fn mountpoints_in(device: (u32, u32)) -> io::Result<Vec<Vec<u8>>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(nested_mountpoints(&table, device))
}

fn nested_mountpoints(table: &[u8], device: (u32, u32)) -> Vec<Vec<u8>> {
    let device = format!("{}:{}", device.0, device.1);
    let lines = || table.split(|byte| *byte == b'\n').filter_map(parse_line);
    let ours: Vec<RawMountInfo<'_>> =
        lines().filter(|line| line.device == device.as_bytes()).collect();
    lines()
        .filter_map(|line| {
            let upper = ours.iter().find(|upper| upper.id == line.parent)?;
            let (root, at) = (unescape(upper.root), unescape(upper.mountpoint));
            let below = unescape(line.mountpoint).strip_prefix(at.as_slice())?.to_vec();
            Some([&root[..], b"/", &below[..]].concat())
        })
        .collect()
}

/// The type of the filesystem with this device. `None` if it is not mounted in this process's mount namespace.
pub fn fs_type_of(device: (u32, u32)) -> io::Result<Option<Vec<u8>>> {
    Ok(find_fs_type(&std::fs::read("/proc/self/mountinfo")?, device))
}

fn find_fs_type(table: &[u8], device: (u32, u32)) -> Option<Vec<u8>> {
    let device = format!("{}:{}", device.0, device.1);
    let mut lines = table.split(|byte| *byte == b'\n').filter_map(parse_line);
    lines.find(|line| line.device == device.as_bytes()).map(|line| line.fs_type.to_vec())
}

/// A mount below a path, in this process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountBelow {
    /// The path of its mount point.
    pub mountpoint: Vec<u8>,
    /// Its mount options, separated by commas.
    pub options: Vec<u8>,
    /// The filesystem type.
    pub fs_type: Vec<u8>,
    /// The major device number of its filesystem.
    pub major: u32,
}

/// Lists the mounts below a path in the mount with this id, and those below them, also where another mount covers them.
pub fn mounts_below(id: u64, path: &[u8]) -> io::Result<Vec<MountBelow>> {
    Ok(find_mounts_below(&std::fs::read("/proc/self/mountinfo")?, id, path))
}

fn find_mounts_below(table: &[u8], id: u64, path: &[u8]) -> Vec<MountBelow> {
    let mut children: HashMap<&[u8], Vec<RawMountInfo<'_>>> = HashMap::new();
    for line in table.split(|byte| *byte == b'\n').filter_map(parse_line) {
        children.entry(line.parent).or_default().push(line);
    }
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let is_below = |line: &RawMountInfo<'_>| {
        unescape(line.mountpoint).strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
    };
    let id = id.to_string();
    let mut next = children.remove(id.as_bytes()).unwrap_or_default();
    next.retain(is_below);
    let mut found = Vec::new();
    while let Some(line) = next.pop() {
        next.extend(children.remove(line.id).unwrap_or_default());
        let major = line.device.split(|byte| *byte == b':').next().unwrap_or_default();
        let major = std::str::from_utf8(major).ok().and_then(|major| major.parse().ok());
        found.push(MountBelow {
            mountpoint: unescape(line.mountpoint),
            options: line.options.to_vec(),
            fs_type: unescape(line.fs_type),
            major: major.unwrap_or(0),
        });
    }
    found.sort_by(|one, other| one.mountpoint.cmp(&other.mountpoint));
    found
}

/// The fields of a line of /proc/self/mountinfo that are used here (proc_pid_mountinfo(5)).
struct RawMountInfo<'a> {
    id: &'a [u8],
    parent: &'a [u8],
    device: &'a [u8],
    root: &'a [u8],
    mountpoint: &'a [u8],
    /// Options of the mount, not of the filesystem.
    options: &'a [u8],
    fs_type: &'a [u8],
}

fn parse_line(line: &[u8]) -> Option<RawMountInfo<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    Some(RawMountInfo {
        id: fields.next()?,
        parent: fields.next()?,
        device: fields.next()?,
        root: fields.next()?,
        mountpoint: fields.next()?,
        options: fields.next()?,
        // A dash ends the optional fields.
        fs_type: fields.skip_while(|field| *field != b"-").nth(1)?,
    })
}

/// Decodes the octal escapes of fstab(5) and /proc/self/mountinfo for blanks, line ends and backslashes (getmntent(3)).
///
/// A backslash that begins no escape is kept.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_their_path_in_a_filesystem() {
        let table = br"20 1 8:1 / / rw - ext4 /dev/x rw
30 20 0:50 / /m\040n rw - fuse.shiftbind /s rw
31 30 0:51 / /m\040n/a/b rw - tmpfs t rw
32 20 0:50 /a /bound rw - fuse.shiftbind /s rw
33 32 0:51 / /bound/c rw - tmpfs t rw
34 20 0:51 / /other rw - tmpfs t rw";
        assert_eq!(nested_mountpoints(table, (0, 50)), [&b"///a/b"[..], b"/a//c"]);
        assert_eq!(find_fs_type(table, (0, 50)).as_deref(), Some(&b"fuse.shiftbind"[..]));
        let shared = b"20 1 8:1 / / rw,nosuid shared:1 master:2 - ext3 /dev/x rw";
        assert_eq!(find_fs_type(shared, (8, 1)).as_deref(), Some(&b"ext3"[..]));
        assert_eq!(find_fs_type(shared, (8, 2)), None);
        let below = find_mounts_below(table, 20, b"/m\x20n");
        assert!(below.is_empty(), "its own place is not below it: {below:?}");
        let below = find_mounts_below(table, 20, b"/");
        let at: Vec<&[u8]> = below.iter().map(|mount| &mount.mountpoint[..]).collect();
        let expected: [&[u8]; 5] = [b"/bound", b"/bound/c", b"/m n", b"/m n/a/b", b"/other"];
        assert_eq!(at, expected);
        assert_eq!(
            (&below[0].options[..], &below[0].fs_type[..]),
            (&b"rw"[..], &b"fuse.shiftbind"[..])
        );
        assert_eq!(find_mounts_below(table, 20, b"/bound").len(), 0);
        assert_eq!(find_mounts_below(table, 32, b"/bound").len(), 1);
        assert!(
            nested_mountpoints(b"", (0, 50)).is_empty()
                && nested_mountpoints(b"1 2", (0, 50)).is_empty()
        );
    }
}
