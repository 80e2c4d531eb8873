//! Computes the inode numbers that programs see (st_ino, d_ino): the source's own.
//!
//! The mount is one device, and the source may have several. Inode numbers on another device than the root's are combined
//! with a hash of that device, by exclusive or: within the device they stay different, and those of two devices differ in
//! the upper bits, which few filesystems use. The result does not depend on the order of lookups. A directory that is
//! reached through a symbolic link is shown as another directory, so its number is combined with a hash of the link's path
//! as well.

use rustix::fs::FileType;

use super::ino_tag::combine;
use super::inode::Inode;
use super::tree::SourceTree;

impl SourceTree {
    /// Returns the inode number that programs see.
    #[must_use]
    pub fn shown_ino(&self, inode: &Inode) -> u64 {
        let identity = inode.identity();
        let link = inode.via().map_or(0, |via| via.tag);
        let is_chosen = self.is_server_backed(inode);
        combine(identity.ino, self.domains.tag(identity.domain), is_chosen) ^ link
    }

    /// Returns the inode number that programs see in a directory entry.
    #[must_use]
    pub fn shown_entry_ino(&self, dir: &Inode, kind: FileType, ino: u64) -> u64 {
        // A file is the same inode with and without the link.
        let link = dir.via().filter(|_| kind.is_dir()).map_or(0, |via| via.tag);
        let is_chosen = self.is_server_backed(dir);
        combine(ino, self.domains.tag(dir.identity().domain), is_chosen) ^ link
    }
}
