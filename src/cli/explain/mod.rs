//! `--explain`: describes a mount. One fact a line, each line begins with its subject, so that grep(1) finds it.

mod ids;
mod mounts;
mod view;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::accounts::{Accounts, SystemAccounts};
use crate::config::{Access, CachePolicy, Config};
use crate::error::one_line;
use crate::idmap::{IdView, SourceUid};
use crate::mount;
use crate::source::SourceMounts;

/// Names are looked up for this many extents of each kind of id: a lookup may go over the network.
const MAX_NAMED: usize = 32;
/// At most this many ranges are listed under one subject.
const MAX_LISTED: usize = 100;

/// Facts that were probed on this system, where that was possible.
#[derive(Debug, Default, Clone)]
pub struct ProbeResults {
    /// The engine that the mount would have, and why.
    pub engine: Option<String>,
    /// Whether the kernel would make the mount by itself.
    pub by_kernel: bool,
    /// The cache policy that the source allows.
    pub cache: Option<String>,
    /// What the kernel's FUSE costs compared to one with all features.
    pub costs: Vec<&'static str>,
    /// The command of mount(8) that makes the same mount.
    pub mount8_command: Option<String>,
    /// The source's own mount and the submounts below it.
    pub mounts: Option<SourceMounts>,
    /// Whether this process may register backing files with the kernel, for passthrough.
    pub passthrough: Option<bool>,
    /// The uid_map of this process, if its user namespace is not the initial one.
    pub uid_map: Option<String>,
    /// Whether the mount will arrive in other mount namespaces as well.
    pub propagates: Option<bool>,
}

/// Explains the mount, with names from the system's user database.
#[must_use]
pub fn explain(config: &Config, probed: &ProbeResults) -> String {
    explain_with(config, probed, &SystemAccounts)
}

/// As [`explain`], with another user database.
#[must_use]
pub fn explain_with(config: &Config, probed: &ProbeResults, accounts: &dyn Accounts) -> String {
    let mut out = Facts(String::new());
    out.push("source", config.source.display());
    out.push("mountpoint", config.mountpoint.display());
    if let Some(namespace) = &config.namespace {
        let mode = match namespace.is_container {
            true => {
                "container mode: the filesystem belongs to the container's user namespace, whose numbers the mount's ids are"
            }
            false => "host mode: the mount's ids are numbered as here",
        };
        out.push("namespace", format!("{}, {mode}", namespace.value.to_string_lossy()));
    }
    if config.mkdir {
        out.push("mkdir", "the mount point is made where there is none");
    }
    if let Some(file) = &config.options_file {
        out.push("config", format!("{}, which --reload reads again", file.display()));
    }
    if let Some(mounts) = &probed.mounts {
        match probed.by_kernel {
            true => mounts::explain_mounts_of_kernel(&mut out, mounts),
            false => mounts::explain_mounts(&mut out, config, mounts),
        }
    }
    explain_view(&mut out, config, probed, accounts);
    if let Some(engine) = &probed.engine {
        out.push("engine", engine);
    }
    out.push("kernel", mount::map_verdict(config));
    if let Some(command) = &probed.mount8_command {
        out.push("the same by mount(8)", command);
    }
    if let Some(reach) = reach(probed) {
        out.push("namespace", reach);
    }
    match probed.by_kernel {
        true => out.push("access", "every user"),
        false => explain_daemon(&mut out, config, probed),
    }
    out.0
}

/// Explains how the daemon would serve the mount.
fn explain_daemon(out: &mut Facts, config: &Config, probed: &ProbeResults) {
    match &probed.cache {
        Some(found) => out.push("cache", found),
        None => out.push("cache", describe_cache(config.cache)),
    }
    for cost in &probed.costs {
        out.push("kernel's FUSE", cost);
    }
    view::explain_checks(out, config);
    view::explain_data(out, config, probed.passthrough);
    out.push(
        "access",
        match config.access {
            None => "every user if root mounts, else only the user who mounts",
            Some(Access::Everyone) => "every user",
            Some(Access::OwnerAndRoot) => "the user who mounts, and root",
            Some(Access::Owner) => "only the user who mounts",
        },
    );
    out.push("threads", config.threads);
}

