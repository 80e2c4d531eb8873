//! Which file systems below the source are shown: those that hold files, and not those through which the kernel is run.
//!
//! procfs, sysfs, cgroupfs, devpts and their kind judge the process that opens or writes a file, not its owner and mode
//! alone (`proc_sys_permission`, `cgroup_procs_write_permission`, `ptrace_may_access`). At the mount that process is the
//! daemon, so a client would get what the daemon may do. They are recognised by what they are not: no block device holds
//! them, and they are none of the file systems below that have none either. A file system that is not known is hidden.

/// File systems that hold files without a block device: superblock magic (statfs(2)) and names (filesystems(5)).
///
/// From linux/magic.h, except where noted.
const NO_BLOCK_DEVICE: &[(i64, &[&str])] = &[
    // In memory. devtmpfs is a tmpfs.
    (0x0102_1994, &["tmpfs", "devtmpfs"]),
    (0x8584_58f6, &["ramfs"]),
    // On other file systems.
    (0x794c_7630, &["overlay"]),
    (0xf15f, &["ecryptfs"]),
    (0x6175_6673, &["aufs"]), // aufs_type.h, out of tree
    // Image files and flash memory.
    (0xe0f5_e1e2, &["erofs"]),
    (0x2405_1905, &["ubifs"]), // fs/ubifs/ubifs.h
    (0x72b6, &["jffs2"]),
    // On several devices, with a device number that stands for none of them.
    (0x9123_683e, &["btrfs"]),
    (0xca45_1a4e, &["bcachefs"]), // fs/bcachefs/bcachefs_format.h
    (0x2fc1_2fc1, &["zfs"]),      // OpenZFS sys/zfs_vfsops.h
    // Of a virtual machine's host.
    (0x786f_4256, &["vboxsf"]), // fs/vboxsf/super.c
    (0xbacb_acbc, &["vmhgfs"]), // coreutils src/stat.c
    (0x00c0_ffee, &["hostfs"]),
    // It has no files, only places at which others are mounted.
    (0x0187, &["autofs"]),
];

/// The same with a server that is told the ids of who asks, and may judge by them.
const SERVER_BACKED: &[(i64, &[&str])] = &[
    (0x6573_5546, &["fuse", "fuseblk", "virtiofs"]),
    // Over a network.
    (0x6969, &["nfs", "nfs4"]),
    (0xff53_4d42, &["cifs", "smb3"]),
    (0xfe53_4d42, &[]),
    (0x517b, &["smbfs"]),
    (0x00c3_6400, &["ceph"]),
    (0x5346_414f, &["afs"]),
    (0x6b41_4653, &["afs"]),
    (0x7375_7245, &["coda"]),
    (0x564c, &["ncpfs"]),
    (0x0102_1997, &["9p"]),
    (0x2003_0528, &["pvfs2"]),  // fs/orangefs/orangefs-kernel.h
    (0x0bd0_0bd0, &["lustre"]), // coreutils src/stat.c, as the next ones
    (0x4750_4653, &["gpfs"]),
    (0x1983_0326, &["beegfs"]),
];

/// Whether a file system holds files for whoever may have them, or is a part of the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsClass {
    /// It holds files, and judges by their owners and modes.
    Local,
    /// It holds files, and has a server that may judge who asks by his ids, whatever capabilities he has.
    ServerBacked,
    /// It judges the process that opens a file: a pseudo-filesystem.
    Pseudo,
}

impl FsClass {
    /// By the superblock's magic and the major number of its device; 0 is that of no device.
    #[must_use]
    pub fn of(magic: i64, major: u32) -> Self {
        let has = |list: &[(i64, _)]| list.iter().any(|(known, _)| *known == magic);
        Self::listed_or_by_device(has(SERVER_BACKED), has(NO_BLOCK_DEVICE), major)
    }

    /// By the name in the mount table, which may have a subtype (`fuse.sshfs`).
    #[must_use]
    pub fn of_name(name: &[u8], major: u32) -> Self {
        let name = name.split(|byte| *byte == b'.').next().unwrap_or_default();
        let has = |list: &[(i64, &[&str])]| {
            list.iter().flat_map(|(_, names)| names.iter()).any(|known| known.as_bytes() == name)
        };
        Self::listed_or_by_device(has(SERVER_BACKED), has(NO_BLOCK_DEVICE), major)
    }

    fn listed_or_by_device(is_server_backed: bool, is_local: bool, major: u32) -> Self {
        match (is_server_backed, is_local || major != 0) {
            (true, _) => Self::ServerBacked,
            (false, true) => Self::Local,
            (false, false) => Self::Pseudo,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_filesystem_without_a_device_is_pseudo() {
        for (name, magic) in [("proc", 0x9fa0), ("sysfs", 0x6265_6572), ("new", 0x1234_5678)] {
            assert_eq!(FsClass::of(magic, 0), FsClass::Pseudo, "{name}");
            assert_eq!(FsClass::of_name(name.as_bytes(), 0), FsClass::Pseudo, "{name}");
        }
        for (name, magic, class) in [
            ("tmpfs", 0x0102_1994, FsClass::Local),
            ("nfs4", 0x6969, FsClass::ServerBacked),
            ("fuse.a.b", 0x6573_5546, FsClass::ServerBacked),
        ] {
            assert_eq!(FsClass::of(magic, 0), class, "{name}");
            assert_eq!(FsClass::of_name(name.as_bytes(), 0), class, "{name}");
        }
        assert_eq!(FsClass::of_name(b"fuseblk", 8), FsClass::ServerBacked);
    }

    #[test]
    fn an_unlisted_filesystem_on_a_block_device_is_local() {
        assert_eq!(FsClass::of(0x1234_5678, 8), FsClass::Local);
        assert_eq!(FsClass::of_name(b"new", 8), FsClass::Local);
    }
}
