//! Prefetches lookups: reads entries and attributes that a client's walk will request next.
//!
//! A prefetched entry is used only if it is still valid at the time of the request:
//!
//! - the directory had a mark before the prefetch, and the mark has reported no event since, not even one that is still
//!   to be read;
//! - no client of the mount has created, renamed or removed a name since, and the kernel has forgotten no inode;
//! - it is younger than [`MAX_AGE`], because the mark does not report everything;
//! - the kernel does not know the inode: otherwise it is looked up again, because clients may have changed it through
//!   the mount;
//! - it is neither a directory nor has several hard links, for which the mark reports too little.
//!
//! Prefetched entries are not in the inode table, and a prefetch does not change the directory's access time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::prefetched::Prefetched;
use super::stream::{DirStream, OpenDir};
use super::walk_predictor::WalkPredictor;
use crate::error::errno_field;
use crate::fs::{Fs, Result};
use crate::source::{HitCount, Inode, NodeId, PeekedInode};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys;
use crate::view::Checks;

/// Maximum number of prefetched entries: about as many as one READDIRPLUS request returns.
const MAX_ENTRIES: usize = 256;
/// How long a prefetched entry may be used (chosen).
///
/// A slower walk does not wait for the daemon. Changes without an event (access times, a second name in another
/// directory) are hidden for no longer than that.
const MAX_AGE: Duration = Duration::from_millis(100);
/// After this many misses in a row, prefetching stops for [`BACKOFF`].
const MAX_MISSES: u32 = 3;
const BACKOFF: Duration = Duration::from_secs(1);
/// Maximum number of queued tasks.
const MAX_QUEUED: usize = 4;

/// What to prefetch after a READDIR.
#[derive(Debug)]
pub(super) enum PrefetchTask {
    /// Nothing can be predicted.
    None,
    /// The next entries of the same directory.
    SameDir(Arc<OpenDir>),
    /// The beginning of another directory.
    NextDir(NodeId),
}

impl PrefetchTask {
    /// The directory that it is about.
    fn dir(&self) -> Option<NodeId> {
        match self {
            Self::None => None,
            Self::SameDir(dir) => Some(dir.inode.node()),
            Self::NextDir(node) => Some(*node),
        }
    }
}

/// State of the prefetch.
#[derive(Debug)]
pub(in crate::fs) struct Prefetcher {
    predictor: Mutex<WalkPredictor>,
    /// Counts names that clients have changed through the mount, and inodes that the kernel has forgotten.
    changes: AtomicU32,
    /// Number of READDIR requests and prefetches in progress.
    active: AtomicUsize,
    processors: usize,
    queue: Mutex<VecDeque<PrefetchTask>>,
    wake: Condvar,
    misses: AtomicU32,
    backoff_since: Mutex<Option<Instant>>,
    /// How often prefetched entries were used, and discarded.
    hits: AtomicU64,
    discarded: AtomicU64,
}

impl Default for Prefetcher {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            predictor: Mutex::default(),
            changes: AtomicU32::new(0),
            active: AtomicUsize::new(0),
            processors,
            queue: Mutex::default(),
            wake: Condvar::new(),
            misses: AtomicU32::new(0),
            backoff_since: Mutex::default(),
            hits: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
        }
    }
}

/// Counts work as long as it is in progress.
#[must_use]
pub(super) struct ActiveWork<'a>(&'a Prefetcher);

