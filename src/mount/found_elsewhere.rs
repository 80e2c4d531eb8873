//! The mount at a path in another mount namespace, for the subcommands with `--namespace`.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use super::elsewhere::Elsewhere;
use super::registry::{Registered, registered};
use super::table::MountIdentity;
use crate::error::{Error, Result};
use crate::namespace::{Namespace, Pinned, Target, error};
use crate::sys::mountinfo::MountInfo;

/// The topmost mount at a path in another namespace, made by this program.
#[derive(Debug)]
pub struct MountElsewhere {
    place: Elsewhere,
    identity: MountIdentity,
    registered: Option<Registered>,
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
    let place = Elsewhere::new(&config, &Path::new("/").join(path));
    Ok(MountElsewhere { place, identity, registered })
}

impl MountElsewhere {
    /// What is registered of it. `None`: a daemon without the right to write in /run made it, or one that has died.
    #[must_use]
    pub fn into_registered(self) -> Option<Registered> {
        self.registered
    }

    /// Unmounts it. `lazy` detaches it while it is in use.
    ///
    /// # Errors
    /// EBUSY; ESTALE if another mount has taken its place.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        self.place.unmount(&self.identity, lazy)
    }
}
