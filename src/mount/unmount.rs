//! How `shiftbind umount` unmounts a mount of either engine, and no other.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::fusermount;
use super::inventory::FoundMount;
use super::place::Place;
use super::privileges::may_mount;
use super::record;
use super::table::MountIdentity;
use super::users::is_in_use;
use crate::sys::mountinfo::{MountInfo, mounts_below};

impl FoundMount {
    /// Unmounts it, and with it those mounts below that the kernel's engine has brought. `lazy` detaches it while it is in
    /// use, with all that is mounted below it.
    ///
    /// # Errors
    /// EBUSY if it is in use or other mounts are below it; then nothing is unmounted. ESTALE if another mount has taken its
    /// place.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        let place = Place::open(&self.mountpoint)?;
        if !place.topmost()?.is_same_as(&self.identity) {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        if !may_mount() {
            // fusermount3 unmounts only what this user has mounted.
            return fusermount::unmount(&self.mountpoint, lazy);
        }
        if !lazy && !self.brought.is_empty() {
            self.unmount_brought()?;
        }
        place.unmount(&self.identity, lazy)?;
        record::clean();
        Ok(())
    }

    /// The mounts below it that the kernel's engine has not brought.
    pub fn others_below(&self) -> io::Result<Vec<PathBuf>> {
        let others = self.below()?.into_iter().filter(|line| !self.has_brought(line));
        Ok(others.map(|line| path_of(&line).to_owned()).collect())
    }

    fn below(&self) -> io::Result<Vec<MountInfo>> {
        mounts_below(self.identity.id(), self.mountpoint.as_os_str().as_bytes())
    }

    fn has_brought(&self, line: &MountInfo) -> bool {
        // The kernel may have reused the number. One that another mount covers is known by its number alone.
        let found = MountIdentity::of_table(line);
        self.brought.iter().any(|one| one.identity.is_same_as(&found))
    }

    /// Unmounts what the kernel's engine has brought from below the source, the deepest first, after it was looked whether
    /// that can succeed: it cannot be undone.
    fn unmount_brought(&self) -> io::Result<()> {
        let busy = || io::Error::from_raw_os_error(libc::EBUSY);
        let below = self.below()?;
        if !below.iter().all(|line| self.has_brought(line)) {
            return Err(busy());
        }
        let ids: Vec<u64> = below.iter().map(|line| line.id).chain([self.identity.id()]).collect();
        if is_in_use(&ids) {
            return Err(busy());
        }
        for line in below.iter().rev() {
            Place::open(path_of(line))?.unmount(&MountIdentity::of_table(line), false)?;
        }
        Ok(())
    }
}

fn path_of(line: &MountInfo) -> &Path {
    Path::new(OsStr::from_bytes(&line.mountpoint))
}
