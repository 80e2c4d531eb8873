//! Whether a conflicting lock may be of an open file that a client has closed already.
//!
//! The kernel sends RELEASE when close(2) has closed the file, and does not wait for the answer. Mostly it is read before a
//! request for a lock that comes afterwards, but by another worker, which may still be on its way to release the lock. A lock
//! waits for that. RELEASE is a background request (`fuse_request_queue_background`): while `max_background` of them are not
//! answered the kernel keeps further ones, and passes on a request for a lock at once. Such a lock is refused although the file
//! is closed; the daemon cannot know, and so lets the kernel have many under way (`MAX_BACKGROUND` in `fuse/operations`).

use std::fmt::Debug;
use std::sync::{OnceLock, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::fs::{Fs, Result};
use crate::source::NodeId;

/// When a refused lock is tried again, however busy the workers are.
const RETRIES: [Duration; 3] =
    [Duration::from_micros(50), Duration::from_micros(250), Duration::from_micros(750)];

/// How long to wait at most for workers that may have to serve a RELEASE which was read before. Chosen: a worker that lost
/// its processor gets it back within some time slices (3 ms each, `base_slice_ns`).
const MAX_WAIT: Duration = Duration::from_millis(50);

/// How often to look at these workers.
const CHECK_INTERVAL: Duration = Duration::from_micros(500);

/// The workers that may have read a RELEASE of a file.
#[derive(Debug)]
pub struct NotedWorkers {
    /// The file.
    pub node: NodeId,
    /// Each worker by its index and the number of times that it has begun or ended a request.
    pub workers: Vec<(usize, u64)>,
}

/// Knows which requests the workers serve.
pub trait PendingCloses: Debug + Send + Sync {
    /// Notes the workers that may have read a RELEASE of a file by now, and not served it.
    fn note(&self, node: NodeId) -> NotedWorkers;

    /// Whether one of these may still have to serve it. The others are left out from then on.
    fn are_pending(&self, noted: &mut NotedWorkers) -> bool;
}

/// The workers of the mount, once there are some.
#[derive(Debug, Default)]
pub(super) struct Closing(OnceLock<Weak<dyn PendingCloses>>);

impl Fs {
    /// Sets what knows of RELEASE requests that are being served. Only the first call counts.
    pub fn set_pending_closes(&self, closes: Weak<dyn PendingCloses>) {
        let _ = self.locks.closing.0.set(closes);
    }

    /// Retries a refused lock of a file for 0.75 ms, and longer while a RELEASE of the file that was read before may be served.
    /// To be called on a thread that is no worker.
    pub(super) fn retry_lock<T>(&self, node: NodeId, take: impl Fn() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let closes = self.locks.closing.0.get().and_then(Weak::upgrade);
        let mut noted = closes.as_ref().map(|closes| closes.note(node));
        for time in RETRIES {
            // The note has taken a part of the first delay.
            std::thread::sleep(time.saturating_sub(start.elapsed()));
            match take() {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
        loop {
            let is_pending = match (&closes, &mut noted) {
                (Some(closes), Some(noted)) => closes.are_pending(noted),
                _ => false,
            };
            // After the look: what was served before it has released its lock.
            let result = take();
            if !matches!(result, Err(Errno::AGAIN)) || !is_pending || start.elapsed() >= MAX_WAIT {
                return result;
            }
            std::thread::sleep(CHECK_INTERVAL);
        }
    }
}
