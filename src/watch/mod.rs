//! Changes made behind our back: what others change on the source is taken out of the kernel's caches.
//!
//! A fanotify(7) mark on each directory that the kernel caches names of tells of names that come and go, and of what is
//! done to the directory and to the files in it. A file with several names gets a mark of its own when it is asked for
//! again: it may be changed by a name in a directory that nobody watches. Nothing is marked that the kernel does not
//! cache: who works elsewhere on the same filesystem pays nothing.
//!
//! What the daemon itself does on behalf of the mount's clients is told by its process id and left out: the kernel's
//! caches know it already. Not where an inode may be known twice, through two mounts of its filesystem.
//!
//! Locks: `marking`, then `dirs`, which is never held across a system call or a notice.

mod busy;
mod notice;
mod pace;
mod resend;

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::source::{Inode, NodeId, SourceTree, proc_path};
use crate::sys;
use crate::sys::handle::FileHandle;

use busy::Busy;
pub use notice::Notices;
use pace::Pace;

/// On directories.
const DIR_EVENTS: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_DELETE_SELF
    | libc::FAN_MOVE_SELF
    | libc::FAN_ONDIR
    | libc::FAN_EVENT_ON_CHILD;
/// On files.
const FILE_EVENTS: u64 = libc::FAN_MODIFY | libc::FAN_ATTRIB;
/// A file that is moved leaves the directory that told of it.
const MOVES: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// What tells of writes: with the second the writer is done.
const WRITES: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
/// How many counts all directories share: one that is another's costs a look-up its trust.
const COUNTS: usize = 4096;
/// Files with a mark of their own at most; each keeps an inode in the kernel's memory.
const MOST_FILES: usize = 65536;
/// How long events may gather before they are read: a burst costs one wake-up.
const GATHER: Duration = Duration::from_millis(1);

/// The watch over one mount's source.
#[derive(Debug)]
pub struct Watch {
    group: OwnedFd,
    /// The marked directories by handle, as events name them.
    dirs: Mutex<HashMap<FileHandle, NodeId>>,
    files: AtomicUsize,
    pace: Arc<Pace>,
    /// How often directories have told of files in them; several share a count.
    told: Box<[AtomicU32]>,
    /// Odd from before events are taken from the queue until they are counted.
    turns: AtomicU32,
    /// Held over setting or taking the mark of an inode, by node id: who takes one must not take another's.
    marking: [Mutex<()>; 16],
}

impl Watch {
    /// Starts a watch over a tree. An error where it cannot be: without CAP_SYS_ADMIN, or on a filesystem whose events
    /// do not name inodes (ENODEV, EXDEV, EOPNOTSUPP).
    pub fn new(tree: &SourceTree) -> Result<Self, Errno> {
        let root = tree.root();
        if !tree.is_watchable(&root) {
            return Err(Errno::OPNOTSUPP);
        }
        let group = sys::fanotify::init()?;
        let watch = Self {
            group,
            dirs: Mutex::default(),
            files: AtomicUsize::new(0),
            pace: Arc::default(),
            told: (0..COUNTS).map(|_| AtomicU32::new(0)).collect(),
            turns: AtomicU32::new(0),
            marking: Default::default(),
        };
        watch.mark_dir(tree, &root)?;
        Ok(watch)
    }

    /// Watches a directory from now on: whether it is watched. What is read of it afterwards is taken out of the caches
    /// when it changes.
    pub fn cover(&self, tree: &SourceTree, dir: &Inode) -> bool {
        if dir.is_watched() {
            return true;
        }
        if !tree.is_watchable(dir) {
            return false;
        }
        match self.mark_dir(tree, dir) {
            Ok(()) => true,
            Err(e) => {
                log::debug!("cannot watch a directory: {e}");
                false
            }
        }
    }

    fn mark_dir(&self, tree: &SourceTree, dir: &Inode) -> Result<(), Errno> {
        let handle = tree.handle_of(dir)?;
        let _marking = self.marking(dir.node());
        // Entered first: an event that comes with the mark must find it.
        self.dirs().insert(handle, dir.node());
        let marked = self.mark(tree, dir, true, DIR_EVENTS);
        match marked {
            Ok(()) => dir.set_watched(true),
            Err(_) => drop(self.dirs().remove(&handle)),
        }
        marked
    }

    /// Watches each write to a file from now on: whether it is watched.
    pub fn cover_file(&self, tree: &SourceTree, file: &Inode) -> bool {
        if file.is_watched() {
            return true;
        }
        if !tree.is_watchable(file) || self.files.load(Ordering::Relaxed) >= MOST_FILES {
            return false;
        }
        let _marking = self.marking(file.node());
        if file.is_watched() {
            return true;
        }
        if let Err(e) = self.mark(tree, file, true, FILE_EVENTS) {
            log::debug!("cannot watch a file: {e}");
            return false;
        }
        self.files.fetch_add(1, Ordering::Relaxed);
        file.set_watched(true);
        true
    }

