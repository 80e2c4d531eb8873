//! The structures of requests (`fuse_…_in`) and replies (`fuse_…_out`), with the field names of linux/fuse.h.
//!
//! `typ` stands for `type`, which Rust reserves.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Defines structures that the kernel sends.
macro_rules! sent {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type),* }
    )*};
}

/// Defines structures that the server sends.
macro_rules! answered {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type),* }
    )*};
}

sent! {
    /// The header of each request. `len` counts all of it, in bytes, this header too.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64,
        uid: u32, gid: u32, pid: u32, total_extlen: u16, padding: u16,
    }
    /// Since Linux 5.17 a second word of flags follows.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    ForgetIn { nlookup: u64 }
    BatchForgetIn { count: u32, dummy: u32 }
    ForgetOne { nodeid: u64, nlookup: u64 }
    SetAttrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64,
        atime: i64, mtime: i64, ctime: i64, atimensec: u32, mtimensec: u32, ctimensec: u32,
        mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MkdirIn { mode: u32, umask: u32 }
    RenameIn { newdir: u64 }
    Rename2In { newdir: u64, flags: u32, padding: u32 }
    LinkIn { oldnodeid: u64 }
    OpenIn { flags: u32, open_flags: u32 }
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    ReadIn {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteIn {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    FsyncIn { fh: u64, flags: u32, padding: u32 }
    SetXattrIn { size: u32, flags: u32 }
    /// What follows [`SetXattrIn`] with FUSE_SETXATTR_EXT.
    SetXattrExt { setxattr_flags: u32, padding: u32 }
    GetXattrIn { size: u32, padding: u32 }
    LockIn { fh: u64, owner: u64, start: u64, end: u64, typ: u32, pid: u32, lk_flags: u32, padding: u32 }
    InterruptIn { unique: u64 }
    AccessIn { mask: u32, padding: u32 }
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    CopyFileRangeIn {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
}

answered! {
    /// The header of each reply and notification. `error` is 0 or a negated errno; in a notification, its code.
    OutHeader { len: u32, error: i32, unique: u64 }
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32,
        max_background: u16, congestion_threshold: u16, max_write: u32, time_gran: u32,
        max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        request_timeout: u16, unused: [u16; 11],
    }
    /// `struct fuse_attr`.
    FuseAttr {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64,
        atimensec: u32, mtimensec: u32, ctimensec: u32,
        mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: FuseAttr }
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64,
        entry_valid_nsec: u32, attr_valid_nsec: u32, attr: FuseAttr,
    }
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    CreateOut { entry: EntryOut, open: OpenOut }
    WriteOut { size: u32, padding: u32 }
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        bsize: u32, namelen: u32, frsize: u32, padding: u32, spare: [u32; 6],
    }
    GetXattrOut { size: u32, padding: u32 }
    LockOut { start: u64, end: u64, typ: u32, pid: u32 }
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    LseekOut { offset: i64 }
    /// `struct fuse_dirent`, without the name that follows.
    FuseDirent { ino: u64, off: u64, namelen: u32, typ: u32 }
    InvalInodeOut { ino: u64, off: i64, len: i64 }
    InvalEntryOut { parent: u64, namelen: u32, flags: u32 }
    /// `struct fuse_notify_prune_out`, without the node ids that follow.
    PruneOut { count: u32, padding: u32, spare: u64 }
}

/// Which fields of [`SetAttrIn`] are set (`FATTR_…`).
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FUSE_READ_LOCKOWNER`: `lock_owner` is set. Without it the page cache reads.
pub const READ_LOCKOWNER: u32 = 1 << 1;
/// `FUSE_WRITE_…`.
pub mod write {
    /// The page cache writes back; which process wrote is not known.
    pub const CACHE: u32 = 1 << 0;
    /// `lock_owner` is set.
    pub const LOCKOWNER: u32 = 1 << 1;
    /// The write clears the setuid and setgid bits.
    pub const KILL_SUIDGID: u32 = 1 << 2;
}
/// `FUSE_SETXATTR_ACL_KILL_SGID`: the access ACL clears the setgid bit.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// `FUSE_FSYNC_FDATASYNC`.
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `FUSE_LK_FLOCK`: flock(2), not a lock of a range.
pub const LK_FLOCK: u32 = 1 << 0;
/// `FUSE_IOCTL_…`.
pub mod ioctl {
    /// From a 32-bit program.
    pub const COMPAT: u32 = 1 << 0;
    /// On a directory.
    pub const DIR: u32 = 1 << 4;
}
/// `FOPEN_…`: how the kernel treats an open file.
pub mod fopen {
    /// Bypass the page cache.
    pub const DIRECT_IO: u32 = 1 << 0;
    /// Keep the file's pages in the page cache.
    pub const KEEP_CACHE: u32 = 1 << 1;
    /// Send no FLUSH at close(2).
    pub const NOFLUSH: u32 = 1 << 5;
    /// Read and write the backing file without the server.
    pub const PASSTHROUGH: u32 = 1 << 7;
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    #[test]
    fn the_sizes_are_the_kernels() {
        // From a C program with sizeof of each structure in linux/fuse.h.
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<InitIn>(), 16);
        assert_eq!(size_of::<SetAttrIn>(), 88);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<WriteIn>(), 40);
        assert_eq!(size_of::<LockIn>(), 48);
        assert_eq!(size_of::<IoctlIn>(), 32);
        assert_eq!(size_of::<CopyFileRangeIn>(), 56);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<OpenOut>(), 16);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<LockOut>(), 24);
        assert_eq!(size_of::<FuseDirent>(), 24);
    }
}
