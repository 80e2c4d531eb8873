//! flock(2), held on the source: each open file of the mount has an open file description of its own there, which holds
//! its lock until it is closed.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::fs::{Caller, Fs, OpenFile, Result, spawn_blocking};
use crate::sys::lock::LockKind;

/// How often and how long a lock in the way is given time to go, which a client of this mount may have just closed: the
/// kernel tells of the last close when close(2) has returned.
const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_micros(50), Duration::from_micros(200), Duration::from_micros(500)];

impl Fs {
    /// Takes or gives back an open file's lock and answers through `done`: at once, or from another thread when it had
    /// to wait.
    ///
    /// EWOULDBLOCK when it is held and `wait` is false; EINTR when the caller was interrupted while waiting; ENOLCK
    /// where somebody's lease is in the way (fcntl(2), F_SETLEASE).
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
        match take(&file, kind, false) {
            Err(Errno::WOULDBLOCK) if wait => {
                let wait = move || take(&file, kind, true);
                self.locks.waiters.wait(*caller, unique, wait, done);
            }
            // Not in this thread: whoever is served by it would wait, too.
            Err(Errno::WOULDBLOCK) => {
                spawn_blocking(move || done(retry_lock(&file, kind)));
            }
            result => done(result),
        }
    }
}

fn retry_lock(file: &OpenFile, kind: LockKind) -> Result<()> {
    let mut result = Err(Errno::WOULDBLOCK);
    for time in RETRY_DELAYS {
        std::thread::sleep(time);
        result = take(file, kind, false);
        if result != Err(Errno::WOULDBLOCK) {
            break;
        }
    }
    result
}

fn take(file: &OpenFile, kind: LockKind, waits: bool) -> Result<()> {
    flock(description(file)?, operation(kind, waits))
}

/// The open file's own description on the source, opened as its client opened it: who may only write need not be able
/// to read for it, nor who may do neither any more.
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
