//! Sends invalidations that may block from threads of their own, one queue per directory.
//!
//! To invalidate a dentry the kernel takes the lock of its directory (`fuse_reverse_inval_entry`), and a client can
//! hold that lock for as long as it likes, by a listing into memory that is slow to be paged in for example.
//! Invalidations for other clients must not wait for it: attributes are sent at once, and while one directory stalls,
//! another thread goes on with the others. What is due for the stalled directory waits, and its names get a short
//! timeout meanwhile. To invalidate all names at once is no way out: it would also unmount what is mounted on them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::dir_invals::DirInvals;
use super::inval_batch::InvalBatch;
use super::notifier::Notifier;
use super::resend::{Resends, UnknownInodes};
use crate::error::errno_field;
use crate::source::NodeId;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// How long the invalidations of one directory may take before it counts as stalled. Chosen.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);
/// The most threads. As many directories can stall before the other directories wait for them. Chosen.
const MAX_THREADS: usize = 64;

/// Starts one more thread.
type SpawnThread = Box<dyn Fn() -> std::io::Result<()> + Send + Sync>;

/// The queues of one mount, and the threads that serve them. See the module's head.
#[derive(Default)]
pub(super) struct InvalDispatcher {
    state: Mutex<State>,
    wake: Condvar,
    spawn_thread: OnceLock<SpawnThread>,
    /// Whether any directory stalls. Rarely so; otherwise [`Self::is_stalled`] takes no mutex.
    any_stalled: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Directories with invalidations, the one that has waited longest first.
    queue: VecDeque<NodeId>,
    invals: HashMap<NodeId, DirInvals>,
    in_progress: HashMap<NodeId, Instant>,
    /// Names that the kernel did not know, where its notifications do not wait for lookups.
    resends: Resends,
    unknown_inodes: UnknownInodes,
    threads: usize,
}

impl State {
    /// Takes the next directory that no thread serves. A directory that is being served keeps its place in the queue.
    fn next(&mut self) -> Option<(NodeId, DirInvals)> {
        let at = self.queue.iter().position(|dir| !self.in_progress.contains_key(dir))?;
        let dir = self.queue.remove(at)?;
        Some((dir, self.invals.remove(&dir).unwrap_or_default()))
    }

    /// When anything is to be sent again.
    fn next_due(&self) -> Option<Instant> {
        let due = [self.resends.next_due(), self.unknown_inodes.next_due()];
        due.into_iter().flatten().min()
    }

    fn has_stalled(&self, dir: &NodeId) -> bool {
        self.in_progress.get(dir).is_some_and(|since| since.elapsed() > STALL_TIMEOUT)
    }
}

impl std::fmt::Debug for InvalDispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvalDispatcher").field("state", &self.state).finish_non_exhaustive()
    }
}

impl InvalDispatcher {
    /// Whether invalidations of a directory stall, so that its names may only get a short timeout.
    pub(super) fn is_stalled(&self, dir: NodeId) -> bool {
        self.any_stalled.load(Ordering::Acquire) && self.state().has_stalled(&dir)
    }

    /// Starts the first thread.
    pub(super) fn start<N>(self: &Arc<Self>, notifier: &Arc<N>) -> std::io::Result<()>
    where
        N: Notifier + Send + Sync + 'static,
    {
        let (dispatcher, notifier) = (Arc::downgrade(self), Arc::downgrade(notifier));
        let start = move || {
            let (Some(dispatcher), Some(notifier)) = (dispatcher.upgrade(), notifier.upgrade())
            else {
                return Ok(());
            };
            let dispatch = move || dispatcher.run(&*notifier);
            std::thread::Builder::new().name("inval-dispatch".into()).spawn(dispatch).map(drop)
        };
        let start = self.spawn_thread.get_or_init(|| Box::new(start));
        self.state().threads += 1;
        start()
    }

