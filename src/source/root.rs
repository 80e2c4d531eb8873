//! The source's root: opened once, before anything is mounted. Nothing is opened by an absolute path afterwards.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::domains::dev_no;
use super::fs_class::FsClass;
use super::mounts::MountFacts;
use super::placeholder::Placeholder;
use super::submounts::{SourceMounts, submounts};
use crate::config::{Atime, Config, MountFlags};
use crate::error::{Error, Result};

/// The root of the source tree.
#[derive(Debug)]
pub struct SourceRoot {
    fd: OwnedFd,
    stat: Statx,
    mounts: SourceMounts,
    placeholder: Option<Placeholder>,
    is_private: bool,
    followed: Option<PathBuf>,
}

impl SourceRoot {
    /// Opens the source. Exit status 32 when it is missing or cannot be reached.
    ///
    /// With CAP_SYS_ADMIN the tree is taken as a private clone of its mounts (open_tree(2)): whatever is mounted over
    /// it later, our own mount included, is never part of it. Not so where symbolic links or the source's path are followed.
    pub fn open(config: &Config) -> Result<Self> {
        let path = &config.source;
        let name = path.display();
        let failed = |e: rustix::io::Errno| Error::mount(format!("source {name}"), e);
        let plain = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
        // Before it is cloned: the mount table does not tell of a clone's mounts.
        let below = match config.one_file_system {
            true => Vec::new(),
            false => submounts(&plain)
                .map_err(|e| Error::mount(format!("what is mounted below source {name}"), e))?,
        };
        // Where links lead, and what the path comes to mean, is a matter of the real tree.
        let wants_clone = config.view.resolve_symlinks.is_none() && !config.follow_source;
        let clone = if wants_clone { clone_tree(plain.as_fd(), config) } else { None };
        let is_private = clone.is_some();
        let fd = clone.unwrap_or(plain);
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, mask).map_err(failed)?;
        match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
            FileType::Directory | FileType::RegularFile => {}
            kind => {
                return Err(Error::refused(format!(
                    "source {name} is a {}; give a directory or a regular file",
                    kind_name(kind)
                )));
            }
        }
        let followed = match config.follow_source {
            false => None,
            true if FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir() => Some(
                std::path::absolute(path).map_err(|e| Error::file(format!("source {name}"), e))?,
            ),
            true => {
                return Err(Error::refused(format!(
                    "option 'follow-source': source {name} is a file; give the directory that it is in"
                )));
            }
        };
        let own = MountFacts::of(&fd, stat.stx_dev_major).map_err(failed)?;
        if own.class == FsClass::Pseudo {
            return Err(Error::refused(pseudo(path, &stat)));
        }
        let hides_some = below.iter().any(|mount| mount.class == FsClass::Pseudo);
        let placeholder = match hides_some || !is_private {
            true => Some(Placeholder::new().map_err(|e| {
                Error::mount("cannot make an empty directory to hide pseudo-filesystems behind", e)
            })?),
            false => None,
        };
        Ok(Self {
            fd,
            stat,
            mounts: SourceMounts { own, below },
            placeholder,
            is_private,
            followed,
        })
    }

    /// Whether the source is a directory; else it is a regular file.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// The source's type.
    #[must_use]
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode())
    }

    /// The source's mode with its type, for the mount option `rootmode`.
    #[must_use]
    pub fn mode(&self) -> u32 {
        u32::from(self.stat.stx_mode)
    }

    /// The source's own mount, whose options a bind mount inherits (mount(8)), and those below.
    #[must_use]
    pub fn mounts(&self) -> &SourceMounts {
        &self.mounts
    }

    /// Whether later mounts on the source stay out of the tree.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// Whether others than root may make or replace names in the root.
    #[must_use]
    pub fn is_changed_by_users(&self) -> bool {
        self.stat.stx_uid != 0 || u32::from(self.stat.stx_mode) & 0o022 != 0
    }

    /// The inode number of the root.
    #[must_use]
    pub fn inode_number(&self) -> u64 {
        self.stat.stx_ino
    }

    /// The source's path, absolute, if it is to be followed.
    #[must_use]
    pub fn followed(&self) -> Option<&Path> {
        self.followed.as_deref()
    }

    pub(super) fn stat(&self) -> &Statx {
        &self.stat
    }

    pub(super) fn into_parts(self) -> (OwnedFd, Option<Placeholder>) {
        (self.fd, self.placeholder)
    }
}

impl AsFd for SourceRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A private clone of the mount that `fd` is in, with all that is mounted below unless it is to be hidden. `None` without
/// the privilege, or where the kernel refuses.
fn clone_tree(fd: BorrowedFd<'_>, config: &Config) -> Option<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if !config.one_file_system {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(fd, c"", flags).ok()?;
    // A clone of a shared mount would receive what is mounted on its peers, our own mount first of all.
    let (set, clear) = access_times(&config.flags);
    let none = MountAttrFlags::empty();
    crate::sys::mount::make_private(&tree, set, clear)
        .or_else(|_| crate::sys::mount::make_private(&tree, none, none))
        .ok()?;
    Some(tree)
}

/// Whether reading through the mount touches access times, as flags to set and to clear: it is the source's filesystem that
/// does, so its clone is told.
fn access_times(flags: &MountFlags) -> (MountAttrFlags, MountAttrFlags) {
    let (mut set, mut clear) = (MountAttrFlags::empty(), MountAttrFlags::empty());
    // Nothing is written through a read-only mount, not even that.
    let atime = if flags.read_only == Some(true) { Some(Atime::Never) } else { flags.atime };
    if let Some(atime) = atime {
        clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
        set |= match atime {
            Atime::Never => MountAttrFlags::MOUNT_ATTR_NOATIME,
            Atime::Strict => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            Atime::Relative => MountAttrFlags::MOUNT_ATTR_RELATIME,
        };
    }
    match flags.nodiratime {
        Some(true) => set |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        Some(false) => clear |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        None => {}
    }
    (set, clear)
}

/// Why a pseudo-filesystem is no source.
fn pseudo(path: &Path, stat: &Statx) -> String {
    let name = crate::sys::mount::fs_type_of(dev_no(stat)).ok().flatten();
    let name =
        name.map_or_else(String::new, |name| format!(" ({})", String::from_utf8_lossy(&name)));
    format!(
        "source {} is on a pseudo-filesystem{name}, which would judge the daemon in the place of whoever opens a file; \
         mount a file system of that type where it is wanted",
        path.display()
    )
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Symlink => "symbolic link",
        _ => "file of unknown type",
    }
}
