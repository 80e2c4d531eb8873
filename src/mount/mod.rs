//! Makes the mount, changes it, and unmounts exactly that mount.
//!
//! A process with CAP_SYS_ADMIN makes a detached mount and attaches it once the server answers. A normal user goes
//! through fusermount3, which attaches at once.

mod attributes;
mod brought;
mod detached;
mod elsewhere;
mod engine;
mod flags;
mod found_elsewhere;
mod fusermount;
mod idmapped;
mod inventory;
mod origin;
mod place;
mod point;
mod privileges;
mod record;
mod registry;
mod remap;
mod remap_elsewhere;
mod replacer;
mod subdir;
mod table;
mod unmount;
mod users;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fspick};

use rustix::process::{Pid, geteuid};

use crate::config::{Access, Config, MountFlags, TargetNamespace};
use crate::error::{Error, Result, errno_field};
use crate::namespace::{Namespace, Users};
use crate::source::Restrictions;
use crate::view::Checks;

use elsewhere::{Attacher, Elsewhere, Maker};
pub use engine::{
    check_kernel, map_verdict, mount_by_kernel, mount8_command, verdict, with_obstacle,
};
pub use flags::{remount, with_inherited};
pub use found_elsewhere::{MountElsewhere, mount_in};
pub use inventory::{FoundMount, MadeBy, inventory, mount_at, not_ours};
pub use origin::Origin;
pub use point::MountPoint;
pub use privileges::{access, check_privileges, may_mount, own_uid_map};
use registry::Server;
pub use registry::{RELOAD, REPORT, Registered, Registration, registered};
pub use remap::KernelMount;
pub use remap_elsewhere::KernelMountElsewhere;
use subdir::SubdirMethod;
use table::MountIdentity;
pub use table::propagates;

/// The parameters of a mount, with all defaults filled in.
#[derive(Debug)]
pub struct MountPlan {
    fsname: OsString,
    subtype: String,
    root_mode: u32,
    flags: MountFlags,
    access: Access,
    max_read: Option<u32>,
    /// Whether the kernel checks permissions (`default_permissions`).
    kernel_checks: bool,
    /// The filesystem belongs to the container's user namespace.
    is_container: bool,
    namespace: Option<TargetNamespace>,
}

impl MountPlan {
    /// Fills in the defaults. `root_mode` is the source's `st_mode`.
    #[must_use]
    pub fn new(config: &Config, root_mode: u32, source: Restrictions) -> Self {
        let kernel_checks = config.view.needs().checks == Checks::Kernel;
        let mut flags = with_inherited(&config.flags, source);
        if !kernel_checks {
            // The kernel opens devices without a request to the server, which could not check permissions.
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
            is_container: config.namespace.as_ref().is_some_and(|namespace| namespace.is_container),
            namespace: config.namespace.clone(),
        }
    }

    /// Which users may use the mount.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// In container mode: the container.
    fn container<'a>(&self, point: &'a MountPoint) -> Option<(&'a Namespace, &'a Users)> {
        let namespace = point.namespace().filter(|_| self.is_container)?;
        Some((namespace, namespace.users.as_ref()?))
    }
}

/// The default source column: the real path, which mount(8) compares with the first field of fstab(5).
fn full_path(source: &Path) -> OsString {
    let path = fs::canonicalize(source).or_else(|_| std::path::absolute(source));
    path.map_or_else(|_| source.as_os_str().to_owned(), PathBuf::into_os_string)
}

/// Whether an equal mount is at the mount point already, of either engine: `auto` may have chosen the other one. `source` is
/// the inode number of the source's root.
///
/// mount(8) does not recognise a mount of ours in the mount table, and calls the helper again.
pub fn is_already_mounted(config: &Config, point: &MountPoint, source: u64) -> Result<bool> {
    if config.namespace.is_some() {
        return found_elsewhere::is_already_mounted(config, point, source);
    }
    if idmapped::is_already_mounted(config, point, source)? {
        return Ok(true);
    }
    is_served(config, point, source)
        .map_err(|e: io::Error| Error::system("/proc must be mounted", e))
}

