//! What is mounted: `shiftbind list`, `stat`, `explain MOUNTPOINT` and `umount`, for both engines.
//!
//! The mount table and the records of the kernel's engine say what is there, the daemons say what they do. A daemon may be
//! that of another user, or of another program: its answer is text to print, no more.

mod ask;
mod elsewhere;
mod latency;
mod metrics;
mod report;
mod text;
mod told;
mod view;
mod watch;

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Value, json};

use crate::describe;
use crate::error::{Error, Result};
use crate::idmap::IdView;
use crate::mount::{self, FoundMount};
use ask::{Answer, Asked, LastChild, ask_all};
use report::Detail;
use told::{SCHEMA, document, find, is_ours, told, told_for_stat};

pub use watch::{Watched, watch};

/// The output of `shiftbind list`.
///
/// # Errors
/// The mount table cannot be read.
pub fn list(as_json: bool) -> Result<String> {
    let found = mount::inventory()?;
    let answers = ask_all(&found, Asked::OfOurType, Detail::List);
    let mounts = found.iter().zip(answers).filter(|(mount, answer)| is_ours(mount, answer));
    let mut mounts: Vec<Value> = mounts.map(|(mount, answer)| told(mount, answer)).collect();
    mounts.extend(elsewhere::all(Detail::List)?);
    Ok(match as_json {
        true => pretty(&json!({ "schema": SCHEMA, "mounts": mounts })),
        false => text::table(&mounts),
    })
}

/// The output of `shiftbind stat`.
///
/// # Errors
/// No mount of this program is there, or it tells nothing.
pub fn stat(mountpoint: &Path, namespace: Option<&OsStr>, as_json: bool) -> Result<String> {
    let told = match namespace {
        Some(value) => elsewhere::stat(value, mountpoint)?,
        None => {
            let (mount, answer) = find(mountpoint, Detail::Stat, &mut LastChild::default())?;
            told_for_stat(&mount, answer)
        }
    };
    Ok(match as_json {
        true => pretty(&document(&told)),
        false => text::facts(&told),
    })
}

/// The output of `shiftbind stat --prometheus`: the metrics of a mount, or of all mounts that `list` lists.
///
/// # Errors
/// No mount of this program is there, or the mount table cannot be read.
pub fn metrics(mountpoint: Option<&Path>, namespace: Option<&OsStr>) -> Result<String> {
    if let (Some(path), Some(value)) = (mountpoint, namespace) {
        return Ok(metrics::exposition(&[elsewhere::stat(value, path)?]));
    }
    let Some(mountpoint) = mountpoint else {
        let found = mount::inventory()?;
        let answers = ask_all(&found, Asked::OfOurType, Detail::Stat);
        let mounts = found.iter().zip(answers).filter(|(mount, answer)| is_ours(mount, answer));
        let mut mounts: Vec<Value> =
            mounts.map(|(mount, answer)| told_for_stat(mount, answer)).collect();
        mounts.extend(elsewhere::all(Detail::Stat)?);
        return Ok(metrics::exposition(&mounts));
    };
    let (mount, answer) = find(mountpoint, Detail::Stat, &mut LastChild::default())?;
    Ok(metrics::exposition(&[told_for_stat(&mount, answer)]))
}

/// The maps in force at a mount.
///
/// # Errors
/// No mount of this program is there, or it does not tell.
pub fn ids_of(mountpoint: &Path) -> Result<IdView> {
    let (mount, answer) = find(mountpoint, Detail::List, &mut LastChild::default())?;
    let told = told(&mount, answer);
    describe::ids_of(&told).ok_or_else(|| {
        let why = told["reason"].as_str().unwrap_or("it was mounted by another version");
        Error::refused(format!("{}: the map is not known: {why}", mountpoint.display()))
    })
}

/// Unmounts the topmost mount at a path, if this program made it. A daemon is asked only where the type of the mount does
/// not tell that it is one of this program: a daemon that does not answer keeps the mount in use.
///
/// # Errors
/// No mount of this program is there; it is in use or others are below it; the user may not.
pub fn umount(path: &Path, namespace: Option<&OsStr>, lazy: bool) -> Result<()> {
    if let Some(value) = namespace {
        return elsewhere::umount(value, path, lazy);
    }
    let mount = mount::mount_at(path)?;
    let mount = if is_ours(&mount, &Answer::NotAsked) {
        mount
    } else {
        find(path, Detail::List, &mut LastChild::default())?.0
    };
    let name = path.display();
    mount.unmount(lazy).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => busy(path, &mount),
        Some(libc::EPERM) => Error::usage(format!(
            "umount {name}: not permitted; only root and the user who mounted may unmount"
        )),
        Some(libc::ESTALE) => {
            Error::refused(format!("umount {name}: another mount has taken its place meanwhile"))
        }
        _ => Error::mount(format!("umount {name}"), e),
    })
}

/// How many of the mounts below are named.
const MAX_NAMED: usize = 10;

fn busy(path: &Path, mount: &FoundMount) -> Error {
    let name = path.display();
    let below = mount.others_below().unwrap_or_default();
    if below.is_empty() {
        return Error::refused(format!(
            "umount {name}: files of it are in use; close them, or detach it all the same with --lazy"
        ));
    }
    let mut names: Vec<String> =
        below.iter().take(MAX_NAMED).map(|one| one.display().to_string()).collect();
    if below.len() > MAX_NAMED {
        names.push("…".to_owned());
    }
    Error::refused(format!(
        "umount {name}: other mounts are below it: {}; unmount them first, or detach all of them with --lazy",
        names.join(", ")
    ))
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