impl Drop for ActiveWork<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Increments the change count when a change is done, before its reply.
///
/// Entries that were prefetched until then may lack it.
#[must_use]
pub(in crate::fs) struct ChangeGuard<'a>(&'a Prefetcher);

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Prefetcher {
    /// Begins a change through the mount, which invalidates prefetched entries.
    pub(in crate::fs) fn begin_change(&self) -> ChangeGuard<'_> {
        ChangeGuard(self)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<PrefetchTask>> {
        self.queue.lock()
    }

    /// Begins work that is counted until the result is dropped.
    pub(super) fn begin_work(&self) -> ActiveWork<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveWork(self)
    }

    /// Returns whether a processor is idle, besides those of the work in progress and of one client.
    ///
    /// Otherwise a prefetch would only delay the client.
    fn has_idle_processor(&self) -> bool {
        self.active.load(Ordering::Relaxed) + 1 < self.processors
    }

    pub(super) fn predictor(&self) -> MutexGuard<'_, WalkPredictor> {
        self.predictor.lock()
    }

    /// Records whether prefetched entries were used.
    pub(in crate::fs) fn record_result(&self, was_hit: bool) {
        let counter = if was_hit { &self.hits } else { &self.discarded };
        counter.fetch_add(1, Ordering::Relaxed);
        if was_hit {
            self.misses.store(0, Ordering::Relaxed);
        } else if self.misses.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_MISSES {
            *self.backoff_since.lock() = Some(Instant::now());
        }
    }

    /// How often prefetched entries were used.
    pub(in crate::fs) fn hit_count(&self) -> HitCount {
        HitCount {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.discarded.load(Ordering::Relaxed),
        }
    }

    fn is_backing_off(&self) -> bool {
        if self.misses.load(Ordering::Relaxed) < MAX_MISSES {
            return false;
        }
        let since = *self.backoff_since.lock();
        let is_backing_off = since.is_some_and(|since| since.elapsed() < BACKOFF);
        if !is_backing_off {
            self.misses.store(0, Ordering::Relaxed);
        }
        is_backing_off
    }
}

impl Fs {
    /// Returns whether prefetching is possible and useful.
    ///
    /// It needs the watch, lookups without a permission check or a symbolic link to resolve, and more than one
    /// processor.
    #[must_use]
    pub fn prefetches(&self) -> bool {
        self.watch.is_some()
            && self.needs.checks == Checks::Kernel
            && !self.tree.follows_links()
            && self.prefetcher.processors > 1
    }

    /// Queues a task for the prefetch thread.
    pub(super) fn queue_prefetch(&self, next: PrefetchTask) {
        let prefetcher = &self.prefetcher;
        if matches!(next, PrefetchTask::None)
            || !prefetcher.has_idle_processor()
            || prefetcher.is_backing_off()
        {
            return;
        }
        let mut queue = prefetcher.queue();
        if queue.len() < MAX_QUEUED {
            queue.push_back(next);
            drop(queue);
            prefetcher.wake.notify_one();
        }
    }

    /// Runs the prefetch thread until the mount ends.
    pub fn run_prefetch(&self) {
        let prefetcher = &self.prefetcher;
        loop {
            let nothing = |queue: &mut VecDeque<PrefetchTask>| queue.is_empty();
            let next = prefetcher.wake.wait_while(prefetcher.queue(), nothing).pop_front();
            let _active = prefetcher.begin_work();
            let dir = next.as_ref().and_then(PrefetchTask::dir);
            let result = match next {
                None | Some(PrefetchTask::None) => Ok(()),
                Some(PrefetchTask::SameDir(dir)) => self.prefetch_more(&dir),
                // Otherwise the client was faster.
                Some(PrefetchTask::NextDir(node)) if !prefetcher.predictor().predicts(node) => {
                    Ok(())
                }
                Some(PrefetchTask::NextDir(node)) => self.prefetch_dir(node),
            };
            if let (Err(e), Some(dir)) = (result, dir) {
                log::debug!("cannot prefetch directory entries: nodeid={dir} {}", errno_field(e));
            }
        }
    }

    fn prefetch_more(&self, dir: &OpenDir) -> Result<()> {
        let Some(mut stream) = dir.stream_if_free() else { return Ok(()) };
        if stream.buffered().nth(MAX_ENTRIES - 1).is_none() {
            stream.read_more(&dir.fd)?;
        }
        let prefetched = self.begin_prefetch(&dir.inode);
        self.prefetch_entries(dir, &mut stream, prefetched);
        Ok(())
    }