/// Whether a FUSE daemon serves an equal mount at the mount point.
///
/// Any user can choose the type and source of a mount through fusermount3, so a mount counts as equal only if this
/// process's user made it and its root has the source's inode number. Otherwise the new mount is stacked on top.
fn is_served(config: &Config, point: &MountPoint, source: u64) -> io::Result<bool> {
    let fs_type = [b"fuse.", config.subtype.as_bytes()].concat();
    let fsname = config.fsname.clone().unwrap_or_else(|| full_path(&config.source));
    let mount = MountIdentity::of_path(point.path())?;
    Ok(mount.is(&fs_type, detached::truncated(&fsname))?
        && mount.mounter()? == Some(geteuid().as_raw())
        && point.inode_number()? == source)
}

/// Makes a detached FUSE mount to probe the kernel with. Returns its root and its device. Needs CAP_SYS_ADMIN.
pub fn probe_mount() -> Result<(OwnedFd, OwnedFd)> {
    let plan = MountPlan {
        fsname: "trial".into(),
        subtype: "shiftbind".to_owned(),
        root_mode: 0o040_755,
        flags: MountFlags::default(),
        access: Access::Owner,
        max_read: None,
        kernel_checks: true,
        is_container: false,
        namespace: None,
    };
    let device = detached::open_device()?;
    Ok((detached::create(&plan, &device)?, device))
}

/// A mount that is not in service yet. Dropping it unmounts.
#[derive(Debug)]
pub struct NewMount {
    state: Option<MountState>,
    /// Attaches it in another namespace.
    attacher: Option<(Attacher, Arc<Elsewhere>)>,
}

#[derive(Debug)]
enum MountState {
    Detached {
        mount: OwnedFd,
        subdir: Option<SubdirMethod>,
    },
    /// Of a container's user namespace: no process outside can do anything with it.
    Container {
        maker: Maker,
        can_restrict: bool,
    },
    Attached(Mounted),
}

impl NewMount {
    /// Makes the mount, and returns the FUSE device to serve it on.
    pub fn make(plan: &MountPlan, point: &MountPoint) -> Result<(Self, OwnedFd)> {
        let attacher = match (&plan.namespace, point.namespace()) {
            (Some(config), Some(namespace)) => {
                // The container's own filesystem has the options that its root gives it.
                let locks = !plan.is_container;
                let attacher = Attacher::start(namespace, point.as_fd(), point.is_dir(), locks)?;
                let elsewhere = Elsewhere::new(config, point.path());
                Some((attacher, Arc::new(elsewhere)))
            }
            _ => None,
        };
        let (state, device) = if let Some((namespace, users)) = plan.container(point) {
            let (maker, device) = Maker::start(plan, namespace, users)?;
            let can_restrict = maker.can_restrict;
            (MountState::Container { maker, can_restrict }, device)
        } else if may_mount() || attacher.is_some() {
            let device = detached::open_device()?;
            let subdir = SubdirMethod::probe();
            (MountState::Detached { mount: detached::create(plan, &device)?, subdir }, device)
        } else {
            let device = fusermount::mount(plan, point)?;
            let identity = MountIdentity::of_path(point.path()).map_err(|e| {
                Error::mount(format!("cannot find the mount at {}", point.path().display()), e)
            })?;
            let mounted = Mounted { identity, via_fusermount: true, elsewhere: None };
            (MountState::Attached(mounted), device)
        };
        Ok((Self { state: Some(state), attacher }, device))
    }

    /// Checks that the mount could be made: makes it, where this process may mount by itself, and attaches it nowhere.
    ///
    /// # Errors
    /// /dev/fuse cannot be opened; the kernel refuses the filesystem; fusermount3 would refuse a user's mount.
    pub fn check(plan: &MountPlan, point: &MountPoint) -> Result<()> {
        if let Some((namespace, users)) = plan.container(point) {
            return Maker::start(plan, namespace, users).map(drop);
        }
        let device = detached::open_device()?;
        match may_mount() || point.namespace().is_some() {
            true => detached::create(plan, &device).map(drop),
            false => fusermount::check(plan, point),
        }
    }

    /// The child process that sends a first request, if only one of the container's can. It writes one byte, the errno, to
    /// `answer`.
    pub fn probe_in_container(&self, answer: BorrowedFd<'_>) -> Option<io::Result<Pid>> {
        match &self.state {
            Some(MountState::Container { maker, .. }) => {
                Some(maker.probe(answer).map(|()| maker.pid()))
            }
            _ => None,
        }
    }

