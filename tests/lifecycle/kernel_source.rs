//! What the kernel's engine makes of different sources, and when `auto` leaves a source to the daemon.

use std::fs;

use crate::engine::{MAP, namespace};
use crate::namespace::{Namespace, wait_until};

fn is_of_kernel(ns: &Namespace, point: &str) {
    let shown = ns.ok(&format!("$S list | grep \"^$PWD/{point} \""));
    assert!(shown.contains("  kernel  "), "{shown}");
}

#[test]
fn a_symbolic_link_and_a_file_are_sources_as_any_other() {
    let ns = namespace();
    ns.ok("ln -s a link && touch a/file point && mkdir deep && ln -s ../m deep/there");
    ns.ok(&format!("$S {MAP} link deep/there && $S {MAP} a/file point"));
    is_of_kernel(&ns, "m");
    is_of_kernel(&ns, "point");
    assert_eq!(ns.ok("stat -c %u m/file point"), "100000\n100000\n");
    assert!(ns.ok("$S list").contains(&format!("  {}  ", ns.path("a").display())));
    ns.ok("$S umount point && $S umount m && test ! -s point");
}

#[test]
fn the_sources_own_options_are_inherited_and_no_others_are_added() {
    let ns = namespace();
    let options = |how: &str| {
        ns.ok(&format!("mount -o remount,bind,{how} a && $S {MAP} a m"));
        let words = ns.ok("findmnt -n -o VFS-OPTIONS m");
        ns.ok("umount m");
        words.trim().to_owned()
    };
    assert_eq!(options("rw,suid,dev,exec,relatime"), "rw,relatime,idmapped");
    assert_eq!(
        options("ro,nosuid,nodev,noexec,noatime,nodiratime"),
        "ro,nosuid,nodev,noexec,noatime,nodiratime,idmapped"
    );
}

#[test]
fn nothing_propagates_between_the_source_and_the_mount() {
    let ns = namespace();
    ns.ok("mount --make-shared a && mkdir a/x a/y && mount -t tmpfs t a/y && mount --make-shared a/y && mkdir a/y/z");
    let made = ns.sh(&format!("$S --engine=kernel {MAP} a m"));
    if !made.status.success() {
        // tmpfs has no idmapped mounts before Linux 6.3.
        return ns.ok("umount a/y").clear();
    }
    ns.ok("mount -t tmpfs t m/x && mount -t tmpfs t m/y/z");
    for path in ["a/x", "a/y/z"] {
        assert!(ns.mounts_at(&ns.path(path)).is_empty(), "{path}");
    }
    ns.ok("umount m/x m/y/z && umount a/y");
    assert_eq!(ns.mounts_at(&ns.path("m/y")).len(), 1, "unmounting at the source leaves it");
    ns.ok("$S umount m");
}

#[test]
fn auto_takes_the_daemon_for_a_source_below_which_the_host_may_unmount_something() {
    let ns = namespace();
    ns.ok("mkdir a/below && mount -t tmpfs below a/below && touch a/below/f");
    let engine = |options: &str| {
        ns.ok(&format!("$S {MAP} {options} a m"));
        let fs_type = ns.ok("findmnt -n -o FSTYPE m | tail -n 1");
        ns.ok("$S umount m");
        fs_type
    };
    // tmpfs has no idmapped mounts before Linux 6.3.
    let alone = ["ext4\n", "fuse.shiftbind\n"];
    assert!(alone.contains(&engine("").as_str()), "no umount(8) is propagated in a private tree");
    ns.ok("mount --make-shared a/below");
    assert_eq!(engine(""), "fuse.shiftbind\n");
    let explained = ns.ok(&format!("$S --explain {MAP} a m"));
    assert!(
        explained.contains("/a/below would stay in use after it is unmounted on the host"),
        "{explained}"
    );
    ns.ok(&format!("$S {MAP} a m && test -e m/below/f && umount a/below"));
    wait_until("it is gone at the mount", || !ns.path("m/below/f").exists());
    ns.ok("$S umount m");
}

#[test]
fn auto_leaves_to_the_daemon_what_it_could_not_find_again() {
    let ns = namespace();
    ns.ok("touch a/f");
    // As root of a user namespace, who owns nothing in /run.
    ns.let_users_mount();
    ns.ok("mkdir own && chown 1000:1000 own m && touch own/f && chown 1000 own/f");
    let script = "unshare -Urm --propagation private sh -c 'PATH=/usr/sbin:/sbin:/bin; $S own m && \
        findmnt -n -o FSTYPE m && $S --explain own m | grep ^engine && umount m'";
    let output = ns.sh_as_user(script);
    let shown = crate::namespace::text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(shown.starts_with("fuse.shiftbind\n"), "{shown}");
    assert!(
        shown.contains(
            "engine: fuse, because the kernel cannot make this mount: no record of it can be kept: "
        ),
        "{shown}"
    );
    // Where users other than root could write a record.
    ns.ok("mkdir -m 777 /run/shiftbind && $S a m");
    assert!(ns.mounts()[0].contains(" - fuse.shiftbind "), "{:?}", ns.mounts());
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn what_falls_back_is_logged_with_its_reason() {
    let ns = namespace();
    ns.ok("mkdir fuse && $F a fuse");
    let why = |arguments: &str| {
        let script = format!(
            "RUST_LOG=info $S -f {arguments} m 2> log & until mountpoint -q m; do :; done; umount m; wait; cat log"
        );
        let log = ns.ok(&script);
        let line =
            log.lines().find(|line| line.contains("engine: fuse, because")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{log}"))
    };
    assert!(why(&format!("{MAP} a")).contains("option 'foreground' needs the daemon"));
    assert!(why(&format!("{MAP} --unmapped=pass a")).contains("unmapped uids are not denied"));
    ns.ok("umount fuse");
    ns.wait_until_gone();
    // The limits of uid_map (user_namespaces(7)): 340 extents, and less than a page of text.
    let extents = |count: u32, from: u32| {
        let list: Vec<String> =
            (0..count).map(|n| format!("{}:{}:1", from + n * 2, n * 2)).collect();
        fs::write(ns.path("conf"), format!("idmap={}\n", list.join(":"))).unwrap();
        ns.ok("$S --explain -o config=conf a m | grep ^engine")
    };
    assert!(extents(340, 0).starts_with("engine: kernel"), "{}", extents(340, 0));
    assert!(extents(341, 0).contains("341 uid extents are more than 340"));
    assert!(extents(300, 4_000_000_000).contains("bytes would not be below 4096"));
}
