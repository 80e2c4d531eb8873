//! The mount point: resolved once, as mount(8) resolves it, and held as a descriptor.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags, access, openat,
    statx,
};
use rustix::io::Errno;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::namespace::{Make, Namespace, Target, error, make_here};

/// A mount point.
#[derive(Debug)]
pub struct MountPoint {
    fd: OwnedFd,
    path: PathBuf,
    is_dir: bool,
    namespace: Option<Namespace>,
}

impl MountPoint {
    /// Opens the mount point of a configuration, in its namespace. Where it is missing and `mkdir` was given, it is made: a
    /// directory, or a file if the source is one.
    ///
    /// # Errors
    /// It does not exist, or cannot be made; the namespace cannot be entered.
    pub fn of(config: &Config, source_is_dir: bool) -> Result<Self> {
        let make = if source_is_dir { Make::Directory } else { Make::File };
        Self::open_or_make(config, config.mkdir.then_some(make))
    }

    /// As [`Self::of`], but makes nothing. `None`: it would be made, for which this process has the right.
    ///
    /// # Errors
    /// Those of [`Self::of`].
    pub fn existing(config: &Config) -> Result<Option<Self>> {
        match Self::open_or_make(config, None) {
            Err(e) if config.mkdir && e.errno() == Some(libc::ENOENT) => {
                if config.namespace.is_none() {
                    check_can_make(&config.mountpoint)?;
                }
                Ok(None)
            }
            Err(e)
                if config.mkdir
                    && config.namespace.is_none()
                    && e.errno() == Some(libc::ENOTDIR) =>
            {
                Err(cannot_make(&config.mountpoint, Errno::NOTDIR.into()))
            }
            opened => opened.map(Some),
        }
    }

    fn open_or_make(config: &Config, make: Option<Make>) -> Result<Self> {
        let path = &config.mountpoint;
        let Some(namespace) = &config.namespace else {
            if let Some(make) = make {
                make_here(path, make).map_err(|e| cannot_make(path, e))?;
            }
            return Self::open(path);
        };
        let target = Target { root: namespace.root.as_deref(), path, make };
        let namespace = Namespace::of_config(namespace)?;
        let found = namespace.resolve(target).map_err(error)?;
        Ok(Self {
            fd: found.fd,
            path: found.path,
            is_dir: found.is_dir,
            namespace: Some(namespace),
        })
    }

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
        Ok(Self { fd, path, is_dir, namespace: None })
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

    /// The namespace that it is in, if `namespace` was given.
    pub(super) fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// Whether it is a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// The path, absolute and without symbolic links. In another namespace: from that namespace's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a path whose nearest directory that exists may not be written.
fn check_can_make(path: &Path) -> Result<()> {
    let parents = path.ancestors().skip(1);
    let mut parents = parents.map(|at| if at.as_os_str().is_empty() { Path::new(".") } else { at });
    let Some(parent) = parents.find(|at| at.exists()) else { return Ok(()) };
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    access(parent, wanted).map_err(|e| cannot_make(path, e.into()))
}

fn cannot_make(path: &Path, error: io::Error) -> Error {
    Error::mount(format!("option 'mkdir': cannot make {}", path.display()), error)
}

impl AsFd for MountPoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
