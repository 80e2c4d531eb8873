//! Making the mount, changing it, and taking away that mount and no other.
//!
//! A privileged process makes a detached mount and attaches it once the server answers; a normal user goes through
//! fusermount3, which attaches at once.

mod detached;
mod flags;
mod fusermount;
mod point;
mod rights;
mod table;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::config::{Access, Config, MountFlags};
use crate::error::{Error, Result};
use crate::view::Checks;

pub use flags::{Inherited, remount, with_inherited};
pub use point::MountPoint;
pub use rights::{access, check_rights, may_mount};
use table::Identity;

/// What the mount is to be.
#[derive(Debug)]
pub struct Plan {
    fsname: OsString,
    subtype: String,
    root_mode: u32,
    flags: MountFlags,
    access: Access,
    max_read: Option<u32>,
    /// Whether the kernel checks permissions on what is shown.
    kernel_checks: bool,
}

impl Plan {
    /// Settles every default. `root_mode` is the source's `st_mode`.
    #[must_use]
    pub fn new(config: &Config, root_mode: u32, source: Inherited) -> Self {
        let kernel_checks = config.view.needs().checks == Checks::Kernel;
        let mut flags = with_inherited(&config.flags, source);
        if !kernel_checks {
            // The kernel opens devices without asking us.
            flags.nodev = Some(true);
        }
        Self {
            fsname: config.fsname.clone().unwrap_or_else(|| full_path(&config.source)),
            subtype: config.subtype.clone(),
            root_mode,
            flags,
            access: access(config),
            max_read: config.max_read.into_iter().chain(config.data.most_read()).min(),
            kernel_checks,
        }
    }
}

/// The source column of the mount table: mount(8) compares it with the real path in fstab's first column.
fn full_path(source: &Path) -> OsString {
    let path = fs::canonicalize(source).or_else(|_| std::path::absolute(source));
    path.map_or_else(|_| source.as_os_str().to_owned(), PathBuf::into_os_string)
}

/// A mount that is made but not in service yet. Dropping it takes it away.
#[derive(Debug)]
pub struct NewMount {
    way: Option<Way>,
}

#[derive(Debug)]
enum Way {
    Detached { mount: OwnedFd },
    Attached(Mounted),
}

impl NewMount {
    /// Makes it, and returns the FUSE device to serve it on.
    pub fn make(plan: &Plan, point: &MountPoint) -> Result<(Self, OwnedFd)> {
        let (way, device) = if may_mount() {
            let device = detached::open_device()?;
            (Way::Detached { mount: detached::create(plan, &device)? }, device)
        } else {
            let device = fusermount::mount(plan, point)?;
            let identity = Identity::of_path(point.path()).map_err(|e| {
                Error::mount(format!("cannot find the mount at {}", point.path().display()), e)
            })?;
            (Way::Attached(Mounted { identity, by_fusermount: true }), device)
        };
        Ok((Self { way: Some(way) }, device))
    }

    /// The mount's root, to send a first request through.
    pub fn root(&self, point: &MountPoint) -> io::Result<OwnedFd> {
        match &self.way {
            Some(Way::Detached { mount }) => mount.as_fd().try_clone_to_owned(),
            _ => Ok(openat(CWD, point.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?),
        }
    }

    /// What it will be once it is in service; [`Mounted::unmount`] does nothing before.
    pub fn mounted(&self) -> io::Result<Mounted> {
        match &self.way {
            Some(Way::Detached { mount }) => {
                Ok(Mounted { identity: Identity::of_descriptor(mount)?, by_fusermount: false })
            }
            Some(Way::Attached(mounted)) => Ok(*mounted),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    /// Makes it visible at the mount point.
    pub fn attach(mut self, point: &MountPoint) -> Result<Mounted> {
        let mounted = self
            .mounted()
            .map_err(|e| Error::mount("the kernel does not tell which mount this is", e))?;
        if let Some(Way::Detached { mount }) = &self.way {
            detached::attach(mount, point)?;
        }
        // It stays.
        self.way = None;
        Ok(mounted)
    }
}

impl Drop for NewMount {
    fn drop(&mut self) {
        if let Some(Way::Attached(mounted)) = self.way.take()
            && let Err(e) = mounted.unmount(true)
        {
            log::error!("cannot unmount again: {e}");
        }
    }
}

/// A mount in service.
#[derive(Debug, Clone, Copy)]
pub struct Mounted {
    identity: Identity,
    by_fusermount: bool,
}

impl Mounted {
    /// Unmounts it if it is still there. `lazy` takes it out of sight also while it is in use.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        if !self.by_fusermount {
            return self.identity.unmount(lazy);
        }
        match self.identity.reachable_place()? {
            Some(place) => fusermount::unmount(&place, lazy),
            None => Ok(()),
        }
    }

    /// Where the filesystem still is: here, or in bind mounts of it.
    #[must_use]
    pub fn remaining_places(&self) -> Vec<PathBuf> {
        self.identity.all_places().unwrap_or_default()
    }
}
