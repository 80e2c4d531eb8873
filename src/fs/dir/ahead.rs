//! Looking ahead of a walk: what a client will ask for next is read while it is still busy with what it has got.
//!
//! What was seen ahead counts only if it is still true when it is asked for. The directory's watch was on before and
//! has told nothing since, also of what was done a moment ago; no client of the mount has made, moved or removed a name
//! since; and it is young, because the source does not tell all (`YOUNG`). Whatever the kernel knows, or may have known
//! meanwhile, is looked at again: that is where the mount's own clients may have done something. So is what the watch
//! does not tell of: directories, and files with several names.
//!
//! Nothing is entered in the inode table until it is asked for, and the directory's time of access stays as it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::stream::{OpenDir, Stream};
use super::trail::Trails;
use crate::fs::{Fs, Result};
use crate::source::{Inode, NodeId, Seen};
use crate::sys;
use crate::view::Checks;

/// Entries that are seen ahead at most: what the kernel asks for at once for a client that reads as most do.
const MOST_SEEN: usize = 256;
/// How long they count. Who walks slower than that does not wait for us; and what no watch tells (times of access, a
/// second name in another directory) is not missed for longer.
const YOUNG: Duration = Duration::from_millis(100);
/// So often in a row it may have been in vain, and then not for so long.
const MOST_IN_VAIN: u32 = 3;
const REST: Duration = Duration::from_secs(1);
/// What waits to be looked at, at most.
const MOST_WAITING: usize = 4;

/// What the entries of a stream were seen to be, from where it stands.
#[derive(Debug)]
pub(super) struct Ahead {
    since: Instant,
    /// What the directory's watch had told before.
    told: u32,
    /// How often clients of the mount had changed something before.
    changes: u32,
    /// `None` for an entry that is to be looked up when it is asked for.
    seen: VecDeque<Option<Seen>>,
}

impl Ahead {
    /// What the directory's watch had told before anything was seen.
    pub(super) fn told(&self) -> u32 {
        self.told
    }

    /// What the entry was seen to be that the stream stands before.
    pub(super) fn first(&self) -> Option<&Seen> {
        self.seen.front()?.as_ref()
    }

    /// Goes on past an entry: whether anything is left.
    pub(super) fn pass(&mut self) -> bool {
        self.seen.pop_front();
        !self.seen.is_empty()
    }
}

/// What may be asked for next, after a listing.
#[derive(Debug)]
pub(super) enum Next {
    /// Nobody knows.
    Unknown,
    /// More of the same directory.
    More(Arc<OpenDir>),
    /// Another directory.
    Dir(NodeId),
}

/// What looking ahead goes by.
#[derive(Debug)]
pub(in crate::fs) struct Lookout {
    trails: Mutex<Trails>,
    /// Counts what clients of the mount do to names, and what the kernel forgets.
    changes: AtomicU32,
    /// Listings under way, and looks ahead.
    at_work: AtomicUsize,
    processors: usize,
    waiting: Mutex<VecDeque<Next>>,
    wake: Condvar,
    in_vain: AtomicU32,
    rests_since: Mutex<Option<Instant>>,
}

impl Default for Lookout {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            trails: Mutex::default(),
            changes: AtomicU32::new(0),
            at_work: AtomicUsize::new(0),
            processors,
            waiting: Mutex::default(),
            wake: Condvar::new(),
            in_vain: AtomicU32::new(0),
            rests_since: Mutex::default(),
        }
    }
}

