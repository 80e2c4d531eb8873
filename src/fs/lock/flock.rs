//! flock(2), held on the source.
//!
//! Each open file of the mount has an open file description of its own there, which holds the lock until it is closed.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::waiters::Waiting;
use crate::fs::{Caller, Fs, OpenFile, Result, spawn_blocking};
use crate::sys::lock::LockKind;

impl Fs {
    /// Takes or releases an open file's lock, and answers through `done`.
    ///
    /// The answer comes from another thread if the lock has to wait. EWOULDBLOCK if the lock is held and `wait` is
    /// false; EINTR if the caller was interrupted while it waited; ENOLCK if a lease is in the way (fcntl(2),
    /// F_SETLEASE).
    pub fn flock(
        self: &Arc<Self>,
        caller: &Caller,
        (handle, unique): (u64, u64),
        kind: LockKind,
        wait: bool,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let file = match self.files.get(handle) {
            Ok(file) => file,
            Err(e) => return done(Err(e)),
        };
        if kind == LockKind::Unlock && !file.is_open() {
            return done(Ok(()));
        }
        // A server below the source may be asked for the file.
        if let Err(e) = self.read_as(caller, file.inode()) {
            return done(Err(e));
        }
        match take(&file, kind, false) {
            Err(Errno::WOULDBLOCK) if wait => {
                let wait = move |waiting: &Waiting<'_>| loop {
                    match take(&file, kind, true) {
                        Err(Errno::INTR) if !waiting.is_interrupted() => {}
                        result => return result,
                    }
                };
                self.locks.waiters.wait(*caller, unique, wait, done);
            }
            // On another thread: the worker stays free for other requests, such as the RELEASE that unlocks the file.
            Err(Errno::WOULDBLOCK) => {
                let fs = Arc::clone(self);
                spawn_blocking(move || {
                    done(fs.retry_lock(file.inode().node(), || take(&file, kind, false)))
                });
            }
            result => done(result),
        }
    }
}

fn take(file: &OpenFile, kind: LockKind, waits: bool) -> Result<()> {
    flock(description(file)?, operation(kind, waits))
}

/// Returns the open file's description on the source, opened with its client's flags.
///
/// So a client needs no permission for it that it did not need to open the file.
fn description(file: &OpenFile) -> Result<&OwnedFd> {
    match file.open() {
        Err(Errno::AGAIN) => Err(Errno::NOLCK),
        result => result,
    }
}

fn operation(kind: LockKind, waits: bool) -> FlockOperation {
    match (kind, waits) {
        (LockKind::Read, true) => FlockOperation::LockShared,
        (LockKind::Read, false) => FlockOperation::NonBlockingLockShared,
        (LockKind::Write, true) => FlockOperation::LockExclusive,
        (LockKind::Write, false) => FlockOperation::NonBlockingLockExclusive,
        (LockKind::Unlock, _) => FlockOperation::NonBlockingUnlock,
    }
}
