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
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::accounts::TestAccounts;
    use crate::cli::{Command, parse_with};

    fn explained(args: &str) -> Vec<String> {
        explained_with(args, &ProbeResults::default())
    }

    fn explained_with(args: &str, probed: &ProbeResults) -> Vec<String> {
        let argv =
            ["shiftbind", "/src", "/mnt", "--explain"].into_iter().chain(args.split_whitespace());
        match parse_with(argv.map(OsString::from), &TestAccounts) {
            Ok(Command::Explain(config)) => {
                explain_with(&config, probed, &TestAccounts).lines().map(str::to_owned).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn of<'a>(lines: &'a [String], subject: &str) -> Vec<&'a str> {
        lines.iter().filter_map(|line| line.strip_prefix(subject)?.strip_prefix(": ")).collect()
    }

    #[test]
    fn a_container_map_is_explained_with_its_gaps() {
        let lines = explained("--idmap=0:100000:65536");
        assert_eq!(
            of(&lines, "uid"),
            [
                "source 0..65535 is shown as 100000..165535",
                "source 0 (root) is shown as 100000",
                "source 65536..4294967294 is unmapped: shown as the overflow id (65534), owned by no user",
                "mount 0..99999 is unmapped: cannot be stored (EOVERFLOW)",
                "mount 165536..4294967294 is unmapped: cannot be stored (EOVERFLOW)",
            ]
        );
        assert_eq!(of(&lines, "gid").len(), 5);
        assert_eq!(
            of(&lines, "kernel"),
            ["an idmapped mount of the kernel could express this map"]
        );
    }

    #[test]
    fn single_ids_have_their_names() {
        let lines = explained("--uidmap=1000:101000:1:5:bob:1 --gidmap=identity");
        assert_eq!(of(&lines, "uid")[0], "source 1000 (alice) is shown as 101000");
        assert_eq!(of(&lines, "uid")[1], "source 5 is shown as 2000 (bob)");
        assert_eq!(of(&lines, "gid"), ["every source id is shown as itself"]);
    }

    #[test]
    fn a_stored_root_is_in_no_gap_and_keeps_the_kernel_from_the_map() {
        let lines = explained("--idmap=0:100000:65536 --root-as=5:6");
        let uid = of(&lines, "uid");
        assert!(
            uid.contains(&"mount 1..99999 is unmapped: cannot be stored (EOVERFLOW)"),
            "{uid:?}"
        );
        assert!(uid.contains(&"mount 0 is stored as 5, because root-as was given"));
        assert!(of(&lines, "kernel")[0].contains("could not express this map: option 'root-as'"));
        let lines = explained("--idmap=5:1:1 --unmapped=pass --root-as=5:6");
        assert!(!of(&lines, "uid").iter().any(|line| line.starts_with("mount 0 is unmapped")));
        assert!(of(&lines, "uid").contains(&"mount 2..4294967294 is unmapped: stored as it is"));
        // Where it does nothing, nothing is said of it.
        let lines = explained("--idmap=7:0:1 --root-as=5:6");
        assert!(
            of(&lines, "uid")
                .contains(&"mount 1..4294967294 is unmapped: cannot be stored (EOVERFLOW)")
        );
        assert!(of(&lines, "kernel")[0].contains("could express"));
    }

    #[test]
    fn the_winner_among_several_source_ids_is_named() {
        let lines = explained("--uidmap=500:15:1:0:10:10 --gidmap=identity");
        let expected = "mount 15 stands for several source ids: stored as 500, by the first extent";
        assert!(of(&lines, "uid").contains(&expected), "{lines:?}");
        assert!(of(&lines, "kernel")[0].ends_with("several uids are shown as one"));
    }

    #[test]
    fn passed_ids_that_collide_with_an_extent_are_explained() {
        let lines = explained("--uidmap=0:100:10 --gidmap=identity --unmapped=pass");
        let uid = of(&lines, "uid");
        assert!(uid.contains(&"source 10..4294967294 is unmapped: shown as it is"));
        assert!(uid.contains(&"mount 0..99 is unmapped: stored as it is"));
        assert!(uid.contains(
            &"mount 100..109 stands for several source ids: stored as 0..9, by the first extent"
        ));
        assert!(of(&lines, "kernel")[0].ends_with(": unmapped uids are not denied"));
    }

    #[test]
    fn squashed_ids_are_explained_in_both_directions() {
        let lines = explained("--idmap=0:1000:10 --unmapped=squash=alice:users");
        assert!(
            of(&lines, "uid").contains(&"source 10..4294967294 is unmapped: shown as 1000 (alice)")
        );
        assert!(of(&lines, "uid").contains(&"mount 0..999 is unmapped: stored as 0 (root)"));
        assert!(of(&lines, "gid").contains(&"mount 0..999 is unmapped: stored as 100 (users)"));
    }

    #[test]
    fn the_kernels_limits_are_known() {
        let many = |count: u32, step: u32| {
            let extents: Vec<String> =
                (0..count).map(|i| format!("{}:{}:1", i * step, i * step)).collect();
            let lines = explained(&format!("--uidmap={} --gidmap=identity", extents.join(":")));
            of(&lines, "kernel")[0].to_owned()
        };
        assert!(many(340, 2).contains("could express"));
        assert!(many(341, 2).ends_with("341 uid extents are more than 340"));
        assert!(many(300, 1_000_000).contains("bytes would not be below 4096"));
    }

    #[test]
    fn without_a_map_there_is_nothing_to_map() {
        let lines = explained("");
        assert_eq!(of(&lines, "uid"), ["every source id is shown as itself"]);
        assert!(of(&lines, "kernel")[0].contains("ordinary bind mount"));
        assert!(of(&lines, "cache")[0].starts_with("coherent: "));
    }

    #[test]
    fn cache_timeouts_are_explained_in_seconds() {
        let lines = explained("--cache=timeout=2m -o negative_timeout=0,attr_timeout=1.5");
        let expected = "timeout: names 120s, missing names 0s, attributes 1.5s, because";
        assert!(of(&lines, "cache")[0].starts_with(expected), "{lines:?}");
        assert!(of(&explained("--cache=none"), "cache")[0].starts_with("none: "));
    }

    #[test]
    fn a_mount_id_that_is_stored_as_root_gets_a_warning() {
        let warning = |args: &str| of(&explained(args), "warning").concat();
        assert!(warning("--idmap=0:100000:65536").starts_with("a file that 100000 makes setuid"));
        assert!(warning("--idmap=5:1000:1 --unmapped=squash=alice:users").contains("1000 (alice)"));
        for harmless in ["", "--idmap=1000:0:1", "--idmap=1000:2000:1 --unmapped=pass"] {
            assert_eq!(warning(harmless), "", "{harmless}");
        }
    }

    #[test]
    fn control_characters_in_paths_are_escaped() {
        let argv = ["shiftbind", "/s\u{1b}[2J\nuid: all", "/mnt", "--explain"].map(OsString::from);
        let Ok(Command::Explain(config)) = parse_with(argv, &TestAccounts) else {
            panic!("it explains")
        };
        let text = explain_with(&config, &ProbeResults::default(), &TestAccounts);
        assert!(text.starts_with("source: /s\\u{1b}[2J\\nuid: all\n"), "{text}");
    }

    #[test]
    fn long_lists_of_gaps_are_cut_short() {
        let extents: Vec<String> = (0..10_000).map(|i| format!("{}:{}:1", i * 2, i * 2)).collect();
        let lines = explained(&format!("--uidmap={} --gidmap=identity", extents.join(";")));
        let uid = of(&lines, "uid");
        assert_eq!(uid.len(), 10_000 + 2 * (MAX_LISTED + 1));
        assert_eq!(uid[10_000 + MAX_LISTED], "… and 9900 more such ranges");
    }

    #[test]
    fn bindfs_options_are_explained_with_their_cause() {
        let lines = explained("-u alice -g staff -p 0640:ad+x --create-for-user=bob --umask=027");
        assert_eq!(
            of(&lines, "owner"),
            ["everything is shown as owned by 1000 (alice), because of force-user"]
        );
        assert_eq!(of(&lines, "group").len(), 1);
        assert!(of(&lines, "permissions")[0].contains("0640:dugo+x:f0750:d0750"), "{lines:?}");
        assert!(of(&lines, "new files")[0].starts_with("belong to 2000 (bob) on the source"));
        assert!(of(&lines, "kernel")[0].starts_with("no mount of the kernel"), "{lines:?}");
        assert_eq!(of(&lines, "checks"), ["the kernel checks permissions, on what is shown"]);
    }

    #[test]
    fn a_mirror_is_explained_with_its_costs() {
        let lines = explained("-M alice:@staff");
        let mirror = of(&lines, "mirror");
        assert!(mirror[0].starts_with("1000 (alice) is shown"), "{mirror:?}");
        assert!(mirror[1].starts_with("every member of group 50 (staff) is"), "{mirror:?}");
        assert!(mirror[2].starts_with("all other users except root"), "{mirror:?}");
        assert!(of(&lines, "checks")[0].contains("because each user in mirror"), "{lines:?}");
        assert_eq!(of(&lines, "devices").len(), 1);
        let cache = of(&lines, "cache");
        assert!(cache.iter().any(|line| line.starts_with("names: not cached")), "{cache:?}");
        assert!(cache.iter().any(|line| line.starts_with("attributes: not cached")), "{cache:?}");
    }

    #[test]
    fn policies_are_explained_with_the_permission_check() {
        let lines = explained(
            "--chown-ignore --chmod-deny --chmod-allow-x --xattr-ro --delete-deny --rename-deny --enable-ioctl",
        );
        assert_eq!(of(&lines, "chown"), ["succeeds for every user and changes nothing"]);
        assert_eq!(of(&lines, "chmod")[0], "fails with EPERM");
        assert_eq!(of(&lines, "chmod").len(), 2);
        for subject in ["xattrs", "delete", "rename", "ioctl"] {
            assert_eq!(of(&lines, subject).len(), 1, "{subject}");
        }
        assert!(of(&lines, "checks")[0].ends_with("chown-ignore succeeds for every user"));
        assert!(of(&explained(""), "chown").is_empty());
    }

    #[test]
    fn a_user_namespace_keeps_the_mount_to_itself_and_its_root_is_the_user_outside() {
        let probed =
            |map: &str| ProbeResults { uid_map: Some(map.to_owned()), ..ProbeResults::default() };
        let lines = explained_with("--idmap=0:1000:1", &probed("  0 1000 1\n  1 300000 65536\n"));
        assert!(
            of(&lines, "namespace")[0]
                .starts_with("the mount will be seen in this mount namespace only")
        );
        let warning = of(&lines, "warning")[0];
        assert!(
            warning.contains("setuid 1000 of the user namespace outside on the source"),
            "{warning}"
        );
        let lines = explained_with("--idmap=0:1000:1", &probed("1 300000 65536\n"));
        assert!(of(&lines, "warning").is_empty(), "no source id is 0");
        assert!(
            of(&explained("--idmap=0:1000:1"), "warning")[0].contains("setuid root on the source")
        );
        assert!(of(&explained(""), "namespace").is_empty());
        for (propagates, words) in [(true, "on a shared mount"), (false, "on a private mount")] {
            let probed = ProbeResults { propagates: Some(propagates), ..ProbeResults::default() };
            assert!(of(&explained_with("", &probed), "namespace")[0].contains(words));
        }
    }

    #[test]
    fn the_reason_for_no_passthrough_is_explained() {
        let passthrough = |args: &str| of(&explained(args), "passthrough")[0].to_owned();
        assert!(passthrough("").starts_with("auto: "));
        assert!(passthrough("--read-rate=1M").ends_with("because read-rate was given"));
        assert!(passthrough("--direct-io").ends_with("because direct-io was given"));
        assert!(passthrough("--passthrough=off").ends_with("because passthrough=off was given"));
        let probed = ProbeResults { passthrough: Some(false), ..ProbeResults::default() };
        let lines = explained_with("", &probed);
        assert!(
            of(&lines, "passthrough")[0].ends_with("CAP_SYS_ADMIN in the initial user namespace")
        );
        let lines = explained_with("--direct-io", &probed);
        assert!(of(&lines, "passthrough")[0].ends_with("because direct-io was given"));
        let lines = explained("--write-rate=1k --forward-odirect=512 --disable-lock-forwarding");
        assert_eq!(of(&lines, "write rate"), ["at most 1024 bytes per second, all users together"]);
        assert_eq!(of(&lines, "O_DIRECT").len(), 1);
        assert_eq!(of(&lines, "locks"), ["hold within the mount only"]);
    }

    #[test]
    fn excluded_names_and_attribute_overrides_are_explained() {
        let lines = explained(
            "--exclude=*.tmp --exclude=.git --hide-hard-links --ctime-from-mtime --block-devices-as-files \
             --resolve-symlinks --resolved-symlink-deletion=target-first --follow-source --one-file-system",
        );
        assert_eq!(of(&lines, "excluded").len(), 2);
        assert!(of(&lines, "symbolic links")[1].ends_with("the target, then the link"));
        for subject in ["links", "change time", "block devices", "other filesystems"] {
            assert_eq!(of(&lines, subject).len(), 1, "{subject}");
        }
        assert_eq!(of(&lines, "source").len(), 2, "its path, and that it is followed");
    }
}