    /// Opens the mount's root, for a first request.
    pub fn root(&self, point: &MountPoint) -> io::Result<OwnedFd> {
        match &self.state {
            Some(MountState::Detached { mount, .. }) => mount.as_fd().try_clone_to_owned(),
            _ => Ok(openat(CWD, point.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?),
        }
    }

    /// The device number of the filesystem. The server is not asked (AT_STATX_DONT_SYNC).
    pub fn device(&self, point: &MountPoint) -> Result<(u32, u32)> {
        if let Some(MountState::Container { maker, .. }) = &self.state {
            return Ok(maker.device);
        }
        let failed = |e: io::Error| Error::mount("cannot read the mount's device number", e);
        let root = self.root(point).map_err(failed)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&root, c"", flags, StatxFlags::TYPE).map_err(|e| failed(e.into()))?;
        Ok((stat.stx_dev_major, stat.stx_dev_minor))
    }

    /// The mount as it will be in service. Before that, [`Mounted::unmount`] does nothing.
    pub fn mounted(&self) -> io::Result<Mounted> {
        match &self.state {
            Some(MountState::Detached { mount, .. }) => Ok(Mounted {
                identity: MountIdentity::of_descriptor(mount)?,
                via_fusermount: false,
                elsewhere: None,
            }),
            Some(MountState::Attached(mounted)) => Ok(mounted.clone()),
            Some(MountState::Container { .. }) | None => {
                Err(io::Error::from_raw_os_error(libc::ENOENT))
            }
        }
    }

    /// Whether a subdirectory can be attached in place of the mount's root.
    #[must_use]
    pub fn can_attach_subdir(&self) -> bool {
        matches!(
            self.state,
            Some(
                MountState::Detached { subdir: Some(_), .. }
                    | MountState::Container { can_restrict: true, .. }
            )
        )
    }

    /// Replaces the mount by one of a subdirectory of its root. It must be served already, and not attached.
    pub fn restrict_to_subdir(&mut self, name: &OsStr) -> Result<()> {
        if let Some(MountState::Detached { mount, subdir: Some(method) }) = &self.state {
            let mount = method
                .detach(mount, name)
                .map_err(|e| Error::mount("cannot make a mount of the source's root", e))?;
            self.state = Some(MountState::Detached { mount, subdir: None });
        } else if let Some(MountState::Container { maker, .. }) = &self.state {
            maker.restrict(name)?;
        }
        Ok(())
    }

    /// Attaches the mount to the mount point.
    pub fn attach(mut self, point: &MountPoint) -> Result<Mounted> {
        if let Some((attacher, elsewhere)) = self.attacher.take() {
            let identity = match self.state.take() {
                Some(MountState::Container { maker, .. }) => {
                    let (mount, identity) = maker.finish()?;
                    attacher.attach(&mount)?;
                    identity
                }
                Some(MountState::Detached { mount, .. }) => attacher.attach(&mount)?,
                Some(MountState::Attached(_)) | None => {
                    return Err(Error::refused(
                        "option 'namespace': the mount is attached already",
                    ));
                }
            };
            return Ok(Mounted { identity, via_fusermount: false, elsewhere: Some(elsewhere) });
        }
        let mounted = self.mounted().map_err(|e| Error::mount("cannot read the mount's id", e))?;
        if let Some(MountState::Detached { mount, .. }) = &self.state {
            detached::attach(mount, point)?;
        }
        // Dropping `self` must not unmount any more.
        self.state = None;
        Ok(mounted)
    }
}

impl Drop for NewMount {
    fn drop(&mut self) {
        if let Some(MountState::Attached(mounted)) = self.state.take()
            && let Err(e) = mounted.unmount(true)
        {
            log::error!("cannot unmount again: {} {}", mounted.field(), errno_field(e));
        }
    }
}

/// The user who mounted the FUSE filesystem that a descriptor is on.
///
/// `None`: it is no FUSE filesystem, or not in this mount namespace.
pub fn mounter(fd: impl AsFd) -> io::Result<Option<u32>> {
    MountIdentity::of_descriptor(fd)?.mounter()
}

