//! Locks that are held on the source.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::Operations;
use crate::fs::{LockKind, LockRange, LockRequest, Result, beside};
use crate::fuse::convert::lock_kind;
use crate::fuse::protocol::layout::{FlushIn, InterruptIn, LOCK_FLOCK, LockIn, LockOut};
use crate::fuse::protocol::{Reply, Request};
use crate::source::NodeId;

/// How many wait for pages that are being read: not all workers, since they are read by way of them.
#[derive(Debug)]
pub(in crate::fuse) struct Waiting {
    count: AtomicUsize,
    most: usize,
}

impl Waiting {
    /// One of so many workers is left to read.
    pub(in crate::fuse) fn new(workers: usize) -> Self {
        Self { count: AtomicUsize::new(0), most: workers - 1 }
    }

    /// Counts one who waits, until what is returned is dropped. `None`: there are enough.
    fn enter(&self) -> Option<impl Drop + '_> {
        struct Entered<'a>(&'a Waiting);
        impl Drop for Entered<'_> {
            fn drop(&mut self) {
                self.0.count.fetch_sub(1, Ordering::AcqRel);
            }
        }
        let may = |count: usize| (count < self.most).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, may).ok()?;
        Some(Entered(self))
    }
}

impl Operations {
    pub(super) fn flush(&self, request: &Request<'_>) -> Result<()> {
        if !self.data.locks_on_source {
            // There is nothing to release; told so once, the kernel never asks.
            return Err(Errno::NOSYS);
        }
        let (FlushIn { handle, lock_owner, .. }, _) = request.argument()?;
        self.fs.flush(handle, lock_owner)
    }

    pub(super) fn getlk(&self, request: &Request<'_>) -> Result<LockOut> {
        let (asked, _) = request.argument::<LockIn>()?;
        let unlocked = LockOut { kind: libc::F_UNLCK as u32, ..LockOut::default() };
        let conflict = self.fs.getlk(&lock(&asked, request.header.unique)?)?;
        Ok(conflict.map_or(unlocked, |conflict| {
            let kind = match conflict.range.kind {
                LockKind::Write => libc::F_WRLCK,
                _ => libc::F_RDLCK,
            };
            LockOut {
                start: conflict.range.start,
                end: conflict.range.end,
                kind: kind as u32,
                pid: conflict.pid.max(0) as u32,
            }
        }))
    }

    pub(super) fn setlk(&self, request: &Request<'_>, waits: bool, reply: Reply) {
        let call = request.header.unique;
        let parts = request
            .argument::<LockIn>()
            .and_then(|(asked, _)| Ok((request.caller()?, asked, lock(&asked, call)?)));
        let (caller, asked, lock) = match parts {
            Ok(parts) => parts,
            Err(e) => return reply.error(e),
        };
        if asked.kind == libc::F_UNLCK as u32 {
            self.notices.released(self.node(request));
        }
        let done = self.granting(self.node(request), &asked, reply);
        if asked.flags & LOCK_FLOCK != 0 {
            self.fs.flock(&caller, (asked.handle, call), lock.range.kind, waits, done);
        } else {
            self.fs.setlk(&caller, lock, waits, done);
        }
    }

    /// Answers a request for a lock. Before one is granted, the kernel drops what it has of the file.
    fn granting(
        &self,
        node: NodeId,
        &LockIn { handle, kind, .. }: &LockIn,
        reply: Reply,
    ) -> impl FnOnce(Result<()>) + Send + 'static {
        let fs = Arc::clone(&self.fs);
        let (notices, backings) = (Arc::clone(&self.notices), Arc::clone(&self.backings));
        let (data, waiting) = (Arc::clone(&self.data), Arc::clone(&self.waiting));
        let is_taken = kind != libc::F_UNLCK as u32;
        let worker = std::thread::current().id();
        move |result| {
            let renewal = if result.is_ok() && is_taken { fs.renewal(handle) } else { None };
            let Some(renewal) = renewal else { return reply.done(result) };
            notices.granted(node);
            if backings.passes(node) {
                renewal.done();
                return reply.done(result);
            }
            let grant = move |drops: bool| {
                if drops {
                    notices.data(node);
                    renewal.done();
                }
                reply.done(result);
            };
            if std::thread::current().id() != worker {
                // It has waited for the lock.
                return grant(true);
            }
            // For a rate, pages are read slowly.
            if let Some(_entered) = waiting.enter().filter(|_| !data.counts_reads()) {
                return grant(true);
            }
            // He has the lock, and is to know it also where no thread can be had.
            let grant = Arc::new(Mutex::new(Some(grant)));
            let take = |grant: &Mutex<Option<_>>| {
                grant.lock().unwrap_or_else(PoisonError::into_inner).take()
            };
            let other = Arc::clone(&grant);
            let is_started = beside(move || {
                if let Some(grant) = take(&other) {
                    grant(true);
                }
            });
            if !is_started && let Some(grant) = take(&grant) {
                grant(false);
            }
        }
    }

    /// A client who waits has got a signal. There is no answer to this; the request that it is about is answered.
    pub(super) fn interrupt(&self, request: &Request<'_>) {
        if let Ok((InterruptIn { unique }, _)) = request.argument() {
            self.fs.interrupt(unique);
        }
    }
}

fn lock(asked: &LockIn, call: u64) -> Result<LockRequest> {
    let range = LockRange { start: asked.start, end: asked.end, kind: lock_kind(asked.kind)? };
    Ok(LockRequest { handle: asked.handle, owner: asked.owner, range, pid: asked.pid, call })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_never_waits() {
        let waiting = Waiting::new(3);
        let (one, two) = (waiting.enter(), waiting.enter());
        assert!(one.is_some() && two.is_some() && waiting.enter().is_none());
        drop(one);
        assert!(waiting.enter().is_some());
        assert!(Waiting::new(1).enter().is_none());
    }
}
