//! Reloads the options of a mount that the kernel's engine made: no daemon does it, so the process that was asked to does.

use std::path::{Path, PathBuf};

use super::super::{Options, OptionsAgain};
use crate::error::{Error, Result};
use crate::mount::{KernelMount, check_privileges};

/// Evaluates the options of a mount again, and gives them to it.
pub(super) fn reload(mount: &KernelMount, again: OptionsAgain) -> Result<()> {
    let Some(origin) = mount.origin() else {
        return Err(Error::refused(
            "an older version made this mount and did not record how: unmount and mount again",
        ));
    };
    let options: Options = again(origin);
    // Relative paths must not resolve elsewhere: /proc/self/fdinfo holds numbers only.
    let directory = origin.directory.clone().unwrap_or_else(|| PathBuf::from("/proc/self/fdinfo"));
    rustix::process::chdir(&directory)
        .or_else(|_| rustix::process::chdir(Path::new("/proc/self/fdinfo")))
        .map_err(|e| Error::system("/proc must be mounted", e))?;
    let config = options(mount.mountpoint(), &origin.found)?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    check_privileges(&config)?;
    mount.reload(&config, origin)
}
