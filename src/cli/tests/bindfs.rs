//! Tests whole command lines with bindfs's options, under the names shiftbind and bindfs.

use std::io::Write;

use super::{command, config, error, ordinary, shown};
use crate::cli::{Command, Dialect};
use crate::config::{Access, Config};
use crate::idmap::Unmapped;
use crate::view::{ChangePolicy, CreatedBy, LinkRemoval, Principal, Xattrs};

/// Parses `bindfs`, the arguments (separated by blanks), a source and a mount point.
fn bindfs(args: &str) -> Config {
    let argv: Vec<&str> = ["/usr/bin/bindfs"]
        .into_iter()
        .chain(args.split_whitespace())
        .chain(["/src", "/mnt"])
        .collect();
    match command(&argv) {
        Ok(Command::Mount(config)) => config,
        other => panic!("{args}: {other:?}"),
    }
}

fn forced(config: &Config) -> (Option<u32>, Option<u32>) {
    let forced = config.view.forced;
    (forced.uid.map(|id| id.raw()), forced.gid.map(|id| id.raw()))
}

#[test]
fn an_owner_is_forced_in_every_spelling() {
    for args in [
        "-u alice",
        "-ualice",
        "-u 1000",
        "--force-user=alice",
        "--force-user alice",
        "--user=alice",
        "--user 1000",
        "--owner=alice",
        "--force_user=alice",
        "-o force-user=alice",
        "-o force_user=1000",
        "-o owner=alice",
        "-o uid=1000",
        "--uid=1000",
        "-u bob -o uid=1000",
    ] {
        assert_eq!(forced(&config(args)), (Some(1000), None), "{args}");
        assert_eq!(forced(&bindfs(args)), (Some(1000), None), "{args}");
    }
    for args in
        ["-g staff", "-gstaff", "--force-group=50", "--group staff", "-o group=staff", "-o gid=50"]
    {
        assert_eq!(forced(&config(args)), (None, Some(50)), "{args}");
    }
}

#[test]
fn fstab_options_named_like_ours_are_ignored_without_a_value() {
    for list in ["user", "user=alice", "owner", "group", "users", "nouser", ",,defaults,,"] {
        let both = [config(&format!("-o {list}")), bindfs(&format!("-o {list}"))];
        assert!(both.iter().all(|config| forced(config) == (None, None)), "{list}");
    }
    assert_eq!(forced(&config("-o user,owner,group,group=staff")), (None, Some(50)));
}

#[test]
fn short_options_are_combined() {
    let config = bindfs("-nr");
    assert_eq!(config.access, Some(Access::Owner));
    assert_eq!(config.flags.read_only, Some(true));
    let config = bindfs("-rnfualice");
    assert!(config.process.foreground && forced(&config).0 == Some(1000));
    assert_eq!(super::config("-n").access, Some(Access::Owner));
}

#[test]
fn of_several_values_the_last_one_wins() {
    assert_eq!(forced(&bindfs("-u bob -o force-user=alice")).0, Some(1000));
    let perms = |args| bindfs(args).view.perms.to_string();
    assert_eq!(perms("-p 0600 -o perms=0640"), "0640");
    let changes =
        bindfs("--chown-deny --chown-ignore -o chmod-deny,chmod-normal --xattr-none --xattr-ro")
            .view
            .changes;
    assert_eq!(
        (changes.chown, changes.chmod, changes.xattrs),
        (ChangePolicy::Ignore, ChangePolicy::Normal, Xattrs::ReadOnly)
    );
    let config = bindfs("--map=1/2 --map=3/4");
    assert_eq!((shown(&config, 1), shown(&config, 3)), (Some(1), Some(4)));
    assert!(!bindfs("--direct-io --no-direct-io").data.direct_io);
    assert_eq!(bindfs("--create-as-user --create-as-mounter").view.creation.by, CreatedBy::Mounter);
}

#[test]
fn each_policy_option_sets_its_own_policy() {
    let changes = config("--chown-ignore --chgrp-deny --chmod-ignore --chmod-allow-x").view.changes;
    assert_eq!(
        (changes.chown, changes.chgrp, changes.chmod, changes.chmod_allow_x),
        (ChangePolicy::Ignore, ChangePolicy::Deny, ChangePolicy::Ignore, true)
    );
    let changes = config("-o chgrp-ignore,chmod-filter=go-w,delete-deny,rename-deny,enable-ioctl")
        .view
        .changes;
    assert_eq!(changes.chgrp, ChangePolicy::Ignore);
    assert_eq!(changes.chmod_filter.to_string(), "go-w");
    assert!(changes.deny_delete && changes.deny_rename && changes.forward_ioctls);
}

