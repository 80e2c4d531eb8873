//! The source's root, opened once before the daemon mounts.
//!
//! Nothing is opened by an absolute path afterwards, except with follow-source and resolve-symlinks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::fs_class::FsClass;
use super::mounts::MountFacts;
use super::node_id::dev_no;
use super::placeholder::Placeholder;
use super::submounts::{HostMounts, SourceMounts};
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
    /// The host's mounts that were cloned below the source. `None`: there are none to follow.
    on_host: Option<HostMounts>,
}

impl SourceRoot {
    /// Opens the source. Fails with exit status 32 if it does not exist or cannot be used.
    ///
    /// With CAP_SYS_ADMIN the tree is a private clone of the source's mounts (open_tree(2)): later mounts on the
    /// source, the daemon's own included, never become part of it. With follow-source or resolve-symlinks it is not
    /// cloned.
    pub fn open(config: &Config) -> Result<Self> {
        let path = &config.source;
        let name = path.display();
        let failed = |e: rustix::io::Errno| Error::mount(format!("source {name}"), e);
        let plain = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
        // Read before the clone, because the mount table does not list a clone's mounts.
        let on_host = match config.one_file_system {
            true => None,
            false => Some(HostMounts::of(&plain).map_err(|e| {
                Error::mount(format!("cannot list the mounts below source {name}"), e)
            })?),
        };
        let below = on_host.as_ref().map_or_else(Vec::new, HostMounts::submounts);
        // Paths and the targets of links are resolved in the shared tree.
        let wants_clone = config.view.resolve_symlinks.is_none() && !config.follow_source;
        let clone = if wants_clone { clone_tree(plain.as_fd(), config) } else { None };
        let is_private = clone.is_some();
        let on_host = on_host.filter(|on_host| is_private && !on_host.below.is_empty());
        check_read_only(config, is_private)?;
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
                    "option 'follow-source': source {name} is a file; give the directory that contains it"
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
            on_host,
        })
    }

    /// Returns whether the source is a directory; otherwise it is a regular file.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Returns the source's type.
    #[must_use]
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode())
    }

    /// Returns the source's mode including its type, for the mount option `rootmode`.
    #[must_use]
    pub fn mode(&self) -> u32 {
        u32::from(self.stat.stx_mode)
    }

    /// Returns the source's own mount, whose options a bind mount inherits (mount(8)), and the mounts below it.
    #[must_use]
    pub fn mounts(&self) -> &SourceMounts {
        &self.mounts
    }

    /// Returns whether the tree is a private clone, which later mounts on the source do not reach.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// Returns whether users other than root may create or replace names in the root.
    #[must_use]
    pub fn is_changed_by_users(&self) -> bool {
        self.stat.stx_uid != 0 || u32::from(self.stat.stx_mode) & 0o022 != 0
    }

    /// Returns the inode number of the root.
    #[must_use]
    pub fn inode_number(&self) -> u64 {
        self.stat.stx_ino
    }

    /// Returns the absolute path of the source, with follow-source.
    #[must_use]
    pub fn followed(&self) -> Option<&Path> {
        self.followed.as_deref()
    }

    pub(super) fn stat(&self) -> &Statx {
        &self.stat
    }

    pub(super) fn into_parts(self) -> (OwnedFd, Option<Placeholder>, Option<HostMounts>) {
        (self.fd, self.placeholder, self.on_host)
    }
}

impl AsFd for SourceRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Refuses a source that cannot be made read-only although it has to be.
fn check_read_only(config: &Config, is_private: bool) -> Result<()> {
    match is_read_only_for_container(config) && !is_private {
        true => Err(Error::refused(
            "option 'ro' with namespace: root of the container could make the mount writable, and the source cannot be cloned \
             read-only here (this takes CAP_SYS_ADMIN, and neither follow-source nor resolve-symlinks)",
        )),
        false => Ok(()),
    }
}

/// Whether the source itself has to be read-only: root of a container may remount a filesystem that belongs to the container.
fn is_read_only_for_container(config: &Config) -> bool {
    let in_container = config.namespace.as_ref().is_some_and(|namespace| namespace.is_container);
    in_container && config.flags.read_only == Some(true)
}

/// Clones the mount of `fd`, with the mounts below it unless they are to be hidden (one-file-system).
///
/// `None` without the privilege, or if the kernel refuses.
fn clone_tree(fd: BorrowedFd<'_>, config: &Config) -> Option<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if !config.one_file_system {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(fd, c"", flags).ok()?;
    // Mounts propagate to a clone of a shared mount, the daemon's own mount among them, unless the clone is made
    // private.
    // The source's filesystem updates access times, so its clone gets the options. A read-only mount updates none.
    let is_read_only = config.flags.read_only == Some(true);
    let atime = if is_read_only { Some(Atime::Never) } else { config.flags.atime };
    let (set, clear) = MountFlags { atime, ..config.flags.clone() }.access_times();
    let none = MountAttrFlags::empty();
    let always = match is_read_only_for_container(config) {
        true => MountAttrFlags::MOUNT_ATTR_RDONLY,
        false => none,
    };
    crate::sys::mount::make_private(&tree, set | always, clear)
        .or_else(|_| crate::sys::mount::make_private(&tree, always, none))
        .ok()?;
    Some(tree)
}

/// Returns the error message for a source on a pseudo-filesystem.
fn pseudo(path: &Path, stat: &Statx) -> String {
    let name = crate::sys::mountinfo::fs_type_of(dev_no(stat)).ok().flatten();
    let name =
        name.map_or_else(String::new, |name| format!(" ({})", String::from_utf8_lossy(&name)));
    format!(
        "source {} is on a pseudo-filesystem{name}, which would check the daemon instead of the process that opens a \
         file; mount a filesystem of that type where it is needed",
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
