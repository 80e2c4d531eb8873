//! Explains what the view presents and which changes it allows, where that differs from the source.

use super::{Facts, with_name};
use crate::accounts::{Accounts, Named};
use crate::config::Config;
use crate::idmap::{Group, Kind, User};
use crate::view::{ChangePolicy, Checks, CreatedBy, LinkRemoval, Mirror, Principal, View, Xattrs};

fn named<K: Kind + Named>(id: u32, accounts: &dyn Accounts) -> String {
    with_name(id, K::name_of(accounts, id))
}

pub(super) fn explain_owners(out: &mut Facts, view: &View, accounts: &dyn Accounts) {
    if let Some(uid) = view.forced.uid {
        let user = named::<User>(uid.raw(), accounts);
        out.push("owner", format!("everything is shown as owned by {user}, because of force-user"));
    }
    if let Some(gid) = view.forced.gid {
        let group = named::<Group>(gid.raw(), accounts);
        out.push("group", format!("everything is shown as {group}'s, because of force-group"));
    }
    if let Some(mirror) = &view.mirror {
        explain_mirror(out, mirror, accounts);
    }
}

fn explain_mirror(out: &mut Facts, mirror: &Mirror, accounts: &dyn Accounts) {
    for principal in &mirror.principals {
        let subject = match principal {
            Principal::User(uid) => named::<User>(uid.raw(), accounts),
            Principal::Group(gid) => {
                format!("every member of group {}", named::<Group>(gid.raw(), accounts))
            }
        };
        out.push(
            "mirror",
            format!("{subject} is shown as the owner of every file, in that user's own requests"),
        );
    }
    if mirror.only {
        out.push("mirror", "all other users except root see files without any permission");
    }
    out.push(
        "mirror",
        "sticky bits of directories are honoured but not shown, and setuid bits of files are not shown",
    );
}

pub(super) fn explain_creation(out: &mut Facts, view: &View, accounts: &dyn Accounts) {
    let creation = &view.creation;
    if creation.by == CreatedBy::Mounter {
        out.push(
            "new files",
            "belong to the user who mounted; those of users and groups that the map lists, to the mapped ids",
        );
    }
    if let Some(uid) = creation.uid {
        let user = named::<User>(uid.raw(), accounts);
        out.push(
            "new files",
            format!("belong to {user} on the source, because of create-for-user"),
        );
    }
    if let Some(gid) = creation.gid {
        let group = named::<Group>(gid.raw(), accounts);
        out.push(
            "new files",
            format!(
                "belong to group {group} on the source, because of create-for-group; below a directory with the setgid \
                 bit to its group"
            ),
        );
    }
    if !creation.perms.is_empty() {
        out.push("new files", format!("their permissions are changed by {}", creation.perms));
    }
}

pub(super) fn explain_presentation(out: &mut Facts, config: &Config) {
    let view = &config.view;
    if !view.perms.is_empty() {
        out.push("permissions", format!("shown after the rules {}", view.perms));
    }
    let overrides = &view.attr_overrides;
    for (given, subject, fact) in [
        (
            overrides.realistic_permissions,
            "permissions",
            "those that the user who mounts lacks are not shown",
        ),
        (overrides.hide_hard_links, "links", "the count is shown as 1"),
        (overrides.ctime_from_mtime, "change time", "the modification time is shown in its place"),
        (overrides.block_devices_as_files, "block devices", "shown as regular files"),
        (
            config.one_file_system,
            "other filesystems",
            "filesystems mounted below the source are hidden",
        ),
        (
            config.follow_source,
            "source",
            "followed to the directory that takes its name when it is replaced",
        ),
    ] {
        if given {
            out.push(subject, fact);
        }
    }
    for pattern in view.excluded.patterns() {
        out.push(
            "excluded",
            format!("names that match {pattern}: not listed, not found, not created"),
        );
    }
    if let Some(removal) = view.resolve_symlinks {
        out.push("symbolic links", "shown as their targets, also outside the source");
        let removed = match removal {
            LinkRemoval::Deny => "nothing (EPERM)",
            LinkRemoval::SymlinkOnly => "the link",
            LinkRemoval::SymlinkFirst => "the link, then its target",
            LinkRemoval::TargetFirst => "the target, then the link",
        };
        out.push("symbolic links", format!("deleting one deletes {removed}"));
    }
}

