//! Making the mount, changing it, and taking away that mount and no other.
//!
//! A privileged process makes a detached mount and attaches it once the server answers; a normal user goes through
//! fusermount3, which attaches at once.

mod detached;
mod flags;
mod fusermount;
mod point;
mod privileges;
mod subdir;
mod table;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fspick};

use rustix::process::geteuid;

use crate::config::{Access, Config, MountFlags};
use crate::error::{Error, Result};
use crate::view::Checks;

pub use flags::{Inherited, remount, with_inherited};
pub use point::MountPoint;
pub use privileges::{access, check_privileges, may_mount};
use subdir::SubdirMethod;
use table::MountIdentity;

/// What the mount is to be.
#[derive(Debug)]
pub struct MountPlan {
    fsname: OsString,
    subtype: String,
    root_mode: u32,
    flags: MountFlags,
    access: Access,
    max_read: Option<u32>,
    /// Whether the kernel checks permissions on what is shown.
    kernel_checks: bool,
}

impl MountPlan {
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
            max_read: config.max_read.into_iter().chain(config.data.max_read()).min(),
            kernel_checks,
        }
    }
}

/// The source column of the mount table: mount(8) compares it with the real path in fstab's first column.
fn full_path(source: &Path) -> OsString {
    let path = fs::canonicalize(source).or_else(|_| std::path::absolute(source));
    path.map_or_else(|_| source.as_os_str().to_owned(), PathBuf::into_os_string)
}

/// Whether what is planned is at the mount point already: what mount(8) asks for again because it does not recognise the
/// root of our mounts in the mount table. `source`: the inode number of the source's root.
///
/// Type and source of a mount are words that any user may choose (fusermount3). So it counts only where this process's own
/// user has mounted it, and where its root shows the source's inode number; else the new mount comes on top.
pub fn is_already_mounted(plan: &MountPlan, point: &MountPoint, source: u64) -> Result<bool> {
    let fs_type = [b"fuse.", plan.subtype.as_bytes()].concat();
    let is_ours = || {
        let mount = MountIdentity::of_path(point.path())?;
        Ok(mount.is(&fs_type, detached::truncated(&plan.fsname))?
            && mount.mounter()? == Some(geteuid().as_raw())
            && point.inode_number()? == source)
    };
    is_ours().map_err(|e: io::Error| Error::system("/proc must be mounted", e))
}

/// Makes a FUSE mount that is attached nowhere, to try what the kernel does: its root, and the device to serve it on. It
/// takes CAP_SYS_ADMIN.
pub fn probe_mount() -> Result<(OwnedFd, OwnedFd)> {
    let plan = MountPlan {
        fsname: "trial".into(),
        subtype: "shiftbind".to_owned(),
        root_mode: 0o040_755,
        flags: MountFlags::default(),
        access: Access::Owner,
        max_read: None,
        kernel_checks: true,
    };
    let device = detached::open_device()?;
    Ok((detached::create(&plan, &device)?, device))
}

/// A mount that is made but not in service yet. Dropping it takes it away.
#[derive(Debug)]
pub struct NewMount {
    state: Option<MountState>,
}

#[derive(Debug)]
enum MountState {
    Detached { mount: OwnedFd, subdir: Option<SubdirMethod> },
    Attached(Mounted),
}

impl NewMount {
    /// Makes it, and returns the FUSE device to serve it on.
    pub fn make(plan: &MountPlan, point: &MountPoint) -> Result<(Self, OwnedFd)> {
        let (state, device) = if may_mount() {
            let device = detached::open_device()?;
            let subdir = SubdirMethod::probe();
            (MountState::Detached { mount: detached::create(plan, &device)?, subdir }, device)
        } else {
            let device = fusermount::mount(plan, point)?;
            let identity = MountIdentity::of_path(point.path()).map_err(|e| {
                Error::mount(format!("cannot find the mount at {}", point.path().display()), e)
            })?;
            (MountState::Attached(Mounted { identity, via_fusermount: true }), device)
        };
        Ok((Self { state: Some(state) }, device))
    }

    /// The mount's root, to send a first request through.
    pub fn root(&self, point: &MountPoint) -> io::Result<OwnedFd> {
        match &self.state {
            Some(MountState::Detached { mount, .. }) => mount.as_fd().try_clone_to_owned(),
            _ => Ok(openat(CWD, point.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?),
        }
    }

    /// The device number of its filesystem, without asking the server.
    pub fn device(&self, point: &MountPoint) -> Result<(u32, u32)> {
        let failed = |e: io::Error| Error::mount("the kernel does not tell the mount's device", e);
        let root = self.root(point).map_err(failed)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&root, c"", flags, StatxFlags::TYPE).map_err(|e| failed(e.into()))?;
        Ok((stat.stx_dev_major, stat.stx_dev_minor))
    }

