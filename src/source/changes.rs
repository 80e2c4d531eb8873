//! The system calls that change the source.
//!
//! Each is a method of [`ActingAs`], so that the thread has the credentials of a caller. A call for which the kernel
//! requires a capability that only some callers have is made through [`Lent`]. No other code makes these calls
//! (`clippy.toml` forbids them).

#![allow(clippy::disallowed_methods)]

use std::ffi::{CStr, OsStr};
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RenameFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::thread::CapabilitySet;

use super::creds::{ActingAs, Lent};
use super::descriptor::{proc_path, reopen};
use crate::idmap::{SourceGid, SourceUid};
use crate::sys;
use crate::sys::sandboxed_ioctl::IoctlCaps;

/// What mknod(2) creates.
#[derive(Debug, Clone, Copy)]
pub struct NewNode {
    /// The file type.
    pub kind: FileType,
    /// The permission bits.
    pub mode: Mode,
    /// The device number.
    pub device: Dev,
}

impl NewNode {
    /// Returns the capabilities to create it: CAP_MKNOD for a device, but not for a whiteout (Linux `vfs_mknod`).
    fn required_caps(&self) -> CapabilitySet {
        match self.kind {
            FileType::CharacterDevice if self.device == rustix::fs::makedev(0, 0) => {
                CapabilitySet::empty()
            }
            FileType::CharacterDevice | FileType::BlockDevice => CapabilitySet::MKNOD,
            _ => CapabilitySet::empty(),
        }
    }
}

/// Returns the capabilities to change an extended attribute, in addition to permissions on the file.
///
/// See Linux `xattr_permission` and `cap_inode_setxattr`. The kernel checks a client for them before it sends the
/// request. It also removes file capabilities by itself when a client writes to the file (`cap_inode_killpriv`).
fn caps_to_change(name: &OsStr) -> CapabilitySet {
    let name = name.as_encoded_bytes();
    if name == b"security.capability" {
        CapabilitySet::SETFCAP
    } else if name.starts_with(b"security.") || name.starts_with(b"trusted.") {
        CapabilitySet::SYS_ADMIN
    } else {
        CapabilitySet::empty()
    }
}

