//! Looking ahead of a walk: what a client will ask for next is read while it is still busy with what it has got.
//!
//! What was seen ahead counts only if it is still true when it is asked for. The directory's watch was on before and
//! has told nothing since, also of what was done a moment ago; no client of the mount has made, moved or removed a name
//! since; and it is young, because the source does not tell all (`MAX_AGE`). Whatever the kernel knows, or may have known
//! meanwhile, is looked at again: that is where the mount's own clients may have done something. So is what the watch
//! does not tell of: directories, and files with several names.
//!
//! Nothing is entered in the inode table until it is asked for, and the directory's time of access stays as it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::stream::{DirStream, OpenDir};
use super::walk_predictor::WalkPredictor;
use crate::fs::{Fs, Result};
use crate::source::{Inode, NodeId, PeekedInode};
use crate::sys;
use crate::view::Checks;

/// Entries that are seen ahead at most: what the kernel asks for at once for a client that reads as most do.
const MAX_ENTRIES: usize = 256;
/// How long they count. Who walks slower than that does not wait for us; and what no watch tells (times of access, a
/// second name in another directory) is not missed for longer.
const MAX_AGE: Duration = Duration::from_millis(100);
/// So often in a row it may have been in vain, and then not for so long.
const MAX_MISSES: u32 = 3;
const BACKOFF: Duration = Duration::from_secs(1);
/// What waits to be looked at, at most.
const MAX_QUEUED: usize = 4;

/// What the entries of a stream were seen to be, from where it stands.
#[derive(Debug)]
pub(super) struct Prefetched {
    since: Instant,
    /// What the directory's watch had told before.
    event_seq: u32,
    /// How often clients of the mount had changed something before.
    changes: u32,
    /// `None` for an entry that is to be looked up when it is asked for.
    seen: VecDeque<Option<PeekedInode>>,
}

impl Prefetched {
    /// What the directory's watch had told before anything was seen.
    pub(super) fn event_seq(&self) -> u32 {
        self.event_seq
    }

    /// What the entry was seen to be that the stream stands before.
    pub(super) fn first(&self) -> Option<&PeekedInode> {
        self.seen.front()?.as_ref()
    }

    /// Goes on past an entry: whether anything is left.
    pub(super) fn advance(&mut self) -> bool {
        self.seen.pop_front();
        !self.seen.is_empty()
    }
}

/// What may be asked for next, after a listing.
#[derive(Debug)]
pub(super) enum PrefetchTask {
    /// Nobody knows.
    None,
    /// More of the same directory.
    SameDir(Arc<OpenDir>),
    /// Another directory.
    NextDir(NodeId),
}

/// What looking ahead goes by.
#[derive(Debug)]
pub(in crate::fs) struct Prefetcher {
    predictor: Mutex<WalkPredictor>,
    /// Counts what clients of the mount do to names, and what the kernel forgets.
    changes: AtomicU32,
    /// Listings under way, and looks ahead.
    active: AtomicUsize,
    processors: usize,
    queue: Mutex<VecDeque<PrefetchTask>>,
    wake: Condvar,
    misses: AtomicU32,
    backoff_since: Mutex<Option<Instant>>,
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
        }
    }
}

/// Work that counts while it is under way.
#[must_use]
pub(super) struct ActiveWork<'a>(&'a Prefetcher);

impl Drop for ActiveWork<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a change when it is over, and before it is answered: who looked before has not seen it.
#[must_use]
pub(in crate::fs) struct ChangeGuard<'a>(&'a Prefetcher);

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Prefetcher {
    /// Something is about to be changed that may have been seen ahead.
    pub(in crate::fs) fn begin_change(&self) -> ChangeGuard<'_> {
        ChangeGuard(self)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<PrefetchTask>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts work from now on.
    pub(super) fn begin_work(&self) -> ActiveWork<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveWork(self)
    }

    /// Whether a processor is left over, beside those of the work under way and of a client. Else nothing is won.
    fn has_idle_processor(&self) -> bool {
        self.active.load(Ordering::Relaxed) + 1 < self.processors
    }

    pub(super) fn predictor(&self) -> MutexGuard<'_, WalkPredictor> {
        self.predictor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work was of use or in vain.
    pub(in crate::fs) fn record_result(&self, was_hit: bool) {
        if was_hit {
            self.misses.store(0, Ordering::Relaxed);
        } else if self.misses.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_MISSES {
            *self.backoff_since.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Instant::now());
        }
    }

    fn is_backing_off(&self) -> bool {
        if self.misses.load(Ordering::Relaxed) < MAX_MISSES {
            return false;
        }
        let since = *self.backoff_since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_backing_off = since.is_some_and(|since| since.elapsed() < BACKOFF);
        if !is_backing_off {
            self.misses.store(0, Ordering::Relaxed);
        }
        is_backing_off
    }
}

