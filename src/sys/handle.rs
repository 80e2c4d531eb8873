//! File handles: identify an inode independent of paths and descriptors (name_to_handle_at(2)).

use std::ffi::CStr;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::creds::last_errno;

/// The longest handle that is stored, in bytes.
///
/// Longer ones (of some network filesystems) are reported as ENOTSUP, as are empty handles and types above 255, which
/// no filesystem uses.
pub const MAX_BYTES: usize = 24;

/// A file handle, stored in few bytes, since there can be millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileHandle {
    kind: u8,
    len: NonZeroU8,
    bytes: [u8; MAX_BYTES],
}

impl FileHandle {
    /// Builds a handle from its parts. `None` if it cannot be stored (see [`MAX_BYTES`]).
    #[must_use]
    pub fn from_parts(kind: i32, handle: &[u8]) -> Option<Self> {
        let kind = u8::try_from(kind).ok()?;
        let len = NonZeroU8::new(u8::try_from(handle.len()).ok()?)?;
        let mut bytes = [0; MAX_BYTES];
        bytes.get_mut(..handle.len())?.copy_from_slice(handle);
        Some(Self { kind, len, bytes })
    }

    /// The handle's type, private to its filesystem.
    #[must_use]
    pub fn kind(&self) -> i32 {
        self.kind.into()
    }

    /// The handle's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len.get())]
    }
}

/// `struct file_handle` with space for `N` bytes.
#[repr(C)]
#[derive(Debug)]
struct Raw<const N: usize> {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; N],
}

/// The longest handle that the kernel makes, in bytes (MAX_HANDLE_SZ of linux/exportfs.h).
const MAX_LONG_BYTES: usize = 128;

/// A file handle of any length, for short use.
#[derive(Debug)]
pub struct LongHandle(Box<Raw<MAX_LONG_BYTES>>);

impl LongHandle {
    /// The handle of an inode. EOPNOTSUPP if the filesystem has none.
    pub fn of(inode: impl AsFd) -> Result<Self, Errno> {
        let f_handle = [0; MAX_LONG_BYTES];
        let mut raw = Raw { handle_bytes: MAX_LONG_BYTES as u32, handle_type: 0, f_handle };
        encode_raw(inode, c"", 0, &mut raw)?;
        Ok(Self(Box::new(raw)))
    }

    /// Opens the inode on the filesystem of `mount`, as [`open_by_handle`] does.
    pub fn open(&self, mount: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        decode_raw(mount, &*self.0, flags)
    }
}

/// The handle of `name` in `dir`, or of `dir` itself if the name is empty, and the id of its mount.
///
/// Symbolic links are not followed.
///
/// # Errors
/// ENOTSUP if the filesystem has no handles or they are too long.
pub fn name_to_handle(dir: impl AsFd, name: &CStr) -> Result<(FileHandle, i32), Errno> {
    encode(dir, name, 0)
}

/// As [`name_to_handle`], for an identifier that open_by_handle_at(2) need not accept (AT_HANDLE_FID, Linux 6.5).
///
/// # Errors
/// EINVAL or ENOTSUP if the kernel gives none.
pub fn name_to_fid(dir: impl AsFd, name: &CStr) -> Result<(FileHandle, i32), Errno> {
    /// AT_HANDLE_FID of linux/fcntl.h.
    const FID: libc::c_int = 0x200;
    encode(dir, name, FID)
}

fn encode(dir: impl AsFd, name: &CStr, flags: libc::c_int) -> Result<(FileHandle, i32), Errno> {
    let mut raw = Raw { handle_bytes: MAX_BYTES as u32, handle_type: 0, f_handle: [0; MAX_BYTES] };
    let mount_id = encode_raw(dir, name, flags, &mut raw)?;
    let bytes = &raw.f_handle[..(raw.handle_bytes as usize).min(MAX_BYTES)];
    let handle = FileHandle::from_parts(raw.handle_type, bytes).ok_or(Errno::NOTSUP)?;
    Ok((handle, mount_id))
}

/// name_to_handle_at(2). Returns the mount id.
fn encode_raw<const N: usize>(
    dir: impl AsFd,
    name: &CStr,
    flags: libc::c_int,
    raw: &mut Raw<N>,
) -> Result<i32, Errno> {
    let mut mount_id: libc::c_int = 0;
    let flags = flags | if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `raw` has the layout of struct file_handle with handle_bytes of space behind it, the name is
    // NUL-terminated, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            std::ptr::from_mut(raw),
            &raw mut mount_id,
            flags,
        )
    };
    if result == 0 {
        return Ok(mount_id);
    }
    Err(match last_errno() {
        Errno::OVERFLOW => Errno::NOTSUP,
        other => other,
    })
}

/// Opens the inode of a handle on the filesystem of `mount` (open_by_handle_at(2)). Needs CAP_DAC_READ_SEARCH.
///
/// # Errors
/// ESTALE if the inode is deleted.
pub fn open_by_handle(
    mount: impl AsFd,
    handle: &FileHandle,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let raw = Raw {
        handle_bytes: handle.len.get().into(),
        handle_type: handle.kind(),
        f_handle: handle.bytes,
    };
    decode_raw(mount, &raw, flags)
}

/// open_by_handle_at(2).
fn decode_raw<const N: usize>(
    mount: impl AsFd,
    raw: &Raw<N>,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    // SAFETY: `raw` has the layout of struct file_handle, with handle_bytes valid bytes behind it; the kernel reads it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            std::ptr::from_ref(raw),
            (flags | OFlags::CLOEXEC).bits() as libc::c_int,
        )
    };
    if fd < 0 {
        return Err(match last_errno() {
            // The kernel returns this when the inode is being deleted.
            Errno::NOMEM => Errno::STALE,
            other => other,
        });
    }
    // SAFETY: the call has just returned this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_keeps_its_parts_in_few_bytes() {
        let handle = FileHandle::from_parts(0x81, &[7; MAX_BYTES]).expect("it fits");
        assert_eq!((handle.kind(), handle.bytes()), (0x81, &[7; MAX_BYTES][..]));
        assert_ne!(FileHandle::from_parts(1, &[7; 8]), FileHandle::from_parts(2, &[7; 8]));
        assert_ne!(FileHandle::from_parts(1, &[0; 8]), FileHandle::from_parts(1, &[0; 9]));
        assert_eq!(size_of::<Option<FileHandle>>(), MAX_BYTES + 2);
    }

    #[test]
    fn a_handle_that_does_not_fit_is_none() {
        assert_eq!(FileHandle::from_parts(1, &[7; MAX_BYTES + 1]), None);
        assert_eq!(FileHandle::from_parts(1, &[7; 300]), None);
        assert_eq!(FileHandle::from_parts(1, &[]), None);
        assert_eq!(FileHandle::from_parts(0x100, &[7; 8]), None);
        assert_eq!(FileHandle::from_parts(-1, &[7; 8]), None);
    }
}
