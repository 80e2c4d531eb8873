//! The mount table: identifies this process's mount, finds its mount point, and unmounts exactly that mount.
//!
//! A path does not identify a mount: another mount may cover it or have replaced it. So the mount is identified by the
//! kernel's mount id, which is compared before every unmount.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::sys::mountinfo::{self, MountInfo};

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): a mount id that is never reused.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Flags under which statx(2) sends no request to a FUSE server: it could be this process's own.
const NO_SERVER_REQUEST: AtFlags = AtFlags::STATX_DONT_SYNC.union(AtFlags::NO_AUTOMOUNT);

/// The identity of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MountIdentity {
    /// The mount id in /proc/self/mountinfo, which the kernel reuses after the mount is gone.
    id: u64,
    /// The mount id that is never reused, where the kernel has it.
    unique: Option<u64>,
    /// The filesystem's device number.
    device: (u32, u32),
}

/// Whether a mount on this mount point will arrive in other mount namespaces as well. `None`: it cannot be told.
#[must_use]
pub fn propagates(mountpoint: &Path) -> Option<bool> {
    let below = MountIdentity::of_path(mountpoint).ok()?;
    let table = mountinfo::read().ok()?;
    table.iter().find(|line| line.id == below.id).map(|line| line.is_shared)
}

impl MountIdentity {
    /// The filesystem's device number.
    pub(super) fn device(&self) -> (u32, u32) {
        self.device
    }

    /// Whether both are one mount as far as /proc/self/mountinfo tells, where the kernel may have reused a number.
    pub(super) fn has_number_of(&self, other: &Self) -> bool {
        (self.id, self.device) == (other.id, other.device)
    }

    /// The mount of a line of the table, without the number that is never reused, which the table lacks.
    pub(super) fn of_line(line: &MountInfo) -> Self {
        Self { id: line.id, unique: None, device: line.device }
    }

    /// The mount of a line of the table, with the number that is never reused where no other mount covers it.
    pub(super) fn of_table(line: &MountInfo) -> Self {
        let identity = Self::of_line(line);
        let top = Self::of_path(Path::new(OsStr::from_bytes(&line.mountpoint)));
        let top = top.ok().filter(|top| top.id == line.id);
        Self { unique: top.and_then(|top| top.unique), ..identity }
    }

    /// The mount that a descriptor is on.
    pub(super) fn of_descriptor(fd: impl AsFd) -> io::Result<Self> {
        Self::ask(fd, c"", AtFlags::EMPTY_PATH)
    }

    /// Formats the identity as four numbers. The second is `-` if the kernel has no unique id.
    pub(super) fn to_text(self) -> String {
        let unique = self.unique.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("{} {unique} {} {}", self.id, self.device.0, self.device.1)
    }

    /// Parses [`Self::to_text`].
    pub(super) fn from_text(words: &str) -> Option<Self> {
        let words: Vec<&str> = words.split(' ').collect();
        let [id, unique, major, minor] = words.as_slice() else { return None };
        let unique = if *unique == "-" { None } else { Some(unique.parse().ok()?) };
        let device = (major.parse().ok()?, minor.parse().ok()?);
        Some(Self { id: id.parse().ok()?, unique, device })
    }

    /// The mount id in /proc/self/mountinfo.
    pub(super) fn id(self) -> u64 {
        self.id
    }

