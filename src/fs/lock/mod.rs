//! POSIX locks, held on the source.
//!
//! They exclude clients of other mounts and processes on the source as well. Each lock owner has an open file
//! description of its own on the source, and its locks are open file description locks there ([`owner`]). The owner
//! keeps that description while it holds a lock or a request uses it ([`table`]). A request that waits for a lock gets
//! a thread of its own, so that no worker blocks ([`waiters`]).

mod closing;
mod deadlock;
mod fd_tables;
mod flock;
mod owner;
mod ranges;
mod revalidate;
mod table;
mod waiters;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::caller::waits_for_posix_lock;
use super::{Caller, Fs, OpenFile, Result, spawn_blocking};
use crate::source::{NodeId, reopen};
use crate::sys;
pub use crate::sys::lock::{Conflict, LockKind, LockRange};
pub use closing::{NotedWorkers, PendingCloses};
use deadlock::Wait;
use owner::{Access, Description, HeldBefore};
use table::Claim;
pub(super) use table::Locks;
use waiters::Waiting;

/// A request for a lock.
#[derive(Debug, Clone, Copy)]
pub struct LockRequest {
    /// The handle of the open file.
    pub handle: u64,
    /// The kernel's number of the lock owner.
    pub owner: u64,
    /// The range, and what to do with it.
    pub range: LockRange,
    /// The owner's process id, which F_GETLK returns to other processes.
    pub pid: u32,
    /// The number of the request (`fuse_in_header.unique`), by which the kernel interrupts it.
    pub unique: u64,
}

/// A lock that was granted. The client does not know yet.
#[derive(Debug)]
pub struct GrantedLock {
    node: NodeId,
    request: LockRequest,
    /// What the owner held of the range before.
    before: HeldBefore,
}

impl Fs {
    /// Returns the first lock that conflicts with a range (F_GETLK).
    pub fn getlk(&self, caller: &Caller, request: &LockRequest) -> Result<Option<Conflict>> {
        let file = self.files.get(request.handle)?;
        let node = file.inode().node();
        self.read_as(caller, file.inode())?;
        let known = self.locks.claim_known(node, request.owner).map(|own| own.get(request.range));
        let conflict = match known {
            Some(result) if result != Err(Errno::BADF) => result?,
            _ => sys::lock::get(&self.open_for_lock(&file)?.0, request.range)?,
        };
        let Some(mut conflict) = conflict else { return Ok(None) };
        if conflict.pid < 0 {
            conflict.pid = self.locks.holder(node, request.owner, conflict.range);
        }
        Ok(Some(conflict))
    }

    /// Takes or releases a lock, and answers through `done`. With a granted lock that the client is never told of, because
    /// it was killed, [`Self::undo_lock`] must be called.
    ///
    /// The answer comes from another thread if the lock has to wait. EAGAIN if the lock is held and `wait` is false;
    /// EINTR if the caller was interrupted while it waited; EDEADLK if it would wait for a process that waits for it.
    /// ENOLCK if too many requests wait, if the caller's user has its full share of descriptors, if a lease is in the way
    /// (fcntl(2), F_SETLEASE), or if an owner whose description could be opened only for writing asks for a read lock.
    pub fn setlk<F>(self: &Arc<Self>, caller: &Caller, request: LockRequest, wait: bool, done: F)
    where
        F: FnOnce(Result<Option<GrantedLock>>) + Send + 'static,
    {
        match self.try_lock(caller, &request) {
            Err(Errno::AGAIN) if wait => self.wait_for_lock(*caller, request, done),
            Err(Errno::AGAIN) => match self.closed_in_the_way(&request) {
                Some(node) => {
                    let (fs, caller) = (Arc::clone(self), *caller);
                    spawn_blocking(move || {
                        done(fs.retry_lock(node, || fs.try_lock(&caller, &request)));
                    });
                }
                None => done(Err(Errno::AGAIN)),
            },
            result => done(result),
        }
    }

    /// Takes back a lock whose grant the kernel refused to hear of: the client was answered with EINTR before, and was
    /// killed. Its FLUSH or RELEASE may have been served before the grant, and comes never again.
    pub fn undo_lock(&self, granted: &GrantedLock) {
        let request = &granted.request;
        if let Some(owner) = self.locks.claim_known(granted.node, request.owner) {
            owner.undo(request, &granted.before);
        }
    }

    fn try_lock(&self, caller: &Caller, request: &LockRequest) -> Result<Option<GrantedLock>> {
        let file = self.files.get(request.handle)?;
        let node = file.inode().node();
        self.read_as(caller, file.inode())?;
        let owner = match request.range.kind {
            LockKind::Unlock => match self.locks.claim_known(node, request.owner) {
                Some(owner) => owner,
                None => return Ok(None),
            },
            _ => self.locks.claim(node, request.owner),
        };
        let before = owner.set(request, || self.open_description(caller, &file))?;
        granted(&file, &owner, request, before)
    }

    /// Returns the node of the file if a conflicting lock may be of an open file that the client has just closed.
    ///
    /// The kernel sends RELEASE only after close(2) has returned. A lock of a known descriptor table is a POSIX lock,
    /// which the FLUSH of a close releases before close(2) returns.
    fn closed_in_the_way(&self, request: &LockRequest) -> Option<NodeId> {
        let node = self.files.get(request.handle).ok()?.inode().node();
        let blockers = self.locks.blockers(node, request.owner, &request.range);
        blockers.iter().any(|owner| !self.locks.fd_tables.contains(*owner)).then_some(node)
    }

