//! Streams of directory entries, with the source's own cookies.
//!
//! An idle stream waits for the next request that continues its listing.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::prefetched::Prefetched;
use crate::fs::Result;
use crate::fs::shares::Share;
use crate::idmap::MountUid;
use crate::source::{Inode, NodeId};
use crate::sync::{Mutex, MutexGuard};
use crate::sys;

const BUFFER: usize = 32 * 1024;

/// An open directory.
#[derive(Debug)]
pub struct OpenDir {
    pub(super) fd: OwnedFd,
    pub(super) inode: Arc<Inode>,
    stream: Mutex<DirStream>,
    /// Whether a client has requested the listing, which is otherwise only predicted.
    requested: AtomicBool,
    /// Its share of the user's open files, if the kernel has opened it by OPENDIR.
    _share: Option<Share>,
}

impl OpenDir {
    /// Creates a directory whose listing a client has requested.
    pub(super) fn requested(inode: Arc<Inode>, fd: OwnedFd) -> Self {
        Self { fd, inode, stream: Mutex::default(), requested: AtomicBool::new(true), _share: None }
    }
    /// Adds the share of the user that has opened it.
    pub(super) fn with_share(self, share: Share) -> Self {
        Self { _share: Some(share), ..self }
    }
    /// Keeps the unread entries in the buffer if `take` returns a share for it. Otherwise drops them, to be read again.
    pub(super) fn keep_unread_entries(&self, take: impl FnOnce() -> Option<Share>) {
        let mut stream = self.stream();
        if stream.buffer.is_empty() {
            stream.share = None;
        } else if stream.share.is_none() {
            stream.share = take();
            if stream.share.is_none() {
                *stream =
                    DirStream { cookie: stream.cookie, is_dropped: true, ..DirStream::default() };
            }
        }
    }

    /// Creates a directory whose listing is predicted.
    ///
    /// It must be open with O_NOATIME, so that reading it does not change the access time.
    pub(super) fn expected(inode: Arc<Inode>, fd: OwnedFd) -> Self {
        Self { requested: AtomicBool::new(false), ..Self::requested(inode, fd) }
    }

    /// Returns whether a client has requested the listing.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Records that a client has requested the listing. Returns whether it is the first request.
    pub(super) fn mark_requested(&self) -> bool {
        !self.requested.swap(true, Ordering::AcqRel)
    }

    pub(super) fn stream(&self) -> MutexGuard<'_, DirStream> {
        self.stream.lock()
    }

    /// Returns the stream, unless another thread uses it.
    pub(super) fn stream_if_free(&self) -> Option<MutexGuard<'_, DirStream>> {
        self.stream.try_lock()
    }
}

/// Idle streams that wait for the next request, in order of last use.
#[derive(Debug, Default)]
pub(in crate::fs) struct IdleStreams {
    idle: Mutex<VecDeque<IdleStream>>,
}

#[derive(Debug)]
struct IdleStream {
    dir: Arc<OpenDir>,
    /// The stream's position.
    cookie: u64,
    /// The user that has read it last; `None` if its listing is only predicted.
    user: Option<MountUid>,
    since: Instant,
}

/// Most directories opened by OPENDIR that may have a buffer with unread entries, of all users together (chosen).
pub(in crate::fs) const MAX_HALF_READ: usize = 256;
/// Maximum number of idle streams, each with a descriptor and a buffer (chosen).
const MAX_IDLE: usize = 64;
/// How long a stream stays idle before it is closed (chosen).
const MAX_IDLE_TIME: Duration = Duration::from_secs(2);

impl IdleStreams {
    /// Takes the idle stream at `offset` of a directory.
    pub(super) fn take(&self, dir: &Arc<Inode>, offset: u64) -> Option<Arc<OpenDir>> {
        let mut idle = self.lock();
        let is_it = |one: &IdleStream| one.cookie == offset && Arc::ptr_eq(&one.dir.inode, dir);
        let at = idle.iter().rposition(is_it)?;
        idle.remove(at).map(|one| one.dir)
    }

    /// Adds an idle stream whose position is `cookie`, used last by `user`; `None` if it is only predicted.
    ///
    /// If there are too many, it closes the oldest stream of the user that has the most.
    pub(super) fn put(&self, dir: Arc<OpenDir>, cookie: u64, user: Option<MountUid>) {
        let mut idle = self.lock();
        idle.push_back(IdleStream { dir, cookie, user, since: Instant::now() });
        let oldest = match idle.len() > MAX_IDLE {
            true => oldest_of_top_user(&idle).and_then(|at| idle.remove(at)),
            false => None,
        };
        drop(idle);
        drop(oldest);
    }

