//! Streams of entries with the source's own cookies, and those that wait for their listing to go on.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::prefetch::Prefetched;
use crate::fs::Result;
use crate::source::{Inode, NodeId};
use crate::sys;

const BUFFER: usize = 32 * 1024;

/// An open directory.
#[derive(Debug)]
pub struct OpenDir {
    pub(super) fd: OwnedFd,
    pub(super) inode: Arc<Inode>,
    stream: Mutex<DirStream>,
    /// Whether anybody has asked for its listing: not so while it is only expected.
    requested: AtomicBool,
}

impl OpenDir {
    /// A directory whose listing was asked for.
    pub(super) fn requested(inode: Arc<Inode>, fd: OwnedFd) -> Self {
        Self { fd, inode, stream: Mutex::default(), requested: AtomicBool::new(true) }
    }

    /// A directory whose listing is expected to be asked for. It was opened so that reading it leaves no trace.
    pub(super) fn expected(inode: Arc<Inode>, fd: OwnedFd) -> Self {
        Self { requested: AtomicBool::new(false), ..Self::requested(inode, fd) }
    }

    /// Whether anybody has asked for its listing.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Takes note that somebody asks for its listing: whether he is the first.
    pub(super) fn mark_requested(&self) -> bool {
        !self.requested.swap(true, Ordering::AcqRel)
    }

    pub(super) fn stream(&self) -> MutexGuard<'_, DirStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream, unless somebody is at it.
    pub(super) fn stream_if_free(&self) -> Option<MutexGuard<'_, DirStream>> {
        self.stream.try_lock().ok()
    }
}

/// Streams that wait for their listing to go on, the one used longest ago first.
#[derive(Debug, Default)]
pub(in crate::fs) struct IdleStreams {
    idle: Mutex<VecDeque<IdleStream>>,
}

#[derive(Debug)]
struct IdleStream {
    dir: Arc<OpenDir>,
    /// Where it stands.
    cookie: u64,
    since: Instant,
}

/// Streams that wait at most; each holds a descriptor and a buffer.
const MAX_IDLE: usize = 64;
/// How long a stream waits.
const MAX_IDLE_TIME: Duration = Duration::from_secs(2);

impl IdleStreams {
    /// The stream that stands at `offset` in a directory.
    pub(super) fn take(&self, dir: &Arc<Inode>, offset: u64) -> Option<Arc<OpenDir>> {
        let mut idle = self.lock();
        let is_it = |one: &IdleStream| one.cookie == offset && Arc::ptr_eq(&one.dir.inode, dir);
        let at = idle.iter().rposition(is_it)?;
        idle.remove(at).map(|one| one.dir)
    }

    /// Has a stream wait that stands at `cookie`.
    pub(super) fn put(&self, dir: Arc<OpenDir>, cookie: u64) {
        let mut idle = self.lock();
        idle.push_back(IdleStream { dir, cookie, since: Instant::now() });
        let oldest = if idle.len() > MAX_IDLE { idle.pop_front() } else { None };
        drop(idle);
        drop(oldest);
    }

    /// Whether a stream stands at the beginning of a directory.
    pub(super) fn has_stream_at_start(&self, node: NodeId) -> bool {
        self.lock().iter().any(|one| one.cookie == 0 && one.dir.inode.node() == node)
    }

    /// Lets go of the streams that nobody came back for: how many of them nobody ever asked for.
    pub(in crate::fs) fn sweep(&self) -> u32 {
        let mut idle = self.lock();
        let old = idle.iter().take_while(|one| one.since.elapsed() > MAX_IDLE_TIME).count();
        let gone: Vec<_> = idle.drain(..old).collect();
        drop(idle);
        gone.iter().filter(|one| !one.dir.is_requested()).count() as u32
    }

    /// Lets go of all: they may be of a directory that is no longer shown.
    pub(in crate::fs) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<IdleStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries that were read and not yet asked for.
#[derive(Debug, Default)]
pub(super) struct DirStream {
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    /// The cookie of the entry before `at`: where the stream stands.
    cookie: u64,
    /// What the entries from `at` on were seen to be.
    pub(super) prefetched: Option<Prefetched>,
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
    /// The name, as system calls take it.
    pub(super) c_name: &'a CStr,
}

impl DirEntry<'_> {
    /// Whether it is `.` or `..`.
    #[must_use]
    pub fn is_dot(&self) -> bool {
        matches!(self.name.as_bytes(), b"." | b"..")
    }
}

