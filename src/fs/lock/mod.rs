//! POSIX locks, held on the source.
//!
//! They exclude clients of other mounts and processes on the source as well. Each lock owner (a process, as in
//! fcntl(2)) has an open file description of its own on the source, and its locks are open file description locks
//! there. A request that waits for a lock gets a thread of its own, so that no worker blocks.

mod flock;
mod revalidate;
mod waiters;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Caller, Fs, OpenFile, Result};
use crate::source::{NodeId, reopen};
use crate::sys;
pub use crate::sys::lock::{Conflict, LockKind, LockRange};
pub(super) use revalidate::FileState;
pub use revalidate::Revalidation;
use waiters::Waiters;

/// The locks of one mount.
#[derive(Debug, Default)]
pub(super) struct Locks {
    files: Mutex<HashMap<NodeId, HashMap<u64, Owner>>>,
    /// Number of files with locks. While it is 0, as on most mounts, requests do not take the mutex.
    held: AtomicUsize,
    pub(super) waiters: Arc<Waiters>,
}

/// The locks of one owner on one file.
#[derive(Debug)]
struct Owner {
    fd: Arc<OwnedFd>,
    pid: u32,
    /// The open file through which the last lock came.
    handle: u64,
    ranges: Vec<LockRange>,
}

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

impl Fs {
    /// Returns the first lock that conflicts with a range (F_GETLK).
    pub fn getlk(&self, request: &LockRequest) -> Result<Option<Conflict>> {
        let file = self.files.get(request.handle)?;
        let node = file.inode().node();
        let own = self.locks.own_fd(node, request.owner);
        let fd = match own {
            Some(fd) => fd,
            None => self.description(&file)?,
        };
        let Some(mut conflict) = sys::lock::get(&*fd, request.range)? else { return Ok(None) };
        if conflict.pid < 0 {
            conflict.pid = self.locks.holder(node, request.owner, conflict.range);
        }
        Ok(Some(conflict))
    }

    /// Takes or releases a lock, and answers through `done`.
    ///
    /// The answer comes from another thread if the lock has to wait. EAGAIN if the lock is held and `wait` is false;
    /// EINTR if the caller was interrupted while it waited.
    pub fn setlk<F>(self: &Arc<Self>, caller: &Caller, request: LockRequest, wait: bool, done: F)
    where
        F: FnOnce(Result<()>) + Send + 'static,
    {
        match self.try_lock(&request) {
            Err(Errno::AGAIN) if wait => self.wait_for_lock(*caller, request, done),
            result => done(result),
        }
    }

    fn try_lock(&self, request: &LockRequest) -> Result<()> {
        let file = self.files.get(request.handle)?;
        let node = file.inode().node();
        if request.range.kind == LockKind::Unlock {
            let Some(fd) = self.locks.own_fd(node, request.owner) else { return Ok(()) };
            sys::lock::set(&*fd, request.range, false)?;
            self.locks.note(node, request, &fd);
            return Ok(());
        }
        let mut fd = self.owner_fd(&file, request)?;
        let mut result = sys::lock::set(&*fd, request.range, false);
        if result == Err(Errno::BADF) && file.is_writable() {
            fd = self.upgrade(&file, request)?;
            result = sys::lock::set(&*fd, request.range, false);
        }
        match result {
            Ok(()) => self.locks.note(node, request, &fd),
            Err(_) => self.locks.remove_if_idle(node, request.owner),
        }
        result
    }

    fn wait_for_lock<F>(self: &Arc<Self>, caller: Caller, request: LockRequest, done: F)
    where
        F: FnOnce(Result<()>) + Send + 'static,
    {
        let fs = Arc::clone(self);
        let wait = move || fs.lock_and_wait(&request);
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
        self.locks.waiters.wait(*caller, unique, wait, done);
    }

    /// Interrupts a request that waits for a lock or a lease, or that will wait in a moment.
    pub fn interrupt(&self, unique: u64) {
        self.locks.waiters.interrupt(unique);
    }

