//! An empty directory and an empty file, shown in the place of pseudo-filesystems.
//!
//! They are real inodes, so that every operation on them gives the result it has on an empty directory or file. If the
//! daemon may mount, they are on a detached read-only tmpfs; otherwise they are an unlinked directory and a sealed
//! memfd.

// The files here are not on the source: the daemon creates them for itself before it serves requests.
#![allow(clippy::disallowed_methods)]

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::descriptor::reopen;
use crate::sys;

const DIR: &std::ffi::CStr = c"d";
const FILE: &std::ffi::CStr = c"f";
const DIR_MODE: Mode = Mode::from_raw_mode(0o555);
const FILE_MODE: Mode = Mode::from_raw_mode(0o444);
/// How many names to try for the directory that is unlinked at once.
const MAX_ATTEMPTS: u32 = 100;

/// See the head of this file.
#[derive(Debug)]
pub struct Placeholder {
    dir: OwnedFd,
    file: OwnedFd,
}

impl Placeholder {
    /// Creates both. To be called while the process has its own credentials.
    pub fn new() -> Result<Self, Errno> {
        Self::on_tmpfs().or_else(|_| Self::unlinked())
    }

    /// Returns a descriptor of the directory or of the file.
    pub fn fd(&self, is_dir: bool) -> Result<OwnedFd, Errno> {
        let fd = if is_dir { &self.dir } else { &self.file };
        fd.try_clone().map_err(|_| Errno::MFILE)
    }

    fn on_tmpfs() -> Result<Self, Errno> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "none")?;
        fsconfig_set_string(&context, "size", "4k")?;
        fsconfig_create(&context)?;
        let attr = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr)?;
        rustix::fs::mkdirat(&mount, DIR, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, FILE, flags, Mode::RUSR)?;
        // Set the mode explicitly, whatever the umask of the daemon is.
        rustix::fs::fchmod(&file, FILE_MODE)?;
        rustix::fs::chmodat(&mount, DIR, DIR_MODE, AtFlags::empty())?;
        let (set, clear) = (MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty());
        drop(file);
        sys::mount::mount_setattr(&mount, set, clear).map_err(|_| Errno::PERM)?;
        let open = |name| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&mount, name, flags, Mode::empty())
        };
        Ok(Self { dir: open(DIR)?, file: open(FILE)? })
    }

    fn unlinked() -> Result<Self, Errno> {
        let file =
            rustix::fs::memfd_create(c"empty", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::fchmod(&file, FILE_MODE)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Self { dir: unlinked_dir()?, file: reopen(&file, OFlags::PATH)? })
    }
}

/// Creates an unlinked directory, in which nothing can be created (ENOENT).
fn unlinked_dir() -> Result<OwnedFd, Errno> {
    let temp = std::env::temp_dir();
    for n in 0..MAX_ATTEMPTS {
        let name = format!(".shiftbind-{}-{n}", std::process::id());
        let path =
            CString::new(temp.join(name).as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
        match rustix::fs::mkdirat(CWD, &*path, DIR_MODE) {
            Err(Errno::EXIST) => continue,
            made => made?,
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, &*path, flags, Mode::empty());
        rustix::fs::unlinkat(CWD, &*path, AtFlags::REMOVEDIR)?;
        let dir = dir?;
        // A process with write access to the parent could have put another directory in its place.
        if rustix::fs::fstat(dir.as_fd())?.st_nlink == 0 {
            return Ok(dir);
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_placeholder_are_empty_and_refuse_changes() {
        for (method, placeholder) in
            [("tmpfs", Placeholder::on_tmpfs()), ("no names", Placeholder::unlinked())]
        {
            let placeholder = match placeholder {
                // Without root the tmpfs cannot be mounted.
                Err(Errno::PERM) if method == "tmpfs" => continue,
                placeholder => placeholder.unwrap_or_else(|e| panic!("{method}: {e}")),
            };
            let dir = reopen(&placeholder.fd(true).unwrap(), OFlags::RDONLY).unwrap();
            let mut buffer = Vec::with_capacity(4096);
            let mut listing = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
            while let Some(entry) = listing.next() {
                let name = match entry {
                    Err(Errno::NOENT) => break,
                    entry => entry.unwrap().file_name().to_owned(),
                };
                assert!(name == *c"." || name == *c"..", "{method}: {name:?}");
            }
            let made = rustix::fs::mkdirat(&dir, c"x", Mode::RWXU);
            assert!(matches!(made, Err(Errno::ROFS | Errno::NOENT)), "{method}: {made:?}");
            let file = placeholder.fd(false).unwrap();
            assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 0, "{method}");
            let file = reopen(&file, OFlags::RDWR);
            let written = file.and_then(|file| rustix::io::write(&file, b"x"));
            assert!(
                matches!(written, Err(Errno::ROFS | Errno::PERM | Errno::ACCESS)),
                "{method}: {written:?}"
            );
        }
    }
}
