//! Service managers: sd_notify for `Type=notify`, the pid file for `Type=forking`, and syslog.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::namespace::patience::patience;
use crate::namespace::{Namespace, Signal, ended, signal, wait_until};

fn received(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(patience(Duration::from_secs(20)))).unwrap();
    let mut buffer = [0; 200];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn a_notify_service_is_ready_when_it_is_mounted_and_says_when_it_stops() {
    let ns = Namespace::new();
    let socket = UnixDatagram::bind(ns.path("notify")).unwrap();
    let mut service = ns
        .command(ns.path("shiftbind"))
        .args(["-f", "a", "m"])
        .env("NOTIFY_SOCKET", ns.path("notify"))
        .spawn()
        .unwrap();
    assert_eq!(received(&socket), format!("READY=1\nMAINPID={}", service.id()));
    assert_eq!(ns.mounts().len(), 1, "mounted by then");
    signal(service.id(), Signal::TERM);
    assert_eq!(received(&socket), "STOPPING=1");
    assert!(ended(&mut service).success());
}

#[test]
fn a_forking_service_has_its_pid_file_when_the_parent_returns() {
    let ns = Namespace::new();
    let pid = ns.ok("$F --pidfile pid a m && cat pid");
    assert_eq!(pid.trim().parse::<u32>().unwrap(), ns.daemon());
    let status = fs::read_to_string(format!("/proc/{}/status", ns.daemon())).unwrap();
    assert!(status.contains("\nTgid:\t"), "{status}");
}

#[test]
fn a_second_daemon_does_not_take_over_a_pid_file_in_use() {
    let ns = Namespace::new();
    ns.ok("mkdir m2 && $F --pidfile pid a m");
    let output = ns.sh("$F --pidfile pid a m2");
    assert_eq!(output.status.code(), Some(16));
    assert!(ns.mounts_at(&ns.path("m2")).is_empty());
    wait_until("only the first runs", || ns.processes().len() == 1);
    assert_eq!(fs::read_to_string(ns.path("pid")).unwrap().trim(), ns.daemon().to_string());
}

/// A namespace with a /dev of its own, in which the test listens on the syslog socket.
fn with_syslog() -> (Namespace, UnixDatagram) {
    let ns = Namespace::new();
    ns.ok("mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && mknod /dev/fuse c 10 229");
    let socket = UnixDatagram::bind(ns.inside("/dev/log")).unwrap();
    (ns, socket)
}

#[test]
fn in_the_background_log_lines_go_to_syslog() {
    let (ns, socket) = with_syslog();
    let output = ns.sh("$F -v a m");
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]), "nothing on the terminal");
    let tag = format!("shiftbind[{}]: ", ns.daemon());
    let mut line = received(&socket);
    while !line.contains("is mounted on") {
        line = received(&socket);
    }
    assert!(line.starts_with("<30>") && line.contains(&tag), "{line}");
}

#[test]
fn a_syslog_that_does_not_read_blocks_neither_daemon_nor_clients() {
    let (ns, _socket) = with_syslog();
    ns.ok(
        "$F -vv a m && for i in 1 2 3 4 5 6 7 8; do ls -la m; umount m; $F -vv a m; done; stat m",
    );
}

#[test]
fn rust_log_wins_over_the_verbosity() {
    let ns = Namespace::new();
    for (environment, expected) in [("", true), ("RUST_LOG=off", false)] {
        ns.ok(&format!(
            "{environment} $F -f -v a m 2>log & until mountpoint -q m; do :; done; umount m; wait"
        ));
        let log = fs::read_to_string(ns.path("log")).unwrap();
        assert_eq!(log.contains("is mounted on"), expected, "{environment}: {log}");
    }
}

#[test]
fn in_front_nothing_is_said_without_need() {
    let ns = Namespace::new();
    ns.ok("$F -f a m >log 2>&1 & until mountpoint -q m; do :; done; ls m; umount m; wait");
    assert_eq!(fs::read_to_string(ns.path("log")).unwrap(), "");
}
