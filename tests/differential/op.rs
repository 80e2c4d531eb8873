//! The operations, as plain data.

use rustix::fs::{Access, FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};

use crate::value::{Id, Value};

/// A path below the case's directory.
pub(crate) type Name = &'static str;

/// One operation. Those that begin with `Fd` use a descriptor that an earlier [`Op::Open`] left in a slot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Stat(Name),
    ReadFile(Name),
    ReadDir(Name),
    Readlink(Name),
    Access { path: Name, mode: Access, effective: bool },
    Exec(Name),
    Statfs(Name),
    Open { path: Name, flags: OFlags, mode: u32, slot: usize },
    Tmpfile { dir: Name, mode: u32, slot: usize },
    WriteFile { path: Name, flags: OFlags, size: usize },
    Truncate { path: Name, size: u64 },
    Mkdir { path: Name, mode: u32 },
    Mknod { path: Name, kind: FileType, mode: u32 },
    Symlink { path: Name, target: Name },
    Link { old: Name, new: Name },
    Unlink(Name),
    Rmdir(Name),
    Rename { old: Name, new: Name, flags: RenameFlags },
    Chmod { path: Name, mode: u32 },
    Chown { path: Name, uid: Id, gid: Id, follow: bool },
    Utimens { path: Name, atime: Time, mtime: Time, follow: bool },
    SetXattr { path: Name, name: &'static str, value: Value, flags: XattrFlags },
    GetXattr { path: Name, name: &'static str, size: usize },
    ListXattr { path: Name, size: usize },
    RemoveXattr { path: Name, name: &'static str },
    FdRead { slot: usize, at: u64, len: usize },
    FdWrite { slot: usize, at: Option<u64>, len: usize },
    FdMappedWrite { slot: usize },
    FdTruncate { slot: usize, size: u64 },
    FdAllocate { slot: usize, mode: FallocateFlags, at: u64, len: u64 },
    FdCopyRange { from: usize, to: usize, len: usize },
    FdSeek { slot: usize, to: Seek, at: u64 },
    FdStat { slot: usize },
    FdChmod { slot: usize, mode: u32 },
    FdChown { slot: usize, uid: Id, gid: Id },
    FdUtimens { slot: usize, atime: Time, mtime: Time },
    FdSetXattr { slot: usize, name: &'static str, value: Value },
    FdGetXattr { slot: usize, name: &'static str },
    FdReadDir { slot: usize },
    FdLink { slot: usize, new: Name },
    FdReopen { slot: usize, flags: OFlags },
    FdSync { slot: usize },
    Close { slot: usize },
}

impl Op {
    /// The paths that the operation names.
    pub(crate) fn paths(&self) -> Vec<Name> {
        match *self {
            Self::Stat(path)
            | Self::ReadFile(path)
            | Self::ReadDir(path)
            | Self::Readlink(path)
            | Self::Access { path, .. }
            | Self::Exec(path)
            | Self::Statfs(path)
            | Self::Open { path, .. }
            | Self::Tmpfile { dir: path, .. }
            | Self::WriteFile { path, .. }
            | Self::Truncate { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Mknod { path, .. }
            | Self::Symlink { path, .. }
            | Self::Unlink(path)
            | Self::Rmdir(path)
            | Self::Chmod { path, .. }
            | Self::Chown { path, .. }
            | Self::Utimens { path, .. }
            | Self::SetXattr { path, .. }
            | Self::GetXattr { path, .. }
            | Self::ListXattr { path, .. }
            | Self::RemoveXattr { path, .. } => vec![path],
            Self::Link { old, new } | Self::Rename { old, new, .. } => vec![old, new],
            Self::FdLink { new, .. } => vec![new],
            _ => vec![],
        }
    }
}

/// The time for utimensat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Omit,
    Now,
    /// Seconds and nanoseconds, long ago.
    At(i64, i64),
}

/// What lseek(2) searches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seek {
    Data,
    Hole,
    End,
}

/// An operation, its caller and its umask.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// The caller's index in the scenario's list.
    pub(crate) caller: usize,
    pub(crate) umask: u32,
    pub(crate) op: Op,
}

/// The number of descriptors that can stay open across steps.
pub(crate) const SLOTS: usize = 3;