    fn wait_for_lock<F>(self: &Arc<Self>, caller: Caller, request: LockRequest, done: F)
    where
        F: FnOnce(Result<Option<GrantedLock>>) + Send + 'static,
    {
        let fs = Arc::clone(self);
        let wait = move |waiting: &Waiting<'_>| fs.lock_and_wait(caller, &request, waiting);
        self.locks.waiters.wait(caller, request.unique, wait, done);
    }

    /// Runs an operation that may wait for the end of a lease on a thread of its own.
    ///
    /// See F_SETLEASE in fcntl(2). `done` gets the result: EINTR if the caller was interrupted, ENOLCK if too many
    /// requests wait.
    pub fn wait_for_lease<T>(
        &self,
        caller: &Caller,
        unique: u64,
        wait: impl FnOnce() -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        self.locks.waiters.wait(*caller, unique, |_| wait(), done);
    }

    /// Interrupts a request that waits for a lock or a lease, or that will wait in a moment.
    pub fn interrupt(&self, unique: u64) {
        self.locks.waiters.interrupt(unique);
    }

    fn lock_and_wait(
        &self,
        caller: Caller,
        request: &LockRequest,
        waiting: &Waiting<'_>,
    ) -> Result<Option<GrantedLock>> {
        let file = self.files.get(request.handle)?;
        let node = file.inode().node();
        self.read_as(&caller, file.inode())?;
        let owner = self.locks.claim(node, request.owner);
        let open = || self.open_description(&caller, &file);
        let &LockRequest { unique, range, .. } = request;
        // The caller is in fcntl(2) and waits for the reply to this request.
        let _entry = match waits_for_posix_lock(caller.pid) {
            true => {
                self.locks.fd_tables.insert(request.owner);
                let wait = Wait { unique, node, owner: request.owner, range };
                Some(self.locks.begin_wait(wait)?)
            }
            false => None,
        };
        loop {
            let description = owner.description(range.kind, open)?;
            waiting.wake_when(&description.is_replaced);
            match sys::lock::set(&description.fd, range, true) {
                Ok(()) => match owner.confirm(request, &description, open) {
                    Err(Errno::AGAIN) if !waiting.is_interrupted() => {}
                    Err(Errno::AGAIN) => return Err(Errno::INTR),
                    before => return granted(&file, &owner, request, before?),
                },
                // The description was replaced, or the signal was for an earlier thread with the same id.
                Err(Errno::INTR) if !waiting.is_interrupted() => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Opens a new open file description for a lock owner. ENOLCK if the caller's user has its full share of descriptors.
    fn open_description(&self, caller: &Caller, file: &OpenFile) -> Result<Description> {
        let share = self.open_shares.take_for(caller).ok_or(Errno::NOLCK)?;
        let (fd, access) = self.open_for_lock(file)?;
        Ok(Description::new(fd, access, share))
    }

    /// Opens a new open file description, with the access mode of the client's.
    ///
    /// If it is open for writing, the file cannot be executed (ETXTBSY), as with the client's own. It never waits for a
    /// lease (fcntl(2), F_SETLEASE): ENOLCK.
    fn open_for_lock(&self, file: &OpenFile) -> Result<(OwnedFd, Access)> {
        let open = |mode: OFlags| match file.inode().kind() {
            // The client's open has checked that the device is shown as a file.
            FileType::BlockDevice => {
                reopen(&*self.tree.fd(file.inode())?, mode | OFlags::NONBLOCK | OFlags::NOCTTY)
            }
            _ => self.tree.open(file.inode(), mode | OFlags::NONBLOCK),
        };
        if !file.is_writable() {
            return Ok((nolck_on_lease(open(OFlags::RDONLY))?, Access::Read));
        }
        match open(OFlags::RDWR) {
            // An unprivileged daemon may have write permission only.
            Err(Errno::ACCESS | Errno::PERM) if !file.is_readable() => {
                Ok((nolck_on_lease(open(OFlags::WRONLY))?, Access::Write))
            }
            result => Ok((nolck_on_lease(result)?, Access::Both)),
        }
    }
}

/// Returns what was granted. EINTR if the client has closed the file meanwhile: a client that is killed does not wait for
/// its request, and the RELEASE may have been served already.
fn granted(
    file: &OpenFile,
    owner: &Claim<'_>,
    request: &LockRequest,
    before: HeldBefore,
) -> Result<Option<GrantedLock>> {
    if request.range.kind == LockKind::Unlock {
        return Ok(None);
    }
    if file.is_released() {
        owner.release_through(request.handle);
        return Err(Errno::INTR);
    }
    Ok(Some(GrantedLock { node: file.inode().node(), request: *request, before }))
}

/// Replaces EAGAIN, with which an open refuses to wait for the end of a lease, by ENOLCK.
fn nolck_on_lease<T>(opened: Result<T>) -> Result<T> {
    opened.map_err(|e| if e == Errno::AGAIN { Errno::NOLCK } else { e })
}
