//! Lists the mounts below the source at the time when the daemon mounts.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::fs_class::FsClass;
use super::mounts::MountFacts;
use super::path::fd_path;
use super::restrictions::Restrictions;
use crate::config::Config;
use crate::error::one_line;
use crate::sys;
use crate::sys::mountinfo::MountInfo;

/// A mount below the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submount {
    /// The path of its mount point.
    pub path: PathBuf,
    /// The name of its filesystem.
    pub name: String,
    /// The class of its filesystem.
    pub class: FsClass,
    /// What its mount options forbid.
    pub restrictions: Restrictions,
    /// Whether copies of it are unmounted with it, as in a shared tree (`mount --rbind`).
    pub is_shared: bool,
}

impl Submount {
    /// Returns the path for messages.
    ///
    /// Control characters are escaped, because unprivileged users may choose the names of mount points.
    #[must_use]
    pub fn display_path(&self) -> String {
        one_line(&self.path.display().to_string())
    }
}

/// The mounts of a source at the time when the daemon mounts.
#[derive(Debug, Clone)]
pub struct SourceMounts {
    /// What is known of the source's own mount.
    pub own: MountFacts,
    /// The mounts below it, unless they are hidden (one-file-system).
    pub below: Vec<Submount>,
}

impl SourceMounts {
    /// Lists the mounts of a source before it is mounted. `None` if the source cannot be reached.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let source = rustix::fs::open(&config.source, flags, Mode::empty()).ok()?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&source, c"", flags, StatxFlags::TYPE).ok()?;
        let below = match config.one_file_system {
            true => Vec::new(),
            false => HostMounts::of(&source).ok()?.submounts(),
        };
        Some(Self { own: MountFacts::of(&source, stat.stx_dev_major).ok()?, below })
    }

    /// Returns whether the source itself is on a pseudo-filesystem.
    #[must_use]
    pub fn is_pseudo(&self) -> bool {
        self.own.class == FsClass::Pseudo
    }

    /// Returns whether the server of the source's own filesystem may check the ids of callers.
    #[must_use]
    pub fn is_server_backed(&self) -> bool {
        self.own.class == FsClass::ServerBacked
    }

    /// Returns whether the source or a mount below it has a server, which gets data at close(2).
    #[must_use]
    pub fn have_servers(&self) -> bool {
        let classes = self.below.iter().map(|mount| mount.class);
        classes.chain([self.own.class]).any(|class| class == FsClass::ServerBacked)
    }

    /// Returns a noexec mount below the source, if the source's own mount is not noexec.
    ///
    /// The whole mount then has to be noexec: programs also run by mapping (mmap(2) with PROT_EXEC), for which the
    /// kernel sends no request and checks only the mount.
    #[must_use]
    pub fn noexec_below(&self) -> Option<&Submount> {
        if self.own.restrictions.noexec {
            return None;
        }
        let mut shown = self.below.iter().filter(|mount| mount.class != FsClass::Pseudo);
        shown.find(|mount| mount.restrictions.noexec)
    }

    /// Returns the mounts that are shown empty, without those below another such mount.
    pub fn hidden(&self) -> impl Iterator<Item = &Submount> {
        let is_pseudo = |mount: &Submount| mount.class == FsClass::Pseudo;
        let uppers: Vec<&Submount> = self.below.iter().filter(|mount| is_pseudo(mount)).collect();
        let is_below = move |mount: &Submount| {
            uppers
                .iter()
                .any(|upper| mount.path != upper.path && mount.path.starts_with(&upper.path))
        };
        self.below.iter().filter(move |mount| is_pseudo(mount) && !is_below(mount))
    }
}

/// The source's place in the host's mount table, and the mounts below it.
#[derive(Debug)]
pub(super) struct HostMounts {
    /// The path of the source from this process's root, without a slash at its end.
    pub(super) path: Vec<u8>,
    /// The mounts below it.
    pub(super) below: Vec<MountInfo>,
}

impl HostMounts {
    /// Lists the mounts below the directory of a descriptor.
    ///
    /// It reads the mount table and sends no request to any filesystem.
    pub(super) fn of(dir: &OwnedFd) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(dir, c"", flags, StatxFlags::MNT_ID)?;
        let mut path = fd_path(dir)?;
        let below = sys::mountinfo::mounts_below(stat.stx_mnt_id, &path)?;
        path.truncate(path.strip_suffix(b"/").map_or(path.len(), <[u8]>::len));
        Ok(Self { path, below })
    }

    /// Returns the mounts as the mount shows them.
    pub(super) fn submounts(&self) -> Vec<Submount> {
        let submount = |mount: &MountInfo| Submount {
            path: PathBuf::from(OsString::from_vec(mount.mountpoint.clone())),
            class: FsClass::of_name(&mount.fs_type, mount.device.0),
            name: String::from_utf8_lossy(&mount.fs_type).into_owned(),
            restrictions: Restrictions::of_options(&mount.options),
            is_shared: mount.is_shared,
        };
        self.below.iter().map(submount).collect()
    }
}
