//! Between fuser's types and ours.

use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::{Attr, SetTime, Timestamp};
use crate::idmap::NO_ID;

/// An errno of ours on fuser's wire.
pub(super) fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_i32(e.raw_os_error())
}

/// Attributes on fuser's wire. An unmapped owner goes as "no id": the kernel shows it as the overflow id, matches no
/// caller with it, and applies the rules of idmapped mounts to the inode.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid.map_or(NO_ID, |uid| uid.raw()),
        gid: attr.gid.map_or(NO_ID, |gid| gid.raw()),
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

pub(super) fn file_type(kind: rustix::fs::FileType) -> FileType {
    match kind {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::Unknown => FileType::RegularFile,
    }
}

fn to_system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nsec.into());
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let base = if time.sec >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|base| base.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A time to set, as fuser read it from the wire: before 1970 fuser 0.18 subtracts the nanoseconds instead of adding
/// them, so the seconds and nanoseconds of the distance from 1970 are those of the wire.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => {
            SetTime::To(match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(after) => Timestamp { sec: after.as_secs() as i64, nsec: after.subsec_nanos() },
                Err(e) => {
                    let before = e.duration();
                    let sec = (before.as_secs() as i64).wrapping_neg();
                    Timestamp { sec, nsec: before.subsec_nanos() }
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_fraction() {
        // fuser reads -5 s + 250 ms as 1970 - 5.25 s.
        let wire = SystemTime::UNIX_EPOCH - Duration::new(5, 250_000_000);
        let time = Timestamp { sec: -5, nsec: 250_000_000 };
        assert_eq!(set_time(TimeOrNow::SpecificTime(wire)), SetTime::To(time));
        let shown = to_system_time(time);
        assert_eq!(shown, SystemTime::UNIX_EPOCH - Duration::new(4, 750_000_000));
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for sec in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
            let _ = to_system_time(Timestamp { sec, nsec: 999_999_999 });
        }
    }
}
