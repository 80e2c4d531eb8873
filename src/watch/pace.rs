//! Notices that may have to wait, sent from threads of their own, directory by directory.
//!
//! Taking a name out of the kernel's caches waits for the directory's lock, and a client can hold that for as long as
//! he likes (a listing into memory that is slow to come). Nobody else's caches may wait for him: attributes go out at
//! once, and where one directory is held, another thread goes on with the others. What is told of the held one waits,
//! and its names are not believed for long meanwhile. Nothing that would take all names at once is done instead: that
//! takes away what is mounted on them, too.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::notice::{Batch, Notices};
use crate::source::NodeId;

/// How long one directory may take before it counts as held.
const PATIENCE: Duration = Duration::from_secs(1);
/// Threads at most: so many directories can be held before the rest waits with them.
const MOST_LANES: usize = 64;

/// What is to be sent about one directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Names to take.
    pub(super) names: HashSet<OsString>,
    /// Names to look up again.
    pub(super) doubted: HashSet<OsString>,
    /// Whether its listing goes.
    pub(super) listing: bool,
    /// Inodes that a look-up under way in it may be about to tell the kernel.
    pub(super) inodes: HashSet<NodeId>,
}

impl Work {
    fn merge(&mut self, more: Self) {
        self.names.extend(more.names);
        self.doubted.extend(more.doubted);
        self.listing |= more.listing;
        self.inodes.extend(more.inodes);
    }

    fn send(self, dir: NodeId, notices: &impl Notices) {
        for name in &self.names {
            notices.name(dir, name);
        }
        for name in self.doubted.difference(&self.names) {
            notices.look_up_again(dir, name);
        }
        if self.listing {
            notices.listing(dir);
        }
        // Taking a name has waited for the directory already.
        if self.names.is_empty() && !self.inodes.is_empty() {
            notices.settle(dir);
        }
        for node in self.inodes {
            notices.attributes(node);
        }
    }
}

/// Starts one more thread.
type StartLane = Box<dyn Fn() -> std::io::Result<()> + Send + Sync>;

/// See the module's head.
#[derive(Default)]
pub(super) struct Pace {
    state: Mutex<State>,
    wake: Condvar,
    start_lane: OnceLock<StartLane>,
    /// Whether any directory is held: mostly none, and then nobody takes the mutex.
    any_held: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Directories with work, the one that waits longest first.
    queue: VecDeque<NodeId>,
    work: HashMap<NodeId, Work>,
    under_way: HashMap<NodeId, Instant>,
    lanes: usize,
}

impl State {
    /// The next directory that no thread is at. One that is under way stays in its place: its turn comes again.
    fn next(&mut self) -> Option<(NodeId, Work)> {
        let at = self.queue.iter().position(|dir| !self.under_way.contains_key(dir))?;
        let dir = self.queue.remove(at)?;
        Some((dir, self.work.remove(&dir).unwrap_or_default()))
    }