    fn prefetch_dir(&self, node: NodeId) -> Result<()> {
        let inode = self.tree.inode(node)?;
        if !inode.kind().is_dir()
            || !inode.is_watched()
            || self.idle_streams.has_stream_at_start(node)
        {
            return Ok(());
        }
        // Before its names are read.
        let prefetched = self.begin_prefetch(&inode);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
        let fd = self.tree.open(&inode, flags)?;
        let dir = Arc::new(OpenDir::expected(inode, fd));
        let mut stream = dir.stream();
        self.idle_streams.put(Arc::clone(&dir), stream.cookie(), None);
        stream.read_more(&dir.fd)?;
        self.prefetch_entries(&dir, &mut stream, prefetched);
        Ok(())
    }

    fn begin_prefetch(&self, dir: &Inode) -> Prefetched {
        Prefetched {
            since: Instant::now(),
            event_seq: self.event_seq(dir),
            changes: self.prefetcher.changes.load(Ordering::Acquire),
            entries: VecDeque::new(),
        }
    }

    fn prefetch_entries(&self, dir: &OpenDir, stream: &mut DirStream, mut prefetched: Prefetched) {
        let view = self.view();
        let excluded_names = self.excluded_names(&view, &dir.inode);
        let expected = !dir.is_requested();
        prefetched.entries.reserve_exact(stream.buffered().take(MAX_ENTRIES).count());
        for entry in stream.buffered().take(MAX_ENTRIES) {
            // The request that has come looks the other entries up itself.
            if expected && dir.is_requested() {
                break;
            }
            // An inode that the kernel knows would be looked up again anyway, so nothing is gained by a prefetch.
            let is_worth_it = !entry.is_dot()
                && !entry.kind.is_dir()
                && !excluded_names.has(entry.name)
                && !self.tree.may_be_known(&dir.inode, entry.kind, entry.ino);
            let peeked = match is_worth_it {
                true => {
                    let peeked = self.tree.peek(&dir.inode, &dir.fd, entry.c_name, entry.kind);
                    peeked.ok().flatten()
                }
                false => None,
            };
            prefetched.entries.push_back(peeked.filter(PeekedInode::has_one_name));
        }
        stream.prefetched = Some(prefetched);
    }

    /// Drops a stream's prefetched entries unless they are valid, and seeks to `offset`.
    ///
    /// `is_first`: this is the first request for a directory that was prefetched.
    pub(super) fn validate_and_seek(
        &self,
        dir: &OpenDir,
        stream: &mut DirStream,
        offset: u64,
        is_first: bool,
    ) -> Result<()> {
        let is_valid = stream
            .prefetched
            .as_ref()
            .is_some_and(|prefetched| self.is_valid(&dir.inode, prefetched));
        if let Some(prefetched) = stream.prefetched.take() {
            self.prefetcher.record_result(is_valid);
            stream.prefetched = is_valid.then_some(prefetched);
        }
        if is_first {
            // The prefetch has not changed the access time; now a getdents(2) with a buffer too small for any entry
            // does.
            rustix::fs::fcntl_setfl(&dir.fd, OFlags::empty())?;
            let _ = sys::file::getdents(&dir.fd, &mut [0]);
        }
        // Names that were read before the request may be outdated, as are the prefetched entries.
        let is_old = offset == 0 && !is_valid && !stream.is_unread();
        if is_old || !stream.is_at(offset) { stream.seek(&dir.fd, offset) } else { Ok(()) }
    }

    /// Returns whether no client has made a change, and the kernel has forgotten no inode, since the prefetch.
    ///
    /// To be checked again after an entry was inserted, because the kernel may have known and forgotten the inode in
    /// between.
    pub(super) fn is_unchanged_since(&self, prefetched: &Prefetched) -> bool {
        self.prefetcher.changes.load(Ordering::Acquire) == prefetched.changes
    }

    fn is_valid(&self, dir: &Inode, prefetched: &Prefetched) -> bool {
        prefetched.since.elapsed() < MAX_AGE
            && self.is_unchanged_since(prefetched)
            && !self.tree.keeps_lookups_open()
            && dir.is_watched()
            && self.watch.as_ref().is_some_and(|watch| watch.is_drained(dir, prefetched.event_seq))
    }
}