#[test]
fn masks_apply_after_the_rules_to_their_file_types() {
    let perms = |args| config(args).view.perms.to_string();
    assert_eq!(perms("-o umask=022"), "f0755:d0755");
    assert_eq!(perms("-o umask=022 -p u+w"), "u+w:f0755:d0755");
    assert_eq!(perms("--umask=022 --fmask=133"), "f0644:d0755");
    assert_eq!(perms("--dmask=77"), "d0700");
}

#[test]
fn new_files_have_the_owner_and_permissions_asked_for() {
    let creation =
        config("--create-for-user=bob --create-for-group=staff --create-with-perms=u+rw,a+rD")
            .view
            .creation;
    assert_eq!(creation.uid.map(|id| id.raw()), Some(2000));
    assert_eq!(creation.gid.map(|id| id.raw()), Some(50));
    assert_eq!(creation.perms.to_string(), "u+rw:ugo+rD");
}

#[test]
fn a_mirror_names_users_and_groups() {
    let mirror = config("-m alice:@staff").view.mirror.unwrap();
    assert!(!mirror.only);
    let [Principal::User(user), Principal::Group(group)] = mirror.principals[..] else { panic!() };
    assert_eq!((user.raw(), group.raw()), (1000, 50));
    assert!(config("-o mirror-only=alice:bob").view.mirror.unwrap().only);
    assert_eq!(
        error("-m alice -M bob"),
        "option 'mirror-only' contradicts mirror; give one of them"
    );
}

#[test]
fn links_are_resolved_and_removed_as_asked() {
    let links = |args| config(args).view.resolve_symlinks;
    assert_eq!(links(""), None);
    assert_eq!(links("--resolved-symlink-deletion=deny"), None);
    assert_eq!(links("--resolve-symlinks"), Some(LinkRemoval::SymlinkOnly));
    let list = "-o resolve-symlinks,resolved-symlink-deletion=target-first";
    assert_eq!(links(list), Some(LinkRemoval::TargetFirst));
}

#[test]
fn data_goes_as_asked() {
    let data = config("--read-rate=1.5M -o write-rate=10k,direct_io --forward-odirect 4096").data;
    assert_eq!((data.read_rate, data.write_rate), (Some(1_572_864.0), Some(10_240.0)));
    assert!(data.direct_io && !data.may_passthrough());
    assert_eq!(data.forward_odirect.map(|align| align.get()), Some(4096));
}

#[test]
fn names_are_excluded_one_by_one() {
    let excluded = config("--exclude=*.tmp -o exclude=.git,exclude=x").view.excluded;
    assert_eq!(excluded.patterns().collect::<Vec<_>>(), ["*.tmp", ".git", "x"]);
}

#[test]
fn offsets_may_be_negative_in_every_spelling() {
    for args in ["--uid-offset=-5", "--uid-offset -5", "-o uid-offset=-5", "-o uid_offset=-5"] {
        assert_eq!(shown(&config(args), 5), Some(0), "{args}");
    }
    assert_eq!(shown(&config("--uid-offset=+100000"), 5), Some(100_005));
}

