//! Locks that are held on the source: GETLK, SETLK, SETLKW, FLUSH and INTERRUPT.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::Operations;
use crate::fs::{GrantedLock, LockKind, LockRange, LockRequest, Result, spawn_blocking};
use crate::fuse::convert::lock_kind;
use crate::fuse::protocol::layout::{FlushIn, InterruptIn, LK_FLOCK, LockIn, LockOut};
use crate::fuse::protocol::{Reply, Request};
use crate::source::NodeId;
use crate::sync::Mutex;

/// Limits how many workers may block on pages that are being read: reading them takes a worker.
#[derive(Debug)]
pub(in crate::fuse) struct BlockedWorkers {
    count: AtomicUsize,
    max: usize,
}

impl BlockedWorkers {
    /// Leaves one of `workers` free.
    pub(in crate::fuse) fn new(workers: usize) -> Self {
        Self { count: AtomicUsize::new(0), max: workers - 1 }
    }

    /// Counts a worker that blocks, until the guard is dropped. `None`: no more may block.
    fn try_block(&self) -> Option<impl Drop + '_> {
        struct Blocked<'a>(&'a BlockedWorkers);
        impl Drop for Blocked<'_> {
            fn drop(&mut self) {
                self.0.count.fetch_sub(1, Ordering::AcqRel);
            }
        }
        let may = |count: usize| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, may).ok()?;
        Some(Blocked(self))
    }
}

impl Operations {
    pub(super) fn flush(&self, request: &Request<'_>) -> Result<()> {
        if !self.data.needs_flush(self.fs.tree()) {
            // There is nothing to release or send. ENOSYS stops the kernel from sending FLUSH again.
            return Err(Errno::NOSYS);
        }
        let (FlushIn { fh, lock_owner, .. }, _) = request.argument()?;
        // First the data: the next owner of a lock must find it on the server.
        let flushed = request.caller().and_then(|caller| self.fs.flush_to_server(&caller, fh));
        if self.data.locks_on_source {
            self.fs.flush(self.node(request), lock_owner);
        }
        flushed
    }

    pub(super) fn getlk(&self, request: &Request<'_>) -> Result<LockOut> {
        let (asked, _) = request.argument::<LockIn>()?;
        let unlocked = LockOut { typ: libc::F_UNLCK as u32, ..LockOut::default() };
        let conflict = self.fs.getlk(&request.caller()?, &lock(&asked, request.header.unique)?)?;
        Ok(conflict.map_or(unlocked, |conflict| {
            let typ = match conflict.range.kind {
                LockKind::Write => libc::F_WRLCK,
                _ => libc::F_RDLCK,
            };
            LockOut {
                start: conflict.range.start,
                end: conflict.range.end,
                typ: typ as u32,
                pid: conflict.pid.max(0) as u32,
            }
        }))
    }

    pub(super) fn setlk(&self, request: &Request<'_>, waits: bool, reply: Reply) {
        let unique = request.header.unique;
        let parts = request
            .argument::<LockIn>()
            .and_then(|(asked, _)| Ok((request.caller()?, asked, lock(&asked, unique)?)));
        let (caller, asked, lock) = match parts {
            Ok(parts) => parts,
            Err(e) => return reply.error(e),
        };
        if asked.typ == libc::F_UNLCK as u32 {
            self.kernel_cache.lock_released(self.node(request));
        }
        let done = self.reply_to_lock(self.node(request), &asked, reply);
        if asked.lk_flags & LK_FLOCK != 0 {
            let done = move |result: Result<()>| done(result.map(|()| None));
            self.fs.flock(&caller, (asked.fh, unique), lock.range.kind, waits, done);
        } else {
            self.fs.setlk(&caller, lock, waits, done);
        }
    }

    /// Returns the function that replies to a lock request. Before a lock is granted, it invalidates what the kernel
    /// has cached of the file. If the kernel refuses the reply, the lock is taken back.
    fn reply_to_lock(
        &self,
        node: NodeId,
        &LockIn { fh, typ, .. }: &LockIn,
        reply: Reply,
    ) -> impl FnOnce(Result<Option<GrantedLock>>) + Send + 'static {
        let fs = Arc::clone(&self.fs);
        let (kernel_cache, backing_ids) =
            (Arc::clone(&self.kernel_cache), Arc::clone(&self.backing_ids));
        let (data, blocked) = (Arc::clone(&self.data), Arc::clone(&self.blocked));
        let is_taken = typ != libc::F_UNLCK as u32;
        let worker = std::thread::current().id();
        move |result| {
            let revalidation = if result.is_ok() && is_taken { fs.revalidation(fh) } else { None };
            let answer = {
                let fs = Arc::clone(&fs);
                move || {
                    let told = reply.deliver(result.as_ref().map(|_| &[][..]).map_err(|e| *e));
                    if !told && let Ok(Some(granted)) = &result {
                        fs.undo_lock(granted);
                    }
                }
            };
            let Some(revalidation) = revalidation else { return answer() };
            kernel_cache.lock_granted(node);
            if backing_ids.is_passthrough(node) {
                revalidation.done();
                return answer();
            }
            let grant = move |drops: bool| {
                if drops {
                    kernel_cache.inval_data(node);
                    revalidation.done();
                }
                answer();
            };
            if std::thread::current().id() != worker {
                // The request has waited for the lock, and this is not a worker.
                return grant(true);
            }
            // With a rate limit, pages may take long to be read.
            if let Some(_blocked) = blocked.try_block().filter(|_| !data.limits_reads()) {
                return grant(true);
            }
            // The client has the lock, and must get the reply even when no thread can be started.
            let grant = Arc::new(Mutex::new(Some(grant)));
            let claim = |grant: &Mutex<Option<_>>| grant.lock().take();
            let other = Arc::clone(&grant);
            let is_started = spawn_blocking(move || {
                if let Some(grant) = claim(&other) {
                    grant(true);
                }
            });
            if !is_started && let Some(grant) = claim(&grant) {
                grant(false);
            }
        }
    }

    /// Interrupts a request that waits for a lock or a lease. INTERRUPT itself has no reply; the request it names gets
    /// one.
    pub(super) fn interrupt(&self, request: &Request<'_>) {
        if let Ok((InterruptIn { unique }, _)) = request.argument() {
            self.fs.interrupt(unique);
            self.interrupts.add(unique);
        }
    }
}

fn lock(asked: &LockIn, unique: u64) -> Result<LockRequest> {
    let range = LockRange { start: asked.start, end: asked.end, kind: lock_kind(asked.typ)? };
    Ok(LockRequest { handle: asked.fh, owner: asked.owner, range, pid: asked.pid, unique })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_never_blocks() {
        let blocked = BlockedWorkers::new(3);
        let (one, two) = (blocked.try_block(), blocked.try_block());
        assert!(one.is_some() && two.is_some() && blocked.try_block().is_none());
        drop(one);
        assert!(blocked.try_block().is_some());
        assert!(BlockedWorkers::new(1).try_block().is_none());
    }
}
