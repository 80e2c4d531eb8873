//! The locks of one owner on one file: their ranges, and the open file description on the source that holds them.
//!
//! An owner is what the kernel calls `fl_owner_t`: the descriptor table of a process for POSIX locks, an open file for
//! open file description locks. The protocol does not say which of the two it is.
//!
//! A system call that does not wait, and the record of its result, are one step under the owner's mutex. A call that
//! waits (F_OFD_SETLKW) is made without the mutex. Its lock counts only once the same call without waiting succeeds
//! under the mutex, because other threads of the owner may have unlocked the range or replaced the description
//! meanwhile.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use rustix::io::Errno;

use super::ranges::HeldRanges;
use super::{LockKind, LockRange, LockRequest};
use crate::error::errno_field;
use crate::fs::Result;
use crate::fs::shares::Share;
use crate::sync::{Mutex, MutexGuard};
use crate::sys;
use crate::sys::lock::Conflict;

/// Unlocks the whole file.
const ALL_UNLOCKED: LockRange = LockRange { start: 0, end: u64::MAX, kind: LockKind::Unlock };

/// Ranges that an owner held, each with the handle through which it was granted.
pub(super) type HeldBefore = Vec<(LockRange, u64)>;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Owner {
    id: u64,
    pid: AtomicU32,
    descriptions: Mutex<Descriptions>,
    /// The ranges that the owner holds.
    ///
    /// Changes only while `descriptions` is locked. Nothing else is locked, and no system call made, under it.
    held: Mutex<HeldRanges>,
}

#[derive(Debug, Default)]
struct Descriptions {
    /// Holds all locks of the owner. Opened for the first one.
    current: Option<Arc<Description>>,
    /// Earlier descriptions on which threads may still wait.
    replaced: Vec<Weak<Description>>,
}

/// An open file description on the source that belongs to one lock owner.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) fd: OwnedFd,
    pub(super) access: Access,
    /// Makes threads that wait on it wait on the owner's current description instead.
    pub(super) is_replaced: Arc<AtomicBool>,
    /// Its share of the descriptors of the client's user.
    _share: Share,
}

/// The access mode of a description.
///
/// A read lock needs one that is open for reading, a write lock one that is open for writing (fcntl(2), EBADF).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Both,
}

impl Description {
    pub(super) fn new(fd: OwnedFd, access: Access, share: Share) -> Self {
        Self { fd, access, is_replaced: Arc::default(), _share: share }
    }

    /// Returns whether the access mode allows a lock of this kind.
    fn allows(&self, kind: LockKind) -> bool {
        match kind {
            LockKind::Read => self.access != Access::Write,
            LockKind::Write => self.access != Access::Read,
            LockKind::Unlock => true,
        }
    }

    /// Locks or unlocks a range without waiting.
    fn set(&self, range: LockRange) -> Result<()> {
        sys::lock::set(&self.fd, range, false)
    }

    fn unlock_all(&self) {
        if let Err(e) = self.set(ALL_UNLOCKED) {
            let ino = rustix::fs::fstat(&self.fd).map_or(0, |stat| stat.st_ino);
            let errno = errno_field(e);
            log::warn!("cannot release the locks of a client on the source: ino={ino} {errno}");
        }
    }
}

