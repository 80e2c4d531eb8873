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

mod dispatch;
mod inval_batch;
mod resend;
mod write_throttle;

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

use dispatch::InvalDispatcher;
use inval_batch::InvalBatch;
pub use inval_batch::Notifier;
use write_throttle::{SUPPRESSION, WriteThrottle};

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
const MOVE_EVENTS: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// What tells of writes: with the second the writer is done.
const WRITE_EVENTS: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
/// How many counts all directories share: one that is another's costs a look-up its trust.
const SEQ_SLOTS: usize = 4096;
/// Files with a mark of their own at most; each keeps an inode in the kernel's memory.
const MAX_FILE_MARKS: usize = 65536;
/// How long events may gather before they are read: a burst costs one wake-up.
const COALESCE: Duration = Duration::from_millis(1);

/// The watch over one mount's source.
#[derive(Debug)]
pub struct Watch {
    group: OwnedFd,
    /// The marked directories by handle, as events name them.
    dirs: Mutex<HashMap<FileHandle, NodeId>>,
    files: AtomicUsize,
    dispatcher: Arc<InvalDispatcher>,
    /// How often directories have told of files in them; several share a count.
    event_seqs: Box<[AtomicU32]>,
    /// Odd from before events are taken from the queue until they are counted.
    read_seq: AtomicU32,
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
            dispatcher: Arc::default(),
            event_seqs: (0..SEQ_SLOTS).map(|_| AtomicU32::new(0)).collect(),
            read_seq: AtomicU32::new(0),
            marking: Default::default(),
        };
        watch.mark_dir(tree, &root)?;
        Ok(watch)
    }

    /// Watches a directory from now on: whether it is watched. What is read of it afterwards is taken out of the caches
    /// when it changes.
    pub fn ensure_marked(&self, tree: &SourceTree, dir: &Inode) -> bool {
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
    pub fn ensure_file_marked(&self, tree: &SourceTree, file: &Inode) -> bool {
        if file.is_watched() {
            return true;
        }
        if !tree.is_watchable(file) || self.files.load(Ordering::Relaxed) >= MAX_FILE_MARKS {
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
            let resumed = tree
                .uncached_fd(inode)
                .and_then(|fd| sys::fanotify::ignore_modify(&self.group, false, &proc_path(&fd)));
            resumed.unwrap_or_else(|e| log::debug!("writes are told again later: {e}"));
        }
        if !inode.is_watched() {
            return;
        }
        let _marking = self.marking(inode.node());
        if tree.is_known_again(inode) {
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
        let fd = tree.uncached_fd(inode)?;
        sys::fanotify::mark(&self.group, add, events, &proc_path(&fd))
    }

    /// Whether word of changes in a directory gets through, so that its names may be believed for long.
    #[must_use]
    pub fn is_delivering(&self, dir: &Inode) -> bool {
        !self.dispatcher.is_stalled(dir.node())
    }

    /// How often a directory has told of files in it (and some others of theirs): who looks a file up while it does may
    /// not be known as yet, and must not believe for long what he saw.
    #[must_use]
    pub fn event_seq(&self, dir: &Inode) -> u32 {
        self.seq_slot(dir.node()).load(Ordering::Acquire)
    }

    /// Whether a directory has told nothing since it had told `told`, not even of what was done the moment before:
    /// nobody has any event of it that is not counted.
    #[must_use]
    pub fn is_drained(&self, dir: &Inode, seq: u32) -> bool {
        let read_seq = self.read_seq.load(Ordering::SeqCst);
        // An event of before is in the queue, or was taken from it before: in this turn, or in a former one.
        read_seq.is_multiple_of(2)
            && self.poll_events(Some(Duration::ZERO)) == Ok(false)
            && self.read_seq.load(Ordering::SeqCst) == read_seq
            && self.event_seq(dir) == seq
    }

    fn seq_slot(&self, dir: NodeId) -> &AtomicU32 {
        &self.event_seqs[dir.0 as usize % SEQ_SLOTS]
    }

    /// Looks whether word of changes gets through; to be called every second.
    pub fn check(&self) {
        self.dispatcher.check();
    }

    /// Takes what events tell out of the caches, until the mount ends.
    pub fn run<N>(&self, tree: &SourceTree, notifier: &Arc<N>)
    where
        N: Notifier + Send + Sync + 'static,
    {
        if let Err(e) = self.dispatcher.start(notifier) {
            log::error!("no thread for notices: {e}");
        }
        let Ok(group) = self.group.try_clone() else { return };
        let mut group = std::fs::File::from(group);
        let mut buffer = vec![0; 64 * 1024];
        let own_pid = rustix::process::getpid().as_raw_nonzero().get();
        let mut throttle = WriteThrottle::default();
        loop {
            match self.poll_events((!throttle.is_empty()).then_some(SUPPRESSION / 4)) {
                Err(Errno::INTR) => continue,
                Ok(false) => {
                    let mut batch = InvalBatch::default();
                    throttle.resume(&self.group, tree, &mut batch);
                    self.dispatcher.send(batch, &**notifier);
                    continue;
                }
                // Another error comes again where it is told.
                Ok(true) | Err(_) => {}
            }
            self.read_seq.fetch_add(1, Ordering::SeqCst);
            let filled = match group.read(&mut buffer) {
                Ok(0) => return,
                Ok(filled) => filled,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
                    self.read_seq.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                Err(e) => {
                    log::error!("the watch over the source ends: {e}");
                    notifier.inval_all();
                    return;
                }
            };
            let mut batch = InvalBatch::default();
            for event in sys::fanotify::events(&buffer[..filled]) {
                if event.mask & libc::FAN_Q_OVERFLOW != 0 {
                    for seq in &self.event_seqs {
                        seq.fetch_add(1, Ordering::AcqRel);
                    }
                    batch.add_all();
                } else if event.pid != own_pid || tree.has_aliases() {
                    let dir = event.dir.and_then(|handle| self.dirs().get(&handle).copied());
                    if let Some(dir) = dir {
                        // First: whoever enters the file from now on is told by this count, whoever has, below.
                        self.seq_slot(dir).fetch_add(1, Ordering::AcqRel);
                    }
                    batch.add(&event, dir);
                    let children = event.child.map(|handle| tree.inodes_by_handle(&handle));
                    for child in children.unwrap_or_default() {
                        batch.add_inode(child.node(), dir);
                        if event.mask & libc::FAN_ATTRIB != 0 && child.has_unmapped_id() {
                            batch.add_expired(&event, dir);
                        }
                        if event.mask & MOVE_EVENTS != 0 {
                            child.set_covered_by_parent(false);
                        }
                        if event.mask & WRITE_EVENTS == libc::FAN_MODIFY {
                            throttle.suppress(&self.group, tree, child, dir);
                        }
                    }
                }
            }
            self.read_seq.fetch_add(1, Ordering::SeqCst);
            throttle.resume(&self.group, tree, &mut batch);
            self.dispatcher.send(batch, &**notifier);
            std::thread::sleep(COALESCE);
        }
    }

    /// Waits for events: whether there are any in this time, or ever.
    fn poll_events(&self, time: Option<Duration>) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.group, PollFlags::IN)];
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        poll(&mut fds, timeout.as_ref()).map(|ready| ready > 0)
    }

    fn dirs(&self) -> MutexGuard<'_, HashMap<FileHandle, NodeId>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
