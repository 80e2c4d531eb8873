//! The options on where the mount is made: in which namespace, and whether its mount point is made.

use std::ffi::{OsStr, OsString};

use rustix::process::{getegid, geteuid};

use super::ids::IdOptions;
use crate::config::{MountFlags, ProcessConfig, TargetNamespace};
use crate::error::{Error, Result};
use crate::namespace::Namespace;

/// The options that were read so far.
#[derive(Debug, Default)]
pub(super) struct TargetOptions {
    namespace: Option<OsString>,
    /// Container mode, or host mode.
    is_container: Option<bool>,
    /// `mkdir`.
    pub(super) make_dir: bool,
}

impl TargetOptions {
    pub(super) fn set_namespace(&mut self, value: &OsStr) {
        self.namespace = Some(value.to_owned());
    }

    pub(super) fn set_container(&mut self, is_container: bool) {
        self.is_container = Some(is_container);
    }

    /// Looks at the namespace. `kept` is that of a running mount, which is not looked at again: the value may have come to
    /// name another one.
    pub(super) fn find(
        &self,
        kept: Option<&TargetNamespace>,
        process: &ProcessConfig,
    ) -> Result<Option<TargetNamespace>> {
        let Some(value) = &self.namespace else {
            return match self.is_container {
                Some(_) => Err(Error::usage("option 'ids' has a meaning with namespace only")),
                None => Ok(None),
            };
        };
        if process.auto_unmount {
            return Err(Error::usage(
                "option 'auto-unmount' contradicts namespace: the mount of a daemon that died is unmounted by shiftbind \
                 umount -N",
            ));
        }
        let refused = |why: String| Error::usage(format!("option 'namespace': {why}"));
        let found = match kept.filter(|kept| kept.value == *value) {
            Some(kept) => kept.clone(),
            None => {
                let namespace = Namespace::open(value).map_err(refused)?;
                let has_other_users = namespace.has_other_users();
                namespace
                    .described(value, has_other_users)
                    .map_err(|e| Error::system("/proc must be mounted", e))?
            }
        };
        let is_container = self.is_container.unwrap_or(found.users.is_some());
        if is_container && found.users.is_none() {
            return Err(Error::usage(
                "option 'ids=container': the namespace has the same user namespace as this program; leave the option out",
            ));
        }
        Ok(Some(TargetNamespace { is_container, ..found }))
    }
}

/// Applies what follows from a namespace: `nodev`, and the map where none is given.
pub(super) fn apply(
    namespace: Option<&TargetNamespace>,
    flags: &mut MountFlags,
    ids: &mut IdOptions,
    idmappable: bool,
) -> Result<()> {
    flags.nodev = nodev(namespace, flags.nodev)?;
    check_idmappable(namespace, idmappable)?;
    if let Some(own) = namespace.and_then(TargetNamespace::container_ids) {
        // A user's daemon stores each file as the user's own.
        let user = geteuid();
        let alone = (!user.is_root()).then(|| (user.as_raw(), getegid().as_raw()));
        ids.set_default_map(own, alone);
    }
    Ok(())
}

/// The option `nodev`, which is forced for a container: its root may not open devices that lie on the source.
fn nodev(namespace: Option<&TargetNamespace>, given: Option<bool>) -> Result<Option<bool>> {
    let is_container = namespace.is_some_and(|namespace| namespace.users.is_some());
    match (is_container, given) {
        (false, given) => Ok(given),
        (true, Some(false)) => Err(Error::usage(
            "option 'dev': a container with a user namespace of its own may not open devices; leave it out",
        )),
        (true, _) => Ok(Some(true)),
    }
}

/// Refuses `idmappable` in container mode: the kernel tells no ids of callers then, and /proc tells those outside.
fn check_idmappable(namespace: Option<&TargetNamespace>, given: bool) -> Result<()> {
    match given && namespace.is_some_and(|namespace| namespace.is_container) {
        true => Err(Error::usage(
            "option 'idmappable' contradicts namespace: give ids=host with it, or leave it out",
        )),
        false => Ok(()),
    }
}
