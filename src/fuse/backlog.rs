//! A queue of requests that were read but cannot be served yet.
//!
//! Their user has a full share of the workers already, or the pool cannot grow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::Device;
use super::protocol::layout::{WriteIn, write};
use super::protocol::{Request, RequestHead, opcode};
use super::worker_shares::fair_share;
use crate::sync::{Mutex, MutexGuard};

/// The most queued requests of all users, of one user, and how many are kept for root; as many as may wait for locks
/// (`fs/lock/waiters.rs`).
const REQUESTS: Limits = Limits { total: 4096, per_user: 1024, reserved: 512 };
/// The same in bytes, with the data of writes. Chosen.
const BYTES: Limits = Limits { total: 64 << 20, per_user: 16 << 20, reserved: 8 << 20 };

/// How much of the queue a user may take. As of the workers (`worker_shares.rs`), it is at most half of what the other
/// users leave; but a user who has none may queue one while there is room.
#[derive(Debug, Clone, Copy)]
struct Limits {
    total: usize,
    per_user: usize,
    /// For root.
    reserved: usize,
}

impl Limits {
    /// Whether a user who has `own` of the `used` may have `more`.
    fn allow(self, uid: u32, used: usize, own: usize, more: usize) -> bool {
        let left = self.total.saturating_sub(used - own);
        let share = match uid {
            0 => left,
            _ => fair_share(left.saturating_sub(self.reserved)),
        };
        let is_first = own == 0 && used + more <= self.total - self.reserved;
        is_first || own + more <= share.min(self.per_user)
    }
}

/// A queued request.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) head: RequestHead,
    pub(super) bytes: Box<[u8]>,
    /// The device that the reply must go through.
    pub(super) device: Arc<Device>,
}

/// The queue. See the module's head.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    queue: Mutex<VecDeque<QueuedRequest>>,
    /// The queue's length: while it is 0, as it mostly is, the mutex is not taken.
    count: AtomicUsize,
}

impl Backlog {
    /// Queues a request. `false`: the queue is full, or its user's share of it is.
    ///
    /// Always queued are RELEASE and RELEASEDIR, because the kernel does not send them again and the open file would leak;
    /// FLUSH, which releases locks; and write-back, whose data would be lost (the kernel limits how much of it is under way).
    pub(super) fn push(&self, head: RequestHead, bytes: &[u8], device: &Arc<Device>) -> bool {
        let mut queue = self.lock();
        let of_user = || queue.iter().filter(|queued| queued.head.uid == head.uid);
        let add_len = |bytes: usize, queued: &QueuedRequest| bytes + queued.bytes.len();
        let (used, own) = (queue.iter().fold(0, add_len), of_user().fold(0, add_len));
        let fits = REQUESTS.allow(head.uid, queue.len(), of_user().count(), 1)
            && BYTES.allow(head.uid, used, own, bytes.len());
        if !fits && !must_be_queued(head.opcode, bytes) {
            return false;
        }
        queue.push_back(QueuedRequest { head, bytes: bytes.into(), device: Arc::clone(device) });
        self.count.store(queue.len(), Ordering::Release);
        true
    }

    /// Whether no request is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Takes the oldest request whose user may be served. `begin` runs before the request has left the queue, so that an
    /// interrupt finds the request here or where `begin` has put it.
    pub(super) fn pop(
        &self,
        may_serve: impl Fn(u32) -> bool,
        begin: impl FnOnce(&QueuedRequest),
    ) -> Option<QueuedRequest> {
        self.take(|queued| may_serve(queued.head.uid), begin)
    }

    /// Takes a request out by its `unique` number.
    pub(super) fn remove(&self, unique: u64) -> Option<QueuedRequest> {
        self.take(|queued| queued.head.unique == unique, |_| {})
    }

    /// Finds a queued request by its `unique` number.
    pub(super) fn find(&self, unique: u64) -> Option<RequestHead> {
        if self.is_empty() {
            return None;
        }
        self.lock().iter().map(|queued| queued.head).find(|head| head.unique == unique)
    }

    fn take(
        &self,
        matches: impl Fn(&QueuedRequest) -> bool,
        begin: impl FnOnce(&QueuedRequest),
    ) -> Option<QueuedRequest> {
        if self.is_empty() {
            return None;
        }
        let mut queue = self.lock();
        let at = queue.iter().position(matches)?;
        let queued = queue.remove(at).inspect(begin);
        self.count.store(queue.len(), Ordering::Release);
        queued
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<QueuedRequest>> {
        self.queue.lock()
    }
}

fn must_be_queued(opcode: u32, bytes: &[u8]) -> bool {
    match opcode {
        opcode::RELEASE | opcode::RELEASEDIR | opcode::FLUSH => true,
        opcode::WRITE => {
            let argument = Request::parse(bytes).map(|request| request.argument::<WriteIn>());
            matches!(argument, Some(Ok((argument, _))) if argument.write_flags & write::CACHE != 0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uid: u32, unique: u64) -> RequestHead {
        RequestHead { opcode: opcode::GETATTR, unique, nodeid: 1, uid, pid: 1 }
    }

    fn device() -> Arc<Device> {
        Arc::new(Device::new(std::fs::File::open("/dev/null").unwrap().into()))
    }

    #[test]
    fn a_user_with_a_full_backlog_leaves_room_for_other_users() {
        let (backlog, device) = (Backlog::default(), device());
        for unique in 0..REQUESTS.per_user as u64 {
            assert!(backlog.push(head(1000, unique), &[0; 40], &device));
        }
        assert!(!backlog.push(head(1000, 9999), &[0; 40], &device));
        let close = RequestHead { opcode: opcode::RELEASE, ..head(1000, 9999) };
        assert!(backlog.push(close, &[0; 64], &device), "a close is never refused");
        assert!(backlog.push(head(1001, 10000), &[0; 40], &device));
        assert!(!backlog.push(head(1001, 10001), &vec![0; BYTES.per_user], &device));
    }

    #[test]
    fn users_that_queue_all_they_may_leave_room_for_a_new_user_and_for_root() {
        let (backlog, device) = (Backlog::default(), device());
        let queue_all = |uid| {
            let push = |unique: &u64| backlog.push(head(uid, *unique), &[0; 40], &device);
            (0..5000).take_while(push).count()
        };
        let queued: Vec<usize> = (1000..1006).map(queue_all).collect();
        assert_eq!(queued, [1024, 1024, 768, 384, 192, 96]);
        assert!((1006..3000).all(|uid| queue_all(uid) < 96));
        assert_eq!(queue_all(0), REQUESTS.reserved);
    }

    #[test]
    fn the_oldest_request_of_a_user_that_may_be_served_comes_first() {
        let (backlog, device) = (Backlog::default(), device());
        assert!(backlog.pop(|_| true, |_| {}).is_none());
        for (uid, unique) in [(1000, 1), (1001, 2), (1001, 3)] {
            assert!(backlog.push(head(uid, unique), &[0; 40], &device));
        }
        assert_eq!(backlog.pop(|uid| uid != 1000, |_| {}).unwrap().head.unique, 2);
        assert_eq!(backlog.find(3).map(|head| head.uid), Some(1001));
        assert!(backlog.remove(3).is_some() && backlog.find(3).is_none());
        assert_eq!(backlog.pop(|_| true, |_| {}).unwrap().head.unique, 1);
        assert!(backlog.pop(|_| true, |_| {}).is_none());
    }
}
