//! What is mounted: `shiftbind list`, `stat`, `explain MOUNTPOINT` and `umount`, for both engines.
//!
//! The mount table and the records of the kernel's engine say what is there, the daemons say what they do. A daemon may be
//! that of another user, or of another program: its answer is text to print, no more.

mod ask;
mod text;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::describe::{self, push_name};
use crate::error::{Error, Result};
use crate::idmap::IdView;
use crate::mount::{self, FoundMount, MadeBy};
use ask::{Answer, ask_all};

/// The version of the JSON. It is raised when a member goes or changes its meaning, not when one is added.
const SCHEMA: u32 = 1;

/// The output of `shiftbind list`.
///
/// # Errors
/// The mount table cannot be read.
pub fn list(as_json: bool) -> Result<String> {
    let found = mount::inventory()?;
    let answers = ask_all(&found);
    let mounts = found.iter().zip(answers).filter(|(mount, answer)| is_ours(mount, answer));
    let mounts: Vec<Value> =
        mounts.map(|(mount, answer)| told(mount, answer, Detail::List)).collect();
    Ok(match as_json {
        true => pretty(&json!({ "schema": SCHEMA, "mounts": mounts })),
        false => text::table(&mounts),
    })
}

/// The output of `shiftbind stat`.
///
/// # Errors
/// No mount of this program is there, or it tells nothing.
pub fn stat(mountpoint: &Path, as_json: bool) -> Result<String> {
    let (mount, answer) = find(mountpoint)?;
    let mut told = told(&mount, answer, Detail::Stat);
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
    let (mount, answer) = find(mountpoint)?;
    let told = told(&mount, answer, Detail::List);
    describe::ids_of(&told).ok_or_else(|| {
        let why = told["reason"].as_str().unwrap_or("it was mounted by another version");
        Error::refused(format!("{}: the map is not known: {why}", mountpoint.display()))
    })
}

/// Unmounts the topmost mount at a path, if this program made it.
///
/// # Errors
/// No mount of this program is there; it is in use; the user may not.
pub fn umount(path: &Path, lazy: bool) -> Result<()> {
    let (mount, _) = find(path)?;
    let name = path.display();
    mount.unmount(lazy).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Error::refused(format!(
            "umount {name}: files of it are in use; close them, or detach it all the same with --lazy"
        )),
        Some(libc::EPERM) => Error::usage(format!(
            "umount {name}: not permitted; only root and the user who mounted may unmount"
        )),
        _ => Error::mount(format!("umount {name}"), e),
    })
}

fn find(path: &Path) -> Result<(FoundMount, Answer)> {
    let mount = mount::mount_at(path)?;
    let answer = ask_all(std::slice::from_ref(&mount)).pop().unwrap_or(Answer::Silent);
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

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    List,
    Stat,
}

/// The members that `list` takes from a daemon's answer.
const LISTED: [&str; 7] =
    ["source", "source_escaped", "options", "map", "mounted_at", "uptime_seconds", "daemon"];

fn told(mount: &FoundMount, answer: Answer, detail: Detail) -> Value {
    let mut told = Map::new();
    push_name(&mut told, "mountpoint", mount.mountpoint.as_os_str());
    push_name(&mut told, "source", &mount.source);
    for absent in ["options", "map", "mounted_at", "uptime_seconds", "daemon", "reason"] {
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
            merge(&mut told, described, Detail::List);
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
                merge(&mut told, report, detail);
            }
        }
    }
    Value::Object(told)
}

/// Adds what a daemon or a record tells. The members of the mount table stay as they are.
fn merge(told: &mut Map<String, Value>, report: Value, detail: Detail) {
    let Value::Object(report) = report else { return };
    const OWN: [&str; 8] = [
        "mountpoint",
        "mountpoint_escaped",
        "fstype",
        "mount_options",
        "engine",
        "state",
        "mounted_by",
        "reason",
    ];
    if report.contains_key("source") {
        told.remove("source_escaped");
    }
    for (key, value) in report {
        let is_wanted = detail == Detail::Stat || LISTED.contains(&key.as_str());
        if is_wanted && !OWN.contains(&key.as_str()) {
            told.insert(key, value);
        }
    }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
