//! The standard mount options as the mount table shows them, and remounts.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::mount8::REMOUNT;
use crate::namespace::{Namespace, finished, text};

/// The options of the mount, without those of the superblock.
fn options(ns: &Namespace) -> Vec<String> {
    let mounts = ns.mounts();
    let line = mounts.last().expect("mounted");
    line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect()
}

#[test]
fn options_reach_the_mount_table() {
    let ns = Namespace::new();
    ns.ok("$F -o ro,nosuid,nodev,noexec,noatime a m");
    assert_eq!(options(&ns), ["ro", "nosuid", "nodev", "noexec", "noatime"]);
    assert!(!ns.sh("touch m/x").status.success());
}

#[test]
fn by_default_the_mount_is_as_the_source_is() {
    let ns = Namespace::new();
    ns.ok("mount --bind a a && mount -o remount,bind,ro,nosuid,noexec a && $F a m");
    assert_eq!(options(&ns)[..3], ["ro", "nosuid", "noexec"]);
    ns.ok("umount m && $F -o exec a m");
    assert_eq!(options(&ns)[..3], ["ro", "nosuid", "relatime"]);
}

#[test]
fn all_users_may_use_a_mount_by_root_and_the_kernel_checks_permissions() {
    let ns = Namespace::new();
    ns.ok("$F a m");
    let line = ns.mounts().remove(0);
    assert!(line.contains("allow_other") && line.contains("default_permissions"), "{line}");
}

#[test]
fn odd_characters_in_the_source_are_shown() {
    let ns = Namespace::new();
    let odd = OsStr::from_bytes(b"a b,c\nd\\e\xff=");
    fs::create_dir(ns.path("").join(odd)).unwrap();
    let mut mount = ns.command(ns.path("shiftbind"));
    mount.arg("--engine=fuse").arg(odd).arg("m");
    let mounted = finished(mount);
    assert!(mounted.status.success(), "{}", text(&mounted.stderr));
    let shown = ns.mounts().remove(0);
    let shown =
        shown.split(" - fuse.shiftbind ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert!(shown.ends_with("/a\\040b,c\\012d\\134e\u{fffd}="), "{shown}");
    assert_eq!(ns.ok("findmnt -n -o FSTYPE m"), "fuse.shiftbind\n");
}

#[test]
fn a_source_too_long_for_the_kernel_is_mounted_all_the_same() {
    let ns = Namespace::new();
    let long = format!("{0}/{0}", "x".repeat(200));
    fs::create_dir_all(ns.path(&long)).unwrap();
    ns.ok(&format!("$F {long} m && stat m"));
}

#[test]
fn another_name_for_the_source_may_be_given() {
    let ns = Namespace::new();
    ns.ok("$F -o fsname=data a m");
    assert!(ns.mounts()[0].contains(" - fuse.shiftbind data "));
}

#[test]
fn remounting_replaces_the_options() {
    let ns = Namespace::new();
    ns.ok("$F -o nosuid,noatime a m && $S -o remount,ro,nosuid,noatime a m");
    assert_eq!(options(&ns), ["ro", "nosuid", "noatime"]);
    ns.ok("$S -o remount,rw,noexec a m");
    assert_eq!(options(&ns), ["rw", "noexec", "relatime"]);
}

#[test]
fn a_read_only_remount_by_the_kernel_alone_can_be_undone() {
    let ns = Namespace::new();
    ns.ok(&format!("$F a m && {REMOUNT},ro m"));
    assert_eq!(options(&ns)[0], "ro");
    ns.ok("$S -o remount,rw a m");
    let line = ns.mounts().remove(0);
    let filesystem = line.rsplit(' ').next().unwrap().to_owned();
    assert!(options(&ns)[0] == "rw" && filesystem.starts_with("rw"), "{line}");
}

#[test]
fn remounting_what_is_not_ours_is_refused() {
    let ns = Namespace::new();
    ns.ok("mount -t tmpfs other m");
    let output = ns.sh("$S -o remount,ro a m");
    assert_eq!(output.status.code(), Some(32));
    assert!(text(&output.stderr).contains("not a mount of ours"), "{}", text(&output.stderr));
    assert_eq!(options(&ns)[0], "rw");
}

#[test]
fn resolving_links_that_users_can_make_is_warned_of() {
    let ns = Namespace::new();
    for (mode, owner, warns) in [("755", 0, false), ("777", 0, true), ("755", 1000, true)] {
        let output = ns.sh(&format!(
            "chmod {mode} a && chown {owner} a && $F --resolve-symlinks a m && umount m"
        ));
        assert!(output.status.success(), "{mode} {owner}");
        let said = crate::namespace::text(&output.stderr);
        assert_eq!(said.contains("option 'resolve-symlinks'"), warns, "{mode} {owner}: {said}");
        ns.wait_until_gone();
    }
}
