//! Rates: a request that moves more data than the rate allows waits for its turn, in the order of arrival, all clients
//! together, and nobody else waits with it.
//!
//! What may pass at once is served by the worker that has it. What must wait is left to one thread, which serves each
//! request when its time has come; the worker goes on. A client who is killed is let go with EINTR. A rate may change at
//! any time; it then holds for those who wait already.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// What an idle time is worth at most: so much may then pass at once.
const CREDIT: Duration = Duration::from_millis(200);
/// How often it is looked whether a waiting client is being killed: the kernel's word of it is not passed on to us.
const LOOK: Duration = Duration::from_millis(20);
/// A wait that no client will see the end of.
const EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What becomes of a request that had to wait: it is served, or EINTR says that its client is being killed.
pub(super) type Turn = Result<(), Errno>;

/// Serves a request, or tells its client why not: how many bytes were moved.
type Serve = Box<dyn FnOnce(Turn) -> usize + Send>;

/// See the module's head. One for each direction.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes per second, as the bits of an f64; 0 is none.
    rate: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
    is_dying: fn(u32) -> bool,
}

#[derive(Debug)]
struct Queue {
    /// Until when the rate is used up by what was served.
    paid: Instant,
    waiting: VecDeque<Waiting>,
    has_thread: bool,
}

struct Waiting {
    bytes: usize,
    client: u32,
    serve: Serve,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes for {}", self.bytes, self.client)
    }
}

impl Pace {
    /// A rate in bytes per second. `is_dying` tells of a thread, by its id, whether it is being killed.
    pub(super) fn new(rate: Option<f64>, is_dying: fn(u32) -> bool) -> Arc<Self> {
        let queue = Queue { paid: Instant::now(), waiting: VecDeque::new(), has_thread: false };
        let pace = Self {
            rate: AtomicU64::new(0),
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            is_dying,
        };
        pace.set_rate(rate);
        Arc::new(pace)
    }