    fn lock_and_wait(&self, request: &LockRequest) -> Result<()> {
        let file = self.files.get(request.handle)?;
        let node = file.inode().node();
        let fd = self.owner_fd(&file, request)?;
        let result = sys::lock::set(&*fd, request.range, true);
        match result {
            Ok(()) => self.locks.note(node, request, &fd),
            Err(_) => self.locks.remove_if_idle(node, request.owner),
        }
        result
    }

    /// Returns the descriptor that carries an owner's locks on a file.
    ///
    /// All threads of the owner use the same one.
    fn owner_fd(&self, file: &OpenFile, request: &LockRequest) -> Result<Arc<OwnedFd>> {
        let node = file.inode().node();
        match self.locks.own_fd(node, request.owner) {
            Some(fd) => Ok(fd),
            None => Ok(self.locks.enter(node, request, self.description(file)?)),
        }
    }

    /// Opens a new open file description, with the access mode of the client's.
    ///
    /// If it is open for writing, the file cannot be executed (ETXTBSY), as with the client's own. It never waits for a
    /// lease (fcntl(2), F_SETLEASE): ENOLCK.
    fn description(&self, file: &OpenFile) -> Result<Arc<OwnedFd>> {
        let mode = if file.is_writable() { OFlags::RDWR } else { OFlags::RDONLY };
        let mode = mode | OFlags::NONBLOCK;
        let opened = match file.inode().kind() {
            // The client's open has checked that the device is shown as a file.
            FileType::BlockDevice => reopen(&*self.tree.fd(file.inode())?, mode | OFlags::NOCTTY),
            _ => self.tree.open(file.inode(), mode),
        };
        match opened {
            Err(Errno::AGAIN) => Err(Errno::NOLCK),
            result => result.map(Arc::new),
        }
    }

    /// Replaces an owner's read-only descriptor by a writable one, for a write lock, and moves its locks.
    fn upgrade(&self, file: &OpenFile, request: &LockRequest) -> Result<Arc<OwnedFd>> {
        let fd = self.description(file)?;
        for held in self.locks.take_ranges(file.inode().node(), request.owner) {
            sys::lock::set(&*fd, held, false)?;
            self.locks.note(file.inode().node(), &LockRequest { range: held, ..*request }, &fd);
        }
        Ok(fd)
    }
}

