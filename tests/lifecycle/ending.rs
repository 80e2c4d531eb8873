//! The end of a mount: by umount, by signals, by force; and never of another daemon's mount.

use std::fs;
use std::process::Stdio;

use crate::namespace::{Namespace, Signal, ended, signal, text, wait_until};

#[test]
fn an_umount_from_outside_ends_the_daemon_and_removes_the_pid_file() {
    let ns = Namespace::new();
    ns.ok("$F --pidfile pid a m");
    let named: u32 = fs::read_to_string(ns.path("pid")).unwrap().trim().parse().unwrap();
    assert_eq!(named, ns.daemon());
    ns.ok("umount m");
    ns.wait_until_gone();
    wait_until("the pid file is gone", || !ns.path("pid").exists());
}

#[test]
fn sigterm_unmounts() {
    let ns = Namespace::new();
    ns.ok("$F --pidfile pid a m");
    signal(ns.daemon(), Signal::TERM);
    ns.wait_until_gone();
    assert!(!ns.path("pid").exists());
}

#[test]
fn a_sighup_that_finds_no_options_leaves_a_daemon_as_it_is() {
    let ns = Namespace::new();
    ns.ok("LIBMOUNT_FSTAB=/dev/null $F a m");
    let daemon = ns.daemon();
    signal(daemon, Signal::HUP);
    std::thread::sleep(std::time::Duration::from_millis(100));
    ns.ok("stat m");
    signal(daemon, Signal::TERM);
    ns.wait_until_gone();
}

#[test]
fn a_mount_in_use_stays_at_the_first_signal_and_is_detached_at_the_second() {
    let ns = Namespace::new();
    ns.ok("$F a m");
    let daemon = ns.daemon();
    let mut user =
        ns.command("sh").args(["-c", "cd m && exec cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let cwd = format!("/proc/{}/cwd", user.id());
    wait_until("the user is in", || fs::read_link(&cwd).is_ok_and(|dir| dir == ns.path("m")));
    signal(daemon, Signal::TERM);
    // Signals of one kind do not queue: the daemon must take the first before the second is sent.
    let pending = || {
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
        status
            .lines()
            .any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"))
    };
    wait_until("the signal is taken", || !pending());
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(ns.mounts().len(), 1, "still in use, still mounted");
    signal(daemon, Signal::TERM);
    wait_until("the mount is out of sight", || ns.mounts().is_empty());
    assert_eq!(ns.daemon(), daemon, "a client inside is still served");
    drop(user.stdin.take());
    ended(&mut user);
    ns.wait_until_gone();
}

#[test]
fn a_mount_that_covers_ours_is_not_unmounted() {
    let ns = Namespace::new();
    ns.ok("$F a m && mount -t tmpfs cover m");
    let daemon = ns.daemon();
    for _ in 0..2 {
        signal(daemon, Signal::TERM);
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(ns.mounts().len(), 2, "both are there");
    }
    ns.ok("umount m && umount m");
    ns.wait_until_gone();
}

#[test]
fn a_mount_that_replaced_ours_is_not_unmounted() {
    let ns = Namespace::new();
    // A bind mount elsewhere keeps the daemon alive, while another filesystem covers its former mount point.
    ns.ok("$F a m && mkdir m2 && mount --bind m m2 && umount m && mount -t tmpfs other m");
    signal(ns.daemon(), Signal::TERM);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(ns.mounts()[0].contains("tmpfs"));
    ns.ok("umount m m2");
    ns.wait_until_gone();
}

#[test]
fn a_mount_that_was_moved_is_found_and_unmounted() {
    let ns = Namespace::new();
    ns.ok("$F a m && mkdir m2 && mount --move m m2");
    signal(ns.daemon(), Signal::TERM);
    ns.wait_until_gone();
    assert!(ns.mounts_at(&ns.path("m2")).is_empty());
}

#[test]
fn with_auto_unmount_the_mount_goes_even_when_the_daemon_is_killed() {
    let ns = Namespace::new();
    ns.ok("$F --pidfile pid -o auto_unmount a m");
    assert_eq!(ns.processes().len(), 2, "the daemon and its guardian");
    let daemon = fs::read_to_string(ns.path("pid")).unwrap().trim().parse().unwrap();
    signal(daemon, Signal::KILL);
    ns.wait_until_gone();
}

#[test]
fn with_auto_unmount_an_ordinary_end_leaves_no_guardian() {
    let ns = Namespace::new();
    ns.ok("$F -o auto_unmount a m && umount m");
    ns.wait_until_gone();
}

#[test]
fn in_front_sigint_unmounts_and_the_status_is_zero() {
    let ns = Namespace::new();
    let mut front = ns.command(ns.path("shiftbind")).args(["-f", "a", "m"]).spawn().unwrap();
    wait_until("it is mounted", || ns.mounts().len() == 1);
    signal(front.id(), Signal::INT);
    assert!(ended(&mut front).success());
    ns.wait_until_gone();
}

#[test]
fn in_front_an_umount_from_outside_ends_it_with_status_zero() {
    let ns = Namespace::new();
    let mut front = ns.command(ns.path("shiftbind")).args(["-f", "a", "m"]).spawn().unwrap();
    wait_until("it is mounted", || ns.mounts().len() == 1);
    ns.ok("umount m");
    assert!(ended(&mut front).success());
}

#[test]
fn the_daemon_serves_a_namespace_that_copied_the_mount_until_that_goes_too() {
    let ns = Namespace::new();
    ns.ok("$F a m");
    let daemon = ns.daemon();
    let copy =
        ["-m", "--propagation", "private", "sh", "-c", "stat m && touch ready && cat && stat m"];
    let mut other = ns
        .command("unshare")
        .args(copy)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the copy is made", || ns.path("ready").exists());
    ns.ok("umount m");
    assert!(ns.mounts().is_empty());
    assert_eq!(ns.daemon(), daemon);
    drop(other.stdin.take());
    assert!(ended(&mut other).success(), "served to the end");
    ns.wait_until_gone();
}

#[test]
fn mounting_over_a_dead_mount_says_what_to_do() {
    let ns = Namespace::new();
    ns.ok("$F a m");
    signal(ns.daemon(), Signal::KILL);
    wait_until("the daemon is dead", || ns.processes().is_empty());
    let output = ns.sh("$F a m");
    assert_eq!(output.status.code(), Some(32));
    assert!(text(&output.stderr).contains("umount it first"), "{}", text(&output.stderr));
    ns.ok("umount m && $F a m && stat m");
}
