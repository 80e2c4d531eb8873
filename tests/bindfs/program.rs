//! The program: exit statuses, help, version, options without effect, and refusals.

use std::fs;

use super::differences;
use super::support::eventually;
use super::twins::{Implementation, Mounter, Side, Twins, World};

fn idle(twins: &Twins) -> [Side; 2] {
    [(Implementation::Bindfs, "a"), (Implementation::Shiftbind, "b")]
        .map(|(implementation, name)| twins.world().side_named(implementation, name, "touch f"))
}

/// What a program prints, without a source or mount point.
fn prints(world: &World, implementation: Implementation, arguments: &[&str]) -> (bool, String) {
    let mut command = world.command(implementation);
    let output = command.args(arguments).output().expect("run the program");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_option_that_bindfs_lists_is_one_of_ours() {
    let twins = Twins::of(&[], "");
    let (_, theirs) = prints(twins.world(), Implementation::Bindfs, &["--help"]);
    let (_, ours) = prints(twins.world(), Implementation::Shiftbind, &["--help"]);
    let names: Vec<&str> = theirs
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .map(|word| word.split(['=', '.', ',']).next().unwrap_or(word))
        .collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let bare = name.trim_start_matches("--");
        let is_there = ours.contains(name)
            || ours.contains(&format!("[no-]{bare}"))
            || is_known(twins.world(), bare);
        assert!(is_there, "{name} is not in our help");
    }
}

/// Whether the generated man page has an option.
fn is_known(world: &World, name: &str) -> bool {
    let (_, page) = prints(world, Implementation::Shiftbind, &["--generate=man"]);
    page.replace("\\-", "-").contains(&format!("--{name}"))
}

#[test]
fn help_and_versions_are_printed_and_nothing_fails() {
    let twins = Twins::of(&[], "");
    for option in ["-h", "--help", "-V", "--version", "--fuse-version"] {
        for implementation in [Implementation::Bindfs, Implementation::Shiftbind] {
            let (is_good, text) = prints(twins.world(), implementation, &[option]);
            assert!(is_good && !text.is_empty(), "{implementation:?} {option}: {text}");
        }
    }
    let (_, version) = prints(twins.world(), Implementation::Shiftbind, &["--version"]);
    assert!(version.starts_with("bindfs 1."), "{version}");
}

#[test]
fn options_meant_for_mount_and_systemd_are_accepted_on_the_command_line() {
    let world = World::new(Mounter::Root);
    let side = world.side(Implementation::Shiftbind, "");
    for words in [
        "user,auto,noauto,defaults",
        "nofail,_netdev",
        "x-systemd.automount,comment=x",
        "",
        ",,rw,",
        "nonempty",
    ] {
        let (output, has_mounted) = world.try_out(&side, &["-o", words]);
        assert!(has_mounted && output.status.success(), "{words}: {output:?}");
    }
}

#[test]
fn what_is_wrong_mounts_nothing() {
    let twins = Twins::of(&[], "");
    let sides = idle(&twins);
    let rows: [&[&str]; 9] = [
        &["--no-such-option"],
        &["-o", "nosuchword=1"],
        &["-u", "nosuchuser"],
        &["-g", "nosuchgroup"],
        &["--create-for-user=nosuchuser"],
        &["--mirror=1", "--mirror-only=2"],
        &["--forward-odirect=0"],
        &["/tmp"],
        &["--map-passwd=/nonexistent"],
    ];
    for options in rows {
        for side in &sides {
            let (output, has_mounted) = twins.world().try_out(side, options);
            assert!(
                !has_mounted && !output.status.success(),
                "{:?} {options:?}: {output:?}",
                side.implementation
            );
        }
    }
}

#[test]
fn a_failure_has_an_exit_status_where_bindfs_says_0() {
    let twins = Twins::of(&[], "");
    differences::find("mirror", "an unknown user");
    let [theirs, ours] = idle(&twins);
    for option in ["--mirror=nosuchuser", "--mirror=@nosuchgroup", "--mirror-only=nosuchuser"] {
        let (output, has_mounted) = twins.world().try_out(&ours, &[option]);
        assert!(!output.status.success() && !has_mounted, "{option}: {output:?}");
        let (output, has_mounted) = twins.world().try_out(&theirs, &[option]);
        assert!(
            output.status.success() || has_mounted,
            "bindfs is right by now: {option}: {output:?}"
        );
    }
}

/// The daemon goes to the background once it has mounted, and ends with its mount.
#[test]
fn without_f_the_program_returns_when_the_mount_is_there() {
    let twins = Twins::of(&[], "");
    for side in &idle(&twins) {
        let (output, has_mounted) = twins.world().try_out(side, &["-p", "a+r"]);
        assert!(output.status.success() && has_mounted, "{:?}: {output:?}", side.implementation);
        eventually("it is unmounted", || !side.is_mounted());
    }
    assert!(fs::metadata(twins.ours.at("")).is_ok());
}
