//! The state of one worker, as the pool's other threads see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::device::Device;
use super::protocol::RequestHead;
use crate::sync::{Mutex, MutexGuard};

/// One worker's place in the pool, reused by another thread after the worker has ended.
#[derive(Debug, Default)]
pub(super) struct WorkerSlot {
    /// Incremented when a request begins and when it ends: odd while one is served.
    progress: AtomicU64,
    /// The worker's thread id, or 0.
    thread: AtomicU32,
    current: Mutex<Option<CurrentRequest>>,
}

/// A request that is being served.
#[derive(Debug, Clone)]
pub(super) struct CurrentRequest {
    pub(super) head: RequestHead,
    /// The device that the reply must go through.
    pub(super) device: Arc<Device>,
    /// Whether its client was answered with EINTR before the worker's reply.
    is_abandoned: bool,
}

impl WorkerSlot {
    /// Makes the calling thread the slot's worker.
    pub(super) fn occupy(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.thread.store(thread.unsigned_abs(), Ordering::Relaxed);
    }

    /// Records that the worker begins a request.
    pub(super) fn begin(&self, head: RequestHead, device: &Arc<Device>) {
        let device = Arc::clone(device);
        *self.current() = Some(CurrentRequest { head, device, is_abandoned: false });
        self.progress.fetch_add(1, Ordering::Release);
    }

    /// Records that the request has ended. Returns whether it was abandoned: its client was answered with EINTR before.
    pub(super) fn end(&self) -> bool {
        self.progress.fetch_add(1, Ordering::Release);
        self.current().take().is_some_and(|current| current.is_abandoned)
    }

    /// The number of times that a request has begun or ended.
    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Acquire)
    }

    /// The request that is being served.
    pub(super) fn current_request(&self) -> Option<RequestHead> {
        self.current().as_ref().map(|current| current.head)
    }

    /// The user of the request that is being served. Where the kernel does not tell it, /proc is read once for the request.
    pub(super) fn current_user(&self) -> Option<u32> {
        let head = self.current_request()?;
        let uid = head.user();
        if uid != head.uid
            && let Some(current) = self.current().as_mut()
            && current.head.unique == head.unique
        {
            current.head.uid = uid;
        }
        Some(uid)
    }

    /// Abandons a request unless the worker has ended it.
    ///
    /// `answer` replies to the client and returns whether the kernel accepted the reply; the kernel then refuses the
    /// worker's own.
    pub(super) fn abandon(&self, unique: u64, answer: impl FnOnce(&Arc<Device>) -> bool) {
        // The lock is held meanwhile, so that `end` sees the result.
        let mut current = self.current();
        if let Some(current) = current.as_mut().filter(|current| current.head.unique == unique) {
            current.is_abandoned |= answer(&current.device);
        }
    }

    /// Whether the worker's thread is blocked, rather than running or waiting for a CPU.
    pub(super) fn is_sleeping(&self) -> bool {
        self.thread_state().is_some_and(|state| state != b'R')
    }

    /// Whether the slot has a thread that is neither interruptibly asleep nor gone.
    pub(super) fn is_running(&self) -> bool {
        self.thread_state().is_some_and(|state| matches!(state, b'R' | b'D'))
    }

    /// The state in /proc/PID/stat (proc_pid_stat(5)). `None`: no thread has the slot.
    fn thread_state(&self) -> Option<u8> {
        let thread = self.thread.load(Ordering::Relaxed);
        if thread == 0 {
            return None;
        }
        let stat = std::fs::read(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
        // "PID (NAME) STATE …", where the name may contain any character (proc_pid_stat(5)).
        stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2)).copied()
    }

    fn current(&self) -> MutexGuard<'_, Option<CurrentRequest>> {
        self.current.lock()
    }
}
