//! Open file description locks (fcntl(2), F_OFD_*).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::creds::last_errno;

/// The type of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// F_RDLCK.
    Read,
    /// F_WRLCK.
    Write,
    /// F_UNLCK.
    Unlock,
}

/// A byte range and its type of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    /// The first byte.
    pub start: u64,
    /// The last byte; `i64::MAX` and above mean up to the end of the file, however large it grows.
    pub end: u64,
    /// The type of lock.
    pub kind: LockKind,
}

/// A lock that conflicts with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// Its range.
    pub range: LockRange,
    /// The process id of the holder; -1 for an open file description lock.
    pub pid: i32,
}

fn to_flock(range: LockRange) -> Result<libc::flock, Errno> {
    let start = libc::off_t::try_from(range.start).map_err(|_| Errno::INVAL)?;
    let len = if range.end >= i64::MAX as u64 {
        0
    } else {
        let count = range.end.checked_sub(range.start).ok_or(Errno::INVAL)? + 1;
        libc::off_t::try_from(count).map_err(|_| Errno::INVAL)?
    };
    let kind = match range.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    })
}

/// Sets or releases a lock (F_OFD_SETLK, F_OFD_SETLKW).
///
/// # Errors
/// EAGAIN if it conflicts and `wait` is false; EINTR if a signal interrupts the wait.
pub fn set(fd: impl AsFd, range: LockRange, wait: bool) -> Result<(), Errno> {
    let mut lock = to_flock(range)?;
    let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
    // SAFETY: `lock` is a struct flock that outlives the call.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw mut lock) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The first lock that conflicts with `range` (F_OFD_GETLK).
pub fn get(fd: impl AsFd, range: LockRange) -> Result<Option<Conflict>, Errno> {
    let mut lock = to_flock(range)?;
    // SAFETY: `lock` is a struct flock that outlives the call.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result != 0 {
        return Err(last_errno());
    }
    let kind = match i32::from(lock.l_type) {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        _ => return Ok(None),
    };
    let start = lock.l_start as u64;
    let end = if lock.l_len == 0 { i64::MAX as u64 } else { start + (lock.l_len as u64 - 1) };
    Ok(Some(Conflict { range: LockRange { start, end, kind }, pid: lock.l_pid }))
}
