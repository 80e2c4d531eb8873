//! Tests of what is explained.

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
    assert_eq!(of(&lines, "kernel"), ["an idmapped mount of the kernel could express this map"]);
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
    assert!(uid.contains(&"mount 1..99999 is unmapped: cannot be stored (EOVERFLOW)"), "{uid:?}");
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
    assert!(of(&explained("--idmap=0:1000:1"), "warning")[0].contains("setuid root on the source"));
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
    assert!(of(&lines, "passthrough")[0].ends_with("CAP_SYS_ADMIN in the initial user namespace"));
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