    fn is_held(&self, dir: &NodeId) -> bool {
        self.under_way.get(dir).is_some_and(|since| since.elapsed() > PATIENCE)
    }
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Pace {
    /// Whether what is told of a directory is held up, so that its names may not be believed for long.
    pub(super) fn is_held_up(&self, dir: NodeId) -> bool {
        self.any_held.load(Ordering::Acquire) && self.state().is_held(&dir)
    }

    /// Starts the first thread.
    pub(super) fn start<N>(self: &Arc<Self>, notices: &Arc<N>) -> std::io::Result<()>
    where
        N: Notices + Send + Sync + 'static,
    {
        let (pace, notices) = (Arc::downgrade(self), Arc::downgrade(notices));
        let start = move || {
            let (Some(pace), Some(notices)) = (pace.upgrade(), notices.upgrade()) else {
                return Ok(());
            };
            let lane = move || pace.run(&*notices);
            std::thread::Builder::new().name("names".into()).spawn(lane).map(drop)
        };
        let start = self.start_lane.get_or_init(|| Box::new(start));
        self.state().lanes += 1;
        start()
    }

    fn run(&self, notices: &impl Notices) {
        let mut state = self.state();
        loop {
            let Some((dir, work)) = state.next() else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.under_way.insert(dir, Instant::now());
            drop(state);
            work.send(dir, notices);
            state = self.state();
            state.under_way.remove(&dir);
            let held = state.under_way.keys().any(|dir| state.is_held(dir));
            self.any_held.store(held, Ordering::Release);
        }
    }

    /// Sends a batch: what needs not wait at once, the rest in its turn.
    pub(super) fn send(&self, mut batch: Batch, notices: &impl Notices) {
        if batch.is_everything() {
            return notices.everything();
        }
        batch.send_attributes(notices);
        let works = batch.into_works();
        if works.is_empty() {
            return;
        }
        let mut state = self.state();
        for (dir, more) in works {
            let waiting = state.work.len();
            state.work.entry(dir).or_default().merge(more);
            if state.work.len() > waiting {
                state.queue.push_back(dir);
            }
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Looks for directories that are held, and has others taken care of; to be called every second.
    pub(super) fn check(&self) {
        let mut state = self.state();
        let held = state.under_way.keys().filter(|dir| state.is_held(dir)).count();
        self.any_held.store(held > 0, Ordering::Release);
        if held < state.lanes || state.queue.is_empty() || state.lanes >= MOST_LANES {
            return;
        }
        state.lanes += 1;
        drop(state);
        log::warn!("a client holds a directory: changes in it are seen when he lets go");
        if let Some(start) = self.start_lane.get()
            && let Err(e) = start()
        {
            log::error!("no thread for notices: {e}");
            self.state().lanes -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::sync::atomic::AtomicUsize;

    const HELD: NodeId = NodeId(5);
    const FREE: NodeId = NodeId(7);

    /// Names of one directory wait until it is let go.
    #[derive(Default)]
    struct Slow {
        held: AtomicBool,
        names: [AtomicUsize; 2],
        attributes: AtomicUsize,
    }

    impl Notices for Slow {
        fn name(&self, dir: NodeId, _: &OsStr) {
            while dir == HELD && self.held.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.names[usize::from(dir == FREE)].fetch_add(1, Ordering::AcqRel);
        }
        fn look_up_again(&self, _: NodeId, _: &OsStr) {}
        fn settle(&self, _: NodeId) {}
        fn attributes(&self, _: NodeId) -> bool {
            self.attributes.fetch_add(1, Ordering::AcqRel);
            true
        }
        fn listing(&self, _: NodeId) {}
        fn everything(&self) {
            panic!("nothing was missed");
        }
    }

    fn batch(dir: NodeId, name: &[u8]) -> Batch {
        let mut batch = Batch::default();
        let event = crate::sys::fanotify::Event {
            mask: libc::FAN_CREATE,
            pid: 1,
            dir: None,
            name,
            child: None,
        };
        batch.add(&event, Some(dir));
        batch.changed(NodeId(6), Some(dir));
        batch
    }

    fn eventually(what: impl Fn() -> bool) {
        let start = Instant::now();
        while !what() {
            assert!(start.elapsed() < Duration::from_secs(10), "in time");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn whoever_holds_a_directory_holds_up_nothing_of_others_and_nothing_is_lost() {
        let (pace, notices) = (Arc::new(Pace::default()), Arc::new(Slow::default()));
        pace.start(&notices).unwrap();
        notices.held.store(true, Ordering::Release);
        for name in [b"one", b"two"] {
            pace.send(batch(HELD, name), &*notices);
        }
        pace.send(batch(FREE, b"n"), &*notices);
        assert_eq!(notices.attributes.load(Ordering::Acquire), 6, "at once");
        assert!(!pace.is_held_up(HELD));
        let sent = |of: usize| notices.names[of].load(Ordering::Acquire);
        eventually(|| {
            pace.check();
            pace.is_held_up(HELD) && sent(1) == 1
        });
        assert!(!pace.is_held_up(FREE));
        assert_eq!(sent(0), 0);
        notices.held.store(false, Ordering::Release);
        eventually(|| !pace.is_held_up(HELD) && sent(0) == 2);
    }
}
