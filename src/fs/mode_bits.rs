//! Bits of file modes and of open flags, as inode(7) and the kernel's headers name them.

pub(super) use crate::view::{SETGID, SETUID};

/// S_ISVTX.
pub(super) const STICKY: u32 = 0o1000;
/// S_IXGRP.
pub(super) const GROUP_EXECUTE: u32 = 0o010;
/// The kernel's flag of an open for execution, which programs cannot set (linux/fs.h, `__FMODE_EXEC`).
pub(super) const FMODE_EXEC: u32 = 0o40;