pub(super) fn explain_changes(out: &mut Facts, view: &View) {
    let changes = &view.changes;
    for (policy, subject) in
        [(changes.chown, "chown"), (changes.chgrp, "chgrp"), (changes.chmod, "chmod")]
    {
        match policy {
            ChangePolicy::Normal => {}
            ChangePolicy::Ignore => {
                out.push(subject, "succeeds for every user and changes nothing")
            }
            ChangePolicy::Deny => out.push(subject, "fails with EPERM"),
        }
    }
    let filters = !changes.chmod_filter.is_empty() && changes.chmod == ChangePolicy::Normal;
    if filters {
        out.push(
            "chmod",
            format!("the requested permissions are changed by {}", changes.chmod_filter),
        );
    }
    if changes.chmod_allow_x && changes.chmod != ChangePolicy::Normal {
        out.push("chmod", "execute bits of regular files can still be changed");
    }
    match changes.xattrs {
        Xattrs::ReadWrite => {}
        Xattrs::ReadOnly => out.push("xattrs", "can be read only; a change fails with EACCES"),
        Xattrs::None => {
            out.push("xattrs", "not supported, nor are access control lists (EOPNOTSUPP)");
        }
    }
    for (given, subject, fact) in [
        (changes.deny_delete, "delete", "fails with EPERM, as does a rename over a file"),
        (changes.deny_rename, "rename", "fails with EPERM"),
        (
            changes.forward_ioctls,
            "ioctl",
            "every request is forwarded to the source, without a check",
        ),
    ] {
        if given {
            out.push(subject, fact);
        }
    }
}

/// Explains whether the kernel or the daemon checks permissions, and what the kernel does not cache for that reason.
pub(super) fn explain_checks(out: &mut Facts, config: &Config) {
    let (view, needs) = (&config.view, config.view.needs());
    if config.idmappable {
        out.push(
            "idmapped mounts",
            "allowed: the kernel does not tell the daemon which user sends a request",
        );
    }
    if needs.checks == Checks::Kernel {
        out.push("checks", "the kernel checks permissions, on what is shown");
        return;
    }
    let changes = &view.changes;
    let ignored = [
        (changes.chown, "chown-ignore"),
        (changes.chgrp, "chgrp-ignore"),
        (changes.chmod, "chmod-ignore"),
    ];
    let why = match ignored.iter().find(|(policy, _)| *policy == ChangePolicy::Ignore) {
        _ if needs.per_caller => "each user in mirror sees another owner".to_owned(),
        Some((_, name)) => format!("{name} succeeds for every user"),
        None => "the kernel could not".to_owned(),
    };
    out.push("checks", format!("the daemon checks permissions at every request, because {why}"));
    out.push(
        "devices",
        "cannot be opened (nodev): the kernel opens them without a request to the daemon",
    );
    out.push("cache", "names: not cached, since the daemon checks each component of a path");
    if needs.per_caller {
        out.push("cache", "attributes: not cached, since they depend on the caller");
    }
}

/// Explains how file data is transferred and where locks are held.
pub(super) fn explain_data(out: &mut Facts, config: &Config, may_register: Option<bool>) {
    let data = &config.data;
    let obstacles: Vec<&str> = [
        (!data.passthrough, "passthrough=off"),
        (data.direct_io, "direct-io"),
        (data.read_rate.is_some(), "read-rate"),
        (data.write_rate.is_some(), "write-rate"),
    ]
    .into_iter()
    .filter_map(|(given, option)| given.then_some(option))
    .collect();
    if obstacles.is_empty() && data.may_passthrough() && may_register == Some(false) {
        out.push(
            "passthrough",
            "off: file data goes through the daemon, because registering a backing file takes CAP_SYS_ADMIN in the initial \
             user namespace",
        );
    } else if obstacles.is_empty() && data.may_passthrough() {
        out.push("passthrough", "auto: file data bypasses the daemon where the kernel allows it");
    } else {
        let why = obstacles.join(" and ");
        out.push(
            "passthrough",
            format!("off: file data goes through the daemon, because {why} was given"),
        );
    }
    if data.direct_io {
        out.push("direct io", "every read and write goes to the source, past the page cache");
    }
    if let Some(align) = data.forward_odirect {
        out.push("O_DIRECT", format!("kept on the source, with buffers aligned to {align} bytes"));
    }
    for (rate, subject) in [(data.read_rate, "read rate"), (data.write_rate, "write rate")] {
        if let Some(rate) = rate {
            out.push(subject, format!("at most {rate} bytes per second, all users together"));
        }
    }
    out.push(
        "locks",
        if config.locks_on_source { "hold on the source" } else { "hold within the mount only" },
    );
}
