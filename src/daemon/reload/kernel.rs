//! Reloads the options of a mount that the kernel's engine made: no daemon does it, so the process that was asked to does.

use std::path::{Path, PathBuf};

use super::super::{Options, OptionsAgain};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::mount::{
    KernelMount, KernelMountElsewhere, MountElsewhere, Origin, Registered, check_privileges,
};

/// Evaluates the options of a mount again, and gives them to it.
pub(super) fn reload(mount: &KernelMount, again: OptionsAgain) -> Result<()> {
    let Some(origin) = mount.origin() else {
        return Err(Error::refused(
            "an older version made this mount and did not record how: unmount and mount again",
        ));
    };
    let config = evaluated(origin, mount.mountpoint(), again)?;
    mount.reload(&config, origin)
}

/// As [`reload`], for a mount in another mount namespace.
pub(in super::super) fn reload_elsewhere(
    found: MountElsewhere,
    entry: Registered,
    again: OptionsAgain,
) -> Result<()> {
    let mount = KernelMountElsewhere::of(found, entry)?;
    if !mount.origin().has_file {
        // The paths of fstab(5) are those of this namespace.
        return Err(Error::usage(
            "cannot find the options of a mount in another namespace: mount with config=FILE",
        ));
    }
    let config = evaluated(mount.origin(), mount.mountpoint(), again)?;
    mount.reload(&config)
}

/// Evaluates the options again, with relative paths resolved in the original working directory.
fn evaluated(origin: &Origin, mountpoint: &Path, again: OptionsAgain) -> Result<Config> {
    let options: Options = again(origin);
    // Relative paths must not resolve elsewhere: /proc/self/fdinfo holds numbers only.
    let directory = origin.directory.clone().unwrap_or_else(|| PathBuf::from("/proc/self/fdinfo"));
    rustix::process::chdir(&directory)
        .or_else(|_| rustix::process::chdir(Path::new("/proc/self/fdinfo")))
        .map_err(|e| Error::system("/proc must be mounted", e))?;
    let config = options(mountpoint, &origin.found)?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    check_privileges(&config)?;
    Ok(config)
}