impl DirStream {
    /// Where it stands.
    pub(super) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Goes to a place in the directory, to read there anew.
    pub(super) fn seek(&mut self, fd: &OwnedFd, offset: u64) -> Result<()> {
        sys::file::lseek(fd, offset as i64, libc::SEEK_SET)?;
        *self =
            Self { cookie: offset, buffer: std::mem::take(&mut self.buffer), ..Self::default() };
        Ok(())
    }

    /// Whether it was never read from.
    pub(super) fn is_unread(&self) -> bool {
        self.filled == 0 && self.cookie == 0
    }

    /// The entry that it stands before, its length in the buffer, and what is seen ahead from there. `None` at the end.
    pub(super) fn entry(
        &mut self,
        fd: &OwnedFd,
    ) -> Result<Option<(DirEntry<'_>, usize, Option<&Prefetched>)>> {
        if self.at == self.filled && self.read_more(fd)? == 0 {
            return Ok(None);
        }
        let (entry, size) = parse(&self.buffer[self.at..self.filled]).ok_or(Errno::IO)?;
        Ok(Some((entry, size, self.prefetched.as_ref())))
    }

    /// Goes on past an entry.
    pub(super) fn advance(&mut self, cookie: u64, size: usize) {
        self.at += size;
        self.cookie = cookie;
        if self.prefetched.as_mut().is_some_and(|prefetched| !prefetched.advance()) {
            self.prefetched = None;
        }
    }

    /// The entries that were read and not yet asked for.
    pub(super) fn buffered(&self) -> impl Iterator<Item = DirEntry<'_>> {
        let mut at = self.at;
        std::iter::from_fn(move || {
            let (entry, size) = parse(&self.buffer[at..self.filled])?;
            at += size;
            Some(entry)
        })
    }

    /// Reads more behind what is there: how many bytes, 0 at the end.
    pub(super) fn read_more(&mut self, fd: &OwnedFd) -> Result<usize> {
        self.buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        self.buffer.resize(self.filled + BUFFER, 0);
        let more = sys::file::getdents(fd, &mut self.buffer[self.filled..])?;
        self.filled += more;
        if self.filled == 0 {
            // Whoever waits for a listing to go on that has ended needs no room for it.
            self.buffer = Vec::new();
        }
        Ok(more)
    }
}

/// The first record of a buffer of `struct linux_dirent64` (getdents(2)) and its length.
fn parse(bytes: &[u8]) -> Option<(DirEntry<'_>, usize)> {
    const HEAD: usize = 19;
    let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let size = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let c_name = CStr::from_bytes_until_nul(bytes.get(HEAD..size)?).ok()?;
    let kind = FileType::from_raw_mode(u32::from(*bytes.get(18)?) << 12);
    let name = OsStr::from_bytes(c_name.to_bytes());
    Some((DirEntry { ino: number(0)?, cookie: number(8)?, kind, name, c_name }, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(ino: u64, cookie: u64, kind: u8, name: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend(ino.to_ne_bytes());
        record.extend(cookie.to_ne_bytes());
        record.extend(24u16.to_ne_bytes());
        record.push(kind);
        record.extend(name);
        record.resize(24, 0);
        record
    }

    #[test]
    fn a_record_of_getdents_is_read() {
        let record = record(77, u64::MAX, libc::DT_DIR, b"abc");
        let (entry, size) = parse(&record).unwrap();
        assert_eq!((entry.ino, entry.cookie, size), (77, u64::MAX, 24));
        assert_eq!(entry.name, "abc");
        assert_eq!(entry.kind, FileType::Directory);
    }

    #[test]
    fn entries_read_later_come_after_the_buffered_ones() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..3000 {
            std::fs::write(folder.path().join(format!("name-{n}")), "").unwrap();
        }
        let fd = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let mut stream = DirStream::default();
        let mut seen = std::collections::HashSet::new();
        while let Some((entry, size, _)) = stream.entry(&fd).unwrap() {
            let cookie = entry.cookie;
            assert!(seen.insert(entry.name.to_owned()), "once each");
            stream.advance(cookie, size);
            if seen.len() == 10 {
                let left = stream.buffered().count();
                assert!(stream.read_more(&fd).unwrap() > 0);
                assert!(stream.buffered().count() > left);
            }
        }
        assert_eq!(seen.len(), 3002);
        assert_eq!(stream.buffered().count(), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}
