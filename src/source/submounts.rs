//! What is mounted below the source when the mount is made.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::fs_class::FsClass;
use super::mounts::MountFacts;
use super::resolve::fd_path;
use super::restrictions::Restrictions;
use crate::config::Config;
use crate::error::one_line;
use crate::sys;

/// Something that is mounted below the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submount {
    /// Its path.
    pub path: PathBuf,
    /// The name of its file system.
    pub name: String,
    /// What its file system is.
    pub class: FsClass,
    /// What its options forbid.
    pub restrictions: Restrictions,
}

impl Submount {
    /// Its path for people. Users choose the names of what they mount: control characters are written out.
    #[must_use]
    pub fn display_path(&self) -> String {
        one_line(&self.path.display().to_string())
    }
}

/// The mounts of a source as they are when ours is made.
#[derive(Debug, Clone)]
pub struct SourceMounts {
    /// What is known of the source's own.
    pub own: MountFacts,
    /// What is mounted below, as far as it is shown.
    pub below: Vec<Submount>,
}

impl SourceMounts {
    /// Those of a source that is to be mounted. `None` when it cannot be reached.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let source = rustix::fs::open(&config.source, flags, Mode::empty()).ok()?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&source, c"", flags, StatxFlags::TYPE).ok()?;
        let below = match config.one_file_system {
            true => Vec::new(),
            false => submounts(&source).ok()?,
        };
        Some(Self { own: MountFacts::of(&source, stat.stx_dev_major).ok()?, below })
    }

    /// What forbids to run programs from the whole of our mount, where the source's own mount does not: something below
    /// that is noexec. Programs are also run by way of a mapping (mmap(2), PROT_EXEC), of which no FUSE server is told: the
    /// kernel looks at the mount alone.
    #[must_use]
    pub fn noexec_below(&self) -> Option<&Submount> {
        if self.own.restrictions.noexec {
            return None;
        }
        let mut shown = self.below.iter().filter(|mount| mount.class != FsClass::Pseudo);
        shown.find(|mount| mount.restrictions.noexec)
    }

    /// What is shown as empty, but for what is mounted below another such.
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

/// What is mounted below the directory of a descriptor, by path. The mount table says so: no file system is asked.
pub(super) fn submounts(dir: &OwnedFd) -> io::Result<Vec<Submount>> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(dir, c"", flags, StatxFlags::MNT_ID)?;
    let below = sys::mount::mounts_below(stat.stx_mnt_id, &fd_path(dir)?)?;
    let submount = |mount: sys::mount::MountBelow| Submount {
        path: PathBuf::from(OsString::from_vec(mount.mountpoint)),
        class: FsClass::of_name(&mount.fs_type, mount.major),
        name: String::from_utf8_lossy(&mount.fs_type).into_owned(),
        restrictions: Restrictions::of_options(&mount.options),
    };
    Ok(below.into_iter().map(submount).collect())
}
