//! flock(2), held on the source: each open file of the mount has an open file description of its own there, which holds
//! its lock until it is closed.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::fs::{Caller, Fs, OpenFile, Result};
use crate::sys::lock::LockKind;

/// How often and how long a lock in the way is given time to go, which a client of this mount may have just closed: the kernel tells of the last
/// close when close(2) has returned.
const GRACE: [Duration; 3] =
    [Duration::from_micros(50), Duration::from_micros(200), Duration::from_micros(500)];

impl Fs {
    /// Takes or gives back an open file's lock and answers through `done`: at once, or from another thread when it had to wait.
    ///
    /// EWOULDBLOCK when it is held and `wait` is false; EINTR when the caller was interrupted while waiting.
    pub fn flock(
        self: &Arc<Self>,
        caller: &Caller,
        (handle, call): (u64, u64),
        kind: LockKind,
        wait: bool,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let file = match self.files.get(handle) {
            Ok(file) => file,
            Err(e) => return done(Err(e)),
        };
        match self.try_flock(&file, kind) {
            Err(Errno::WOULDBLOCK) if wait => {
                let fs = Arc::clone(self);
                let wait = move || flock(fs.flock_fd(&file)?, operation(kind, true));
                self.locks.waiters.wait(caller.pid, call, wait, done);
            }
            result => done(result),
        }
    }

    fn try_flock(&self, file: &OpenFile, kind: LockKind) -> Result<()> {
        if kind == LockKind::Unlock && file.flock().get().is_none() {
            return Ok(());
        }
        let fd = self.flock_fd(file)?;
        let mut result = flock(fd, operation(kind, false));
        for time in GRACE {
            if result != Err(Errno::WOULDBLOCK) {
                break;
            }
            std::thread::sleep(time);
            result = flock(fd, operation(kind, false));
        }
        result
    }

    fn flock_fd<'a>(&self, file: &'a OpenFile) -> Result<&'a OwnedFd> {
        if let Some(fd) = file.flock().get() {
            return Ok(fd);
        }
        let fd = self.description(file)?;
        Ok(file.flock().get_or_init(|| fd))
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
