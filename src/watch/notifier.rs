//! The way up: the watch tells through this trait what the kernel is to forget, and knows nothing of FUSE.

use std::ffi::OsStr;

use crate::source::NodeId;

/// Invalidates what the kernel has cached.
pub trait Notifier {
    /// Invalidates a dentry, positive or negative. Returns whether the kernel knew it. A name that exists now may be
    /// expired instead.
    fn inval_entry(&self, dir: NodeId, name: &OsStr) -> bool;
    /// Expires a dentry: the kernel looks it up at its next use, and keeps it otherwise with what is mounted on it.
    ///
    /// Returns whether the kernel knew it, or there is nothing to do.
    fn expire_entry(&self, dir: NodeId, name: &OsStr) -> bool;
    /// Whether an invalidation of a name waits for the lookups under way in its directory. If not, it must be
    /// sent again until the kernel knows the name.
    fn waits_for_lookups(&self) -> bool;
    /// Waits for the lookups under way in a directory: the kernel then knows the inodes that they found.
    fn barrier(&self, dir: NodeId);
    /// Invalidates an inode's attributes and ACLs. Returns whether the kernel knew the inode. If so, it also discards
    /// replies that are in flight.
    fn inval_inode(&self, node: NodeId) -> bool;
    /// Whether the kernel knows an inode, or an answer is in flight that brings it: it was not forgotten.
    fn is_looked_up(&self, node: NodeId) -> bool;
    /// Invalidates a directory's attributes and its cached listing.
    fn inval_readdir(&self, dir: NodeId);
    /// Invalidates the listings that depend on paths, since a directory was renamed on the source.
    fn directory_moved(&self) {}
    /// Invalidates all names and all attributes, since events were lost.
    fn inval_all(&self);
}