    /// Ends the watch over an inode that the kernel has forgotten.
    pub fn forget(&self, tree: &SourceTree, inode: &Inode) {
        // Whoever looks it up next does not know that its writes are left alone.
        if inode.is_busy() {
            let heard = tree
                .passing_fd(inode)
                .and_then(|fd| sys::fanotify::ignore_modify(&self.group, false, &proc_path(&fd)));
            heard.unwrap_or_else(|e| log::debug!("writes are told again later: {e}"));
        }
        if !inode.is_watched() {
            return;
        }
        let _marking = self.marking(inode.node());
        if tree.knows_again(inode) {
            // It was looked up once more meanwhile, and the mark serves on.
            if inode.take_watched() && !inode.kind().is_dir() {
                self.files.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        }
        if inode.kind().is_dir()
            && let Ok(handle) = tree.handle_of(inode)
        {
            self.dirs().remove(&handle);
        }
        self.unmark(tree, inode);
    }

    fn unmark(&self, tree: &SourceTree, inode: &Inode) -> bool {
        if !inode.take_watched() {
            return false;
        }
        let is_dir = inode.kind().is_dir();
        if !is_dir {
            self.files.fetch_sub(1, Ordering::Relaxed);
        }
        let events = if is_dir { DIR_EVENTS } else { FILE_EVENTS };
        // An inode that is gone took its mark along.
        let _ = self.mark(tree, inode, false, events);
        true
    }

    fn marking(&self, node: NodeId) -> MutexGuard<'_, ()> {
        let at = node.0 as usize % self.marking.len();
        self.marking[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, tree: &SourceTree, inode: &Inode, add: bool, events: u64) -> Result<(), Errno> {
        let fd = tree.passing_fd(inode)?;
        sys::fanotify::mark(&self.group, add, events, &proc_path(&fd))
    }

    /// Whether word of changes in a directory gets through, so that its names may be believed for long.
    #[must_use]
    pub fn is_trustworthy(&self, dir: &Inode) -> bool {
        !self.pace.is_held_up(dir.node())
    }

    /// How often a directory has told of files in it (and some others of theirs): who looks a file up while it does may
    /// not be known as yet, and must not believe for long what he saw.
    #[must_use]
    pub fn told_of(&self, dir: &Inode) -> u32 {
        self.count(dir.node()).load(Ordering::Acquire)
    }

    /// Whether a directory has told nothing since it had told `told`, not even of what was done the moment before:
    /// nobody has any event of it that is not counted.
    #[must_use]
    pub fn has_told_all(&self, dir: &Inode, told: u32) -> bool {
        let turns = self.turns.load(Ordering::SeqCst);
        // An event of before is in the queue, or was taken from it before: in this turn, or in a former one.
        turns.is_multiple_of(2)
            && self.waits_for(Some(Duration::ZERO)) == Ok(false)
            && self.turns.load(Ordering::SeqCst) == turns
            && self.told_of(dir) == told
    }

    fn count(&self, dir: NodeId) -> &AtomicU32 {
        &self.told[dir.0 as usize % COUNTS]
    }

    /// Looks whether word of changes gets through; to be called every second.
    pub fn check(&self) {
        self.pace.check();
    }

    /// Takes what events tell out of the caches, until the mount ends.
    pub fn run<N>(&self, tree: &SourceTree, notices: &Arc<N>)
    where
        N: Notices + Send + Sync + 'static,
    {
        if let Err(e) = self.pace.start(notices) {
            log::error!("no thread for notices: {e}");
        }
        let Ok(group) = self.group.try_clone() else { return };
        let mut group = std::fs::File::from(group);
        let mut buffer = vec![0; 64 * 1024];
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let mut busy = Busy::default();
        loop {
            match self.waits_for((!busy.is_empty()).then_some(busy::REST / 4)) {
                Err(Errno::INTR) => continue,
                Ok(false) => {
                    let mut batch = notice::Batch::default();
                    busy.listen_again(&self.group, tree, &mut batch);
                    self.pace.send(batch, &**notices);
                    continue;
                }
                // Another error comes again where it is told.
                Ok(true) | Err(_) => {}
            }
            self.turns.fetch_add(1, Ordering::SeqCst);
            let filled = match group.read(&mut buffer) {
                Ok(0) => return,
                Ok(filled) => filled,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
                    self.turns.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                Err(e) => {
                    log::error!("the watch over the source ends: {e}");
                    notices.everything();
                    return;
                }
            };
            let mut batch = notice::Batch::default();
            for event in sys::fanotify::events(&buffer[..filled]) {
                if event.mask & libc::FAN_Q_OVERFLOW != 0 {
                    for count in &self.told {
                        count.fetch_add(1, Ordering::AcqRel);
                    }
                    batch.everything();
                } else if event.pid != own || tree.has_siblings() {
                    let dir = event.dir.and_then(|handle| self.dirs().get(&handle).copied());
                    if let Some(dir) = dir {
                        // First: whoever enters the file from now on is told by this count, whoever has, below.
                        self.count(dir).fetch_add(1, Ordering::AcqRel);
                    }
                    batch.add(&event, dir);
                    let children = event.child.map(|handle| tree.inodes_of(&handle));
                    for child in children.unwrap_or_default() {
                        batch.changed(child.node(), dir);
                        if event.mask & libc::FAN_ATTRIB != 0 && child.is_unowned() {
                            batch.look_up_again(&event, dir);
                        }
                        if event.mask & MOVES != 0 {
                            child.set_told(false);
                        }
                        if event.mask & WRITES == libc::FAN_MODIFY {
                            busy.leave(&self.group, tree, child, dir);
                        }
                    }
                }
            }
            self.turns.fetch_add(1, Ordering::SeqCst);
            busy.listen_again(&self.group, tree, &mut batch);
            self.pace.send(batch, &**notices);
            std::thread::sleep(GATHER);
        }
    }

    /// Waits for events: whether there are any in this time, or ever.
    fn waits_for(&self, time: Option<Duration>) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.group, PollFlags::IN)];
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        poll(&mut fds, timeout.as_ref()).map(|ready| ready > 0)
    }

    fn dirs(&self) -> MutexGuard<'_, HashMap<FileHandle, NodeId>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