    /// Changes the rate, also for what waits already.
    pub(super) fn set_rate(&self, rate: Option<f64>) {
        let rate = rate.filter(|rate| *rate > 0.0).unwrap_or(0.0);
        self.rate.store(rate.to_bits(), Ordering::Relaxed);
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Whether there is a rate at all.
    pub(super) fn is_set(&self) -> bool {
        self.rate.load(Ordering::Relaxed) != 0
    }

    /// Whether a request for so many bytes must [`wait`](Self::wait); else they are taken from what the rate allows.
    pub(super) fn must_wait(&self, bytes: usize) -> bool {
        if !self.is_set() {
            return false;
        }
        let now = Instant::now();
        let mut queue = self.lock();
        if !queue.waiting.is_empty() {
            return true;
        }
        let due = queue.start(now) + self.time(bytes);
        if due > now {
            return true;
        }
        queue.paid = due;
        false
    }

    /// Gives back what was taken for bytes that were not there to be moved.
    pub(super) fn give_back(&self, bytes: usize) {
        if bytes > 0 && self.is_set() {
            let time = self.time(bytes);
            let mut queue = self.lock();
            queue.paid = queue.paid.checked_sub(time).unwrap_or(queue.paid);
        }
    }

    /// Has a request served when its time has come. Without a thread that could do so, it is dropped.
    pub(super) fn wait(
        self: &Arc<Self>,
        bytes: usize,
        client: u32,
        serve: impl FnOnce(Turn) -> usize + Send + 'static,
    ) {
        let mut queue = self.lock();
        if queue.waiting.is_empty() {
            queue.start(Instant::now());
        }
        queue.waiting.push_back(Waiting { bytes, client, serve: Box::new(serve) });
        if queue.has_thread {
            self.changed.notify_all();
            return;
        }
        let pace = Arc::clone(self);
        let thread = std::thread::Builder::new().name("pace".into()).stack_size(256 * 1024);
        match thread.spawn(move || pace.run()) {
            Ok(_) => queue.has_thread = true,
            Err(e) => {
                log::warn!("no thread to keep a rate in: {e}");
                let dropped = queue.waiting.pop_back();
                drop(queue);
                drop(dropped);
            }
        }
    }

    fn run(&self) {
        let mut look_at = Instant::now() + LOOK;
        let mut queue = self.lock();
        loop {
            let Some(first) = queue.waiting.front() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            let due = if self.is_set() { queue.paid + self.time(first.bytes) } else { now };
            if due <= now
                && let Some(first) = queue.waiting.pop_front()
            {
                queue.paid = due;
                queue.start(now);
                drop(queue);
                let moved = (first.serve)(Ok(()));
                self.give_back(first.bytes.saturating_sub(moved));
                queue = self.lock();
            } else if look_at <= now {
                drop(queue);
                self.let_the_dying_go();
                // However many wait, most of the time is not spent on looking.
                look_at = Instant::now() + LOOK.max(now.elapsed() * 10);
                queue = self.lock();
            } else {
                let pause = due.min(look_at) - now;
                let woken = self.changed.wait_timeout(queue, pause);
                queue = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn let_the_dying_go(&self) {
        let clients: HashSet<u32> = self.lock().waiting.iter().map(|w| w.client).collect();
        let dying: HashSet<u32> = clients.into_iter().filter(|id| (self.is_dying)(*id)).collect();
        if dying.is_empty() {
            return;
        }
        let gone: Vec<Waiting> = {
            let mut queue = self.lock();
            let all = std::mem::take(&mut queue.waiting);
            let (gone, kept) = all.into_iter().partition(|w| dying.contains(&w.client));
            queue.waiting = kept;
            gone.into()
        };
        for waiting in gone {
            (waiting.serve)(Err(Errno::INTR));
        }
    }

    /// How long so many bytes take.
    fn time(&self, bytes: usize) -> Duration {
        let rate = f64::from_bits(self.rate.load(Ordering::Relaxed));
        if rate == 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(bytes as f64 / rate).map_or(EVER, |time| time.min(EVER))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// From when on the next request's time counts: an idle time is worth little.
    fn start(&mut self, now: Instant) -> Instant {
        self.paid = self.paid.max(now.checked_sub(CREDIT).unwrap_or(now));
        self.paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const WAIT: Duration = Duration::from_secs(10);

    /// Asks for bytes; what comes out is the client and whether it was served, and how long that took.
    fn ask(pace: &Arc<Pace>, bytes: usize, client: u32, done: &mpsc::Sender<(u32, Turn)>) {
        if pace.must_wait(bytes) {
            let done = done.clone();
            pace.wait(bytes, client, move |turn| {
                done.send((client, turn)).expect("the test listens");
                bytes
            });
        } else {
            done.send((client, Ok(()))).expect("the test listens");
        }
    }

    #[test]
    fn requests_pass_in_their_order_and_at_the_rate() {
        let pace = Pace::new(Some(1000.0), |_| false);
        let (send, served) = mpsc::channel();
        let start = Instant::now();
        for client in 0..10 {
            ask(&pace, 50, client, &send);
        }
        let order: Vec<u32> = (0..10).map(|_| served.recv_timeout(WAIT).unwrap().0).collect();
        let took = start.elapsed();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
        assert!(took >= Duration::from_millis(490), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let pace = Pace::new(None, |_| false);
        assert!((0..100).all(|_| !pace.must_wait(usize::MAX)));
        for none in [0.0, -1.0, f64::NAN] {
            pace.set_rate(Some(none));
            assert!(!pace.must_wait(usize::MAX), "{none}");
        }
    }

    #[test]
    fn what_was_not_moved_is_not_paid_for() {
        let pace = Pace::new(Some(1000.0), |_| false);
        std::thread::sleep(CREDIT);
        for _ in 0..100 {
            assert!(!pace.must_wait(100));
            pace.give_back(100);
        }
        assert!(!pace.must_wait(100));
        assert!(pace.must_wait(1000));
    }

    #[test]
    fn a_new_rate_holds_for_those_who_wait_already() {
        let pace = Pace::new(Some(f64::MIN_POSITIVE), |_| false);
        let (send, served) = mpsc::channel();
        ask(&pace, 1000, 1, &send);
        ask(&pace, 1000, 2, &send);
        assert!(served.recv_timeout(Duration::from_millis(100)).is_err(), "they wait");
        pace.set_rate(Some(1e6));
        assert_eq!(served.recv_timeout(WAIT).unwrap(), (1, Ok(())));
        assert_eq!(served.recv_timeout(WAIT).unwrap(), (2, Ok(())));
        pace.set_rate(Some(1.0));
        ask(&pace, 1000, 3, &send);
        pace.set_rate(None);
        assert_eq!(served.recv_timeout(WAIT).unwrap(), (3, Ok(())));
    }

    #[test]
    fn a_client_who_is_killed_is_let_go_and_pays_nothing() {
        let pace = Pace::new(Some(1.0), |client| client == 7);
        let (send, served) = mpsc::channel();
        for client in [1, 7, 2, 7] {
            ask(&pace, 1000, client, &send);
        }
        assert_eq!(served.recv_timeout(WAIT).unwrap(), (7, Err(Errno::INTR)));
        assert_eq!(served.recv_timeout(WAIT).unwrap(), (7, Err(Errno::INTR)));
        pace.set_rate(Some(1e9));
        assert_eq!(served.recv_timeout(WAIT).unwrap(), (1, Ok(())));
        assert_eq!(served.recv_timeout(WAIT).unwrap(), (2, Ok(())));
    }
}
