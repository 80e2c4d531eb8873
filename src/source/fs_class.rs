//! Classifies filesystems below the source: those that store files are shown, pseudo-filesystems are hidden.
//!
//! procfs, sysfs, cgroupfs, devpts and the like check the process that opens or writes a file, not only its owner and
//! mode (`proc_sys_permission`, `cgroup_procs_write_permission`, `ptrace_may_access`). Through the mount that process
//! is the daemon, so a client would act with the daemon's privileges. There is no list of all pseudo-filesystems: a
//! filesystem counts as one if it has no block device and is not listed below.

/// Filesystems that store files without a block device: superblock magic (statfs(2)) and names (filesystems(5)).
///
/// From linux/magic.h, except where noted.
const NO_BLOCK_DEVICE: &[(i64, &[&str])] = &[
    // In memory. devtmpfs is a tmpfs.
    (0x0102_1994, &["tmpfs", "devtmpfs"]),
    (0x8584_58f6, &["ramfs"]),
    // Stacked on other filesystems.
    (0x794c_7630, &["overlay"]),
    (0xf15f, &["ecryptfs"]),
    (0x6175_6673, &["aufs"]), // aufs_type.h, out of tree
    // On image files and flash memory.
    (0xe0f5_e1e2, &["erofs"]),
    (0x2405_1905, &["ubifs"]), // fs/ubifs/ubifs.h
    (0x72b6, &["jffs2"]),
    // On several devices; the superblock has an anonymous device number.
    (0x9123_683e, &["btrfs"]),
    (0xca45_1a4e, &["bcachefs"]), // fs/bcachefs/bcachefs_format.h
    (0x2fc1_2fc1, &["zfs"]),      // OpenZFS sys/zfs_vfsops.h
    // Shared folders of a virtual machine's host.
    (0x786f_4256, &["vboxsf"]), // fs/vboxsf/super.c
    (0xbacb_acbc, &["vmhgfs"]), // coreutils src/stat.c
    (0x00c0_ffee, &["hostfs"]),
    // No files, only mount points.
    (0x0187, &["autofs"]),
];

/// FUSE_SUPER_MAGIC of statfs(2).
pub(super) const FUSE_MAGIC: i64 = 0x6573_5546;

/// Filesystems whose server gets the ids of the caller and may check them.
const SERVER_BACKED: &[(i64, &[&str])] = &[
    (FUSE_MAGIC, &["fuse", "fuseblk", "virtiofs"]),
    // Network filesystems.
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

/// What decides on access to the files of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsClass {
    /// The owners and modes of its files.
    Local,
    /// A server, which may check the ids of the caller whatever capabilities the caller has.
    ServerBacked,
    /// The process that opens the file: a pseudo-filesystem.
    Pseudo,
}

impl FsClass {
    /// Classifies by superblock magic and major device number, which is 0 without a block device.
    #[must_use]
    pub fn of(magic: i64, major: u32) -> Self {
        let has = |list: &[(i64, _)]| list.iter().any(|(known, _)| *known == magic);
        Self::listed_or_by_device(has(SERVER_BACKED), has(NO_BLOCK_DEVICE), major)
    }

    /// Classifies by the name in the mount table, which may have a subtype (`fuse.sshfs`).
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
            ("fuse.a.b", FUSE_MAGIC, FsClass::ServerBacked),
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