    /// The topmost mount at a path.
    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        Self::ask(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The topmost mount at a name in a directory.
    pub(super) fn of_name(dir: impl AsFd, name: &std::ffi::CStr) -> io::Result<Self> {
        Self::ask(dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The mount of what a link in /proc/PID leads to.
    pub(super) fn behind(link: &Path) -> io::Result<Self> {
        let link = std::ffi::CString::new(link.as_os_str().as_bytes())?;
        Self::ask(CWD, &link, AtFlags::empty())
    }

    /// Whether both are one mount, by the id that is never reused, or by the device where one of them lacks that id. The
    /// table and statx(2) name different devices for a subvolume of btrfs.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.id == other.id
            && match self.unique.zip(other.unique) {
                Some((one, other)) => one == other,
                None => self.device == other.device,
            }
    }

    fn ask(dir: impl AsFd, path: &std::ffi::CStr, flags: AtFlags) -> io::Result<Self> {
        let flags = flags | NO_SERVER_REQUEST;
        // The kernel tells the mount id without being asked, and FUSE answers a request for nothing also to users that the
        // server does not serve (Linux `fuse_getattr`).
        let stat = statx(dir.as_fd(), path, flags, StatxFlags::empty())?;
        let unique = match statx(dir.as_fd(), path, flags, MNT_ID_UNIQUE) {
            Err(Errno::ACCESS) => None,
            unique => Some(unique?).filter(|stat| stat.stx_mask & MNT_ID_UNIQUE.bits() != 0),
        };
        Ok(Self {
            id: stat.stx_mnt_id,
            unique: unique.map(|stat| stat.stx_mnt_id),
            device: (stat.stx_dev_major, stat.stx_dev_minor),
        })
    }

    /// The mount's line in the mount table. `None`: it is not in this process's mount namespace.
    fn info(&self) -> io::Result<Option<MountInfo>> {
        let mut table = mountinfo::read()?.into_iter();
        Ok(table.find(|mount| mount.id == self.id && mount.device == self.device))
    }

    /// The current mount point in this process's mount namespace. `None`: it is not mounted there.
    pub(super) fn mountpoint(&self) -> io::Result<Option<PathBuf>> {
        Ok(self.info()?.map(path_of))
    }

    /// The mount id that is never reused. `None` before Linux 6.8.
    pub(super) fn unique(&self) -> Option<u64> {
        self.unique
    }

    /// Whether this is a FUSE mount.
    pub(super) fn is_fuse(&self) -> io::Result<bool> {
        Ok(self.info()?.as_ref().is_some_and(is_fuse))
    }

    /// Whether the kernel checks permissions: always, except on FUSE mounts without `default_permissions`.
    pub(super) fn kernel_checks(&self) -> io::Result<bool> {
        let checks =
            |mount: MountInfo| !is_fuse(&mount) || mount.has_super_option("default_permissions");
        Ok(self.info()?.is_some_and(checks))
    }

    /// Whether the filesystem has `sync`, and whether `dirsync`. Neither if it is not in this mount namespace.
    pub(super) fn write_through(&self) -> io::Result<(bool, bool)> {
        let has =
            |mount: MountInfo| (mount.has_super_option("sync"), mount.has_super_option("dirsync"));
        Ok(self.info()?.map_or((false, false), has))
    }

    /// The user who made the FUSE mount (`user_id`). `None`: it is no FUSE mount, or not in this mount namespace.
    pub(super) fn mounter(&self) -> io::Result<Option<u32>> {
        Ok(self.info()?.filter(is_fuse).as_ref().and_then(mounter))
    }

    /// Whether the mount has this type and this source column.
    pub(super) fn is(&self, fs_type: &[u8], source: &OsStr) -> io::Result<bool> {
        let is_it =
            |mount: MountInfo| mount.fs_type == fs_type && mount.source == source.as_bytes();
        Ok(self.info()?.is_some_and(is_it))
    }

    /// All mount points of the filesystem, bind mounts included.
    pub(super) fn all_mountpoints(&self) -> io::Result<Vec<PathBuf>> {
        let table = mountinfo::read()?.into_iter();
        Ok(table.filter(|mount| mount.device == self.device).map(path_of).collect())
    }

    /// The mount point, if this mount is the topmost there. `None`: the mount is gone.
    ///
    /// # Errors
    /// An error that names the mount point if another mount covers this one.
    pub(super) fn reachable_mountpoint(&self) -> io::Result<Option<PathBuf>> {
        let Some(mountpoint) = self.mountpoint()? else { return Ok(None) };
        let on_top = Self::of_path(&mountpoint)?;
        if on_top == *self {
            Ok(Some(mountpoint))
        } else if self.unique.is_some() && on_top.id == self.id && on_top.device == self.device {
            // The mount is gone, and the kernel has reused its id.
            Ok(None)
        } else {
            Err(io::Error::other(format!(
                "another filesystem is mounted over it at {}",
                mountpoint.display()
            )))
        }
    }

    /// Unmounts this mount if it still exists. `lazy` detaches it while it is in use (MNT_DETACH).
    pub(super) fn unmount(&self, lazy: bool) -> io::Result<()> {
        let Some(mountpoint) = self.reachable_mountpoint()? else { return Ok(()) };
        let flags = UnmountFlags::NOFOLLOW
            | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        Ok(unmount(mountpoint, flags)?)
    }
}

/// Whether this is a mount of a FUSE filesystem.
pub(super) fn is_fuse(mount: &MountInfo) -> bool {
    mount.fs_type == b"fuse" || mount.fs_type.starts_with(b"fuse.")
}

/// The user who made a FUSE mount (`user_id`).
pub(super) fn mounter(mount: &MountInfo) -> Option<u32> {
    let mut options = mount.super_options.split(|byte| *byte == b',');
    let id = options.find_map(|word| word.strip_prefix(b"user_id="))?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

fn path_of(mount: MountInfo) -> PathBuf {
    PathBuf::from(OsString::from_vec(mount.mountpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_in_the_real_table() {
        let root = MountIdentity::of_path(Path::new("/")).unwrap();
        assert_eq!(root.reachable_mountpoint().unwrap(), Some(PathBuf::from("/")));
    }

    #[test]
    fn an_identity_survives_printing_and_parsing() {
        for unique in [None, Some(u64::MAX)] {
            let identity = MountIdentity { id: 36, unique, device: (0, 98) };
            assert_eq!(MountIdentity::from_text(&identity.to_text()), Some(identity));
        }
        for words in ["", "1 2 3", "1 2 3 x", "- 2 3 4", "1 2 3 4 5"] {
            assert_eq!(MountIdentity::from_text(words), None, "{words}");
        }
    }

    #[test]
    fn a_fuse_mount_names_the_user_who_made_it() {
        let line = b"36 35 0:98 / /mnt rw - fuse.shiftbind /a rw,user_id=1000,group_id=0";
        let fuse = MountInfo::parse(line).unwrap();
        assert!(is_fuse(&fuse));
        assert_eq!(mounter(&fuse), Some(1000));
        assert!(!is_fuse(&MountInfo { fs_type: b"fuseblk".to_vec(), ..fuse }));
    }

    #[test]
    fn a_mount_that_is_gone_is_nowhere_and_unmounting_it_does_nothing() {
        let gone = MountIdentity { id: u64::from(u32::MAX), unique: Some(7), device: (0, 1) };
        assert_eq!(gone.mountpoint().unwrap(), None);
        gone.unmount(false).unwrap();
    }
}