/// A mount in service.
#[derive(Debug, Clone)]
pub struct Mounted {
    identity: MountIdentity,
    via_fusermount: bool,
    /// Where it is, if not in this process's mount namespace.
    elsewhere: Option<Arc<Elsewhere>>,
}

impl Mounted {
    /// The mount as a line of text, for another process of this program.
    #[must_use]
    pub fn to_line(&self) -> String {
        format!("{} {}\n", u8::from(self.via_fusermount), self.identity.to_text())
    }

    /// Parses [`Self::to_line`]. `None` if the line is incomplete.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let (by, words) = line.strip_suffix('\n')?.split_once(' ')?;
        Some(Self {
            identity: MountIdentity::from_text(words)?,
            via_fusermount: by == "1",
            elsewhere: None,
        })
    }

    /// The mount as a field of a log message: the id under which /proc/self/mountinfo lists it.
    pub(crate) fn field(&self) -> String {
        format!("mount_id={}", self.identity.id())
    }

    /// Unmounts the mount if it still exists. `lazy` detaches it while it is in use (MNT_DETACH).
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        if let Some(elsewhere) = &self.elsewhere {
            return elsewhere.unmount(&self.identity, lazy);
        }
        if !self.via_fusermount {
            return self.identity.unmount(lazy);
        }
        match self.identity.reachable_mountpoint()? {
            Some(mountpoint) => fusermount::unmount(&mountpoint, lazy),
            None => Ok(()),
        }
    }

    /// The current mount point in this process's mount namespace. `None`: it is not mounted there.
    pub fn mountpoint(&self) -> io::Result<Option<PathBuf>> {
        self.identity.mountpoint()
    }

    /// Makes the kernel drop all unused dentries of the filesystem.
    ///
    /// A remount does so whatever the options (`shrink_dcache_sb` in Linux `reconfigure_super`). It also writes dirty
    /// data back to the server (`fuse_reconfigure`), so no thread that serves the mount may call this.
    ///
    /// # Errors
    /// ENOENT if it is no longer mounted; EPERM without CAP_SYS_ADMIN in the user namespace of the filesystem.
    pub fn shrink_dcache(&self) -> io::Result<()> {
        if self.elsewhere.is_some() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let mountpoint = self.identity.reachable_mountpoint()?;
        let mountpoint = mountpoint.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let root = openat(CWD, &mountpoint, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        if MountIdentity::of_descriptor(&root)? != self.identity {
            // Another mount was stacked on top meanwhile.
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
        let context = fspick(&root, c"", flags)?;
        Ok(fsconfig_reconfigure(&context)?)
    }

    /// A function that does [`Self::shrink_dcache`].
    pub fn pruner(&self) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
        let mounted = self.clone();
        move || mounted.shrink_dcache()
    }

    /// Replaces the mount options. Options that are not given get mount(8)'s defaults.
    pub fn change_flags(&self, flags: &MountFlags) -> Result<()> {
        if self.elsewhere.is_some() {
            return Err(Error::usage(
                "mount options such as ro and nosuid cannot change on a live mount in another namespace: unmount and \
                 mount again",
            ));
        }
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
        flags::change(&mountpoint.ok_or_else(|| Error::refused(gone))?, flags)
    }

    /// Registers a mount that is in another namespace, for `list`, `stat` and `reload`. `None` for any other, and where that
    /// fails. `point`: see [`MountPoint::path`]. `source` is the inode number of the source's root.
    #[must_use]
    pub fn register(&self, config: &Config, point: &Path, source: u64) -> Option<Registration> {
        self.elsewhere.as_ref()?;
        let server = Server::Daemon(std::process::id());
        registry::register(config, point, self.identity, &server, Some(source))
    }

    /// Whether it is in another mount namespace, whose processes may cover or copy it.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// All mount points of the filesystem, bind mounts included.
    #[must_use]
    pub fn remaining_mountpoints(&self) -> Vec<PathBuf> {
        if let Some(elsewhere) = &self.elsewhere {
            return elsewhere.mountpoints(&self.identity);
        }
        self.identity.all_mountpoints().unwrap_or_default()
    }
}