impl Fs {
    /// Whether looking ahead is worth anything, and what is seen is told of when it changes.
    #[must_use]
    pub fn prefetches(&self) -> bool {
        self.watch.is_some()
            && self.needs.checks == Checks::Kernel
            && !self.tree.follows_links()
            && self.prefetcher.processors > 1
    }

    /// Has the thread that looks ahead look at what may be asked for next.
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

    /// Looks ahead until the mount ends.
    pub fn run_prefetch(&self) {
        let prefetcher = &self.prefetcher;
        loop {
            let nothing = |queue: &mut VecDeque<PrefetchTask>| queue.is_empty();
            let queue = prefetcher.wake.wait_while(prefetcher.queue(), nothing);
            let next = queue.unwrap_or_else(PoisonError::into_inner).pop_front();
            let _active = prefetcher.begin_work();
            let seen = match next {
                None | Some(PrefetchTask::None) => Ok(()),
                Some(PrefetchTask::SameDir(dir)) => self.prefetch_more(&dir),
                // Else the client was faster.
                Some(PrefetchTask::NextDir(node)) if !prefetcher.predictor().predicts(node) => {
                    Ok(())
                }
                Some(PrefetchTask::NextDir(node)) => self.prefetch_dir(node),
            };
            seen.unwrap_or_else(|e| log::debug!("nothing is seen ahead: {e}"));
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
        self.idle_streams.put(Arc::clone(&dir), stream.cookie());
        stream.read_more(&dir.fd)?;
        self.prefetch_entries(&dir, &mut stream, prefetched);
        Ok(())
    }

    fn begin_prefetch(&self, dir: &Inode) -> Prefetched {
        Prefetched {
            since: Instant::now(),
            event_seq: self.event_seq(dir),
            changes: self.prefetcher.changes.load(Ordering::Acquire),
            seen: VecDeque::new(),
        }
    }

    fn prefetch_entries(&self, dir: &OpenDir, stream: &mut DirStream, mut prefetched: Prefetched) {
        let view = self.view();
        let excluded_names = self.excluded_names(&view, &dir.inode);
        let expected = !dir.is_requested();
        prefetched.seen.reserve_exact(stream.buffered().take(MAX_ENTRIES).count());
        for entry in stream.buffered().take(MAX_ENTRIES) {
            // Whoever asks for it goes on from here.
            if expected && dir.is_requested() {
                break;
            }
            // What is known is looked at again anyway: where others have walked already there is nothing to do.
            let is_worth_it = !entry.is_dot()
                && !entry.kind.is_dir()
                && !excluded_names.has(entry.name)
                && !self.tree.may_be_known(&dir.inode, entry.kind, entry.ino);
            let seen = match is_worth_it {
                true => {
                    let seen = self.tree.peek(&dir.inode, &dir.fd, entry.c_name, entry.kind);
                    seen.ok().flatten()
                }
                false => None,
            };
            prefetched.seen.push_back(seen.filter(PeekedInode::has_one_name));
        }
        stream.prefetched = Some(prefetched);
    }

    /// Sees to it that what a stream has seen ahead is still true, or gone, and that it stands at `offset`. `is_first`:
    /// its directory was only expected to be asked for until now.
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
            // What was read without a trace now leaves that of the client's reading: a getdents(2) without room does.
            rustix::fs::fcntl_setfl(&dir.fd, OFlags::empty())?;
            let _ = sys::file::getdents(&dir.fd, &mut [0]);
        }
        // The names at the beginning may be older than the request, and then count no more than what they mean.
        let is_old = offset == 0 && !is_valid && !stream.is_unread();
        if is_old || stream.cookie() != offset { stream.seek(&dir.fd, offset) } else { Ok(()) }
    }

    /// Whether clients of the mount have done nothing since that could make untrue what was seen of files that the
    /// kernel does not know. To be asked again when they are entered: they may have been forgotten in between.
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
