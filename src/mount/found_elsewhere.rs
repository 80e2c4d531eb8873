//! The mount at a path in another mount namespace, for the subcommands with `--namespace`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use super::elsewhere::Elsewhere;
use super::point::MountPoint;
use super::registry::{Registered, registered};
use super::table::MountIdentity;
use crate::config::{Config, TargetNamespace};
use crate::error::{Error, Result};
use crate::namespace::{Namespace, Pinned, Resolved, Target, error};
use crate::sys::mountinfo::MountInfo;

/// The topmost mount at a path in another namespace, made by this program.
#[derive(Debug)]
pub struct MountElsewhere {
    place: Elsewhere,
    identity: MountIdentity,
    registered: Option<Registered>,
    namespace: Namespace,
    point: Resolved,
}

/// Finds the mount at a path in the namespace that a value of `--namespace` names.
///
/// # Errors
/// The namespace or the path does not exist, or may not be looked at; no mount of this program is there.
pub fn mount_in(value: &OsStr, path: &Path) -> Result<MountElsewhere> {
    let refused = |why: String| Error::usage(format!("option 'namespace': {why}"));
    let namespace = Namespace::open(value).map_err(refused)?;
    let target = Target { root: None, path, make: None };
    let found = namespace.resolve(target).map_err(error)?;
    let failed = |e: io::Error| Error::mount(path.display().to_string(), e);
    let identity = MountIdentity::of_descriptor(&found.fd).map_err(failed)?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(&found.fd, c"", flags, StatxFlags::empty()).map_err(|e| failed(e.into()))?;
    let is_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    let config = namespace.described(value, false).map_err(failed)?;
    let all = registered().map_err(|e| Error::system("the registered mounts cannot be read", e))?;
    let registered = all
        .into_iter()
        .find(|one| one.namespace == config.mounts && one.identity().is_same_as(&identity));
    let pinned = Pinned::of(&config);
    let is_this = |line: &MountInfo| MountIdentity::of_line(line).has_number_of(&identity);
    let is_fuse = |line: &MountInfo| is_this(line) && line.fs_type == b"fuse.shiftbind";
    let is_ours = registered.is_some() || !pinned.mountpoints(is_fuse).is_empty();
    if !is_ours || !is_root {
        return Err(Error::refused(format!(
            "{}: no mount of shiftbind is there in the namespace",
            path.display()
        )));
    }
    let place = Elsewhere::new(&config, &found.path);
    Ok(MountElsewhere { place, identity, registered, namespace, point: found })
}

/// Whether the topmost mount at a mount point in another namespace is one that this program made there of the same source. What
/// the container's mount table says is not believed. `source` is the inode number of the source's root.
pub(super) fn is_already_mounted(config: &Config, point: &MountPoint, source: u64) -> Result<bool> {
    let failed = |e| Error::system("the registered mounts cannot be read", e);
    let Some(namespace) = &config.namespace else { return Ok(false) };
    let identity = MountIdentity::of_descriptor(point).map_err(failed)?;
    let is_it = |one: &Registered| {
        one.namespace == namespace.mounts && one.identity().is_same_as(&identity)
    };
    let found = registered().map_err(failed)?.into_iter().find(is_it);
    Ok(found.is_some_and(|one| one.is_of(config, source))
        && point.is_root_of_mount().map_err(failed)?)
}

impl MountElsewhere {
    /// Takes what is registered of it.
    ///
    /// # Errors
    /// Nothing: a daemon without the right to write in /run made it, or one that has died.
    pub fn take_registered(&mut self) -> Result<Registered> {
        self.registered.take().ok_or_else(|| {
            Error::refused(
                "its daemon is not registered: it died, or was started without the right to write in /run",
            )
        })
    }

    /// Its root, held open.
    pub(super) fn point(&self) -> BorrowedFd<'_> {
        self.point.fd.as_fd()
    }

    pub(super) fn is_dir(&self) -> bool {
        self.point.is_dir
    }

    pub(super) fn identity(&self) -> &MountIdentity {
        &self.identity
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The namespace as a configuration keeps it, without a name.
    pub(super) fn described(&self) -> io::Result<TargetNamespace> {
        self.namespace.described(OsStr::new(""), false)
    }

    /// Unmounts it. `lazy` detaches it while it is in use.
    ///
    /// # Errors
    /// EBUSY; ESTALE if another mount has taken its place.
    pub fn unmount(self, lazy: bool) -> io::Result<()> {
        let Self { place, identity, point, .. } = self;
        // A descriptor of the mount keeps it in use.
        drop(point);
        place.unmount(&identity, lazy)
    }
}
