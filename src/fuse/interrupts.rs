//! Clients that are interrupted while their request is served (FUSE_INTERRUPT).
//!
//! The kernel keeps a client waiting until its request is answered, even a client that is being killed
//! (`request_wait_answer`), and the worker may be blocked for ever: by the server of a submount, or by a frozen
//! filesystem. So a thread answers the requests of dying clients with EINTR in the worker's place: the request is
//! abandoned. The worker finishes it all the same, but the kernel refuses its reply and does not know of the changes:
//! [`super::worker_pool::Service::was_abandoned`] invalidates what it has cached of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::protocol::{RequestHead, opcode, reply_interrupted, reply_unserved};
use super::worker_pool::WorkerPool;
use crate::error::errno_field;
use crate::fs::ClientState;
use crate::sync::{Mutex, MutexGuard};

/// How often the thread looks whether interrupted clients are dying. Chosen.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long an interrupt is kept whose request is unknown: another worker may have read the interrupt first. Chosen.
const EARLY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after an interrupt a client is assumed to be dying whose state is unknown, because the daemon's pid
/// namespace does not contain it. Chosen.
const UNKNOWN_CLIENT_TIMEOUT: Duration = Duration::from_secs(1);

/// The interrupted requests of one mount that may still be served.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    pending: Mutex<Pending>,
    /// The number of requests: while it is 0, as it mostly is, the mutex is not taken.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Pending {
    requests: Vec<Interrupted>,
    /// Whether the thread runs that looks at the clients.
    is_watched: bool,
}

#[derive(Debug, Clone, Copy)]
struct Interrupted {
    unique: u64,
    since: Instant,
    /// Whether the request was found in a slot.
    was_seen: bool,
}

impl Interrupts {
    /// Notes that the client of a request was interrupted.
    pub(super) fn add(&self, unique: u64) {
        let mut pending = self.lock();
        pending.requests.push(Interrupted { unique, since: Instant::now(), was_seen: false });
        self.count.store(pending.requests.len(), Ordering::Release);
    }

    /// Whether the client of a request was interrupted.
    pub(super) fn contains(&self, unique: u64) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.lock().requests.iter().any(|request| request.unique == unique)
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock()
    }
}

impl WorkerPool {
    /// Starts the thread that abandons the requests of dying clients. It ends when no interrupted request is left.
    pub(super) fn watch_interrupts(self: &Arc<Self>) {
        {
            let mut pending = self.interrupts.lock();
            if pending.requests.is_empty() || std::mem::replace(&mut pending.is_watched, true) {
                return;
            }
        }
        let pool = Arc::downgrade(self);
        let watch = move || {
            while let Some(pool) = pool.upgrade() {
                let start = Instant::now();
                if !pool.check_interrupted() {
                    return;
                }
                drop(pool);
                std::thread::sleep(CHECK_INTERVAL.max(ClientState::rest_after(start.elapsed())));
            }
        };
        let thread = std::thread::Builder::new().name("interrupts".into()).stack_size(128 * 1024);
        if let Err(e) = thread.spawn(watch) {
            let errno = errno_field(e);
            log::warn!("cannot start the thread that lets killed clients go: {errno}");
            self.interrupts.lock().is_watched = false;
        }
    }

    /// Answers the requests of dying clients. Returns whether interrupted requests are left.
    fn check_interrupted(&self) -> bool {
        let mut requests = self.interrupts.lock().requests.clone();
        // Without the lock, because each check reads /proc.
        let checked = requests.len();
        requests.retain_mut(|request| self.check_interrupted_request(request));
        let mut pending = self.interrupts.lock();
        requests.extend(pending.requests.drain(..).skip(checked));
        pending.requests = requests;
        self.interrupts.count.store(pending.requests.len(), Ordering::Release);
        pending.is_watched = !pending.requests.is_empty();
        pending.is_watched
    }

    /// Answers a request if its client is dying. Returns whether the request must be checked again.
    fn check_interrupted_request(&self, request: &mut Interrupted) -> bool {
        let unique = request.unique;
        let is_dying = |head: RequestHead| match head.pid {
            // Any signal interrupts a request, and a client that lives on would repeat what is done all the same.
            0 => has_no_effect(head.opcode) && request.since.elapsed() > UNKNOWN_CLIENT_TIMEOUT,
            pid => ClientState::of(pid) != ClientState::Alive,
        };
        if let Some(head) = self.backlog.find(unique) {
            // A FLUSH that does not run would leave the client's locks on the source.
            if head.opcode != opcode::FLUSH
                && is_dying(head)
                && let Some(queued) = self.backlog.remove(unique)
            {
                reply_unserved(&queued.device, &queued.bytes, Errno::INTR);
            }
            return true;
        }
        let if_same = |head: Option<RequestHead>| head.filter(|head| head.unique == unique);
        let found =
            self.slots.iter().find_map(|slot| Some((slot, if_same(slot.current_request())?)));
        let Some((slot, head)) = found else {
            return !request.was_seen && request.since.elapsed() < EARLY_TIMEOUT;
        };
        if is_dying(head) {
            slot.abandon(unique, |device| reply_interrupted(device, head));
        }
        request.was_seen = true;
        true
    }
}

/// Whether a request only looks, so that it does no harm when a client that got EINTR repeats it.
fn has_no_effect(opcode: u32) -> bool {
    matches!(
        opcode,
        opcode::LOOKUP
            | opcode::GETATTR
            | opcode::READLINK
            | opcode::READ
            | opcode::STATFS
            | opcode::GETXATTR
            | opcode::LISTXATTR
            | opcode::OPENDIR
            | opcode::READDIR
            | opcode::READDIRPLUS
            | opcode::GETLK
            | opcode::ACCESS
            | opcode::LSEEK
    )
}
