//! What is told of a mount, as JSON: by the mount table, by the records of the kernel's engine, and by its daemon.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::ask::{Answer, Asked, LastChild, ask_again_all};
use super::latency;
use super::report::{Detail, accepted};
use crate::describe::push_name;
use crate::error::Result;
use crate::fuse::pid_namespace;
use crate::mount::{self, FoundMount, MadeBy};

/// The version of the JSON. It is raised when a member goes or changes its meaning, not when one is added.
pub(super) const SCHEMA: u32 = 1;

/// The mount at a path, and its answer. `child` is where a child process that a server keeps is noted.
pub(super) fn find(
    path: &Path,
    detail: Detail,
    child: &mut LastChild,
) -> Result<(FoundMount, Answer)> {
    let mount = mount::mount_at(path)?;
    let answer = ask_again_all(std::slice::from_ref(&mount), Asked::Any, detail, child)
        .pop()
        .unwrap_or(Answer::Silent);
    match is_ours(&mount, &answer) {
        true => Ok((mount, answer)),
        false => Err(mount::not_ours(path)),
    }
}

/// Whether a mount is one of this program. The subtype may be chosen, so another type is ours if its daemon says so.
pub(super) fn is_ours(mount: &FoundMount, answer: &Answer) -> bool {
    matches!(mount.made_by, MadeBy::Kernel { .. })
        || mount.fs_type == "fuse.shiftbind"
        || matches!(answer, Answer::Report(_))
}

pub(super) fn told(mount: &FoundMount, answer: Answer) -> Value {
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

/// What `stat` tells of a mount.
pub(super) fn told_for_stat(mount: &FoundMount, answer: Answer) -> Value {
    let mut told = told(mount, answer);
    if let Value::Object(told) = &mut told {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        told.insert("observed_at".to_owned(), now.as_secs_f64().into());
        latency::add_percentiles(told);
    }
    told
}

/// The document of `stat --json`.
pub(super) fn document(told: &Value) -> Value {
    let mut told = told.clone();
    told["schema"] = SCHEMA.into();
    told
}
