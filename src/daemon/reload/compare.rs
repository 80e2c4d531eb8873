//! Which options a reload may change. Options that the kernel got when the mount was made are fixed, and those that
//! open files or the process depend on.

use std::mem::discriminant;

use crate::config::{CachePolicy, Config, EngineChoice};
use crate::error::{Error, Result};
use crate::view::{ChangePolicy, View, Xattrs};

/// Refuses a reload that changes a fixed option, and names the option.
///
/// Paths are absolute in both configurations, and `access` is filled in.
pub(super) fn check(now: &Config, new: &Config) -> Result<()> {
    match fixed(now, new).or_else(|| fixed_view(&now.view, &new.view)) {
        None => Ok(()),
        Some(option) => Err(Error::usage(format!(
            "option '{option}' cannot change on a live mount: unmount and mount again"
        ))),
    }
}

/// The first fixed option outside the view that differs.
///
/// `foreground` is ignored: it is a property of how the process was started, which fstab(5) does not know.
fn fixed(now: &Config, new: &Config) -> Option<&'static str> {
    let (data, new_data) = (&now.data, &new.data);
    let (process, new_process) = (&now.process, &new.process);
    [
        ("SOURCE", now.source == new.source),
        ("namespace", now.namespace == new.namespace),
        ("engine", new.engine != EngineChoice::Kernel || now.engine == EngineChoice::Kernel),
        ("fsname", now.fsname == new.fsname),
        ("subtype", now.subtype == new.subtype),
        ("allow-other", now.access == new.access),
        ("idmappable", now.idmappable == new.idmappable),
        ("max-read", now.max_read == new.max_read),
        ("threads", now.threads == new.threads),
        ("one-file-system", now.one_file_system == new.one_file_system),
        ("follow-source", now.follow_source == new.follow_source),
        ("cache", same_cache(now.cache, new.cache)),
        ("passthrough", data.passthrough == new_data.passthrough),
        ("direct-io", data.direct_io == new_data.direct_io),
        ("forward-odirect", data.forward_odirect == new_data.forward_odirect),
        ("read-rate", data.read_rate.is_some() == new_data.read_rate.is_some()),
        ("write-rate", data.write_rate.is_some() == new_data.write_rate.is_some()),
        ("enable-lock-forwarding", now.locks_on_source == new.locks_on_source),
        ("pidfile", process.pidfile == new_process.pidfile),
        ("verbose", process.verbosity == new_process.verbosity),
        ("auto-unmount", process.auto_unmount == new_process.auto_unmount),
    ]
    .into_iter()
    .find_map(|(option, same)| (!same).then_some(option))
}

/// Timeouts may change, the kind of the cache policy may not.
fn same_cache(now: CachePolicy, new: CachePolicy) -> bool {
    let by_time = |policy| matches!(policy, CachePolicy::Timeouts { .. } | CachePolicy::None);
    (by_time(now) && by_time(new)) || discriminant(&now) == discriminant(&new)
}