    /// What it will be once it is in service; [`Mounted::unmount`] does nothing before.
    pub fn mounted(&self) -> io::Result<Mounted> {
        match &self.state {
            Some(MountState::Detached { mount, .. }) => Ok(Mounted {
                identity: MountIdentity::of_descriptor(mount)?,
                via_fusermount: false,
            }),
            Some(MountState::Attached(mounted)) => Ok(*mounted),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    /// Whether a directory in it can be attached in its place.
    #[must_use]
    pub fn can_attach_subdir(&self) -> bool {
        matches!(self.state, Some(MountState::Detached { subdir: Some(_), .. }))
    }

    /// Leaves only a directory in its root. It must be served by now, and attached nowhere.
    pub fn restrict_to_subdir(&mut self, name: &OsStr) -> Result<()> {
        if let Some(MountState::Detached { mount, subdir: Some(method) }) = &self.state {
            let mount = method
                .detach(mount, name)
                .map_err(|e| Error::mount("cannot make a mount of the source's root", e))?;
            self.state = Some(MountState::Detached { mount, subdir: None });
        }
        Ok(())
    }

    /// Makes it visible at the mount point.
    pub fn attach(mut self, point: &MountPoint) -> Result<Mounted> {
        let mounted = self
            .mounted()
            .map_err(|e| Error::mount("the kernel does not tell which mount this is", e))?;
        if let Some(MountState::Detached { mount, .. }) = &self.state {
            detached::attach(mount, point)?;
        }
        // It stays.
        self.state = None;
        Ok(mounted)
    }
}

impl Drop for NewMount {
    fn drop(&mut self) {
        if let Some(MountState::Attached(mounted)) = self.state.take()
            && let Err(e) = mounted.unmount(true)
        {
            log::error!("cannot unmount again: {e}");
        }
    }
}

/// The user who mounted the FUSE filesystem on which a descriptor is. `None`: it is no such, or not in this mount
/// namespace.
pub fn mounter(fd: impl AsFd) -> io::Result<Option<u32>> {
    MountIdentity::of_descriptor(fd)?.mounter()
}

/// A mount in service.
#[derive(Debug, Clone, Copy)]
pub struct Mounted {
    identity: MountIdentity,
    via_fusermount: bool,
}

impl Mounted {
    /// Written down, for another process of ours.
    #[must_use]
    pub fn to_line(&self) -> String {
        format!("{} {}\n", u8::from(self.via_fusermount), self.identity.to_text())
    }

    /// What was written down. `None` when it is not whole.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let (by, words) = line.strip_suffix('\n')?.split_once(' ')?;
        Some(Self { identity: MountIdentity::from_text(words)?, via_fusermount: by == "1" })
    }

    /// Unmounts it if it is still there. `lazy` takes it out of sight also while it is in use.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        if !self.via_fusermount {
            return self.identity.unmount(lazy);
        }
        match self.identity.reachable_mountpoint()? {
            Some(mountpoint) => fusermount::unmount(&mountpoint, lazy),
            None => Ok(()),
        }
    }

    /// Where it is now, in this process's mount namespace. `None`: nowhere.
    pub fn mountpoint(&self) -> io::Result<Option<PathBuf>> {
        self.identity.mountpoint()
    }

    /// Has the kernel let go of all names in it that are not in use: it does so when a filesystem is remounted, whatever
    /// the options (`shrink_dcache_sb` in Linux `reconfigure_super`). What was written to it goes to the server first, so
    /// no thread that serves it may do this.
    ///
    /// # Errors
    /// ENOENT where it is no longer mounted; EPERM without CAP_SYS_ADMIN over the filesystem.
    pub fn shrink_dcache(&self) -> io::Result<()> {
        let mountpoint = self.identity.reachable_mountpoint()?;
        let mountpoint = mountpoint.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let root = openat(CWD, &mountpoint, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        if MountIdentity::of_descriptor(&root)? != self.identity {
            // Another mount came on top in this instant.
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
        let context = fspick(&root, c"", flags)?;
        Ok(fsconfig_reconfigure(&context)?)
    }

    /// Gives it these options, and mount(8)'s defaults for those that are not given.
    pub fn change_flags(&self, flags: &MountFlags) -> Result<()> {
        if self.via_fusermount {
            return Err(Error::usage(
                "mount options such as ro and nosuid cannot change on a live mount of a normal user: unmount and mount \
                 again",
            ));
        }
        let mountpoint = self.identity.reachable_mountpoint();
        let mountpoint =
            mountpoint.map_err(|e| Error::mount("cannot change the mount's options", e))?;
        let gone =
            "the mount whose options are to change is no longer in the daemon's mount namespace";
        remount(&mountpoint.ok_or_else(|| Error::refused(gone))?, flags)
    }

    /// Where the filesystem still is: here, or in bind mounts of it.
    #[must_use]
    pub fn remaining_mountpoints(&self) -> Vec<PathBuf> {
        self.identity.all_mountpoints().unwrap_or_default()
    }
}