impl Locks {
    fn own_fd(&self, node: NodeId, owner: u64) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.lock().get(&node)?.get(&owner)?.fd))
    }

    /// Adds an owner with this descriptor, unless there is one. Returns the owner's descriptor.
    fn enter(&self, node: NodeId, request: &LockRequest, fd: Arc<OwnedFd>) -> Arc<OwnedFd> {
        let mut files = self.lock();
        let owners = files.entry(node).or_default();
        let new = || Owner { fd, pid: request.pid, handle: request.handle, ranges: Vec::new() };
        let fd = Arc::clone(&owners.entry(request.owner).or_insert_with(new).fd);
        self.held.store(files.len(), Ordering::Release);
        fd
    }

    /// Records the ranges that an owner now holds.
    fn note(&self, node: NodeId, request: &LockRequest, fd: &Arc<OwnedFd>) {
        self.enter(node, request, Arc::clone(fd));
        let mut files = self.lock();
        let owners = files.entry(node).or_default();
        let Some(owner) = owners.get_mut(&request.owner) else { return };
        cut(&mut owner.ranges, request.range.start, request.range.end);
        if request.range.kind != LockKind::Unlock {
            owner.ranges.push(request.range);
            owner.handle = request.handle;
        }
        if owner.ranges.is_empty() {
            owners.remove(&request.owner);
            if owners.is_empty() {
                files.remove(&node);
                self.held.store(files.len(), Ordering::Release);
            }
        }
    }

    /// Removes an owner and its locks. Returns the ranges that it held.
    fn take_ranges(&self, node: NodeId, owner: u64) -> Vec<LockRange> {
        let ranges = {
            let files = self.lock();
            let owner = files.get(&node).and_then(|owners| owners.get(&owner));
            owner.map_or(Vec::new(), |owner| owner.ranges.clone())
        };
        self.release(node, owner);
        ranges
    }

    /// Removes an owner that holds no locks.
    fn remove_if_idle(&self, node: NodeId, owner: u64) {
        let mut files = self.lock();
        let Some(owners) = files.get_mut(&node) else { return };
        if owners.get(&owner).is_some_and(|owner| owner.ranges.is_empty()) {
            owners.remove(&owner);
        }
        if owners.is_empty() {
            files.remove(&node);
            self.held.store(files.len(), Ordering::Release);
        }
    }

    /// Releases all locks of an owner on a file.
    pub(super) fn release(&self, node: NodeId, owner: u64) {
        if self.held.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut files = self.lock();
        let Some(owners) = files.get_mut(&node) else { return };
        // A waiting thread may still use the descriptor, so unlock explicitly instead of by the last close.
        if let Some(owner) = owners.remove(&owner) {
            let all = LockRange { start: 0, end: u64::MAX, kind: LockKind::Unlock };
            if let Err(e) = sys::lock::set(&*owner.fd, all, false) {
                log::warn!("cannot release the locks of a client on the source: {e}");
            }
        }
        if owners.is_empty() {
            files.remove(&node);
            self.held.store(files.len(), Ordering::Release);
        }
    }

    /// Releases the locks that came through an open file, at its last close.
    ///
    /// Those are open file description locks, for which the kernel sends no FLUSH.
    pub(super) fn release_through(&self, node: NodeId, handle: u64) {
        if self.held.load(Ordering::Acquire) == 0 {
            return;
        }
        let owners: Vec<u64> = {
            let files = self.lock();
            let Some(owners) = files.get(&node) else { return };
            owners.iter().filter(|(_, o)| o.handle == handle).map(|(id, _)| *id).collect()
        };
        for owner in owners {
            self.release(node, owner);
        }
    }

    /// Returns whether there is any lock on a file.
    pub(super) fn are_held_on(&self, node: NodeId) -> bool {
        self.held.load(Ordering::Acquire) > 0 && self.lock().contains_key(&node)
    }

    /// Returns the process that holds a conflicting lock through this mount; 0 if it is held elsewhere.
    fn holder(&self, node: NodeId, not: u64, range: LockRange) -> i32 {
        let files = self.lock();
        let Some(owners) = files.get(&node) else { return 0 };
        let meets = |r: &LockRange| r.start <= range.end && range.start <= r.end;
        owners
            .iter()
            .filter(|(id, owner)| **id != not && owner.ranges.iter().any(meets))
            .map(|(_, owner)| owner.pid as i32)
            .next()
            .unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, HashMap<u64, Owner>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes `start..=end` from a list of ranges.
fn cut(ranges: &mut Vec<LockRange>, start: u64, end: u64) {
    let mut kept = Vec::with_capacity(ranges.len() + 1);
    for range in ranges.drain(..) {
        if range.end < start || range.start > end {
            kept.push(range);
            continue;
        }
        if range.start < start {
            kept.push(LockRange { end: start - 1, ..range });
        }
        if range.end > end {
            kept.push(LockRange { start: end + 1, ..range });
        }
    }
    *ranges = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> LockRange {
        LockRange { start, end, kind: LockKind::Read }
    }

    #[test]
    fn unlocking_the_middle_leaves_both_ends() {
        let mut ranges = vec![range(0, 9)];
        cut(&mut ranges, 3, 5);
        assert_eq!(ranges, [range(0, 2), range(6, 9)]);
        cut(&mut ranges, 0, u64::MAX);
        assert!(ranges.is_empty());
    }

    proptest! {
        #[test]
        fn cutting_takes_exactly_the_bytes_named(
            parts in proptest::collection::vec((0u64..40, 0u64..10), 0..6),
            start in 0u64..40, len in 0u64..20,
        ) {
            let mut ranges: Vec<_> = parts.iter().map(|(s, l)| range(*s, s + l)).collect();
            let holds = |ranges: &[LockRange], at| {
                ranges.iter().any(|r| (r.start..=r.end).contains(&at))
            };
            let before = ranges.clone();
            cut(&mut ranges, start, start + len);
            for at in 0..80 {
                let cut_out = (start..=start + len).contains(&at);
                prop_assert_eq!(holds(&ranges, at), holds(&before, at) && !cut_out);
            }
        }
    }
}
