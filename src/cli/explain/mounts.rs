//! Explains the submounts below the source, and what of them the mount presents.

use super::{Facts, MAX_LISTED};
use crate::config::Config;
use crate::source::{FsClass, Restrictions, SourceMounts};

/// Explains which submounts are hidden, which restrict their own files, and which restrict the whole mount.
pub(super) fn explain_mounts(out: &mut Facts, config: &Config, mounts: &SourceMounts) {
    if mounts.own.class == FsClass::Pseudo {
        out.push("source", "is on a pseudo-filesystem: the mount would be refused");
    }
    let mut lines = Vec::new();
    for mount in mounts.hidden() {
        let (place, name) = (mount.display_path(), &mount.name);
        lines.push(format!(
            "{place} is shown empty: a pseudo-filesystem ({name}) checks the credentials of the daemon instead of the client's"
        ));
    }
    for mount in mounts.below.iter().filter(|mount| mount.class != FsClass::Pseudo) {
        let place = mount.display_path();
        let effects = effects(mount.restrictions);
        if !effects.is_empty() {
            lines.push(format!("{place} is {}", effects.join(", ")));
        }
    }
    let more = lines.len().saturating_sub(MAX_LISTED);
    lines.truncate(MAX_LISTED);
    for line in lines {
        out.push("submount", line);
    }
    if more > 0 {
        out.push("submount", format!("… and {more} more"));
    }
    if let Some(mount) = mounts.noexec_below() {
        let place = mount.display_path();
        match config.flags.noexec {
            None => out.push("programs", format!("are not run from the whole mount, because {place} is noexec")),
            Some(false) => out.push(
                "programs",
                format!("of {place} are not run, but can be mapped by another program, because exec was given"),
            ),
            Some(true) => {}
        }
    }
}

/// Explains what the mounts below forbid where the kernel makes the mount: they are mounts of their own there as well.
pub(super) fn explain_mounts_of_kernel(out: &mut Facts, mounts: &SourceMounts) {
    for mount in mounts.below.iter().take(MAX_LISTED) {
        let (place, of) = (mount.display_path(), mount.restrictions);
        let words = [
            (of.read_only, "ro"),
            (of.nosuid, "nosuid"),
            (of.nodev, "nodev"),
            (of.noexec, "noexec"),
            (of.nosymfollow, "nosymfollow"),
        ];
        let words: Vec<&str> =
            words.into_iter().filter_map(|(given, word)| given.then_some(word)).collect();
        match words.is_empty() {
            true => out.push("submount", place),
            false => out.push("submount", format!("{place} is {}", words.join(", "))),
        }
    }
    if let Some(more) = mounts.below.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        out.push("submount", format!("… and {more} more"));
    }
}

/// The effect at the mount of each restriction of a submount.
fn effects(of: Restrictions) -> Vec<&'static str> {
    [
        (of.read_only, "ro (EROFS)"),
        (of.nosuid, "nosuid (setuid and setgid bits and capabilities of its files are not shown)"),
        (of.nodev, "nodev (its devices are shown without their number)"),
        (of.noexec, "noexec"),
        (of.nosymfollow, "nosymfollow (its symbolic links are not read: ELOOP)"),
    ]
    .into_iter()
    .filter_map(|(given, effect)| given.then_some(effect))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::PathBuf;

    use super::super::{ProbeResults, explain_with};
    use crate::accounts::TestAccounts;
    use crate::cli::{Command, parse_with};
    use crate::source::{FsClass, MountFacts, Restrictions, SourceMounts, Submount};

    fn below(path: &str, name: &str, options: &str) -> Submount {
        Submount {
            path: PathBuf::from(path),
            name: name.to_owned(),
            class: FsClass::of_name(name.as_bytes(), 0),
            restrictions: Restrictions::of_options(options.as_bytes()),
            is_shared: false,
        }
    }

    fn explained(args: &str, own: &str) -> Vec<String> {
        let mounts = SourceMounts {
            own: MountFacts {
                class: FsClass::Local,
                restrictions: Restrictions::of_options(own.as_bytes()),
                renames_removed: false,
                finds_by_other_names: false,
            },
            below: vec![
                below("/src/plain", "tmpfs", "rw"),
                below("/src/proc", "proc", "rw,nosuid,nodev,noexec"),
                below("/src/proc/fs", "nfsd", "rw"),
                below("/src/u\x1bsb", "btrfs", "rw,nosuid,noexec"),
            ],
        };
        let argv = ["shiftbind", "/src", "/mnt"].into_iter().chain(args.split_whitespace());
        match parse_with(argv.map(OsString::from), &TestAccounts) {
            Ok(Command::Explain(config)) => {
                let probed = ProbeResults { mounts: Some(mounts), ..ProbeResults::default() };
                let text = explain_with(&config, &probed, &TestAccounts);
                let of =
                    |line: &&str| line.starts_with("submount: ") || line.starts_with("programs: ");
                text.lines().filter(of).map(str::to_owned).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hidden_and_restricted_submounts_are_listed_once() {
        let lines = explained("--explain", "rw");
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("submount: /src/proc is shown empty"), "{lines:?}");
        assert!(lines[1].starts_with("submount: /src/u\\u{1b}sb is nosuid ("), "{lines:?}");
        assert!(lines[2].starts_with("programs: are not run from the whole mount"), "{lines:?}");
    }

    #[test]
    fn programs_are_mentioned_only_where_a_submount_is_noexec() {
        let programs = |args, own| explained(args, own).get(2).cloned().unwrap_or_default();
        assert_eq!(programs("--explain", "rw,noexec"), "");
        assert_eq!(programs("--explain -o noexec", "rw"), "");
        assert!(programs("--explain -o exec", "rw").ends_with("because exec was given"));
    }
}
