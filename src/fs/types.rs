//! What goes in and out of the filesystem: callers, attributes, entries. No FUSE types.

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::killpriv::{SETGID, SETUID};
use crate::idmap::{MountGid, MountUid, SourceGid, SourceUid};
use crate::source::{Inode, NodeId};
use crate::view::{SourceAttr, View, Viewer};

/// The filesystem's result: the errno goes to the caller as it is.
pub type Result<T> = std::result::Result<T, Errno>;

/// Who asks, as the mount sees him.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// His filesystem uid.
    pub uid: MountUid,
    /// His filesystem gid.
    pub gid: MountGid,
    /// His thread's id, in the daemon's pid namespace; 0 when it has none there.
    pub pid: u32,
}

impl Caller {
    /// The same ids without a thread: for requests that the kernel sends for its own sake, whatever thread it names.
    #[must_use]
    pub fn without_thread(self) -> Self {
        Self { pid: 0, ..self }
    }
}

/// A time as files have it: seconds since 1970, negative before, and nanoseconds forward from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// How long the kernel may believe an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheValidity {
    /// Until it is told otherwise: changes by others are watched for.
    WhileWatched,
    /// For the time that the cache policy names.
    Timeout,
    /// Not at all.
    Uncached,
}

/// Attributes as shown at the mount.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// How long they may be believed.
    pub validity: CacheValidity,
    /// The inode number that programs see.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Blocks of 512 bytes in use.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Names it has.
    pub nlink: u32,
    /// Owner; `None` is unmapped.
    pub uid: Option<MountUid>,
    /// Group; `None` is unmapped.
    pub gid: Option<MountGid>,
    /// Device number, as FUSE and the kernel encode it in 32 bits (`new_encode_dev`).
    pub rdev: u32,
    /// Preferred size of requests.
    pub blksize: u32,
}

/// An inode that the kernel may keep: one look-up is counted.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its node id.
    pub node: NodeId,
    /// What tells it from others that have had the node id, or will ([`Inode::generation`]).
    pub generation: u32,
    /// Its attributes.
    pub attr: Attr,
    /// How long the name may be believed to mean it.
    pub name: CacheValidity,
}

/// What a name means.
#[derive(Debug, Clone, Copy)]
pub enum Lookup {
    /// This inode.
    Found(Entry),
    /// Nothing, for so long.
    Missing(CacheValidity),
}

/// What a name took along when it was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Nothing that the kernel does not know.
    Alone,
    /// Names below it, which have other paths now and may be excluded by them or not.
    WithPaths,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The source's clock.
    Now,
    /// This one.
    To(Timestamp),
}

/// The attributes that a setattr changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<MountUid>,
    /// Group.
    pub gid: Option<MountGid>,
    /// Length.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { mode, uid, gid, size, atime, mtime } = self;
        mode.is_none()
            && uid.is_none()
            && gid.is_none()
            && size.is_none()
            && atime.is_none()
            && mtime.is_none()
    }
}

impl Attr {
    /// The attributes of a source inode as the view shows them to somebody. Those of a file with setuid or setgid bits are never to be believed
    /// twice: a write may take the bits without our seeing it, and nothing may run with bits that are gone.
    #[must_use]
    pub fn shown(
        inode: &Inode,
        stat: &Statx,
        view: &View,
        viewer: Viewer,
        validity: CacheValidity,
    ) -> Self {
        let mode = u32::from(stat.stx_mode);
        let privileged = FileType::from_raw_mode(mode).is_file() && mode & (SETUID | SETGID) != 0;
        let shown = view.present(stored(stat), viewer);
        let ctime =
            if view.attr_overrides.ctime_from_mtime { &stat.stx_mtime } else { &stat.stx_ctime };
        let time = |t: &rustix::fs::StatxTimestamp| Timestamp { sec: t.tv_sec, nsec: t.tv_nsec };
        Self {
            validity: if privileged { CacheValidity::Uncached } else { validity },
            ino: if inode.node() == NodeId::ROOT { stat.stx_ino } else { inode.ino() },
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(&stat.stx_atime),
            mtime: time(&stat.stx_mtime),
            ctime: time(ctime),
            kind: shown.kind,
            mode: shown.mode as u16,
            nlink: if view.attr_overrides.hide_hard_links { 1 } else { stat.stx_nlink },
            uid: shown.uid,
            gid: shown.gid,
            rdev: encode_dev(stat.stx_rdev_major, stat.stx_rdev_minor),
            blksize: stat.stx_blksize,
        }
    }
}

/// Owner, type and permissions of a source inode.
pub(super) fn stored(stat: &Statx) -> SourceAttr {
    let mode = u32::from(stat.stx_mode);
    SourceAttr {
        uid: SourceUid::new(stat.stx_uid),
        gid: SourceGid::new(stat.stx_gid),
        kind: FileType::from_raw_mode(mode),
        mode: mode & 0o7777,
    }
}

/// A device number in the 32 bits that FUSE has for it (Linux `new_encode_dev`).
#[must_use]
pub fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// Major and minor of such a number (Linux `new_decode_dev`).
#[must_use]
pub fn decode_dev(dev: u32) -> (u32, u32) {
    ((dev & 0xf_ff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(0, 0), (1, 3), (10, 229), (259, 0xf_ffff), (0xfff, 0x12_345)] {
            assert_eq!(decode_dev(encode_dev(major, minor)), (major, minor));
        }
    }
}
