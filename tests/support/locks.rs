//! Record locks of fcntl(2).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::sys;

/// The lock's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// F_RDLCK.
    Shared,
    /// F_WRLCK.
    Exclusive,
    /// F_UNLCK.
    None,
}

/// The owner of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The process (POSIX).
    Process,
    /// The open file description.
    Description,
}

/// A lock to set or query; `len` 0 means up to the end of the file, wherever that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) kind: LockKind,
    pub(crate) start: i64,
    pub(crate) len: i64,
    pub(crate) scope: Scope,
}

impl Lock {
    /// A POSIX lock on the whole file.
    pub(crate) fn whole(kind: LockKind) -> Self {
        Self { kind, start: 0, len: 0, scope: Scope::Process }
    }

    /// A POSIX lock on a range.
    pub(crate) fn range(kind: LockKind, start: i64, len: i64) -> Self {
        Self { kind, start, len, scope: Scope::Process }
    }

    /// The same lock, owned by the open file description.
    pub(crate) fn of_description(self) -> Self {
        Self { scope: Scope::Description, ..self }
    }

    /// Takes the lock or fails at once.
    pub(crate) fn try_set(self, file: &File) -> io::Result<()> {
        self.call(file, [libc::F_SETLK, libc::F_OFD_SETLK]).map(drop)
    }

    /// Takes the lock; waits for conflicting ones.
    pub(crate) fn set(self, file: &File) -> io::Result<()> {
        self.call(file, [libc::F_SETLKW, libc::F_OFD_SETLKW]).map(drop)
    }

    /// The first conflicting lock: type, start, length, process id.
    pub(crate) fn query(self, file: &File) -> io::Result<Option<(LockKind, i64, i64, i32)>> {
        let lock = self.call(file, [libc::F_GETLK, libc::F_OFD_GETLK])?;
        let kind = match i32::from(lock.l_type) {
            libc::F_RDLCK => LockKind::Shared,
            libc::F_WRLCK => LockKind::Exclusive,
            _ => return Ok(None),
        };
        Ok(Some((kind, lock.l_start, lock.l_len, lock.l_pid)))
    }

    /// Takes or releases the lock through a number in the thread's descriptor table; with `wait`, waits for it.
    pub(crate) fn set_raw(self, fd: i32, wait: bool) -> io::Result<()> {
        let command = match (self.scope, wait) {
            (Scope::Process, true) => libc::F_SETLKW,
            (Scope::Process, false) => libc::F_SETLK,
            (Scope::Description, true) => libc::F_OFD_SETLKW,
            (Scope::Description, false) => libc::F_OFD_SETLK,
        };
        sys::fcntl_lock_raw(fd, command, &mut self.record())
    }

    fn call(self, file: &File, [process, description]: [i32; 2]) -> io::Result<libc::flock> {
        let mut lock = self.record();
        let command = if self.scope == Scope::Process { process } else { description };
        sys::fcntl_lock(file.as_fd(), command, &mut lock)?;
        Ok(lock)
    }

    fn record(self) -> libc::flock {
        let kind = match self.kind {
            LockKind::Shared => libc::F_RDLCK,
            LockKind::Exclusive => libc::F_WRLCK,
            LockKind::None => libc::F_UNLCK,
        };
        libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: self.start,
            l_len: self.len,
            l_pid: 0,
        }
    }
}
