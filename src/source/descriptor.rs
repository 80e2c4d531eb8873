//! Descriptors of inodes: how to look at one without asking a server, and how to open it again.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::sys::descriptors::DescriptorPath;

/// For statx(2): the name itself, not what a symbolic link or automount leads to.
pub(super) const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);
/// The same with the attributes that the kernel has cached, without a request to a server.
pub(super) const NOFOLLOW_DONT_SYNC: AtFlags = NOFOLLOW.union(AtFlags::STATX_DONT_SYNC);

/// Returns the attributes that the kernel has cached, without a request to a FUSE or network server.
pub(super) fn stat_dont_sync(fd: impl AsFd) -> Result<(Statx, FileType), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    Ok((stat, kind_of(&stat)))
}

/// Returns the file type in an inode's attributes.
pub(super) fn kind_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

/// Returns the path in /proc by which the kernel finds the inode behind a descriptor (proc_pid_fd(5)).
#[must_use]
pub fn proc_path(fd: &OwnedFd) -> DescriptorPath<'_> {
    DescriptorPath::of(fd)
}

/// Opens the inode behind a descriptor again, with other flags.
pub fn reopen(fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = proc_path(fd);
    let (dir, name) = path.relative();
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())
}
