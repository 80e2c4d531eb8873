//! Where a directory of the source is: its path from the root, as the rules for names by path need it.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::descriptor::stat_dont_sync;
use super::inode::Inode;
use super::node_id::NodeId;
use super::path::{STEP, any_entry, fd_path, has_entry, key, strip_dir, walk};
use super::tree::{SourceTree, component};

/// Opens what a name is, whatever it is.
const STEP_TO_ANY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How often a path is read that changes while it is read. Chosen.
const MAX_ATTEMPTS: u32 = 3;

impl SourceTree {
    /// Returns the path of a directory relative to the source's root, empty for the root itself.
    ///
    /// `None` if it is not below the root. ENAMETOOLONG, ENOENT, ESTALE and others if the path cannot be determined: the
    /// directory may then be anywhere, also outside of the source.
    ///
    /// A directory that is renamed meanwhile is looked for again.
    pub fn path_of(&self, dir: &Inode) -> Result<Option<Vec<u8>>, Errno> {
        let mut path = self.read_path_of(dir);
        for _ in 1..MAX_ATTEMPTS {
            if !matches!(path, Err(Errno::NOENT)) {
                break;
            }
            path = self.read_path_of(dir);
        }
        path
    }

    fn read_path_of(&self, dir: &Inode) -> Result<Option<Vec<u8>>, Errno> {
        if dir.node() == NodeId::ROOT {
            return Ok(Some(Vec::new()));
        }
        let (top, dir) = (self.root.load().held().ok_or(Errno::STALE)?, self.fd(dir)?);
        let (root, own) = (fd_path(&top)?, fd_path(&dir)?);
        let path = strip_dir(&root, &own).map(<[u8]>::to_vec);
        // The root of a private clone has the path `/`, and so seems to have below it what was moved out of it: the kernel
        // then names the directories up to the root of the filesystem (`prepend_path`: "Escaped?").
        if self.is_private
            && let Some(path) = &path
        {
            let found = walk(&top, path)?;
            if key(&stat_dont_sync(&found)?.0) != key(&stat_dont_sync(&*dir)?.0) {
                return Err(Errno::NOENT);
            }
        }
        Ok(path)
    }

    /// Returns whether the filesystem of an inode may find files by names that it does not list.
    #[must_use]
    pub fn finds_by_other_names(&self, inode: &Inode) -> bool {
        self.mounts.finds_by_other_names(inode.mount())
    }

    /// Returns whether what a directory has under a name is listed in it under that very name, or under another one that
    /// `is_other` accepts. False if that cannot be determined.
    ///
    /// Entries are compared by inode number: that of a hard link is right as well.
    pub fn lists_itself_or(
        &self,
        dir_fd: &OwnedFd,
        name: &CStr,
        is_other: impl Fn(&OsStr) -> bool,
    ) -> bool {
        let listed = || {
            // Open while the directory is read: FAT gives an inode that is not in use another number in each listing
            // (`__fat_readdir`, `iunique`).
            let found = rustix::fs::openat(dir_fd, name, STEP_TO_ANY, Mode::empty())?;
            let ino = stat_dont_sync(&found)?.0.stx_ino;
            any_entry(dir_fd, |entry| {
                entry.file_name() == name
                    || (entry.ino() == ino
                        && is_other(OsStr::from_bytes(entry.file_name().to_bytes())))
            })
        };
        listed().unwrap_or(false)
    }

    /// Returns whether a directory lists a name, and its parents list the directories on the way from the source's root,
    /// each in the letters of its path. False if that cannot be determined.
    #[must_use]
    pub fn lists(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> bool {
        has_entry(dir_fd, name).unwrap_or(false) && self.lists_path_of(dir)
    }

    /// Returns whether each component of an inode's path is listed in the letters of the path. False if that cannot be
    /// determined.
    #[must_use]
    pub fn lists_path_of(&self, inode: &Inode) -> bool {
        let all = || {
            let mut at = self.root.load().held().ok_or(Errno::STALE)?.try_clone();
            let path = self.path_of(inode)?.unwrap_or_default();
            let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            let mut next = parts.next();
            while let Some(part) = next {
                let parent = at.map_err(|_| Errno::MFILE)?;
                let part = component(OsStr::from_bytes(part))?;
                if !has_entry(&parent, &part)? {
                    return Ok(false);
                }
                next = parts.next();
                if next.is_none() {
                    break;
                }
                at =
                    Ok(rustix::fs::openat(&parent, &part, STEP | OFlags::NOFOLLOW, Mode::empty())?);
            }
            Ok::<_, Errno>(true)
        };
        all().unwrap_or(false)
    }
}