/// Explains the options alone: the maps, and what else they change in what is shown.
#[must_use]
pub fn explain_options(config: &Config, probed: &ProbeResults) -> String {
    let mut out = Facts(String::new());
    explain_view(&mut out, config, probed, &SystemAccounts);
    out.push("kernel", mount::map_verdict(config));
    out.0
}

fn explain_view(out: &mut Facts, config: &Config, probed: &ProbeResults, accounts: &dyn Accounts) {
    ids::explain_ids(out, &config.view.ids.uids, accounts);
    ids::explain_ids(out, &config.view.ids.gids, accounts);
    let root = match &probed.uid_map {
        None => Some("root".to_owned()),
        Some(map) => outer_root(map).map(|uid| format!("{uid} of the user namespace outside")),
    };
    if let Some(root) = root
        && let Some(source_id) = SourceUid::new(0)
        && let Some(mount_id) =
            config.view.ids.uid_to_mount(source_id).filter(|mount_id| mount_id.raw() != 0)
    {
        out.push(
            "warning",
            format!(
                "a file that {} makes setuid at the mount is setuid {root} on the source: keep other users from the source, \
                 below a directory with mode 0700 or on a filesystem mounted nosuid,nodev (man page, SECURITY)",
                with_name(mount_id.raw(), accounts.user_name(mount_id.raw()))
            ),
        );
    }
    view::explain_owners(out, &config.view, accounts);
    view::explain_creation(out, &config.view, accounts);
    view::explain_presentation(out, config);
    view::explain_changes(out, &config.view);
}

/// In which mount namespaces the mount will be seen.
fn reach(probed: &ProbeResults) -> Option<&'static str> {
    match (&probed.uid_map, probed.propagates) {
        (Some(_), _) => Some(
            "the mount will be seen in this mount namespace only, and in those made from it: it belongs to a user \
             namespace, from which no mount propagates outward",
        ),
        (None, Some(false)) => Some(
            "the mount point is on a private mount: containers that run, rootless podman and other mount namespaces that \
             exist keep the directory under the mount (/proc/PID/mountinfo shows what they have)",
        ),
        (None, Some(true)) => Some(
            "the mount point is on a shared mount: the mount will be seen in mount namespaces that receive mounts from \
             this one, and in those made from it",
        ),
        (None, None) => None,
    }
}

/// The id outside of the user namespace with this uid_map that is 0 in it.
fn outer_root(uid_map: &str) -> Option<u32> {
    let numbers = |line: &str| -> Option<Vec<u32>> {
        line.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    uid_map.lines().filter_map(numbers).find_map(|line| match line[..] {
        [0, outside, _] => Some(outside),
        _ => None,
    })
}

/// Explains the maps in force at a mount, with names from the system's user database.
#[must_use]
pub fn explain_ids_of(mountpoint: &Path, ids: &IdView) -> String {
    let mut out = Facts(String::new());
    out.push("mountpoint", mountpoint.display());
    ids::explain_ids(&mut out, &ids.uids, &SystemAccounts);
    ids::explain_ids(&mut out, &ids.gids, &SystemAccounts);
    out.0
}

struct Facts(String);

impl Facts {
    fn push(&mut self, subject: &str, fact: impl std::fmt::Display) {
        // Names may contain terminal control sequences and line ends.
        let fact = one_line(&fact.to_string());
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{subject}: {fact}");
    }
}

fn with_name(id: u32, name: Option<String>) -> String {
    match name {
        Some(name) => format!("{id} ({name})"),
        None => id.to_string(),
    }
}

fn describe_cache(cache: CachePolicy) -> String {
    match cache {
        CachePolicy::Coherent { required: true } => {
            "coherent: the source is watched, and its changes are invalidated, because cache=coherent was given"
                .to_owned()
        }
        CachePolicy::Coherent { required: false } => {
            "coherent: the source is watched, and its changes are invalidated, where root mounts and the source's \
             filesystem can be watched; else timeout: everything 1s"
                .to_owned()
        }
        CachePolicy::Timeouts { entry, negative, attr } => format!(
            "timeout: names {}, missing names {}, attributes {}, because other processes may change the \
             source meanwhile",
            seconds(entry),
            seconds(negative),
            seconds(attr)
        ),
        CachePolicy::None => {
            "none: the kernel caches nothing, because cache=none was given".to_owned()
        }
        CachePolicy::Forever => {
            "forever: nothing else changes the source, because cache=forever was given".to_owned()
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

#[cfg(test)]
mod tests;