impl ActingAs<'_> {
    /// mknod(2).
    pub fn mknod(&self, dir: &OwnedFd, name: &CStr, node: NewNode) -> Result<(), Errno> {
        let make = || rustix::fs::mknodat(dir, name, node.kind, node.mode, node.device);
        match node.required_caps() {
            none if none.is_empty() => make(),
            required_caps => {
                let _lent = self.lend(required_caps)?;
                make()
            }
        }
    }

    /// mkdir(2).
    pub fn mkdir(&self, dir: &OwnedFd, name: &CStr, mode: Mode) -> Result<(), Errno> {
        self.check_current()?;
        rustix::fs::mkdirat(dir, name, mode)
    }

    /// symlink(2).
    pub fn symlink(&self, target: &OsStr, dir: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        self.check_current()?;
        rustix::fs::symlinkat(target, dir, name)
    }

    /// link(2), of any descriptor.
    pub fn link(&self, fd: &OwnedFd, dir: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        self.check_current()?;
        match rustix::fs::linkat(fd, c"", dir, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH the link is made through /proc (open(2), O_TMPFILE).
            Err(Errno::NOENT) if self.is_unprivileged() => {
                rustix::fs::linkat(CWD, &*proc_path(fd), dir, name, AtFlags::SYMLINK_FOLLOW)
            }
            result => result,
        }
    }

    /// Creates a regular file and opens it, with a name or without one (O_TMPFILE).
    pub fn create(
        &self,
        dir: &OwnedFd,
        name: &CStr,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        self.check_current()?;
        rustix::fs::openat(dir, name, flags, mode)
    }

    /// unlink(2) and rmdir(2).
    pub fn unlink(&self, dir: &OwnedFd, name: &CStr, how: AtFlags) -> Result<(), Errno> {
        self.check_current()?;
        rustix::fs::unlinkat(dir, name, how)
    }

    /// renameat2(2).
    pub fn rename(
        &self,
        from: (&OwnedFd, &CStr),
        to: (&OwnedFd, &CStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        self.check_current()?;
        rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)
    }

    /// chmod(2), of any descriptor.
    pub fn chmod(&self, fd: &OwnedFd, mode: u32) -> Result<(), Errno> {
        self.check_current()?;
        match sys::file::chmod_fd(fd, mode) {
            Err(Errno::NOSYS) => rustix::fs::chmod(&*proc_path(fd), Mode::from_raw_mode(mode)),
            result => result,
        }
    }

    /// chown(2), of any descriptor.
    pub fn chown(
        &self,
        fd: &OwnedFd,
        uid: Option<SourceUid>,
        gid: Option<SourceGid>,
    ) -> Result<(), Errno> {
        self.check_current()?;
        let uid = uid.map(|uid| Uid::from_raw(uid.raw()));
        let gid = gid.map(|gid| Gid::from_raw(gid.raw()));
        rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    /// utimensat(2), of any descriptor.
    pub fn set_times(&self, fd: &OwnedFd, times: &Timestamps) -> Result<(), Errno> {
        self.check_current()?;
        rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH)
    }

    /// Opens an inode again for writing, to change its length.
    pub fn open_to_truncate(&self, fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.check_current()?;
        reopen(fd, flags | OFlags::WRONLY | OFlags::NOCTTY)
    }

    /// ftruncate(2).
    pub fn truncate(&self, file: &OwnedFd, size: u64) -> Result<(), Errno> {
        self.check_current()?;
        rustix::fs::ftruncate(file, size)
    }

    /// fallocate(2) with any mode.
    pub fn fallocate(&self, file: &OwnedFd, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        self.check_current()?;
        sys::file::fallocate(file, mode, offset, len)
    }

    /// pwritev2(2). Returns the number of bytes written.
    pub fn write(
        &self,
        file: &OwnedFd,
        data: &[u8],
        offset: u64,
        flags: ReadWriteFlags,
    ) -> Result<usize, Errno> {
        self.check_current()?;
        rustix::io::pwritev2(file, &[IoSlice::new(data)], offset, flags)
    }

    /// copy_file_range(2). Returns the number of bytes copied.
    pub fn copy_range(
        &self,
        (from, mut offset_in): (&OwnedFd, u64),
        (to, mut offset_out): (&OwnedFd, u64),
        len: usize,
    ) -> Result<usize, Errno> {
        self.check_current()?;
        rustix::fs::copy_file_range(from, Some(&mut offset_in), to, Some(&mut offset_out), len)
    }

    /// setxattr(2), of any descriptor.
    pub fn set_xattr(
        &self,
        fd: &OwnedFd,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        let _lent = self.lend(caps_to_change(name))?;
        rustix::fs::setxattr(&*proc_path(fd), name, value, flags)
    }

    /// removexattr(2), of any descriptor.
    pub fn remove_xattr(&self, fd: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let _lent = self.lend(caps_to_change(name))?;
        rustix::fs::removexattr(&*proc_path(fd), name)
    }

    /// Makes an ioctl(2) in a sandboxed child process with only these capabilities.
    ///
    /// If the process cannot change credentials, the child has its own.
    pub fn sandboxed_ioctl(
        &self,
        file: impl AsFd,
        request: u32,
        argument: &mut [u8],
        capabilities: CapabilitySet,
    ) -> Result<i32, Errno> {
        self.check_current()?;
        let rights = match self.is_unprivileged() {
            true => IoctlCaps::Inherit,
            false => IoctlCaps::Only(self.limit_to_permitted(capabilities)),
        };
        sys::sandboxed_ioctl::ioctl(file, request, argument, rights)
    }
}

impl Lent<'_> {
    /// Sets inode flags (ioctl_iflags(2), ioctl_fsxattr(2)).
    pub fn set_flags(
        &self,
        file: &OwnedFd,
        request: u32,
        argument: &mut [u8],
    ) -> Result<(), Errno> {
        self.check_current()?;
        sys::file::ioctl(file, request, argument).map(drop)
    }
}
