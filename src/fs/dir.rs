//! Directory listings: a stream of entries with the source's own cookies, which stay good while names come and go.
//!
//! Where the kernel caches listings it does not ask us to open directories: a listing then names only the directory and
//! how far it came, and goes on with the stream that stands there.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Caller, Entry, Fs, Place, Result, Trust};
use crate::source::{Inode, NodeId};
use crate::sys;

const BUFFER: usize = 32 * 1024;

/// An open directory.
#[derive(Debug)]
pub struct OpenDir {
    fd: OwnedFd,
    inode: Arc<Inode>,
    stream: Mutex<Stream>,
}

/// Streams that wait for their listing to go on, the one used longest ago first.
#[derive(Debug, Default)]
pub(super) struct Streams {
    waiting: Mutex<VecDeque<(Arc<OpenDir>, Instant)>>,
}

/// Streams that wait at most; each holds a descriptor, and a buffer until its end.
const MOST_WAITING: usize = 64;
/// How long a stream waits.
const PATIENCE: Duration = Duration::from_secs(2);

impl Streams {
    /// The stream that stands at `offset` in a directory.
    fn take(&self, node: NodeId, offset: u64) -> Option<Arc<OpenDir>> {
        let mut waiting = self.lock();
        let is_it = |(dir, _): &(Arc<OpenDir>, Instant)| {
            dir.inode.node() == node
                && dir.stream.lock().unwrap_or_else(PoisonError::into_inner).cookie == offset
        };
        let at = waiting.iter().rposition(is_it)?;
        waiting.remove(at).map(|(dir, _)| dir)
    }

    fn put(&self, dir: Arc<OpenDir>) {
        let mut waiting = self.lock();
        waiting.push_back((dir, Instant::now()));
        let oldest = if waiting.len() > MOST_WAITING { waiting.pop_front() } else { None };
        drop(waiting);
        drop(oldest);
    }

    /// Lets go of the streams that nobody came back for.
    pub(super) fn sweep(&self) {
        let mut waiting = self.lock();
        let old = waiting.iter().take_while(|(_, since)| since.elapsed() > PATIENCE).count();
        let gone: Vec<_> = waiting.drain(..old).collect();
        drop(waiting);
        drop(gone);
    }

    /// Lets go of all: they may be of a directory that is no longer shown.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Arc<OpenDir>, Instant)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries that were read and not yet asked for.
#[derive(Debug, Default)]
struct Stream {
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    /// The cookie of the entry before `at`: where the stream stands.
    cookie: u64,
}

/// One entry of a listing.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// The inode number to show.
    pub ino: u64,
    /// Where the listing goes on after this entry.
    pub cookie: u64,
    /// The type, as far as the source tells; else unknown.
    pub kind: FileType,
    /// The name.
    pub name: &'a OsStr,
}

impl DirEntry<'_> {
    /// Whether it is `.` or `..`.
    #[must_use]
    pub fn is_dot(&self) -> bool {
        matches!(self.name.as_bytes(), b"." | b"..")
    }
}

/// What becomes of a listing after an entry was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    Full,
}

impl Fs {
    /// Opens a directory for listing.
    pub fn opendir(&self, caller: &Caller, node: NodeId) -> Result<u64> {
        self.may_list(caller, &*self.tree.inode(node)?)?;
        Ok(self.dirs.insert(Arc::new(self.open_dir(node)?), node.0))
    }

    fn open_dir(&self, node: NodeId) -> Result<OpenDir> {
        let inode = self.tree.inode(node)?;
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(OpenDir { fd, inode, stream: Mutex::default() })
    }

    /// Runs one request of a listing: on the directory that was opened as `handle`, or, where the kernel opened it without
    /// us (handle 0), on the stream that stands at `offset`.
    fn listing(
        &self,
        node: NodeId,
        handle: u64,
        offset: u64,
        run: impl FnOnce(&OpenDir) -> Result<()>,
    ) -> Result<()> {
        if handle != 0 {
            return run(&*self.dirs.get(handle)?);
        }
        let dir = match self.streams.take(node, offset) {
            Some(dir) => dir,
            None => Arc::new(self.open_dir(node)?),
        };
        let result = run(&dir);
        self.streams.put(dir);
        result
    }