#[test]
fn literal_values_are_checked() {
    for (args, message) in [
        ("--map=1000/", "option 'map': '1000/': a uid is missing"),
        (
            "--map=4294967296/0",
            "option 'map': '4294967296/0': 4294967296 is too large; the largest id is 4294967294",
        ),
        (
            "-u 4294967296",
            "option 'force-user': 4294967296 is too large; the largest id is 4294967294",
        ),
        ("-m nosuchuser", "option 'mirror': there is no user 'nosuchuser'"),
        ("-M @", "option 'mirror-only': a gid is missing"),
        (
            "-p 0644junk",
            "option 'perms': '0644junk' is not a permission rule; give for example 0640, a+rX or d=rwx",
        ),
        ("-p a=r,,u=r", "option 'perms': 'a=r,,u=r' has an empty rule"),
        ("--create-for-user=eve", "option 'create-for-user': there is no user 'eve'"),
        (
            "--read-rate=1m",
            "option 'read-rate': '1m' is not a rate; give bytes per second, for example 500k or 1.5M",
        ),
        ("--forward-odirect=0", "option 'forward-odirect': '0' is not a number from 1 to 16777216"),
        ("--umask=9", "option 'umask': '9' is not a mask; give an octal number from 0 to 777"),
        (
            "--resolved-symlink-deletion=all",
            "option 'resolved-symlink-deletion': 'all' is none of deny, symlink-only, symlink-first and target-first",
        ),
        (
            "--map=1/2 --uid-offset=5",
            "option 'uid-offset' contradicts map; write the ids that you want shown into the map",
        ),
        (
            "--map=1/2:1/3",
            "option 'map': uid 1 stands twice on the source (left); name each uid once",
        ),
        (
            "--exclude=a/../b",
            "option 'exclude': 'a/../b' is a path from the source's root: write neither . nor ..",
        ),
        ("-o force-user", "option 'force-user' needs a value: force-user=USER"),
        ("-o chown-ignore=1", "option 'chown-ignore' takes no value"),
        ("--map-passwd=/no/such", "option 'map-passwd': /no/such: No such file or directory"),
    ] {
        assert_eq!(error(args), message, "{args}");
    }
    assert!(command(&["shiftbind", "-p", "", "/src", "/mnt"]).is_ok(), "a list of no rules");
    for flag in ["-u", "-g", "-m", "--map"] {
        let empty = command(&["shiftbind", flag, "", "/src", "/mnt"]).unwrap_err().to_string();
        assert!(empty.ends_with(": the value is empty"), "{flag}: {empty}");
    }
}

#[test]
fn a_rule_without_effect_gets_a_warning() {
    let warnings = config("-p f=r:a+X").warnings;
    assert_eq!(
        warnings,
        ["option 'perms': 'f=r' names none of u, g, o and a, and so does nothing"]
    );
    assert!(config("-p af=r").warnings.is_empty());
}

#[test]
fn an_option_without_effect_gets_a_warning() {
    for (args, option) in [
        ("--chmod-allow-x", "chmod-allow-x"),
        ("--chmod-filter=a-w --chmod-ignore", "chmod-filter"),
        ("--chmod-filter=a-w --chmod-deny", "chmod-filter"),
        ("--resolved-symlink-deletion=deny", "resolved-symlink-deletion"),
    ] {
        let warnings = config(args).warnings;
        assert_eq!(warnings.len(), 1, "{args}: {warnings:?}");
        assert!(warnings[0].starts_with(&format!("option '{option}' does nothing")), "{args}");
    }
    for args in [
        "--chmod-allow-x --chmod-deny",
        "--chmod-filter=a-w",
        "--resolved-symlink-deletion=deny --resolve-symlinks",
        "--chown-ignore",
    ] {
        assert!(config(args).warnings.is_empty(), "{args}");
    }
}

#[test]
fn under_its_name_the_defaults_are_those_of_bindfs() {
    let config = bindfs("");
    assert_eq!(config.subtype, "bindfs");
    assert_eq!((config.flags.nosuid, config.flags.nodev), (Some(true), Some(true)));
    assert_eq!(config.access, Some(Access::Everyone));
    assert!(!config.locks_on_source);
    let mut view = super::config("").view;
    if !rustix::process::geteuid().is_root() {
        view.creation.by = CreatedBy::Mounter;
    }
    assert_eq!(config.view, view);
    let config = bindfs("--uidmap=0:5:1 -o dev,suid,enable-lock-forwarding,subtype=mine");
    assert_eq!(config.view.ids.uids.unmapped(), Unmapped::Pass);
    assert_eq!((config.flags.nosuid, config.flags.nodev), (Some(false), Some(false)));
    assert!(config.locks_on_source);
    assert_eq!(config.subtype, "mine");
}

#[test]
fn mount8_calls_bindfs_as_a_helper() {
    for name in ["/sbin/mount.bindfs", "/sbin/mount.fuse.bindfs"] {
        let argv = [name, "/src", "/mnt", "-sfn", "-o", "rw,map=1000/2000:@5/@6,nofail,_netdev"];
        let Ok(Command::Fake(config)) = command(&argv) else { panic!("{name}") };
        assert_eq!(shown(&config, 1000), Some(2000));
        assert_eq!(config.subtype, "bindfs");
        assert_eq!((config.flags.nosuid, config.flags.nodev), (None, None));
    }
}

