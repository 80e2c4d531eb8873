//! Mounts in other mount namespaces, for the subcommands.
//!
//! Only what is registered in /run is believed: the mount table of a container, and the server of a mount there, may say
//! anything.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use serde_json::{Value, json};

use super::ask::Answer;
use super::report::{Detail, accepted};
use super::told::{told, told_for_stat};
use crate::error::{Error, Result};
use crate::mount::{self, REPORT, Registered};

/// What is told of each of them.
pub(super) fn all(detail: Detail) -> Result<Vec<Value>> {
    Ok(registered()?.iter().map(|mount| told_of(mount, detail)).collect())
}

fn registered() -> Result<Vec<Registered>> {
    mount::registered().map_err(|e| Error::system("the registered mounts cannot be read", e))
}

/// What is told of one.
pub(super) fn stat(namespace: &OsStr, path: &Path) -> Result<Value> {
    Ok(told_of(&registered_at(namespace, path)?, Detail::Stat))
}

/// What is told of a mount that was found before. `None`: it is gone.
pub(super) fn stat_again(mount: &Registered) -> Result<Option<Value>> {
    let found = registered()?.into_iter().find(|one| one.mount.is_same_as(&mount.mount));
    Ok(found.map(|mount| told_of(&mount, Detail::Stat)))
}

/// Finds the entry of a mount.
pub(super) fn registered_at(namespace: &OsStr, path: &Path) -> Result<Registered> {
    let named = |e: Error| Error::reported(e.exit(), format!("{}: {e}", path.display()));
    mount::mount_in(namespace, path)?.take_registered().map_err(named)
}

pub(super) fn told_of(mount: &Registered, detail: Detail) -> Value {
    let answer = match mount.daemon {
        None => Answer::NotAsked,
        Some(_) => match mount.ask(REPORT) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(report) => Answer::Report(Arc::new(accepted(report, detail))),
                Err(_) => Answer::Failed(Errno::PROTO),
            },
            Err(e) => match Errno::from_io_error(&e) {
                None | Some(Errno::AGAIN) => Answer::Silent,
                Some(e) => Answer::Failed(e),
            },
        },
    };
    let mut told = match detail {
        Detail::List => told(&mount.mount, answer),
        Detail::Stat => told_for_stat(&mount.mount, answer),
    };
    told["namespace"] = json!({
        "value": mount.value,
        "inode": mount.namespace.inode,
        "id": mount.namespace.unique,
    });
    told
}

/// Unmounts a mount in another namespace.
pub(super) fn umount(namespace: &OsStr, path: &Path, lazy: bool) -> Result<()> {
    let name = path.display();
    mount::mount_in(namespace, path)?.unmount(lazy).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Error::refused(format!(
            "umount {name}: it is in use, or other mounts are below it; detach it all the same with --lazy"
        )),
        Some(libc::EPERM) => Error::usage(format!(
            "umount {name}: not permitted; this takes root, or CAP_SYS_ADMIN in the user namespace"
        )),
        Some(libc::ESTALE) => {
            Error::refused(format!("umount {name}: another mount has taken its place meanwhile"))
        }
        _ => Error::mount(format!("umount {name}"), e),
    })
}
