//! The numbers by which inodes are told apart: node ids, domains, device numbers.

use rustix::fs::Statx;

/// The node id, by which the kernel names an inode in requests.
///
/// The inode number that programs see is the source's own (`ino.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl NodeId {
    /// The root of every FUSE filesystem (FUSE_ROOT_ID).
    pub const ROOT: Self = Self(1);
}

/// The part of the tree in which an inode number is unique.
///
/// Inode numbers are unique only within one device. The daemon may see one device through several mounts, and
/// directories through several symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Domain(pub(super) u32);

/// Major and minor number of a file's device.
pub(super) type DevNo = (u32, u32);

pub(super) fn dev_no(stat: &Statx) -> DevNo {
    (stat.stx_dev_major, stat.stx_dev_minor)
}
