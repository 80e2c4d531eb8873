//! Limits the rates of reads and writes. Requests beyond the rate are served later, in the order of arrival, of all
//! clients together.
//!
//! A request that fits the rate is served at once by the worker that has it. Any other is queued for one thread, which
//! serves each when its time has come; the worker goes on. A request of a client that is being killed is answered with
//! EINTR. A new rate also applies to requests that are queued already.
//!
//! Readahead keeps page cache pages locked for as long as it waits, even when its client is gone, and other processes
//! that want these pages wait for it uninterruptibly. So it is aborted when its client is gone.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::errno_field;
use crate::fs::ClientState;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// What unused rate accumulates to at most: as much as this time is worth may pass at once. Chosen.
const BURST: Duration = Duration::from_millis(200);
/// How often the thread checks whether queued clients are being killed: INTERRUPT requests are not passed on to the
/// limiter. Chosen.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(20);
/// A wait that no client lives to see end.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The client of a queued request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client {
    /// The thread id.
    pub(super) id: u32,
    /// It reads for the page cache, which does without the pages when the thread is gone. What a thread wants for
    /// itself its process may want even then (io_submit(2)).
    pub(super) for_cache: bool,
}

/// How a request leaves the queue: to be served, or to be answered with EINTR because its client is being killed.
pub(super) type Dequeued = Result<(), Errno>;

/// Serves a request, or replies with the errno. Returns how many bytes were moved.
type Serve = Box<dyn FnOnce(Dequeued) -> usize + Send>;

/// A token bucket for one direction. See the module's head.
#[derive(Debug)]
pub(super) struct RateLimiter {
    /// Bytes per second, as the bits of an f64; 0: no limit.
    rate: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
    client_state: fn(u32) -> ClientState,
}

#[derive(Debug)]
struct Queue {
    /// Until when the rate is used up by what was served.
    used_until: Instant,
    requests: VecDeque<QueuedRequest>,
    has_thread: bool,
}

struct QueuedRequest {
    bytes: usize,
    client: Client,
    serve: Serve,
}

impl std::fmt::Debug for QueuedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes for {:?}", self.bytes, self.client)
    }
}

impl RateLimiter {
    /// A limiter of a rate in bytes per second. `client_state` tells whether a thread is alive.
    pub(super) fn new(rate: Option<f64>, client_state: fn(u32) -> ClientState) -> Arc<Self> {
        let queue =
            Queue { used_until: Instant::now(), requests: VecDeque::new(), has_thread: false };
        let limiter = Self {
            rate: AtomicU64::new(0),
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            client_state,
        };
        limiter.set_rate(rate);
        Arc::new(limiter)
    }

    /// Changes the rate, also for requests that are queued already.
    pub(super) fn set_rate(&self, rate: Option<f64>) {
        let rate = rate.filter(|rate| *rate > 0.0).unwrap_or(0.0);
        self.rate.store(rate.to_bits(), Ordering::Relaxed);
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Whether there is a limit at all.
    pub(super) fn is_set(&self) -> bool {
        self.rate.load(Ordering::Relaxed) != 0
    }

    /// Whether a request of this size has to be [queued](Self::enqueue). If not, its bytes are taken from the rate.
    pub(super) fn must_wait(&self, bytes: usize) -> bool {
        if !self.is_set() {
            return false;
        }
        let now = Instant::now();
        let mut queue = self.lock();
        if !queue.requests.is_empty() {
            return true;
        }
        let due = queue.cap_burst(now) + self.duration(bytes);
        if due > now {
            return true;
        }
        queue.used_until = due;
        false
    }

    /// Returns to the rate what was taken for bytes that were not moved.
    pub(super) fn refund(&self, bytes: usize) {
        if bytes > 0 && self.is_set() {
            let time = self.duration(bytes);
            let mut queue = self.lock();
            queue.used_until = queue.used_until.checked_sub(time).unwrap_or(queue.used_until);
        }
    }

    /// Queues a request. Drops it where no thread can be started to serve it.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        bytes: usize,
        client: Client,
        serve: impl FnOnce(Dequeued) -> usize + Send + 'static,
    ) {
        let mut queue = self.lock();
        if queue.requests.is_empty() {
            queue.cap_burst(Instant::now());
        }
        queue.requests.push_back(QueuedRequest { bytes, client, serve: Box::new(serve) });
        if queue.has_thread {
            self.changed.notify_all();
            return;
        }
        let limiter = Arc::clone(self);
        let thread = std::thread::Builder::new().name("rate-limit".into()).stack_size(256 * 1024);
        match thread.spawn(move || limiter.run()) {
            Ok(_) => queue.has_thread = true,
            Err(e) => {
                let errno = errno_field(e);
                log::warn!("cannot start a thread for rate-limited requests: {errno}");
                let dropped = queue.requests.pop_back();
                drop(queue);
                drop(dropped);
            }
        }
    }

    fn run(&self) {
        let mut next_liveness = Instant::now() + LIVENESS_INTERVAL;
        let mut queue = self.lock();
        loop {
            let Some(first) = queue.requests.front() else {
                queue = self.changed.wait(queue);
                continue;
            };
            let now = Instant::now();
            let due =
                if self.is_set() { queue.used_until + self.duration(first.bytes) } else { now };
            if due <= now
                && let Some(first) = queue.requests.pop_front()
            {
                queue.used_until = due;
                queue.cap_burst(now);
                drop(queue);
                let moved = (first.serve)(Ok(()));
                self.refund(first.bytes.saturating_sub(moved));
                queue = self.lock();
            } else if next_liveness <= now {
                drop(queue);
                self.abort_killed();
                // Spends less than a tenth of the time on checks, however many requests are queued.
                next_liveness = Instant::now() + LIVENESS_INTERVAL.max(now.elapsed() * 10);
                queue = self.lock();
            } else {
                let pause = due.min(next_liveness) - now;
                queue = self.changed.wait_timeout(queue, pause);
            }
        }
    }

