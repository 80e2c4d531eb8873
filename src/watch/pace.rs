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
use super::resend::Resends;
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

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.doubted.is_empty() && !self.listing && self.inodes.is_empty()
    }

    /// Sends it all. What comes back is to be sent again: the kernel did not know it, and a look-up under way may be
    /// about to tell it.
    fn send(mut self, dir: NodeId, notices: &impl Notices) -> Self {
        let had_names = !self.names.is_empty();
        self.doubted.retain(|name| !self.names.contains(name));
        self.names.retain(|name| !notices.name(dir, name));
        self.doubted.retain(|name| !notices.look_up_again(dir, name));
        if std::mem::take(&mut self.listing) {
            notices.listing(dir);
        }
        let waits = notices.wait_for_lookups();
        // Taking a name has waited for the directory already.
        if waits && !had_names && !self.inodes.is_empty() {
            notices.settle(dir);
        }
        self.inodes.retain(|node| !notices.attributes(*node));
        if waits { Self::default() } else { self }
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
    /// What the kernel did not know, where its notices do not wait for look-ups.
    resends: Resends,
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
            let now = Instant::now();
            if let Some(mut due) = state.resends.take_due(now) {
                drop(state);
                due.work = due.work.send(due.dir, notices);
                state = self.state();
                state.resends.add_again(now, due);
                continue;
            }
            let Some((dir, work)) = state.next() else {
                state = match state.resends.next_due() {
                    None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(due) => {
                        let time = due.saturating_duration_since(now);
                        let woken = self.wake.wait_timeout(state, time);
                        woken.unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                continue;
            };
            state.under_way.insert(dir, Instant::now());
            drop(state);
            let left = work.send(dir, notices);
            state = self.state();
            state.under_way.remove(&dir);
            state.resends.add(Instant::now(), dir, left);
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
        fn name(&self, dir: NodeId, _: &OsStr) -> bool {
            while dir == HELD && self.held.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.names[usize::from(dir == FREE)].fetch_add(1, Ordering::AcqRel);
            true
        }
        fn look_up_again(&self, _: NodeId, _: &OsStr) -> bool {
            true
        }
        fn wait_for_lookups(&self) -> bool {
            true
        }
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

    /// A kernel whose notices do not wait, and which comes to know a name and an inode after a while.
    #[derive(Default)]
    struct Late {
        knows: AtomicBool,
        told: [AtomicUsize; 2],
        known: [AtomicUsize; 2],
    }

    impl Late {
        fn tell(&self, what: usize) -> bool {
            let knows = self.knows.load(Ordering::Acquire);
            let counts = if knows { &self.known } else { &self.told };
            counts[what].fetch_add(1, Ordering::AcqRel);
            knows
        }
    }

    impl Notices for Late {
        fn name(&self, _: NodeId, _: &OsStr) -> bool {
            self.tell(0)
        }
        fn look_up_again(&self, _: NodeId, _: &OsStr) -> bool {
            true
        }
        fn wait_for_lookups(&self) -> bool {
            false
        }
        fn settle(&self, _: NodeId) {
            panic!("it would not wait");
        }
        fn attributes(&self, _: NodeId) -> bool {
            self.tell(1)
        }
        fn listing(&self, _: NodeId) {}
        fn everything(&self) {}
    }

    #[test]
    fn where_notices_do_not_wait_they_are_sent_until_the_kernel_knows() {
        let (pace, notices) = (Arc::new(Pace::default()), Arc::new(Late::default()));
        pace.start(&notices).unwrap();
        pace.send(batch(FREE, b"n"), &*notices);
        eventually(|| notices.told.iter().all(|told| told.load(Ordering::Acquire) >= 2));
        notices.knows.store(true, Ordering::Release);
        eventually(|| notices.known.iter().all(|known| known.load(Ordering::Acquire) >= 1));
        eventually(|| pace.state().resends.next_due().is_none());
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
