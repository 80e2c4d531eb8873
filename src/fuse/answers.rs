//! Small parts of requests and replies: who asks, what is meant, the plainest answers.

use std::time::SystemTime;

use fuser::{Errno, FileAttr, INodeNo, ReplyEmpty, ReplyXattr, Request};
use rustix::fs::OFlags;

use super::convert::errno;
use crate::fs::{Caller, LockKind, Result};
use crate::idmap::{MountGid, MountUid};

/// Who asks. EOVERFLOW for an id that is none, which the kernel does not send.
pub(super) fn caller(request: &Request) -> Result<Caller> {
    let overflow = rustix::io::Errno::OVERFLOW;
    let uid = MountUid::new(request.uid()).ok_or(overflow)?;
    let gid = MountGid::new(request.gid()).ok_or(overflow)?;
    Ok(Caller { uid, gid, pid: request.pid() })
}

pub(super) fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags as u32)
}

pub(super) fn is_direct(flags: i32) -> bool {
    open_flags(flags).contains(OFlags::DIRECT)
}

pub(super) fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn xattr(reply: ReplyXattr, room: u32, value: Result<Vec<u8>>) {
    match value {
        Ok(value) if room == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn lock_kind(kind: i32) -> Result<LockKind> {
    match kind {
        libc::F_RDLCK => Ok(LockKind::Read),
        libc::F_WRLCK => Ok(LockKind::Write),
        libc::F_UNLCK => Ok(LockKind::Unlock),
        _ => Err(rustix::io::Errno::INVAL),
    }
}

/// Attributes of nothing: node id 0.
pub(super) const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
    crtime: SystemTime::UNIX_EPOCH,
    kind: fuser::FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};