    fn abort_killed(&self) {
        let clients: HashSet<Client> = self.lock().requests.iter().map(|r| r.client).collect();
        let is_over = |client: &Client| match (self.client_state)(client.id) {
            ClientState::Alive => false,
            ClientState::Dying => true,
            ClientState::Gone => client.for_cache,
        };
        let killed: HashSet<Client> = clients.into_iter().filter(is_over).collect();
        if killed.is_empty() {
            return;
        }
        let aborted: Vec<QueuedRequest> = {
            let mut queue = self.lock();
            let all = std::mem::take(&mut queue.requests);
            let (aborted, kept) = all.into_iter().partition(|r| killed.contains(&r.client));
            queue.requests = kept;
            aborted.into()
        };
        for request in aborted {
            (request.serve)(Err(Errno::INTR));
        }
    }

    /// How long this many bytes take at the rate.
    fn duration(&self, bytes: usize) -> Duration {
        let rate = f64::from_bits(self.rate.load(Ordering::Relaxed));
        if rate == 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(bytes as f64 / rate).map_or(MAX_WAIT, |time| time.min(MAX_WAIT))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Queue {
    /// When the next request's time starts to count: unused rate accumulates to [`BURST`] only.
    fn cap_burst(&mut self, now: Instant) -> Instant {
        self.used_until = self.used_until.max(now.checked_sub(BURST).unwrap_or(now));
        self.used_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// Asks for bytes; sends the client, and whether it was served, to `done`.
    fn ask(
        limiter: &Arc<RateLimiter>,
        bytes: usize,
        client: u32,
        done: &mpsc::Sender<(u32, Dequeued)>,
    ) {
        if limiter.must_wait(bytes) {
            let done = done.clone();
            limiter.enqueue(
                bytes,
                Client { id: client, for_cache: client == 8 },
                move |dequeued| {
                    done.send((client, dequeued)).expect("the test listens");
                    bytes
                },
            );
        } else {
            done.send((client, Ok(()))).expect("the test listens");
        }
    }

    #[test]
    fn requests_are_served_in_order_and_at_the_rate() {
        let limiter = RateLimiter::new(Some(1000.0), |_| ClientState::Alive);
        let (send, served) = mpsc::channel();
        let start = Instant::now();
        for client in 0..10 {
            ask(&limiter, 50, client, &send);
        }
        let order: Vec<u32> = (0..10).map(|_| served.recv_timeout(DEADLINE).unwrap().0).collect();
        let took = start.elapsed();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
        assert!(took >= Duration::from_millis(490), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let limiter = RateLimiter::new(None, |_| ClientState::Alive);
        assert!((0..100).all(|_| !limiter.must_wait(usize::MAX)));
        for none in [0.0, -1.0, f64::NAN] {
            limiter.set_rate(Some(none));
            assert!(!limiter.must_wait(usize::MAX), "{none}");
        }
    }

    #[test]
    fn bytes_that_were_not_moved_are_refunded() {
        let limiter = RateLimiter::new(Some(1000.0), |_| ClientState::Alive);
        std::thread::sleep(BURST);
        for _ in 0..100 {
            assert!(!limiter.must_wait(100));
            limiter.refund(100);
        }
        assert!(!limiter.must_wait(100));
        assert!(limiter.must_wait(1000));
    }

    #[test]
    fn a_new_rate_applies_to_queued_requests() {
        let limiter = RateLimiter::new(Some(f64::MIN_POSITIVE), |_| ClientState::Alive);
        let (send, served) = mpsc::channel();
        ask(&limiter, 1000, 1, &send);
        ask(&limiter, 1000, 2, &send);
        assert!(served.recv_timeout(Duration::from_millis(100)).is_err(), "they are queued");
        limiter.set_rate(Some(1e6));
        assert_eq!(served.recv_timeout(DEADLINE).unwrap(), (1, Ok(())));
        assert_eq!(served.recv_timeout(DEADLINE).unwrap(), (2, Ok(())));
        limiter.set_rate(Some(1.0));
        ask(&limiter, 1000, 3, &send);
        limiter.set_rate(None);
        assert_eq!(served.recv_timeout(DEADLINE).unwrap(), (3, Ok(())));
    }

    #[test]
    fn a_request_of_a_killed_client_is_aborted_and_uses_no_rate() {
        let limiter = RateLimiter::new(Some(1.0), |client| match client {
            7 => ClientState::Dying,
            8 | 9 => ClientState::Gone,
            _ => ClientState::Alive,
        });
        let (send, served) = mpsc::channel();
        for client in [1, 7, 8, 9, 2, 7] {
            ask(&limiter, 1000, client, &send);
        }
        for client in [7, 8, 7] {
            assert_eq!(served.recv_timeout(DEADLINE).unwrap(), (client, Err(Errno::INTR)));
        }
        limiter.set_rate(Some(1e9));
        assert_eq!(served.recv_timeout(DEADLINE).unwrap(), (1, Ok(())));
        assert_eq!(
            served.recv_timeout(DEADLINE).unwrap(),
            (9, Ok(())),
            "its process may still want the data"
        );
        assert_eq!(served.recv_timeout(DEADLINE).unwrap(), (2, Ok(())));
    }
}
