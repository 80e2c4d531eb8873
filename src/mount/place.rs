//! A name in a directory that is held open: what is mounted there is looked at and unmounted at the same place, whatever
//! happens to the path meanwhile.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{UnmountFlags, unmount};

use super::table::MountIdentity;

/// A place where something may be mounted. The directory that has it is held open, and so is no mount there.
#[derive(Debug)]
pub(super) struct Place {
    parent: OwnedFd,
    name: OsString,
}

impl Place {
    /// Opens the place at an absolute path without symbolic links.
    ///
    /// # Errors
    /// ELOOP if a symbolic link is on the path, EINVAL for a path without a name: `/`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat2(CWD, parent, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        Ok(Self { parent, name: name.to_owned() })
    }

    /// Makes the directory the working directory of this process.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(rustix::process::fchdir(&self.parent)?)
    }

    /// Its name in the directory.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens what is there (O_PATH): the root of the topmost mount, or the symbolic link itself.
    pub(super) fn open_here(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.parent, &self.name, flags, Mode::empty())?)
    }

    /// The topmost mount there. The server of the mount is not asked.
    pub(super) fn topmost(&self) -> io::Result<MountIdentity> {
        MountIdentity::of_name(&self.parent, &CString::new(self.name.as_bytes())?)
    }

    /// Unmounts the topmost mount there if it is this one.
    ///
    /// The kernel moves or removes no directory that is a mount point of this mount namespace, so what has been looked at is
    /// what it unmounts.
    ///
    /// # Errors
    /// ESTALE if another mount is there, EBUSY if the mount is in use and `lazy` is not given.
    pub(super) fn unmount(&self, expected: &MountIdentity, lazy: bool) -> io::Result<()> {
        if !self.topmost()?.is_same_as(expected) {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        let dir = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let path: PathBuf = [OsStr::new(&dir), &self.name].iter().collect();
        let detach = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        Ok(unmount(path, UnmountFlags::NOFOLLOW | detach)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
        result.unwrap_err().raw_os_error()
    }

    #[test]
    fn a_symbolic_link_on_the_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/m")).unwrap();
        std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
        assert_eq!(errno(Place::open(&dir.join("link/m"))), Some(libc::ELOOP));
        assert_eq!(errno(Place::open(Path::new("/"))), Some(libc::EINVAL));
        let place = Place::open(&dir.join("real/m")).unwrap();
        // What is in place of the path afterwards does not matter.
        std::fs::rename(dir.join("real"), dir.join("moved")).unwrap();
        assert_eq!(place.topmost().unwrap(), MountIdentity::of_path(&dir).unwrap());
    }

    #[test]
    fn another_mount_than_the_expected_is_not_unmounted() {
        let place = Place::open(Path::new("/proc")).unwrap();
        let other = MountIdentity::from_text("1 2 0 1").unwrap();
        assert_eq!(errno(place.unmount(&other, false)), Some(libc::ESTALE));
    }
}