#[test]
fn commands_know_by_which_name_they_were_called() {
    assert!(matches!(command(&["bindfs", "--help"]), Ok(Command::Help(Dialect::Bindfs))));
    assert!(matches!(command(&["bindfs", "-V"]), Ok(Command::Version(Dialect::Bindfs))));
    assert!(matches!(command(&["shiftbind", "-V"]), Ok(Command::Version(Dialect::Shiftbind))));
    assert!(matches!(command(&["bindfs", "--fuse-version"]), Ok(Command::FuseVersion)));
    let version = crate::cli::version(Dialect::Bindfs);
    assert_eq!(version.split(' ').nth(1), Some("1.18.4"), "what scripts cut out");
}

#[test]
fn root_only_options_are_known_to_be_so() {
    let root_only = |args| config(args).root_only;
    assert!(root_only("-u alice -m bob -p 0600 --idmap=0:1:1").is_empty());
    assert_eq!(root_only("--map=1/2"), ["map"]);
    assert_eq!(
        root_only("--gid-offset=1 --create-for-user=bob"),
        ["gid-offset", "create-for-user"]
    );
    assert_eq!(root_only("--create-as-user"), ["create-as-user"]);
    assert!(root_only("--create-as-user --create-as-mounter").is_empty());
}

#[test]
fn a_reload_names_a_mount_point_and_nothing_else() {
    let reload = command(&["shiftbind", "--reload", "/mnt"]);
    assert!(
        matches!(reload, Ok(Command::Reload { mountpoint, .. }) if mountpoint.to_str() == Some("/mnt"))
    );
    assert!(ordinary("--reload").is_err(), "a source as well");
    for argv in [&["shiftbind", "--reload"] as &[&str], &["shiftbind", "--reload", ""]] {
        assert!(command(argv).unwrap_err().to_string().contains("give the MOUNTPOINT"));
    }
    let other = command(&["shiftbind", "--reload", "/mnt", "--ro"]).unwrap_err().to_string();
    assert!(other.contains("'ro'"), "{other}");
}

fn file_of(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn an_options_file_applies_at_its_position() {
    let file = file_of(
        "# a mount\n\n  ro\nmap = 1000/2000:@5/@6\nfsname=a, \\b = c \nperms=0640,d+x\nnofail\n",
    );
    let path = file.path().to_str().unwrap();
    for argv in [
        vec!["shiftbind", "--config", path, "/src", "/mnt"],
        vec!["shiftbind", "-o", &format!("config={path}"), "/src", "/mnt"],
    ] {
        let Ok(Command::Mount(config)) = command(&argv) else { panic!("{argv:?}") };
        assert_eq!(config.flags.read_only, Some(true));
        assert_eq!(shown(&config, 1000), Some(2000));
        assert_eq!(config.fsname.as_deref(), Some(r"a, \b = c".as_ref()));
        assert_eq!(config.options_file.as_deref(), Some(file.path()));
    }
    let read_only = |argv: [&str; 6]| match command(&argv) {
        Ok(Command::Mount(config)) => config.flags.read_only,
        other => panic!("{other:?}"),
    };
    assert_eq!(read_only(["shiftbind", "--config", path, "--rw", "/s", "/m"]), Some(false));
    assert_eq!(read_only(["shiftbind", "--rw", "--config", path, "/s", "/m"]), Some(true));
}

#[test]
fn an_error_in_an_options_file_names_the_file() {
    for (text, expected) in [
        ("ro\nfrobnicate\n", ":2: unknown option 'frobnicate'; see shiftbind --help"),
        ("ro=1\n", ":1: option 'ro' takes no value"),
        ("force-user\n", ":1: option 'force-user' needs a value: force-user=USER"),
        ("force-user=eve\n", ": option 'force-user': there is no user 'eve'"),
        ("config=/x\n", ": option 'config' can be given once, and not within its file"),
        ("force-user=\n", ": option 'force-user': the value is empty"),
    ] {
        let file = file_of(text);
        let config = format!("--config={}", file.path().display());
        let message = command(&["shiftbind", &config, "/s", "/m"]).unwrap_err().to_string();
        assert!(message.starts_with("option 'config': "), "{message}");
        assert!(message.ends_with(expected), "{message}");
    }
    assert!(error("--config=/no/such").contains("/no/such: No such file"));
    assert!(error("--config=/dev/null --config=/dev/null").contains("once"));
}

#[test]
fn a_relative_options_file_is_stored_as_an_absolute_path() {
    let depth = std::env::current_dir().unwrap().components().count() - 1;
    let config = super::config(&format!("--config={}dev/null", "../".repeat(depth)));
    let path = config.options_file.unwrap();
    assert!(path.is_absolute() && path.ends_with("dev/null"), "{}", path.display());
}
