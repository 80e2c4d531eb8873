//! Locks that are held on the source.

use rustix::io::Errno;

use super::Operations;
use crate::fs::{LockKind, LockRange, LockRequest, Result};
use crate::fuse::convert::lock_kind;
use crate::fuse::protocol::layout::{FlushIn, InterruptIn, LOCK_FLOCK, LockIn, LockOut};
use crate::fuse::protocol::{Reply, Request};

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
        let done = move |result| reply.done(result);
        if asked.flags & LOCK_FLOCK != 0 {
            self.fs.flock(&caller, (asked.handle, call), lock.range.kind, waits, done);
        } else {
            self.fs.setlk(&caller, lock, waits, done);
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
