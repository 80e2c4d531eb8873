//! Notices that may have to wait, sent from a thread of their own.
//!
//! Taking a name out of the kernel's caches waits for the directory's lock, and a client can hold that for as long as he
//! likes (a listing into memory that is slow to come). Nobody else's caches may wait for him: attributes go out at once,
//! and when names are held up, all names are asked for again and nothing is believed for long until they are not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::notice::{Batch, Notices};

/// How long one batch may take before the rest no longer waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Batches that may wait.
const ROOM: usize = 256;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Pace {
    started: Instant,
    sender: SyncSender<Batch>,
    receiver: Mutex<Option<Receiver<Batch>>>,
    /// Since when a batch is being sent, in milliseconds from the start and one more; 0 when none is.
    busy_since: AtomicU64,
    held_up: AtomicBool,
    missed: AtomicBool,
}

impl Default for Pace {
    fn default() -> Self {
        let (sender, receiver) = sync_channel(ROOM);
        Self {
            started: Instant::now(),
            sender,
            receiver: Mutex::new(Some(receiver)),
            busy_since: AtomicU64::new(0),
            held_up: AtomicBool::new(false),
            missed: AtomicBool::new(false),
        }
    }
}

impl Pace {
    /// Whether names are held up, so that nothing may be believed for long.
    pub(super) fn is_held_up(&self) -> bool {
        self.held_up.load(Ordering::Acquire)
    }

    /// Starts the thread that sends what may have to wait.
    pub(super) fn start<N>(self: &Arc<Self>, notices: &Arc<N>) -> std::io::Result<()>
    where
        N: Notices + Send + Sync + 'static,
    {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(receiver) = receiver else { return Ok(()) };
        let (pace, notices) = (Arc::clone(self), Arc::clone(notices));
        let send = move || {
            for batch in receiver {
                pace.busy_since.store(pace.now(), Ordering::Release);
                batch.send(&*notices);
                pace.busy_since.store(0, Ordering::Release);
                if pace.held_up.swap(false, Ordering::AcqRel)
                    && pace.missed.swap(false, Ordering::AcqRel)
                {
                    notices.everything();
                }
            }
        };
        std::thread::Builder::new().name("names".into()).spawn(send).map(drop)
    }

    /// Sends a batch: what needs not wait at once, the rest in its turn.
    pub(super) fn send(&self, mut batch: Batch, notices: &impl Notices) {
        batch.send_attributes(notices);
        if batch.is_empty() {
            return;
        }
        match self.sender.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.hold_up(notices);
            }
        }
    }

    /// Looks whether a batch takes too long; to be called every second.
    pub(super) fn check(&self, notices: &impl Notices) {
        let since = self.busy_since.load(Ordering::Acquire);
        if since != 0 && self.now().saturating_sub(since) > PATIENCE.as_millis() as u64 {
            self.hold_up(notices);
        }
    }

    fn hold_up(&self, notices: &impl Notices) {
        self.missed.store(true, Ordering::Release);
        if !self.held_up.swap(true, Ordering::AcqRel) {
            log::warn!("a client holds a directory: names are asked for again until he lets go");
            notices.everything();
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::NodeId;
    use std::ffi::OsStr;
    use std::sync::atomic::AtomicUsize;

    /// Names wait until they are let go.
    #[derive(Default)]
    struct Slow {
        held: AtomicBool,
        names: AtomicUsize,
        attributes: AtomicUsize,
        everything: AtomicUsize,
    }

    impl Notices for Slow {
        fn name(&self, _: NodeId, _: &OsStr) {
            while self.held.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.names.fetch_add(1, Ordering::AcqRel);
        }
        fn settle(&self, _: NodeId) {}
        fn attributes(&self, _: NodeId) -> bool {
            self.attributes.fetch_add(1, Ordering::AcqRel);
            true
        }
        fn listing(&self, _: NodeId) {}
        fn everything(&self) {
            self.everything.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn batch() -> Batch {
        let mut batch = Batch::default();
        let event = crate::sys::fanotify::Event {
            mask: libc::FAN_CREATE,
            pid: 1,
            dir: None,
            name: b"n",
            child: None,
        };
        batch.add(&event, Some(NodeId(5)), Some(NodeId(6)));
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
    fn whoever_holds_a_directory_holds_up_no_attributes_and_nothing_is_lost() {
        let (pace, notices) = (Arc::new(Pace::default()), Arc::new(Slow::default()));
        pace.start(&notices).unwrap();
        notices.held.store(true, Ordering::Release);
        pace.send(batch(), &*notices);
        pace.send(batch(), &*notices);
        assert_eq!(notices.attributes.load(Ordering::Acquire), 4, "at once");
        assert!(!pace.is_held_up());
        eventually(|| {
            pace.check(&*notices);
            pace.is_held_up()
        });
        assert!(notices.everything.load(Ordering::Acquire) > 0);
        notices.held.store(false, Ordering::Release);
        eventually(|| !pace.is_held_up() && notices.names.load(Ordering::Acquire) == 2);
    }
}