/// Work that counts while it is under way.
#[must_use]
pub(super) struct AtWork<'a>(&'a Lookout);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a change when it is over, and before it is answered: who looked before has not seen it.
#[must_use]
pub(in crate::fs) struct Change<'a>(&'a Lookout);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Lookout {
    /// Something is about to be changed that may have been seen ahead.
    pub(in crate::fs) fn change(&self) -> Change<'_> {
        Change(self)
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Next>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts work from now on.
    pub(super) fn works(&self) -> AtWork<'_> {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(self)
    }

    /// Whether a processor is left over, beside those of the work under way and of a client. Else nothing is won.
    fn has_room(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) + 1 < self.processors
    }

    pub(super) fn trails(&self) -> MutexGuard<'_, Trails> {
        self.trails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work was of use or in vain.
    pub(in crate::fs) fn was_of_use(&self, use_of_it: bool) {
        if use_of_it {
            self.in_vain.store(0, Ordering::Relaxed);
        } else if self.in_vain.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_IN_VAIN {
            *self.rests_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    fn rests(&self) -> bool {
        if self.in_vain.load(Ordering::Relaxed) < MOST_IN_VAIN {
            return false;
        }
        let since = *self.rests_since.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = since.is_some_and(|since| since.elapsed() < REST);
        if !rests {
            self.in_vain.store(0, Ordering::Relaxed);
        }
        rests
    }
}

impl Fs {
    /// Whether looking ahead is worth anything, and what is seen is told of when it changes.
    #[must_use]
    pub fn looks_ahead(&self) -> bool {
        self.watch.is_some()
            && self.needs.checks == Checks::Kernel
            && !self.tree.follows_links()
            && self.lookout.processors > 1
    }

    /// Has the thread that looks ahead look at what may be asked for next.
    pub(super) fn look_ahead(&self, next: Next) {
        let lookout = &self.lookout;
        if matches!(next, Next::Unknown) || !lookout.has_room() || lookout.rests() {
            return;
        }
        let mut waiting = lookout.waiting();
        if waiting.len() < MOST_WAITING {
            waiting.push_back(next);
            drop(waiting);
            lookout.wake.notify_one();
        }
    }

    /// Looks ahead until the mount ends.
    pub fn keep_looking_ahead(&self) {
        let lookout = &self.lookout;
        loop {
            let nothing = |waiting: &mut VecDeque<Next>| waiting.is_empty();
            let waiting = lookout.wake.wait_while(lookout.waiting(), nothing);
            let next = waiting.unwrap_or_else(PoisonError::into_inner).pop_front();
            let _works = lookout.works();
            let seen = match next {
                None | Some(Next::Unknown) => Ok(()),
                Some(Next::More(dir)) => self.see_more(&dir),
                // Else the client was faster.
                Some(Next::Dir(node)) if !lookout.trails().expects(node) => Ok(()),
                Some(Next::Dir(node)) => self.see_dir(node),
            };
            seen.unwrap_or_else(|e| log::debug!("nothing is seen ahead: {e}"));
        }
    }

    fn see_more(&self, dir: &OpenDir) -> Result<()> {
        let Some(mut stream) = dir.stream_if_free() else { return Ok(()) };
        if stream.rest().nth(MOST_SEEN - 1).is_none() {
            stream.read_more(&dir.fd)?;
        }
        let ahead = self.nothing_seen(&dir.inode);
        self.see(dir, &mut stream, ahead);
        Ok(())
    }

    fn see_dir(&self, node: NodeId) -> Result<()> {
        let inode = self.tree.inode(node)?;
        if !inode.kind().is_dir() || !inode.is_watched() || self.streams.has_begin_of(node) {
            return Ok(());
        }
        // Before its names are read.
        let ahead = self.nothing_seen(&inode);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
        let fd = self.tree.open(&inode, flags)?;
        let dir = Arc::new(OpenDir::expected(inode, fd));
        let mut stream = dir.stream();
        self.streams.put(Arc::clone(&dir), stream.cookie());
        stream.read_more(&dir.fd)?;
        self.see(&dir, &mut stream, ahead);
        Ok(())
    }

    fn nothing_seen(&self, dir: &Inode) -> Ahead {
        Ahead {
            since: Instant::now(),
            told: self.told_of(dir),
            changes: self.lookout.changes.load(Ordering::Acquire),
            seen: VecDeque::new(),
        }
    }

    fn see(&self, dir: &OpenDir, stream: &mut Stream, mut ahead: Ahead) {
        let view = self.view();
        let absent = self.absent(&view, &dir.inode);
        let expected = !dir.is_asked();
        ahead.seen.reserve_exact(stream.rest().take(MOST_SEEN).count());
        for entry in stream.rest().take(MOST_SEEN) {
            // Whoever asks for it goes on from here.
            if expected && dir.is_asked() {
                break;
            }
            // What is known is looked at again anyway: where others have walked already there is nothing to do.
            let is_worth_it = !entry.is_dot()
                && !entry.kind.is_dir()
                && !absent.has(entry.name)
                && !self.tree.seems_known(&dir.inode, entry.kind, entry.ino);
            let seen = match is_worth_it {
                true => {
                    let seen = self.tree.see(&dir.inode, &dir.fd, entry.c_name, entry.kind);
                    seen.ok().flatten()
                }
                false => None,
            };
            ahead.seen.push_back(seen.filter(Seen::has_one_name));
        }
        stream.ahead = Some(ahead);
    }

    /// Sees to it that what a stream has seen ahead is still true, or gone, and that it stands at `offset`. `is_first`:
    /// its directory was only expected to be asked for until now.
    pub(super) fn confirm(
        &self,
        dir: &OpenDir,
        stream: &mut Stream,
        offset: u64,
        is_first: bool,
    ) -> Result<()> {
        let holds = stream.ahead.as_ref().is_some_and(|ahead| self.holds(&dir.inode, ahead));
        if let Some(ahead) = stream.ahead.take() {
            self.lookout.was_of_use(holds);
            stream.ahead = holds.then_some(ahead);
        }
        if is_first {
            // What was read without a trace now leaves that of the client's reading: a getdents(2) without room does.
            rustix::fs::fcntl_setfl(&dir.fd, OFlags::empty())?;
            let _ = sys::file::getdents(&dir.fd, &mut [0]);
        }
        // The names at the beginning may be older than the request, and then count no more than what they mean.
        let is_old = offset == 0 && !holds && !stream.is_unread();
        if is_old || stream.cookie() != offset { stream.seek(&dir.fd, offset) } else { Ok(()) }
    }

    /// Whether clients of the mount have done nothing since that could make untrue what was seen of files that the
    /// kernel does not know. To be asked again when they are entered: they may have been forgotten in between.
    pub(super) fn has_changed_nothing_since(&self, ahead: &Ahead) -> bool {
        self.lookout.changes.load(Ordering::Acquire) == ahead.changes
    }

    fn holds(&self, dir: &Inode, ahead: &Ahead) -> bool {
        ahead.since.elapsed() < YOUNG
            && self.has_changed_nothing_since(ahead)
            && !self.tree.is_careful()
            && dir.is_watched()
            && self.watch.as_ref().is_some_and(|watch| watch.is_drained(dir, ahead.told))
    }
}
