//! Watches the source by fanotify(7): what other processes change there is invalidated in the kernel's caches.
//!
//! Each directory in which the kernel caches names has a mark, which reports names that come and go, and changes to the
//! directory and to the files in it. A file gets a mark of its own soon after it was looked up: it may be changed without
//! an event at its directory (`deferred`). Nothing is marked that the kernel does not cache, so that processes that work
//! elsewhere on the same filesystem pay nothing.
//!
//! Events of what the daemon itself does for the mount's clients are recognised by its process id and skipped: the
//! kernel's caches have that already. They are not skipped where an inode may be known twice, through two mounts of its
//! filesystem.
//!
//! Lock order: `marking`, then `dirs`, which is never held across a system call or a notification.

mod deferred;
mod dir_invals;
mod dispatch;
mod inval_batch;
mod notifier;
mod resend;
mod write_throttle;

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::errno_field;
use crate::source::{Inode, NodeId, SourceTree, proc_path};
use crate::sync::{Mutex, MutexGuard};
use crate::sys;
use crate::sys::fanotify::Event;
use crate::sys::handle::FileHandle;

use deferred::{DeferredMarks, max_file_marks};
use dispatch::InvalDispatcher;
use inval_batch::InvalBatch;
pub use notifier::Notifier;
use write_throttle::{SUPPRESSION, WriteThrottle};

/// Events on a marked directory, and on the files in it.
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
/// Events on a marked file.
const FILE_EVENTS: u64 = libc::FAN_MODIFY | libc::FAN_ATTRIB;
/// Events of writes. With FAN_CLOSE_WRITE the writer is done.
const WRITE_EVENTS: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
/// Number of event counters. Directories share them: an event of another directory costs a lookup its long timeout.
const SEQ_SLOTS: usize = 4096;
/// How long events may gather before they are read, so that a burst costs one wake-up. Chosen.
const COALESCE: Duration = Duration::from_millis(1);

/// The watch over one mount's source.
#[derive(Debug)]
pub struct Watch {
    group: OwnedFd,
    /// The marked directories, by the file handles that events carry.
    dirs: Mutex<HashMap<FileHandle, NodeId>>,
    /// How many files have a mark or are queued to get one.
    files: AtomicUsize,
    /// The most files that may have a mark; see [`max_file_marks`].
    max_files: usize,
    deferred: DeferredMarks,
    dispatcher: Arc<InvalDispatcher>,
    /// Counts the events of each marked directory and its files; several directories share a counter.
    event_seqs: Box<[AtomicU32]>,
    /// Odd from before events are read until they are counted.
    read_seq: AtomicU32,
    /// Held, by node id, while the mark of an inode is set or removed. No thread then removes a mark that another has
    /// just set.
    marking: [Mutex<()>; 16],
}