    fn run(&self, notifier: &impl Notifier) {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if let Some(mut due) = state.resends.take_due(now) {
                // Another thread may be serving the directory, too.
                let is_first = !state.in_progress.contains_key(&due.dir);
                if is_first {
                    state.in_progress.insert(due.dir, now);
                }
                drop(state);
                due.invals = due.invals.send(due.dir, notifier);
                state = self.state();
                if is_first {
                    state.in_progress.remove(&due.dir);
                }
                state.resends.add_again(now, due);
                continue;
            }
            let mut due = state.unknown_inodes.take_due(now);
            if !due.is_empty() {
                drop(state);
                due.retain(|(node, _)| {
                    !notifier.inval_inode(*node) && notifier.is_looked_up(*node)
                });
                state = self.state();
                state.unknown_inodes.add_again(now, due);
                continue;
            }
            let Some((dir, invals)) = state.next() else {
                state = match state.next_due() {
                    None => self.wake.wait(state),
                    Some(due) => {
                        let time = due.saturating_duration_since(now);
                        self.wake.wait_timeout(state, time)
                    }
                };
                continue;
            };
            state.in_progress.insert(dir, Instant::now());
            drop(state);
            let left = invals.send(dir, notifier);
            state = self.state();
            state.in_progress.remove(&dir);
            state.resends.add(Instant::now(), dir, left);
            let stalled = state.in_progress.keys().any(|dir| state.has_stalled(dir));
            self.any_stalled.store(stalled, Ordering::Release);
        }
    }

    /// Sends a batch: at once what does not block, the rest by way of the queues.
    pub(super) fn send(&self, mut batch: InvalBatch, notifier: &impl Notifier) {
        if batch.is_all() {
            return notifier.inval_all();
        }
        let mut unknown = batch.send_inodes(notifier);
        unknown.retain(|node| notifier.is_looked_up(*node));
        let by_dir = batch.into_dir_invals();
        if by_dir.is_empty() && unknown.is_empty() {
            return;
        }
        let mut state = self.state();
        state.unknown_inodes.add(Instant::now(), unknown);
        for (dir, more) in by_dir {
            let waiting = state.invals.len();
            state.invals.entry(dir).or_default().merge(more);
            if state.invals.len() > waiting {
                state.queue.push_back(dir);
            }
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Invalidates the attributes of an inode as soon as the kernel knows it.
    pub(super) fn inval_once_known(&self, node: NodeId) {
        self.state().unknown_inodes.add(Instant::now(), [node].into());
        self.wake.notify_all();
    }

    /// Looks for directories that stall, and starts a thread for the others; to be called every second.
    pub(super) fn check(&self) {
        let mut state = self.state();
        let in_progress = state.in_progress.keys().copied();
        let stalled: Vec<NodeId> = in_progress.filter(|dir| state.has_stalled(dir)).collect();
        self.any_stalled.store(!stalled.is_empty(), Ordering::Release);
        let is_due = state.next_due().is_some_and(|due| due <= Instant::now());
        let waits = !state.queue.is_empty() || is_due;
        if stalled.len() < state.threads || !waits || state.threads >= MAX_THREADS {
            return;
        }
        state.threads += 1;
        drop(state);
        log::warn!(
            "clients hold the locks of directories, and other clients see changes there when they release them: \
             nodeids={stalled:?}"
        );
        if let Some(start) = self.spawn_thread.get()
            && let Err(e) = start()
        {
            log::error!("cannot start a thread for invalidations: {}", errno_field(e));
            self.state().threads -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::sync::atomic::AtomicUsize;

    const STALLED: NodeId = NodeId(5);
    const FREE: NodeId = NodeId(7);

    /// Invalidations of names in one directory block until it is released.
    #[derive(Default)]
    struct StalledDirectory {
        stalled: AtomicBool,
        names: [AtomicUsize; 2],
        attributes: AtomicUsize,
    }

    impl Notifier for StalledDirectory {
        fn inval_entry(&self, dir: NodeId, _: &OsStr) -> bool {
            while dir == STALLED && self.stalled.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.names[usize::from(dir == FREE)].fetch_add(1, Ordering::AcqRel);
            true
        }
        fn expire_entry(&self, _: NodeId, _: &OsStr) -> bool {
            true
        }
        fn waits_for_lookups(&self) -> bool {
            true
        }
        fn barrier(&self, _: NodeId) {}
        fn inval_inode(&self, _: NodeId) -> bool {
            self.attributes.fetch_add(1, Ordering::AcqRel);
            true
        }
        fn is_looked_up(&self, _: NodeId) -> bool {
            true
        }
        fn inval_readdir(&self, _: NodeId) {}
        fn inval_all(&self) {
            panic!("no event was lost");
        }
    }

    fn batch(dir: NodeId, name: &[u8]) -> InvalBatch {
        let mut batch = InvalBatch::default();
        let event = crate::sys::fanotify::Event {
            mask: libc::FAN_CREATE,
            pid: 1,
            dir: None,
            name,
            child: None,
        };
        batch.add(&event, Some(dir));
        batch.add_inode(NodeId(6));
        batch
    }

    fn eventually(what: impl Fn() -> bool) {
        let start = Instant::now();
        while !what() {
            assert!(start.elapsed() < Duration::from_secs(10), "in time");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A kernel with notifications that do not wait. It comes to know a name and an inode after a while.
    #[derive(Default)]
    struct LateKernel {
        knows: AtomicBool,
        unknown: [AtomicUsize; 2],
        known: [AtomicUsize; 2],
    }

    impl LateKernel {
        fn answer(&self, what: usize) -> bool {
            let knows = self.knows.load(Ordering::Acquire);
            let counts = if knows { &self.known } else { &self.unknown };
            counts[what].fetch_add(1, Ordering::AcqRel);
            knows
        }
    }

    impl Notifier for LateKernel {
        fn inval_entry(&self, _: NodeId, _: &OsStr) -> bool {
            self.answer(0)
        }
        fn expire_entry(&self, _: NodeId, _: &OsStr) -> bool {
            true
        }
        fn waits_for_lookups(&self) -> bool {
            false
        }
        fn barrier(&self, _: NodeId) {
            panic!("this kernel does not wait");
        }
        fn inval_inode(&self, _: NodeId) -> bool {
            self.answer(1)
        }
        fn is_looked_up(&self, _: NodeId) -> bool {
            true
        }
        fn inval_readdir(&self, _: NodeId) {}
        fn inval_all(&self) {}
    }

    #[test]
    fn where_notifications_do_not_wait_they_are_sent_until_the_kernel_knows_the_name() {
        let (dispatcher, notifier) =
            (Arc::new(InvalDispatcher::default()), Arc::new(LateKernel::default()));
        dispatcher.start(&notifier).unwrap();
        dispatcher.send(batch(FREE, b"n"), &*notifier);
        eventually(|| notifier.unknown.iter().all(|unknown| unknown.load(Ordering::Acquire) >= 2));
        notifier.knows.store(true, Ordering::Release);
        eventually(|| notifier.known.iter().all(|known| known.load(Ordering::Acquire) >= 1));
        eventually(|| dispatcher.state().next_due().is_none());
    }

    #[test]
    fn a_stalled_directory_delays_no_other_and_loses_nothing() {
        let (dispatcher, notifier) =
            (Arc::new(InvalDispatcher::default()), Arc::new(StalledDirectory::default()));
        dispatcher.start(&notifier).unwrap();
        notifier.stalled.store(true, Ordering::Release);
        for name in [b"one", b"two"] {
            dispatcher.send(batch(STALLED, name), &*notifier);
        }
        dispatcher.send(batch(FREE, b"n"), &*notifier);
        assert_eq!(notifier.attributes.load(Ordering::Acquire), 6, "at once");
        assert!(!dispatcher.is_stalled(STALLED));
        let sent = |of: usize| notifier.names[of].load(Ordering::Acquire);
        eventually(|| {
            dispatcher.check();
            dispatcher.is_stalled(STALLED) && sent(1) == 1
        });
        assert!(!dispatcher.is_stalled(FREE));
        assert_eq!(sent(0), 0);
        notifier.stalled.store(false, Ordering::Release);
        eventually(|| !dispatcher.is_stalled(STALLED) && sent(0) == 2);
    }
}
