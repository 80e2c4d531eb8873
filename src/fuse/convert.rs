//! Converts between the values of the protocol and the types of [`crate::fs`].

use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::protocol::layout::{FuseAttr, SetAttrIn, fattr};
use crate::fs::{Attr, LockKind, Result, SetAttr, SetTime, Timestamp};
use crate::idmap::{MountGid, MountUid, NO_ID};

/// The wire form of attributes.
///
/// An unmapped owner is sent as 4294967295 (no id). The kernel shows that as the overflow id, matches no caller with
/// it, and applies the rules of idmapped mounts to the inode.
pub(super) fn fuse_attr(attr: &Attr) -> FuseAttr {
    FuseAttr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.sec,
        mtime: attr.mtime.sec,
        ctime: attr.ctime.sec,
        atimensec: attr.atime.nsec,
        mtimensec: attr.mtime.nsec,
        ctimensec: attr.ctime.nsec,
        mode: type_bits(attr.kind) | u32::from(attr.mode),
        nlink: attr.nlink,
        uid: attr.uid.map_or(NO_ID, |uid| uid.raw()),
        gid: attr.gid.map_or(NO_ID, |gid| gid.raw()),
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// The file type bits of a mode (`S_IFMT`).
pub(super) fn type_bits(kind: FileType) -> u32 {
    match kind {
        FileType::Unknown => libc::S_IFREG,
        kind => kind.as_raw_mode(),
    }
}

/// The file type of a directory entry (`DT_…`).
pub(super) fn dirent_type(kind: FileType) -> u32 {
    match kind {
        FileType::Unknown => u32::from(libc::DT_UNKNOWN),
        kind => kind.as_raw_mode() >> 12,
    }
}

/// A timeout as seconds and nanoseconds.
pub(super) fn ttl_parts(time: Duration) -> (u64, u32) {
    (time.as_secs(), time.subsec_nanos())
}

/// The attributes to set, and the open file to set them through, if there is one.
pub(super) fn changes(asked: &SetAttrIn) -> (SetAttr, Option<u64>) {
    let has = |bit: u32| asked.valid & bit != 0;
    let time = |given: u32, now: u32, sec: i64, nsec: u32| {
        has(given).then(|| match has(now) {
            true => SetTime::Now,
            false => SetTime::To(Timestamp { sec, nsec }),
        })
    };
    let set = SetAttr {
        mode: has(fattr::MODE).then_some(asked.mode),
        uid: has(fattr::UID).then_some(asked.uid).and_then(MountUid::new),
        gid: has(fattr::GID).then_some(asked.gid).and_then(MountGid::new),
        size: has(fattr::SIZE).then_some(asked.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, asked.atime, asked.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, asked.mtime, asked.mtimensec),
        kills_suidgid: has(fattr::KILL_SUIDGID),
    };
    (set, has(fattr::FH).then_some(asked.fh))
}

pub(super) fn open_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags)
}

pub(super) fn is_direct(flags: u32) -> bool {
    open_flags(flags).contains(OFlags::DIRECT)
}

pub(super) fn lock_kind(kind: u32) -> Result<LockKind> {
    match kind as i32 {
        libc::F_RDLCK => Ok(LockKind::Read),
        libc::F_WRLCK => Ok(LockKind::Write),
        libc::F_UNLCK => Ok(LockKind::Unlock),
        _ => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn times_go_as_they_come() {
        let mut asked = SetAttrIn::new_zeroed();
        (asked.mtime, asked.mtimensec) = (-5, 250_000_000);
        assert_eq!(changes(&asked).0.mtime, None, "nothing was asked for");
        asked.valid = fattr::MTIME | fattr::ATIME | fattr::ATIME_NOW | fattr::FH;
        asked.fh = 9;
        let (set, fh) = changes(&asked);
        assert_eq!(set.mtime, Some(SetTime::To(Timestamp { sec: -5, nsec: 250_000_000 })));
        assert_eq!((set.atime, fh), (Some(SetTime::Now), Some(9)));
    }

    #[test]
    fn types_are_those_of_stat_and_getdents() {
        assert_eq!(type_bits(FileType::Directory), libc::S_IFDIR);
        assert_eq!(dirent_type(FileType::Directory), u32::from(libc::DT_DIR));
        assert_eq!(dirent_type(FileType::Symlink), u32::from(libc::DT_LNK));
        assert_eq!(dirent_type(FileType::Unknown), 0);
    }
}