impl Descriptions {
    /// Returns the description for a lock of this kind.
    ///
    /// Opens a new one if there is none with a suitable access mode, and moves all locks to it. ENOLCK if they cannot
    /// move.
    fn for_kind(
        &mut self,
        kind: LockKind,
        held: &Mutex<HeldRanges>,
        open: impl FnOnce() -> Result<Description>,
    ) -> Result<Arc<Description>> {
        match &self.current {
            Some(current) if current.allows(kind) => return Ok(Arc::clone(current)),
            _ => {}
        }
        let new = Arc::new(open()?);
        if let Some(old) = &self.current {
            // Read locks of both descriptions do not conflict: the new one locks each range before the old one unlocks
            // it. Write locks conflict, so those of a write-only description cannot move.
            let held: Vec<LockRange> = held.lock().iter().collect();
            for range in held {
                // EBADF: the new one lacks the access mode. That says nothing about the client's descriptor.
                let cannot_move = |e| matches!(e, Errno::AGAIN | Errno::BADF);
                new.set(range).map_err(|e| if cannot_move(e) { Errno::NOLCK } else { e })?;
            }
            old.is_replaced.store(true, Ordering::Release);
            old.unlock_all();
            self.replaced.retain(|old| old.strong_count() > 0);
            self.replaced.push(Arc::downgrade(old));
        }
        self.current = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Unlocks all replaced descriptions. Returns whether there were any.
    ///
    /// A thread may have been granted a lock on one, and not have returned from the system call. It tries again on the
    /// current description.
    fn unlock_replaced(&mut self) -> bool {
        let replaced: Vec<_> = self.replaced.iter().filter_map(Weak::upgrade).collect();
        replaced.iter().for_each(|old| old.unlock_all());
        !replaced.is_empty()
    }
}

impl Owner {
    pub(super) fn new(id: u64) -> Self {
        Self { id, pid: AtomicU32::new(0), descriptions: Mutex::default(), held: Mutex::default() }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the id of the process that took the last lock.
    pub(super) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Locks or unlocks a range without waiting. Returns what the owner held of it before, each with its handle.
    ///
    /// EAGAIN if another owner's lock conflicts; ENOLCK if the owner's locks cannot move to a description with the
    /// access mode that the new one needs.
    pub(super) fn set(
        &self,
        request: &LockRequest,
        open: impl FnOnce() -> Result<Description>,
    ) -> Result<HeldBefore> {
        self.set_in(&mut self.descriptions.lock(), request, open)
    }

    fn set_in(
        &self,
        descriptions: &mut Descriptions,
        request: &LockRequest,
        open: impl FnOnce() -> Result<Description>,
    ) -> Result<HeldBefore> {
        let range = request.range;
        if range.kind == LockKind::Unlock {
            let Some(current) = &descriptions.current else { return Ok(HeldBefore::new()) };
            current.set(range)?;
        } else {
            let current = descriptions.for_kind(range.kind, &self.held, open)?;
            match current.set(range) {
                Err(Errno::AGAIN) if descriptions.unlock_replaced() => current.set(range)?,
                result => result?,
            }
            self.pid.store(request.pid, Ordering::Relaxed);
        }
        let mut held = self.held.lock();
        let before = held.within(&range);
        held.set(range, request.handle);
        Ok(before)
    }

    /// Takes back a lock that was granted to a client which was killed before it learned of that: the owner holds what it
    /// held before.
    pub(super) fn undo(&self, request: &LockRequest, before: &HeldBefore) {
        let descriptions = self.descriptions.lock();
        let Some(current) = &descriptions.current else { return };
        let restore = |range: LockRange, handle| match current.set(range) {
            Ok(()) => self.held.lock().set(range, handle),
            Err(e) => log::warn!(
                "cannot restore the locks of a client on the source: pid={} {}",
                request.pid,
                errno_field(e)
            ),
        };
        // What was held is set in place of the new lock, and never unlocked in between.
        before.iter().for_each(|(range, handle)| restore(*range, *handle));
        for (start, end) in gaps(&request.range, before) {
            restore(LockRange { start, end, kind: LockKind::Unlock }, request.handle);
        }
    }

    /// Returns the description on which to wait for a lock.
    pub(super) fn description(
        &self,
        kind: LockKind,
        open: impl FnOnce() -> Result<Description>,
    ) -> Result<Arc<Description>> {
        self.descriptions.lock().for_kind(kind, &self.held, open)
    }

    /// Records a lock that a thread waited for, after the wait on `granted` succeeded.
    ///
    /// EAGAIN if another thread of the owner has unlocked the range meanwhile and another owner has locked it.
    pub(super) fn confirm(
        &self,
        request: &LockRequest,
        granted: &Arc<Description>,
        open: impl FnOnce() -> Result<Description>,
    ) -> Result<HeldBefore> {
        let mut descriptions = self.descriptions.lock();
        let result = self.set_in(&mut descriptions, request, open);
        let is_current = descriptions.current.as_ref().is_some_and(|now| Arc::ptr_eq(now, granted));
        if !is_current {
            granted.unlock_all();
        }
        result
    }

    /// Returns the first lock of another owner that conflicts with a range.
    ///
    /// EBADF if this owner has no description yet.
    pub(super) fn get(&self, range: LockRange) -> Result<Option<Conflict>> {
        let mut descriptions = self.descriptions.lock();
        descriptions.unlock_replaced();
        sys::lock::get(&descriptions.current.as_ref().ok_or(Errno::BADF)?.fd, range)
    }

    /// Releases all locks.
    pub(super) fn release(&self) {
        let mut descriptions = self.descriptions.lock();
        descriptions.unlock_replaced();
        if let Some(current) = &descriptions.current {
            current.unlock_all();
        }
        self.held.lock().clear_all();
    }

    /// Releases the locks that were granted through an open file.
    pub(super) fn release_through(&self, handle: u64) {
        let descriptions = self.descriptions.lock();
        let ranges = self.held.lock().granted_through(handle);
        let Some(current) = &descriptions.current else { return };
        for range in ranges {
            let range = LockRange { kind: LockKind::Unlock, ..range };
            match current.set(range) {
                Ok(()) => self.held.lock().set(range, handle),
                Err(e) => {
                    let (pid, errno) = (self.pid.load(Ordering::Relaxed), errno_field(e));
                    log::warn!(
                        "cannot release a lock of a client on the source: fh={handle} pid={pid} {errno}"
                    );
                }
            }
        }
    }

    /// Returns whether the owner holds no lock.
    pub(super) fn is_idle(&self) -> bool {
        self.held.lock().is_empty()
    }

    /// Returns the ranges that the owner holds, locked.
    pub(super) fn held(&self) -> MutexGuard<'_, HeldRanges> {
        self.held.lock()
    }
}

/// Returns the parts of a range between the ranges that were held, as first and last byte.
fn gaps(range: &LockRange, held: &HeldBefore) -> Vec<(u64, u64)> {
    let (mut gaps, mut from) = (Vec::new(), Some(range.start));
    for (held, _) in held {
        gaps.extend(from.filter(|from| *from < held.start).map(|from| (from, held.start - 1)));
        from = held.end.checked_add(1);
    }
    gaps.extend(from.filter(|from| *from <= range.end).map(|from| (from, range.end)));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::shares::Shares;
    use crate::idmap::MountUid;
    use rustix::fs::{Mode, OFlags, open};

    fn description(path: &std::path::Path, access: Access) -> Description {
        let mode = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::Both => OFlags::RDWR,
        };
        let share = Shares::new(8).take(MountUid::new(0)).unwrap();
        Description::new(open(path, mode | OFlags::CLOEXEC, Mode::empty()).unwrap(), access, share)
    }

