//! Writes changes to the disk before their calls return: mount(8)'s `sync` and `dirsync`.
//!
//! Under `sync` the kernel writes back its own pages, not the source's. So files are opened O_SYNC for data, and every
//! other change is followed by fsync(2) of what it changed.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{Fs, Result};
use crate::config::MountFlags;
use crate::source::Inode;

/// Which changes are written to the disk before the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WriteThrough {
    /// None but by fsync(2).
    OnFsync,
    /// Changes of names (`dirsync`).
    Names,
    /// All changes (`sync`).
    All,
}

impl WriteThrough {
    /// Returns the mode that mount options ask for.
    #[must_use]
    pub fn of(flags: &MountFlags) -> Self {
        match (flags.sync, flags.dirsync) {
            (true, _) => Self::All,
            (false, true) => Self::Names,
            (false, false) => Self::OnFsync,
        }
    }
}

/// The current [`WriteThrough`] of a live mount.
#[derive(Debug)]
pub(super) struct WriteThroughMode(AtomicU8);

impl Default for WriteThroughMode {
    fn default() -> Self {
        Self(AtomicU8::new(WriteThrough::OnFsync as u8))
    }
}

impl WriteThroughMode {
    fn has(&self, least: WriteThrough) -> bool {
        self.0.load(Ordering::Relaxed) >= least as u8
    }
}

impl Fs {
    /// Sets which changes are written through from now on. It does not apply to files that are open.
    pub fn set_write_through(&self, mode: WriteThrough) {
        self.write_through.0.store(mode as u8, Ordering::Relaxed);
    }

    /// Returns whether all changes are written through. Data is then written by the daemon, not with passthrough.
    pub(super) fn writes_all_through(&self) -> bool {
        self.write_through.has(WriteThrough::All)
    }

    /// Records that names of directories have changed, and writes them to the disk, if names are written through.
    ///
    /// EIO, ENOSPC and EDQUOT if that fails; the change itself stays.
    pub(super) fn names_changed(&self, dirs: &[&Inode]) -> Result<()> {
        dirs.iter().for_each(|dir| dir.note_change());
        if !self.write_through.has(WriteThrough::Names) {
            return Ok(());
        }
        dirs.iter().try_for_each(|dir| self.tree.sync(dir))
    }

    /// Records that an inode's attributes have changed, and writes it to the disk, with `sync`. Errors as in
    /// [`Self::names_changed`].
    pub(super) fn inode_changed(&self, inode: &Inode) -> Result<()> {
        inode.note_change();
        if self.writes_all_through() { self.tree.sync(inode) } else { Ok(()) }
    }

    /// Writes an open file whose data has changed to the disk, with `sync`. Errors as in [`Self::names_changed`].
    pub(super) fn data_changed(&self, file: &OwnedFd) -> Result<()> {
        if self.writes_all_through() { super::file::sync(file, false) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_covers_what_dirsync_does() {
        let of = |sync, dirsync| {
            WriteThrough::of(&MountFlags { sync, dirsync, ..MountFlags::default() })
        };
        assert_eq!(of(false, false), WriteThrough::OnFsync);
        assert_eq!(of(false, true), WriteThrough::Names);
        assert_eq!((of(true, false), of(true, true)), (WriteThrough::All, WriteThrough::All));
        let mode = WriteThroughMode(AtomicU8::new(WriteThrough::Names as u8));
        assert!(mode.has(WriteThrough::Names) && !mode.has(WriteThrough::All));
    }
}
