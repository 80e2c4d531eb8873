//! A buffer of directory entries, filled up to the size that the kernel asks for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::{FromBytes, IntoBytes};

use super::layout::{EntryOut, FuseDirent};

/// The reply to READDIR or READDIRPLUS: `fuse_dirent` or `fuse_direntplus`, one after the other.
#[derive(Debug)]
pub(in crate::fuse) struct DirentBuffer {
    bytes: Vec<u8>,
    capacity: usize,
}

impl DirentBuffer {
    /// An empty buffer for at most `capacity` bytes.
    pub(in crate::fuse) fn new(capacity: u32) -> Self {
        let capacity = capacity as usize;
        Self { bytes: Vec::with_capacity(capacity), capacity }
    }

    /// Adds an entry. Returns `true`, and adds nothing, when the buffer is full.
    pub(in crate::fuse) fn add(&mut self, ino: u64, cookie: u64, typ: u32, name: &OsStr) -> bool {
        self.push(&[], ino, cookie, typ, name)
    }

    /// Adds an entry with its inode. Returns `true`, and adds nothing, when the buffer is full.
    pub(in crate::fuse) fn add_plus(
        &mut self,
        entry: &EntryOut,
        cookie: u64,
        typ: u32,
        name: &OsStr,
    ) -> bool {
        self.push(entry.as_bytes(), entry.attr.ino, cookie, typ, name)
    }

    /// The node ids of the entries in the reply to READDIRPLUS, except those without one.
    pub(in crate::fuse) fn nodeids(&self) -> impl Iterator<Item = u64> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (entry, after) = EntryOut::read_from_prefix(rest).ok()?;
            let (head, _) = FuseDirent::read_from_prefix(after).ok()?;
            let size = size_of::<EntryOut>() + size_of::<FuseDirent>() + head.namelen as usize;
            rest = rest.get(size.next_multiple_of(8)..)?;
            Some(entry.nodeid)
        })
        .filter(|nodeid| *nodeid != 0)
    }
    fn push(&mut self, inode: &[u8], ino: u64, offset: u64, typ: u32, name: &OsStr) -> bool {
        let name = name.as_bytes();
        let size = inode.len() + size_of::<FuseDirent>() + name.len();
        let padded = size.next_multiple_of(8);
        if self.bytes.len() + padded > self.capacity {
            return true;
        }
        let head = FuseDirent { ino, off: offset, namelen: name.len() as u32, typ };
        self.bytes.extend_from_slice(inode);
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(self.bytes.len() + padded - size, 0);
        false
    }
}

impl AsRef<[u8]> for DirentBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_to_eight_bytes_up_to_the_capacity() {
        let mut buffer = DirentBuffer::new(64);
        assert!(!buffer.add(7, 1, 8, "abc".as_ref()));
        assert_eq!(buffer.as_ref().len(), 32);
        assert_eq!(&buffer.as_ref()[16..20], &3u32.to_ne_bytes());
        assert_eq!(&buffer.as_ref()[24..], b"abc\0\0\0\0\0");
        assert!(buffer.add(8, 2, 8, "a name that is too long".as_ref()));
        assert_eq!(buffer.as_ref().len(), 32, "nothing of it is there");
        assert!(!buffer.add(9, 3, 8, "12345678".as_ref()));
        assert_eq!(buffer.as_ref().len(), 64);
        assert!(buffer.add(9, 4, 8, "x".as_ref()));
    }

    #[test]
    fn an_inode_comes_before_its_entry() {
        let mut buffer = DirentBuffer::new(4096);
        let entry = EntryOut { nodeid: 42, ..EntryOut::default() };
        assert!(!buffer.add_plus(&entry, 1, 8, "n".as_ref()));
        assert_eq!(&buffer.as_ref()[..8], &42u64.to_ne_bytes());
        assert_eq!(buffer.as_ref().len(), 128 + 24 + 8);
        assert!(!buffer.add_plus(&EntryOut::default(), 2, 8, "..".as_ref()));
        assert!(!buffer.add_plus(&EntryOut { nodeid: 43, ..entry }, 3, 8, "another".as_ref()));
        assert_eq!(
            buffer.nodeids().collect::<Vec<_>>(),
            [42, 43],
            "without the entry that was not looked up"
        );
    }
}
