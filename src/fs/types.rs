//! Types of requests and answers: callers, attributes, entries. No FUSE types.

use std::ffi::OsStr;

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::mode_bits::{SETGID, SETUID};
use super::validity::CacheValidity;
use crate::idmap::{MountGid, MountUid, SourceGid, SourceUid};
use crate::source::NodeId;
use crate::view::{PresentedAttr, SourceAttr, View, Viewer};

/// The result of an operation; the caller gets the errno as it is.
pub type Result<T> = std::result::Result<T, Errno>;

/// The credentials of a caller, as the mount sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Filesystem uid and gid. `None`: the kernel does not tell them, because the mount may be idmapped (`idmappable`).
    pub ids: Option<(MountUid, MountGid)>,
    /// The ids that are to own what the caller creates: its own, or those that an idmapped mount makes of them.
    ///
    /// They say nothing about its rights. `None` if the request creates nothing and the kernel does not tell `ids`.
    pub creates_as: Option<(MountUid, MountGid)>,
    /// Thread id in the daemon's pid namespace; 0 if the caller is not visible there.
    pub pid: u32,
}

impl Caller {
    /// Returns a caller that acts with its own ids.
    #[must_use]
    pub fn known(uid: MountUid, gid: MountGid, pid: u32) -> Self {
        Self { ids: Some((uid, gid)), creates_as: Some((uid, gid)), pid }
    }

    /// Returns the filesystem uid, if the kernel tells it.
    #[must_use]
    pub fn uid(&self) -> Option<MountUid> {
        self.ids.map(|(uid, _)| uid)
    }

    /// Returns the filesystem gid, if the kernel tells it.
    #[must_use]
    pub fn gid(&self) -> Option<MountGid> {
        self.ids.map(|(_, gid)| gid)
    }

    /// Returns whether the caller owns a file. `false` if the owner is unmapped, or the kernel does not tell the caller.
    pub(super) fn owns(&self, file: &PresentedAttr) -> bool {
        self.uid().is_some() && file.uid == self.uid()
    }

    /// Returns the same ids without the thread.
    ///
    /// For requests that the kernel sends on its own behalf, whatever thread they name.
    #[must_use]
    pub fn without_thread(self) -> Self {
        Self { pid: 0, ..self }
    }
}

/// A file time, as in struct timespec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970; negative before.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999, added to the seconds.
    pub nsec: u32,
}

/// Attributes as shown at the mount.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// How long the kernel may cache them.
    pub validity: CacheValidity,
    /// The inode number that programs see.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Access time.
    pub atime: Timestamp,
    /// Modification time.
    pub mtime: Timestamp,
    /// Status change time.
    pub ctime: Timestamp,
    /// File type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky bit.
    pub mode: u16,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner; `None` is unmapped.
    pub uid: Option<MountUid>,
    /// Group; `None` is unmapped.
    pub gid: Option<MountGid>,
    /// Device number in the 32-bit encoding of FUSE and the kernel (`new_encode_dev`).
    pub rdev: u32,
    /// Preferred size of reads and writes in bytes.
    pub blksize: u32,
}

/// The answer to a lookup. The inode's lookup count was incremented.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The node id.
    pub node: NodeId,
    /// Distinguishes the inode from others that had or will have the node id.
    ///
    /// See [`Inode::generation`](crate::source::Inode::generation).
    pub generation: u32,
    /// The attributes.
    pub attr: Attr,
    /// How long the kernel may cache the name.
    pub name: CacheValidity,
}

/// The result of a lookup.
#[derive(Debug, Clone, Copy)]
pub enum Lookup {
    /// The name exists.
    Found(Entry),
    /// There is no such name; how long the kernel may cache that (negative dentry).
    Missing(CacheValidity),
}

/// What a rename changed besides the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Nothing that the kernel does not know.
    Alone,
    /// The paths of names below a directory, some of which may be excluded now, or no longer.
    WithPaths,
}

/// An inode to create: its place, and the mode that the caller asks for.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name in it.
    pub name: &'a OsStr,
    /// File type and permission bits (`st_mode`).
    pub mode: u32,
    /// The caller's umask, which a default ACL of the directory overrides.
    pub umask: u32,
}

/// A time to set (utimensat(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The current time of the source.
    Now,
    /// This time.
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
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// The kernel asks to clear setuid and setgid bits (FATTR_KILL_SUIDGID): with a length, the caller lacks CAP_FSETID.
    pub kills_suidgid: bool,
}

impl SetAttr {
    /// Returns whether it changes nothing, apart from setuid and setgid bits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { mode, uid, gid, size, atime, mtime, kills_suidgid: _ } = self;
        mode.is_none()
            && uid.is_none()
            && gid.is_none()
            && size.is_none()
            && atime.is_none()
            && mtime.is_none()
    }
}

impl Attr {
    /// Returns the attributes of a source inode as the view shows them.
    ///
    /// The kernel must not cache those of a file with setuid or setgid bits: a write may clear the bits on the source
    /// without the daemon noticing, and the kernel must not execute the file with bits that are gone.
    #[must_use]
    pub fn shown(
        ino: u64,
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
            validity: if privileged { validity.min(CacheValidity::Uncached) } else { validity },
            ino,
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

/// Returns owner, type and permissions of a source inode.
pub(super) fn stored(stat: &Statx) -> SourceAttr {
    let mode = u32::from(stat.stx_mode);
    SourceAttr {
        uid: SourceUid::new(stat.stx_uid),
        gid: SourceGid::new(stat.stx_gid),
        kind: FileType::from_raw_mode(mode),
        mode: mode & 0o7777,
    }
}

/// Encodes a device number in the 32 bits that FUSE has for it (Linux `new_encode_dev`).
#[must_use]
pub fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// Decodes such a number into major and minor (Linux `new_decode_dev`).
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
