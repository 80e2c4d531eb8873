//! The entries of a directory, as many as the kernel has room for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::IntoBytes;

use super::layout::{DirEntryHead, EntryOut};

/// An answer to READDIR or READDIRPLUS in the making.
#[derive(Debug)]
pub(in crate::fuse) struct Listing {
    bytes: Vec<u8>,
    room: usize,
}

impl Listing {
    /// For so many bytes at most.
    pub(in crate::fuse) fn new(room: u32) -> Self {
        let room = room as usize;
        Self { bytes: Vec::with_capacity(room), room }
    }

    /// Adds an entry: whether there was no room for it.
    pub(in crate::fuse) fn add(&mut self, ino: u64, cookie: u64, kind: u32, name: &OsStr) -> bool {
        self.push(&[], ino, cookie, kind, name)
    }

    /// Adds an entry with its inode: whether there was no room for it.
    pub(in crate::fuse) fn add_plus(
        &mut self,
        entry: &EntryOut,
        cookie: u64,
        kind: u32,
        name: &OsStr,
    ) -> bool {
        self.push(entry.as_bytes(), entry.attr.ino, cookie, kind, name)
    }

    fn push(&mut self, inode: &[u8], ino: u64, offset: u64, kind: u32, name: &OsStr) -> bool {
        let name = name.as_bytes();
        let size = inode.len() + size_of::<DirEntryHead>() + name.len();
        let padded = size.next_multiple_of(8);
        if self.bytes.len() + padded > self.room {
            return true;
        }
        let head = DirEntryHead { ino, offset, name_len: name.len() as u32, kind };
        self.bytes.extend_from_slice(inode);
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(self.bytes.len() + padded - size, 0);
        false
    }
}

impl AsRef<[u8]> for Listing {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stand_at_multiples_of_eight_as_far_as_there_is_room() {
        let mut listing = Listing::new(64);
        assert!(!listing.add(7, 1, 8, "abc".as_ref()));
        assert_eq!(listing.as_ref().len(), 32);
        assert_eq!(&listing.as_ref()[16..20], &3u32.to_ne_bytes());
        assert_eq!(&listing.as_ref()[24..], b"abc\0\0\0\0\0");
        assert!(listing.add(8, 2, 8, "a name that is too long".as_ref()));
        assert_eq!(listing.as_ref().len(), 32, "nothing of it is there");
        assert!(!listing.add(9, 3, 8, "12345678".as_ref()));
        assert_eq!(listing.as_ref().len(), 64);
        assert!(listing.add(9, 4, 8, "x".as_ref()));
    }

    #[test]
    fn an_inode_comes_before_its_entry() {
        let mut listing = Listing::new(4096);
        let entry = EntryOut { node: 42, ..EntryOut::default() };
        assert!(!listing.add_plus(&entry, 1, 8, "n".as_ref()));
        assert_eq!(&listing.as_ref()[..8], &42u64.to_ne_bytes());
        assert_eq!(listing.as_ref().len(), 128 + 24 + 8);
    }
}
