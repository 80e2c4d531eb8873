//! What is mounted: `shiftbind list`, `stat`, `explain MOUNTPOINT` and `umount`, for both engines.
//!
//! The mount table and the records of the kernel's engine say what is there, the daemons say what they do. A daemon may be
//! that of another user, or of another program: its answer is text to print, no more.

mod ask;
mod elsewhere;
mod report;
mod text;

use std::ffi::OsStr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::describe::{self, push_name};
use crate::error::{Error, Result};
use crate::fuse::pid_namespace;
use crate::idmap::IdView;
use crate::mount::{self, FoundMount, MadeBy};
use ask::{Answer, Asked, ask_all};
pub use elsewhere::reload as reload_in;
use report::{Detail, accepted};

/// The version of the JSON. It is raised when a member goes or changes its meaning, not when one is added.
const SCHEMA: u32 = 1;

/// The output of `shiftbind list`.
///
/// # Errors
/// The mount table cannot be read.
pub fn list(as_json: bool) -> Result<String> {
    let found = mount::inventory()?;
    let answers = ask_all(&found, Asked::OfOurType, Detail::List);
    let mounts = found.iter().zip(answers).filter(|(mount, answer)| is_ours(mount, answer));
    let mut mounts: Vec<Value> = mounts.map(|(mount, answer)| told(mount, answer)).collect();
    mounts.extend(elsewhere::list()?);
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
    let mut told = match namespace {
        Some(value) => elsewhere::stat(value, mountpoint)?,
        None => {
            let (mount, answer) = find(mountpoint, Detail::Stat)?;
            told(&mount, answer)
        }
    };
    Ok(match as_json {
        true => {
            told["schema"] = SCHEMA.into();
            pretty(&told)
        }
        false => text::facts(&told),
    })
}

/// The maps in force at a mount.
///
/// # Errors
/// No mount of this program is there, or it does not tell.
pub fn ids_of(mountpoint: &Path) -> Result<IdView> {
    let (mount, answer) = find(mountpoint, Detail::List)?;
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
    let mount =
        if is_ours(&mount, &Answer::NotAsked) { mount } else { find(path, Detail::List)?.0 };
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

fn find(path: &Path, detail: Detail) -> Result<(FoundMount, Answer)> {
    let mount = mount::mount_at(path)?;
    let answer =
        ask_all(std::slice::from_ref(&mount), Asked::Any, detail).pop().unwrap_or(Answer::Silent);
    match is_ours(&mount, &answer) {
        true => Ok((mount, answer)),
        false => Err(mount::not_ours(path)),
    }
}

/// Whether a mount is one of this program. The subtype may be chosen, so another type is ours if its daemon says so.
fn is_ours(mount: &FoundMount, answer: &Answer) -> bool {
    matches!(mount.made_by, MadeBy::Kernel { .. })
        || mount.fs_type == "fuse.shiftbind"
        || matches!(answer, Answer::Report(_))
}

fn told(mount: &FoundMount, answer: Answer) -> Value {
    let mut told = Map::new();
    push_name(&mut told, "mountpoint", mount.mountpoint.as_os_str());
    push_name(&mut told, "source", &mount.source);
    for absent in
        ["namespace", "options", "map", "mounted_at", "uptime_seconds", "daemon", "reason"]
    {
        told.insert(absent.to_owned(), Value::Null);
    }
    let put = |told: &mut Map<String, Value>, key: &str, value: Value| {
        told.insert(key.to_owned(), value);
    };
    put(&mut told, "fstype", mount.fs_type.clone().into());
    put(&mut told, "mount_options", mount.options.clone().into());
    match &mount.made_by {
        MadeBy::Kernel { source, description, since } => {
            put(&mut told, "engine", "kernel".into());
            put(&mut told, "state", "mounted".into());
            put(&mut told, "mounted_by", 0.into());
            push_name(&mut told, "source", source);
            let described = serde_json::from_slice(description).unwrap_or(Value::Null);
            merge(&mut told, accepted(described, Detail::List));
            if let Some(since) = since {
                let seconds = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let uptime = SystemTime::now().duration_since(*since).unwrap_or_default().as_secs();
                put(&mut told, "mounted_at", seconds.into());
                put(&mut told, "uptime_seconds", uptime.into());
            }
        }
        MadeBy::Fuse { mounter } => {
            put(&mut told, "engine", "fuse".into());
            put(&mut told, "mounted_by", (*mounter).into());
            put(&mut told, "state", answer.state().into());
            put(&mut told, "reason", answer.reason().into());
            if let Answer::Report(report) = answer {
                merge(&mut told, Map::clone(&report));
                check_pid(&mut told["daemon"], *mounter);
            }
        }
    }
    Value::Object(told)
}

/// Adds what a daemon or a record tells.
fn merge(told: &mut Map<String, Value>, report: Map<String, Value>) {
    if report.contains_key("source") {
        told.remove("source_escaped");
    }
    told.extend(report);
}

/// Takes the process id away unless it is that of a process of the user who mounted, in this pid namespace: a program may
/// want to signal it, and the daemon may have told any number.
fn check_pid(daemon: &mut Value, mounter: Option<u32>) {
    let Value::Object(daemon) = daemon else { return };
    let is_here = daemon.get("pid_namespace").and_then(Value::as_u64) == pid_namespace();
    let owner = daemon.get("pid").and_then(Value::as_u64).and_then(euid_of);
    if !is_here || owner.is_none() || owner != mounter {
        daemon.insert("pid".to_owned(), Value::Null);
    }
}

/// The effective uid of a process.
fn euid_of(pid: u64) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().nth(1)?.parse().ok()
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