/// The first fixed option of the view that differs.
fn fixed_view(now: &View, new: &View) -> Option<&'static str> {
    let ignores = |policy: ChangePolicy| policy == ChangePolicy::Ignore;
    let same_policy = |now, new| ignores(now) == ignores(new);
    let (changes, new_changes) = (&now.changes, &new.changes);
    let none = |xattrs: Xattrs| xattrs == Xattrs::None;
    let named = [
        // These select whether the kernel or the daemon checks permissions, and what the kernel may cache.
        ("mirror", now.mirror.is_some() == new.mirror.is_some()),
        ("chown-ignore", same_policy(changes.chown, new_changes.chown)),
        ("chgrp-ignore", same_policy(changes.chgrp, new_changes.chgrp)),
        ("chmod-ignore", same_policy(changes.chmod, new_changes.chmod)),
        ("xattr-none", none(changes.xattrs) == none(new_changes.xattrs)),
        // These change the type of an inode, which files may be open on.
        ("resolve-symlinks", now.resolve_symlinks.is_some() == new.resolve_symlinks.is_some()),
        (
            "block-devices-as-files",
            now.attr_overrides.block_devices_as_files == new.attr_overrides.block_devices_as_files,
        ),
    ];
    // Several options can have the same need; only a change of the needs as a whole is refused.
    let needs_differ = now.needs() != new.needs();
    let option = named.into_iter().find_map(|(option, same)| {
        let decides = matches!(option, "resolve-symlinks" | "block-devices-as-files");
        (!same && (decides || needs_differ)).then_some(option)
    });
    option.or(needs_differ.then_some("mirror, chown-ignore, chmod-ignore or xattr-none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config_of as config;
    use crate::config::MountFlags;
    use crate::idmap::MountUid;
    use crate::view::{LinkRemoval, Mirror};

    fn refused(now: &Config, new: &Config) -> Option<String> {
        check(now, new).err().map(|e| e.to_string())
    }

    #[test]
    fn maps_and_mount_flags_may_change() {
        let now = config("idmap=b:0:100000:10");
        assert_eq!(refused(&now, &now), None);
        for words in ["idmap=b:0:200000:10,unmapped=squash=5", "ro,nosuid", "defaults"] {
            assert_eq!(refused(&now, &config(words)), None, "{words}");
        }
        let flags = MountFlags { read_only: Some(true), ..MountFlags::default() };
        assert_eq!(refused(&now, &Config { flags, ..now.clone() }), None);
    }

    #[test]
    fn an_option_fixed_at_mount_time_may_not_change_and_is_named() {
        let now = config("threads=3");
        for (words, option) in [
            ("threads=4", "threads"),
            ("threads=3,engine=kernel", "engine"),
            ("threads=3,fsname=x", "fsname"),
            ("threads=3,subtype=x", "subtype"),
            ("threads=3,allow_root", "allow-other"),
            ("threads=3,max_read=4096", "max-read"),
            ("threads=3,one_file_system", "one-file-system"),
            ("threads=3,cache=timeout=1s", "cache"),
            ("threads=3,cache=forever", "cache"),
            ("threads=3,passthrough=off", "passthrough"),
            ("threads=3,pidfile=/p", "pidfile"),
            ("threads=3,verbose", "verbose"),
            ("threads=3,auto_unmount", "auto-unmount"),
            ("threads=3,idmappable", "idmappable"),
        ] {
            let text = refused(&now, &config(words)).unwrap_or_else(|| panic!("{words}"));
            let expected =
                format!("option '{option}' cannot change on a live mount: unmount and mount again");
            assert_eq!(text, expected, "{words}");
        }
    }

    #[test]
    fn timeouts_may_change_where_the_cache_uses_timeouts() {
        for (now, new) in
            [("cache=timeout=1s", "cache=timeout=2s"), ("cache=none", "cache=timeout=1s")]
        {
            assert_eq!(refused(&config(now), &config(new)), None, "{now} {new}");
        }
        assert!(refused(&config("cache=timeout=1s"), &config("cache=coherent")).is_some());
    }

    #[test]
    fn a_reload_ignores_foreground() {
        assert_eq!(refused(&config("foreground"), &config("defaults")), None);
    }

    fn with(change: impl FnOnce(&mut View)) -> Config {
        let mut config = config("defaults");
        change(&mut config.view);
        config
    }

    #[test]
    fn the_permission_check_may_not_change_and_the_rest_of_the_view_may() {
        let plain = config("defaults");
        let mirror = Mirror { only: false, principals: Vec::new() };
        let ignores = with(|view| view.changes.chown = ChangePolicy::Ignore);
        for (new, option) in [
            (with(|view| view.mirror = Some(mirror.clone())), "mirror"),
            (ignores.clone(), "chown-ignore"),
            (with(|view| view.changes.chgrp = ChangePolicy::Ignore), "chgrp-ignore"),
            (with(|view| view.changes.chmod = ChangePolicy::Ignore), "chmod-ignore"),
            (with(|view| view.changes.xattrs = Xattrs::None), "xattr-none"),
            (with(|view| view.resolve_symlinks = Some(LinkRemoval::Deny)), "resolve-symlinks"),
            (
                with(|view| view.attr_overrides.block_devices_as_files = true),
                "block-devices-as-files",
            ),
        ] {
            for (now, new) in [(&plain, &new), (&new, &plain)] {
                let text = refused(now, new).unwrap();
                assert!(text.starts_with(&format!("option '{option}' cannot change")), "{text}");
            }
        }
        for change in [
            (|view| view.changes.chown = ChangePolicy::Deny) as fn(&mut View),
            |view| view.changes.xattrs = Xattrs::ReadOnly,
            |view| view.forced.uid = MountUid::new(7),
            |view| view.perms = "a-w".parse().unwrap(),
            |view| view.excluded.add("*.bak".as_ref()).unwrap(),
            |view| view.attr_overrides.ctime_from_mtime = true,
            |view| view.changes.deny_delete = true,
        ] {
            let new = with(change);
            assert_eq!(refused(&plain, &new), None, "{new:?}");
        }
        // A second ignored change does not alter the permission check.
        let more = with(|view| {
            view.changes.chown = ChangePolicy::Ignore;
            view.changes.chmod = ChangePolicy::Ignore;
        });
        assert_eq!(refused(&ignores, &more), None);
    }
}