    /// Returns whether there is an idle stream at the beginning of a directory.
    pub(super) fn has_stream_at_start(&self, node: NodeId) -> bool {
        self.lock().iter().any(|one| one.cookie == 0 && one.dir.inode.node() == node)
    }

    /// Closes streams that were idle for too long. Returns how many of them were prefetched in vain.
    pub(in crate::fs) fn sweep(&self) -> u32 {
        let mut idle = self.lock();
        let old = idle.iter().take_while(|one| one.since.elapsed() > MAX_IDLE_TIME).count();
        let gone: Vec<_> = idle.drain(..old).collect();
        drop(idle);
        gone.iter().filter(|one| !one.dir.is_requested()).count() as u32
    }

    /// Closes all streams, because the root of the source is another directory now.
    pub(in crate::fs) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<IdleStream>> {
        self.idle.lock()
    }
}

/// Returns the index of the oldest stream of the user that has the most streams.
fn oldest_of_top_user(idle: &VecDeque<IdleStream>) -> Option<usize> {
    let count = |user| idle.iter().filter(|one| one.user == user).count();
    let max = idle.iter().map(|one| count(one.user)).max()?;
    idle.iter().position(|one| count(one.user) == max)
}

/// Entries that were read from the source and not yet returned.
#[derive(Debug, Default)]
pub(super) struct DirStream {
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    /// The cookie of the entry before `at`: the stream's position.
    cookie: u64,
    /// Whether the entries after `cookie` were dropped from the buffer and must be read again.
    is_dropped: bool,
    /// The user's share that the buffer takes, if the kernel has opened the directory by OPENDIR.
    share: Option<Share>,
    /// The prefetched entries from `at` on.
    pub(super) prefetched: Option<Prefetched>,
}

/// One entry of a listing.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// The inode number to show.
    pub ino: u64,
    /// The offset of the next entry.
    pub cookie: u64,
    /// The file type, or unknown.
    pub kind: FileType,
    /// The name.
    pub name: &'a OsStr,
    /// The name, NUL-terminated.
    pub(super) c_name: &'a CStr,
}

impl DirEntry<'_> {
    /// Returns whether it is `.` or `..`.
    #[must_use]
    pub fn is_dot(&self) -> bool {
        matches!(self.name.as_bytes(), b"." | b"..")
    }
}

impl DirStream {
    /// Returns the stream's position.
    pub(super) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Returns whether the next entry of the stream is the one after this position.
    pub(super) fn is_at(&self, offset: u64) -> bool {
        self.cookie == offset && !self.is_dropped
    }

    /// Seeks to a position and discards the buffer.
    pub(super) fn seek(&mut self, fd: &OwnedFd, offset: u64) -> Result<()> {
        sys::file::lseek(fd, offset as i64, libc::SEEK_SET)?;
        *self = Self {
            cookie: offset,
            buffer: std::mem::take(&mut self.buffer),
            share: self.share.take(),
            ..Self::default()
        };
        Ok(())
    }

    /// Returns whether nothing was read from it yet.
    pub(super) fn is_unread(&self) -> bool {
        self.filled == 0 && self.cookie == 0
    }

    /// Returns the next entry, its length in the buffer, and the prefetched entries from there on. `None` at the end.
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

    /// Moves past an entry.
    pub(super) fn advance(&mut self, cookie: u64, size: usize) {
        self.at += size;
        self.cookie = cookie;
        if self.prefetched.as_mut().is_some_and(|prefetched| !prefetched.advance()) {
            self.prefetched = None;
        }
    }

    /// Returns the entries that were read and not yet returned.
    pub(super) fn buffered(&self) -> impl Iterator<Item = DirEntry<'_>> {
        let mut at = self.at;
        std::iter::from_fn(move || {
            let (entry, size) = parse(&self.buffer[at..self.filled])?;
            at += size;
            Some(entry)
        })
    }

    /// Reads more entries into the buffer, after those in it. Returns the number of bytes, 0 at the end.
    pub(super) fn read_more(&mut self, fd: &OwnedFd) -> Result<usize> {
        self.buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        self.buffer.resize(self.filled + BUFFER, 0);
        let more = sys::file::getdents(fd, &mut self.buffer[self.filled..])?;
        self.filled += more;
        if self.filled == 0 {
            // A stream at its end needs no buffer while it is idle.
            self.buffer = Vec::new();
        }
        Ok(more)
    }
}

/// Parses the first `struct linux_dirent64` of a buffer (getdents(2)). Returns the entry and its length.
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