    /// An open directory's descriptor lives until its release.
    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.dirs.remove(handle).map(drop)
    }

    /// Writes a directory to disk.
    pub fn fsyncdir(&self, node: NodeId, handle: u64, data_only: bool) -> Result<()> {
        match handle {
            0 => super::file::sync(&self.open_dir(node)?.fd, data_only),
            _ => super::file::sync(&self.dirs.get(handle)?.fd, data_only),
        }
    }

    /// Offers entries from `offset` on, until `add` says that it is full.
    pub fn readdir(
        &self,
        node: NodeId,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        self.listing(node, handle, offset, |dir| {
            // The kernel may keep the listing: it must be told when it changes.
            self.cover_names(&dir.inode);
            self.stream(dir, offset, |entry| {
                let resolved;
                let entry = match entry.kind {
                    FileType::Symlink if self.tree.follows_links() => {
                        resolved = self.resolved(&dir.inode, entry);
                        &resolved
                    }
                    _ => entry,
                };
                Ok(if add(entry) { Taken::Full } else { Taken::Yes })
            })
        })
    }

    /// The entry of a symbolic link as a look-up would show it.
    fn resolved<'a>(&self, dir: &Inode, entry: &DirEntry<'a>) -> DirEntry<'a> {
        let DirEntry { cookie, name, .. } = *entry;
        match self.find(dir, name) {
            Ok(found) => {
                let kind = self.view().shown_kind(found.inode.kind());
                let ino = found.inode.node().0;
                self.forget(found.inode.node(), 1);
                DirEntry { ino, cookie, kind, name }
            }
            Err(_) => DirEntry { ino: entry.ino, cookie, kind: entry.kind, name },
        }
    }

    /// Offers entries with their inodes. A name that vanished meanwhile is left out. For `.` and `..` no look-up is
    /// counted; their inode is that of the directory itself and stands only for the type.
    pub fn readdirplus(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<()> {
        self.listing(node, handle, offset, |dir| {
            let trust = self.cover_names(&dir.inode);
            self.stream(dir, offset, |entry| {
                if entry.is_dot() {
                    return Ok(if add(entry, None) { Taken::Full } else { Taken::Yes });
                }
                let place = Place {
                    dir: &dir.inode,
                    name: entry.name,
                    trust,
                    told: self.told_of(&dir.inode),
                };
                let found = match self.find(&dir.inode, entry.name) {
                    Ok(found) => self.entry(caller, &place, &found),
                    Err(Errno::NOENT | Errno::STALE) => return Ok(Taken::Yes),
                    // A link to our own mount: as the link that it is, until somebody asks for it.
                    Err(Errno::PERM) if entry.kind == FileType::Symlink => {
                        let link = self.tree.lookup_itself(&dir.inode, entry.name)?;
                        self.entry(caller, &Place { trust: Trust::Never, ..place }, &link)
                    }
                    // Our own mount.
                    Err(Errno::PERM) => return Ok(Taken::Yes),
                    Err(e) => return Err(e),
                };
                if add(entry, Some(&found)) {
                    self.forget(found.node, 1);
                    return Ok(Taken::Full);
                }
                Ok(Taken::Yes)
            })
        })
    }

    fn stream(
        &self,
        dir: &OpenDir,
        offset: u64,
        mut offer: impl FnMut(&DirEntry<'_>) -> Result<Taken>,
    ) -> Result<()> {
        let mut stream = dir.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if stream.cookie != offset {
            sys::file::lseek(&dir.fd, offset as i64, libc::SEEK_SET)?;
            *stream = Stream { cookie: offset, ..std::mem::take(&mut *stream) };
            (stream.at, stream.filled) = (0, 0);
        }
        let view = self.view();
        let absent = self.absent(&view, &dir.inode);
        let mut offered = false;
        loop {
            if stream.at == stream.filled && !stream.fill(&dir.fd)? {
                return Ok(());
            }
            let Some((record, size)) = parse(&stream.buffer[stream.at..stream.filled]) else {
                return Err(Errno::IO);
            };
            let cookie = record.cookie;
            let ino = self.tree.shown_ino(&dir.inode, record.kind, record.ino);
            let kind = view.shown_kind(record.kind);
            let is_there = record.is_dot()
                || !(absent.has(record.name) || self.tree.hides(&dir.fd, record.name));
            if is_there {
                match offer(&DirEntry { ino, kind, ..record }) {
                    Ok(Taken::Yes) => {}
                    Ok(Taken::Full) => return Ok(()),
                    // What was taken so far is good; the error comes again, first thing.
                    Err(_) if offered => return Ok(()),
                    Err(e) => return Err(e),
                }
                offered = true;
            }
            stream.at += size;
            stream.cookie = cookie;
        }
    }
}

impl Stream {
    /// Reads more; false at the end.
    fn fill(&mut self, fd: &OwnedFd) -> Result<bool> {
        self.buffer.resize(BUFFER, 0);
        (self.at, self.filled) = (0, 0);
        self.filled = sys::file::getdents(fd, &mut self.buffer)?;
        if self.filled == 0 {
            // Whoever waits for a listing to go on that has ended needs no room for it.
            self.buffer = Vec::new();
        }
        Ok(self.filled > 0)
    }
}

/// The first record of a buffer of `struct linux_dirent64` (getdents(2)) and its length.
fn parse(bytes: &[u8]) -> Option<(DirEntry<'_>, usize)> {
    const HEAD: usize = 19;
    let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let size = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let name = bytes.get(HEAD..size)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let kind = FileType::from_raw_mode(u32::from(*bytes.get(18)?) << 12);
    let name = OsStr::from_bytes(&name[..end]);
    Some((DirEntry { ino: number(0)?, cookie: number(8)?, kind, name }, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_of_getdents_is_read() {
        let mut record = Vec::new();
        record.extend(77u64.to_ne_bytes());
        record.extend(u64::MAX.to_ne_bytes());
        record.extend(24u16.to_ne_bytes());
        record.push(libc::DT_DIR);
        record.extend(b"abc\0\0");
        let (entry, size) = parse(&record).unwrap();
        assert_eq!((entry.ino, entry.cookie, size), (77, u64::MAX, 24));
        assert_eq!(entry.name, "abc");
        assert_eq!(entry.kind, FileType::Directory);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}