impl Watch {
    /// Starts a watch over a tree.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN; ENODEV, EXDEV or EOPNOTSUPP on a filesystem with events that do not identify
    /// inodes.
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
            max_files: max_file_marks(),
            deferred: DeferredMarks::default(),
            dispatcher: Arc::default(),
            event_seqs: (0..SEQ_SLOTS).map(|_| AtomicU32::new(0)).collect(),
            read_seq: AtomicU32::new(0),
            marking: Default::default(),
        };
        watch.mark_dir(tree, &root)?;
        Ok(watch)
    }

    /// Marks a directory unless it is marked. Returns whether it is: what is read of it from now on is invalidated when
    /// it changes.
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
                log::debug!("cannot mark a directory: nodeid={} {}", dir.node(), errno_field(e));
                false
            }
        }
    }

    fn mark_dir(&self, tree: &SourceTree, dir: &Inode) -> Result<(), Errno> {
        let handle = tree.handle_of(dir)?;
        let _marking = self.marking(dir.node());
        // Before the mark is set: an event that comes with it must find the directory.
        self.dirs().insert(handle, dir.node());
        let marked = self.mark(tree, dir, true, DIR_EVENTS);
        match marked {
            Ok(()) => dir.set_watched(true),
            Err(_) => drop(self.dirs().remove(&handle)),
        }
        marked
    }

    /// Removes the mark of an inode that the kernel has forgotten.
    pub fn forget(&self, tree: &SourceTree, inode: &Inode) {
        // The next lookup makes an inode that does not know of the ignore mask.
        if inode.is_busy() {
            let resumed = tree
                .uncached_fd(inode)
                .and_then(|fd| sys::fanotify::ignore_modify(&self.group, false, &proc_path(&fd)));
            resumed.unwrap_or_else(|e| {
                let (node, errno) = (inode.node(), errno_field(e));
                log::debug!("cannot remove the ignore mask of a file: nodeid={node} {errno}");
            });
        }
        if !inode.is_watched() {
            return;
        }
        let _marking = self.marking(inode.node());
        if let Some(again) = tree.known_again(inode)
            && (inode.kind().is_dir() || again.is_watched())
        {
            // It was looked up again meanwhile, and keeps the mark.
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

    /// Invalidates an inode that the kernel has evicted while answers are in flight that bring it: a FORGET has left some
    /// of its lookups.
    ///
    /// A client can hold a listing back. What the kernel then makes of the answer is a new inode, and before Linux 6.13
    /// (`fuse_iget`) it trusts the answer's attributes, although it has seen newer ones, or an invalidation, before the
    /// eviction.
    pub fn lookups_left(&self, tree: &SourceTree, node: NodeId) {
        if tree.inode(node).is_ok_and(|inode| inode.has_changed()) {
            self.dispatcher.inval_once_known(node);
        }
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
        // An inode that was deleted has lost its mark already.
        let _ = self.mark(tree, inode, false, events);
        true
    }

    fn marking(&self, node: NodeId) -> MutexGuard<'_, ()> {
        let at = node.0 as usize % self.marking.len();
        self.marking[at].lock()
    }

    fn mark(&self, tree: &SourceTree, inode: &Inode, add: bool, events: u64) -> Result<(), Errno> {
        let fd = tree.uncached_fd(inode)?;
        sys::fanotify::mark(&self.group, add, events, &proc_path(&fd))
    }

    /// Whether invalidations of a directory are delivered promptly, so that its names may get a long timeout.
    #[must_use]
    pub fn is_delivering(&self, dir: &Inode) -> bool {
        !self.dispatcher.is_stalled(dir.node())
    }

    /// How many events of a directory and its files were counted, with those of some other directories.
    ///
    /// A lookup compares it before and after: if it changed meanwhile, an event may have come before the file was in
    /// the table, and what the lookup saw must not be cached for long.
    #[must_use]
    pub fn event_seq(&self, dir: &Inode) -> u32 {
        self.seq_slot(dir.node()).load(Ordering::Acquire)
    }

    /// Whether a directory has had no event since [`Self::event_seq`] was `seq`. No event is left uncounted, not even
    /// of a change made just before.
    #[must_use]
    pub fn is_drained(&self, dir: &Inode, seq: u32) -> bool {
        let read_seq = self.read_seq.load(Ordering::SeqCst);
        // An earlier event is in the queue, or was read from it: and is then being counted, or counted.
        read_seq.is_multiple_of(2)
            && self.poll_events(Some(Duration::ZERO)) == Ok(false)
            && self.read_seq.load(Ordering::SeqCst) == read_seq
            && self.event_seq(dir) == seq
    }

    fn seq_slot(&self, dir: NodeId) -> &AtomicU32 {
        &self.event_seqs[dir.0 as usize % SEQ_SLOTS]
    }

    /// Looks for directories with stalled invalidations; to be called every second.
    pub fn check(&self) {
        self.dispatcher.check();
    }

    /// Reads events and invalidates what they report, until the mount ends.
    pub fn run<N>(&self, tree: &SourceTree, notifier: &Arc<N>)
    where
        N: Notifier + Send + Sync + 'static,
    {
        if let Err(e) = self.dispatcher.start(notifier) {
            log::error!("cannot start a thread for invalidations: {}", errno_field(e));
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
                // read(2) returns any other error again.
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
                    log::error!(
                        "cannot read events of the source, which is not watched any more: {}",
                        errno_field(e)
                    );
                    notifier.inval_all();
                    return;
                }
            };
            let mut batch = InvalBatch::default();
            for event in sys::fanotify::events(&buffer[..filled]) {
                if event.mask & libc::FAN_Q_OVERFLOW != 0 {
                    self.count_lost_events();
                    batch.add_all();
                } else if event.pid != own_pid || tree.has_aliases() {
                    self.take_event(event, tree, &mut batch, &mut throttle);
                }
            }
            self.read_seq.fetch_add(1, Ordering::SeqCst);
            throttle.resume(&self.group, tree, &mut batch);
            self.dispatcher.send(batch, &**notifier);
            std::thread::sleep(COALESCE);
        }
    }

    /// Counts an event, and adds what it invalidates to the batch.
    fn take_event(
        &self,
        event: Event<'_>,
        tree: &SourceTree,
        batch: &mut InvalBatch,
        throttle: &mut WriteThrottle,
    ) {
        let dir = event.dir.and_then(|handle| self.dirs().get(&handle).copied());
        if let Some(dir) = dir {
            // Before the table is searched: a lookup that enters the file from now on sees the new count, and one that
            // has entered it already is found below.
            self.seq_slot(dir).fetch_add(1, Ordering::AcqRel);
        }
        batch.add(&event, dir);
        let children = event.child.map(|handle| tree.inodes_by_handle(&handle));
        for child in children.unwrap_or_default() {
            batch.add_inode(child.node());
            if event.mask & libc::FAN_ATTRIB != 0 && child.has_unmapped_id() {
                batch.add_expired(&event, dir);
            }
            if event.mask & WRITE_EVENTS == libc::FAN_MODIFY {
                throttle.suppress(&self.group, tree, child);
            }
        }
    }

    /// Counts an event for every directory: the kernel has lost events of any of them.
    fn count_lost_events(&self) {
        for seq in &self.event_seqs {
            seq.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Waits for events, for `time` or for ever. Returns whether there are any.
    fn poll_events(&self, time: Option<Duration>) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.group, PollFlags::IN)];
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        poll(&mut fds, timeout.as_ref()).map(|ready| ready > 0)
    }

    fn dirs(&self) -> MutexGuard<'_, HashMap<FileHandle, NodeId>> {
        self.dirs.lock()
    }
}
