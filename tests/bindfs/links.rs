//! Symbolic links shown as their targets, and what deleting such a name deletes.

use std::fs::{self, File};
use std::os::unix::fs as unix;
use std::path::Path;

use super::observe::{owner, stat};
use super::support::sh_output;
use super::sweep::OWNER;
use super::twins::{Mounter, Side, Twins, World, errno};

const TREE: &str = "mkdir d outside; echo text > d/f; echo other > g; touch -d @1000000 d/f d g; chmod 640 d/f; chown 1000:1000 d/f
    ln -s d/f tof; ln -s d tod; ln -s tof chain; ln -s nowhere broken; ln -s /etc/hostname out; ln -s loop loop
    chown -h 7:7 tof; touch -h -d @1000000 broken";

fn kinds(side: &Side) -> Vec<String> {
    ["tof", "tod", "tod/f", "chain", "broken", "out", "g"]
        .map(|name| format!("{name} {}", stat(&side.at(name)).replace("links 2", "links 1")))
        .to_vec()
}

#[test]
fn links_are_shown_as_their_targets_and_broken_ones_as_links() {
    let twins = Twins::of(&["--resolve-symlinks"], TREE);
    let seen = twins.same("stat", kinds);
    assert!(seen[0].starts_with("tof 100640 1000:1000"), "{seen:#?}");
    assert!(seen[1].starts_with("tod 40755"), "{seen:#?}");
    assert!(seen[4].starts_with("broken 120777"), "{seen:#?}");
    let read = twins.same("read", |side| {
        ["tof", "tod/f", "chain", "out"].map(|name| fs::read(side.at(name)).is_ok())
    });
    assert_eq!(read, [true; 4]);
    let answers = twins.same("make", |side| {
        [
            errno(unix::symlink("x", side.at("new"))),
            errno(fs::read_link(side.at("broken"))),
            errno(fs::read_link(side.at("tof"))),
            errno(fs::write(side.at("tof"), "more")),
            errno(File::create(side.at("tod/new"))),
            errno(fs::create_dir(side.at("tod/sub"))),
            errno(unix::chown(side.at("tof"), Some(5), None)),
        ]
    });
    assert_eq!(answers, ["EPERM", "ok", "EINVAL", "ok", "ok", "ok", "ok"]);
    let left = twins.same("source", |side| {
        (
            fs::read_to_string(side.src("d/f")).expect("read"),
            owner(&side.src("d/f")),
            owner(&side.src("tof")),
        )
    });
    assert_eq!(left, ("more".to_owned(), "5:1000:640".to_owned(), "7:7:777".to_owned()));
}

/// The names that are left on the source.
fn left(dir: &Path) -> String {
    sh_output(dir, "find . | sort | tr '\\n' ' '").trim().to_owned()
}

#[test]
fn every_deletion_policy_deletes_what_bindfs_deletes() {
    let tree = "mkdir d empty; echo text > d/f; ln -s d/f one; ln -s empty dir; touch plain; mkdir plaindir";
    let delete = |side: &Side| {
        let answers = [
            errno(fs::remove_file(side.at("one"))),
            errno(fs::remove_file(side.at("plain"))),
            errno(fs::remove_dir(side.at("plaindir"))),
        ];
        (answers, left(&side.src("")))
    };
    let rows = [
        ("deny", "EPERM", ". ./d ./d/f ./dir ./empty ./one"),
        ("symlink-only", "ok", ". ./d ./d/f ./dir ./empty"),
        ("symlink-first", "ok", ". ./d ./dir ./empty"),
        ("target-first", "ok", ". ./d ./dir ./empty"),
    ];
    for (policy, answer, names) in rows {
        let options = ["--resolve-symlinks", &format!("--resolved-symlink-deletion={policy}")];
        let twins = Twins::of(&options, tree);
        let told = twins.same(policy, delete);
        assert_eq!(told.0[0], answer, "{policy}");
        assert_eq!(told.1, names, "{policy}");
    }
    let twins = Twins::of(&["-o", "resolve-symlinks"], tree);
    assert_eq!(twins.same("the default", delete).1, ". ./d ./d/f ./dir ./empty");
}

#[test]
fn a_broken_link_can_be_removed_under_any_policy() {
    let mut twins = Twins::of(&["--resolve-symlinks"], "ln -s nowhere a; ln -s nowhere b");
    let removed = |side: &Side| errno(fs::remove_file(side.at("a")));
    assert_eq!(twins.same("symlink-only", removed), "ok");
    twins.again(&["--resolve-symlinks", "--resolved-symlink-deletion=deny"]);
    let removed = |side: &Side| errno(fs::remove_file(side.at("b")));
    twins.differ(("--resolved-symlink-deletion", "a broken link"), &"ok".to_owned(), removed);
}

#[test]
fn a_name_that_leads_to_a_directory_is_removed_as_one() {
    let tree = "mkdir empty full; touch full/x; ln -s empty dir; ln -s full fulldir";
    for (policy, answer, names) in [
        ("deny", "EPERM", ". ./dir ./empty ./full ./full/x ./fulldir"),
        ("symlink-only", "ok", ". ./empty ./full ./full/x ./fulldir"),
    ] {
        let options = ["--resolve-symlinks", &format!("--resolved-symlink-deletion={policy}")];
        let mount = World::new(Mounter::Root).ours(&options, tree);
        assert_eq!(errno(fs::remove_dir(mount.ours.at("dir"))), answer, "{policy}");
        assert_eq!(left(&mount.ours.src("")), names, "{policy}");
    }
}

#[test]
fn a_policy_that_does_not_exist_is_refused() {
    let twins = Twins::of(&[], "");
    let world = twins.world();
    for side in [
        &world.side_named(super::twins::Implementation::Bindfs, "a", ""),
        &world.side_named(super::twins::Implementation::Shiftbind, "b", ""),
    ] {
        let (output, has_mounted) =
            world.try_out(side, &["--resolve-symlinks", "--resolved-symlink-deletion=maybe"]);
        assert!(!has_mounted && !output.status.success(), "{:?}: {output:?}", side.implementation);
    }
}

#[test]
fn links_are_links_without_the_option() {
    let twins = Twins::of(&[], TREE);
    let told = twins.same("links", |side| {
        let targets = ["tof", "tod", "broken", "out", "loop"]
            .map(|name| fs::read_link(side.at(name)).expect("readlink"));
        let made = OWNER.run(|| errno(unix::symlink("x", side.at("d/new"))));
        unix::symlink("anything at all", side.at("new")).expect("symlink");
        unix::lchown(side.at("new"), Some(5), Some(6)).expect("lchown");
        (targets, made, owner(&side.src("new")), fs::read_link(side.src("new")).expect("readlink"))
    });
    assert_eq!(told.2, "5:6:777");
}
