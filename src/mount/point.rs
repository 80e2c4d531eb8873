//! The mount point: resolved once, as mount(8) resolves it, and held as a descriptor.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx,
};

use crate::error::{Error, Result};

/// A mount point.
#[derive(Debug)]
pub struct MountPoint {
    fd: OwnedFd,
    path: PathBuf,
    is_dir: bool,
}

impl MountPoint {
    /// Resolves the path, relative to the working directory, and follows symbolic links.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| {
            let mut what = format!("mount point {}", path.display());
            if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) {
                what.push_str(" holds a mount whose server died; umount it first");
            }
            Error::mount(what, e)
        };
        let fd = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed(e.into()))?;
        // AT_STATX_FORCE_SYNC: cached attributes would hide that the server of a mount there has died, and the new
        // mount would cover it.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        let stat = statx(&fd, c"", flags, StatxFlags::TYPE).map_err(|e| failed(e.into()))?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        Ok(Self { fd, path, is_dir })
    }

    /// The inode number of the directory or file there, as the kernel has it cached: no server is asked.
    pub fn inode_number(&self) -> std::io::Result<u64> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        Ok(statx(&self.fd, c"", flags, StatxFlags::INO)?.stx_ino)
    }

    /// Whether a mount begins there. No server is asked.
    pub fn is_root_of_mount(&self) -> std::io::Result<bool> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&self.fd, c"", flags, StatxFlags::empty())?;
        Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// Refuses to mount a directory on a file or a file on a directory, as the kernel does (Linux `do_move_mount`).
    pub fn check_kind(&self, source: &Path, source_is_dir: bool) -> Result<()> {
        let (point, source) = (self.path.display(), source.display());
        match (source_is_dir, self.is_dir) {
            (true, false) => Err(Error::refused(format!(
                "mount point {point} is not a directory, but the source {source} is: name a directory to mount on"
            ))),
            (false, true) => Err(Error::refused(format!(
                "mount point {point} is a directory, but the source {source} is a file: name a file to mount on \
                 (an empty one will do)"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a mount point that equals, contains or lies in the source: the source's path would then lead to the
    /// mount.
    pub fn check_disjoint(&self, source: &Path) -> Result<()> {
        let real = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
        if self.path.starts_with(&real) || real.starts_with(&self.path) {
            return Err(Error::refused(format!(
                "option 'follow-source': mount point {} and source {} lie in each other: mount elsewhere",
                self.path.display(),
                source.display()
            )));
        }
        Ok(())
    }

    /// The path, absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for MountPoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