    fn request(kind: LockKind, start: u64, end: u64) -> LockRequest {
        let range = LockRange { start, end, kind };
        LockRequest { handle: 1, owner: 7, range, pid: 1, unique: 1 }
    }

    #[test]
    fn locks_that_cannot_move_to_a_description_of_another_mode_are_enolck() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let owner = Owner::new(7);
        let open = |access| description(file.path(), access);
        owner.set(&request(LockKind::Read, 0, 9), || Ok(open(Access::Read))).unwrap();
        let refused = owner.set(&request(LockKind::Write, 20, 29), || Ok(open(Access::Write)));
        assert_eq!(refused, Err(Errno::NOLCK), "the client's descriptor is a good one");
        assert_eq!(owner.held().iter().count(), 1, "what was held is held");
    }

    #[test]
    fn a_lock_that_is_taken_back_leaves_what_was_held_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (owner, other) = (Owner::new(7), description(file.path(), Access::Both));
        let open = || Ok(description(file.path(), Access::Both));
        owner.set(&request(LockKind::Read, 10, 19), open).unwrap();
        let granted = request(LockKind::Write, 0, i64::MAX as u64);
        let before = owner.set(&granted, open).unwrap();
        owner.undo(&granted, &before);
        let held: Vec<_> = owner.held().iter().collect();
        assert_eq!(held, [LockRange { start: 10, end: 19, kind: LockKind::Read }]);
        let free = |start, end| {
            let range = LockRange { start, end, kind: LockKind::Write };
            sys::lock::get(&other.fd, range).unwrap().is_none()
        };
        assert!(free(0, 9) && !free(10, 19) && free(20, i64::MAX as u64));
    }
}
