//! The mount table: identifies this process's mount, finds its mount point, and unmounts exactly that mount.
//!
//! A path does not identify a mount: another mount may cover it or have replaced it. So the mount is identified by the
//! kernel's mount id, which is compared before every unmount.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{UnmountFlags, unmount};

use crate::sys::mount::unescape;

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

impl MountIdentity {
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

    /// The topmost mount at a path.
    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        Self::ask(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn ask(dir: impl AsFd, path: &std::ffi::CStr, flags: AtFlags) -> io::Result<Self> {
        let flags = flags | NO_SERVER_REQUEST;
        let stat = statx(dir.as_fd(), path, flags, StatxFlags::MNT_ID)?;
        let unique = statx(dir.as_fd(), path, flags, MNT_ID_UNIQUE)?;
        Ok(Self {
            id: stat.stx_mnt_id,
            unique: (unique.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(unique.stx_mnt_id),
            device: (stat.stx_dev_major, stat.stx_dev_minor),
        })
    }

    /// The current mount point in this process's mount namespace. `None`: it is not mounted there.
    pub(super) fn mountpoint(&self) -> io::Result<Option<PathBuf>> {
        let table = read_mountinfo()?;
        Ok(table
            .into_iter()
            .find(|m| m.id == self.id && m.device == self.device)
            .map(|m| m.mountpoint))
    }

    /// The mount id that is never reused. `None` before Linux 6.8.
    pub(super) fn unique(&self) -> Option<u64> {
        self.unique
    }

    /// Whether this is a FUSE mount.
    pub(super) fn is_fuse(&self) -> io::Result<bool> {
        Ok(read_mountinfo()?
            .iter()
            .any(|m| m.id == self.id && m.device == self.device && m.is_fuse))
    }

    /// Whether the kernel checks permissions: always, except on FUSE mounts without `default_permissions`.
    pub(super) fn kernel_checks(&self) -> io::Result<bool> {
        let is_it = |m: &MountInfo| m.id == self.id && m.device == self.device;
        Ok(read_mountinfo()?.iter().any(|m| is_it(m) && m.kernel_checks))
    }

    /// Whether the filesystem has `sync`, and whether `dirsync`. Neither if it is not in this mount namespace.
    pub(super) fn write_through(&self) -> io::Result<(bool, bool)> {
        let is_it = |m: &MountInfo| m.id == self.id && m.device == self.device;
        let found = read_mountinfo()?.into_iter().find(is_it);
        Ok(found.map_or((false, false), |m| (m.sync, m.dirsync)))
    }

    /// The user who made the FUSE mount (`user_id`). `None`: it is no FUSE mount, or not in this mount namespace.
    pub(super) fn mounter(&self) -> io::Result<Option<u32>> {
        let table = read_mountinfo()?;
        let ours = table.into_iter().find(|m| m.id == self.id && m.device == self.device);
        Ok(ours.filter(|m| m.is_fuse).and_then(|m| m.mounter))
    }

    /// Whether the mount has this type and this source column.
    pub(super) fn is(&self, fs_type: &[u8], source: &OsStr) -> io::Result<bool> {
        let is_it = |m: &MountInfo| m.id == self.id && m.device == self.device;
        let table = read_mountinfo()?;
        Ok(table.iter().any(|m| is_it(m) && m.fs_type == fs_type && m.source == source))
    }

    /// All mount points of the filesystem, bind mounts included.
    pub(super) fn all_mountpoints(&self) -> io::Result<Vec<PathBuf>> {
        let table = read_mountinfo()?;
        Ok(table.into_iter().filter(|m| m.device == self.device).map(|m| m.mountpoint).collect())
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

/// The fields of a line of /proc/self/mountinfo that are used here (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct MountInfo {
    id: u64,
    device: (u32, u32),
    mountpoint: PathBuf,
    is_fuse: bool,
    /// The filesystem type.
    fs_type: Vec<u8>,
    /// The source column.
    source: OsString,
    /// Whether the kernel checks permissions: `default_permissions` on a FUSE mount; always on others.
    kernel_checks: bool,
    /// `user_id` of a FUSE mount.
    mounter: Option<u32>,
    sync: bool,
    dirsync: bool,
}

fn read_mountinfo() -> io::Result<Vec<MountInfo>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_line).collect())
}

/// Parses `36 35 98:0 /root /mnt\040point options [optional fields] - type source superoptions`.
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let device = fields.nth(1)?;
    let colon = device.iter().position(|b| *b == b':')?;
    let device = (
        number(&device[..colon])?.try_into().ok()?,
        number(&device[colon + 1..])?.try_into().ok()?,
    );
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    // A dash ends the optional fields.
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = fields.next()?;
    let is_fuse = fs_type == b"fuse" || fs_type.starts_with(b"fuse.");
    let source = OsString::from_vec(unescape(fields.next().unwrap_or_default()));
    let options = fields.next().unwrap_or_default();
    let user = options.split(|b| *b == b',').find_map(|word| word.strip_prefix(b"user_id="));
    let mounter = user.and_then(number).and_then(|id| id.try_into().ok());
    let has = |option: &[u8]| options.split(|b| *b == b',').any(|word| word == option);
    let kernel_checks = !is_fuse || has(b"default_permissions");
    Some(MountInfo {
        id,
        device,
        mountpoint,
        is_fuse,
        fs_type: fs_type.to_owned(),
        source,
        kernel_checks,
        mounter,
        sync: has(b"sync"),
        dirsync: has(b"dirsync"),
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_read() {
        let line = br"36 35 0:98 / /mnt/a\040b\012c\134d rw,nosuid shared:1 - fuse.shiftbind /a,b rw,dirsync,user_id=0";
        assert_eq!(
            parse_line(line),
            Some(MountInfo {
                id: 36,
                device: (0, 98),
                mountpoint: PathBuf::from("/mnt/a b\nc\\d"),
                is_fuse: true,
                fs_type: b"fuse.shiftbind".to_vec(),
                source: "/a,b".into(),
                kernel_checks: false,
                mounter: Some(0),
                sync: false,
                dirsync: true
            })
        );
    }

    #[test]
    fn a_broken_line_is_skipped() {
        for line in [&b""[..], b"x", b"36 35", b"36 35 98 / /mnt", b"36 35 0:x / /mnt"] {
            assert_eq!(parse_line(line), None);
        }
    }

    #[test]
    fn a_backslash_that_starts_no_escape_stays() {
        assert_eq!(unescape(br"a\b\0"), br"a\b\0");
    }

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
    fn a_mount_that_is_gone_is_nowhere_and_unmounting_it_does_nothing() {
        let gone = MountIdentity { id: u64::from(u32::MAX), unique: Some(7), device: (0, 1) };
        assert_eq!(gone.mountpoint().unwrap(), None);
        gone.unmount(false).unwrap();
    }
}
