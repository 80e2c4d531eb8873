//! What a service manager sees: sd_notify for `Type=notify`, the pid file for `Type=forking`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::namespace::{Namespace, signal, wait_until};

fn received(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
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
    signal(service.id(), "TERM");
    assert_eq!(received(&socket), "STOPPING=1");
    assert!(service.wait().unwrap().success());
}

#[test]
fn a_forking_service_has_its_pid_file_when_the_parent_returns() {
    let ns = Namespace::new();
    let pid = ns.ok("$S --pidfile pid a m && cat pid");
    assert_eq!(pid.trim().parse::<u32>().unwrap(), ns.daemon());
    let status = fs::read_to_string(format!("/proc/{}/status", ns.daemon())).unwrap();
    assert!(status.contains("\nTgid:\t"), "{status}");
}

#[test]
fn a_second_daemon_does_not_take_over_a_pid_file_in_use() {
    let ns = Namespace::new();
    ns.ok("mkdir m2 && $S --pidfile pid a m");
    let output = ns.sh("$S --pidfile pid a m2");
    assert_eq!(output.status.code(), Some(16));
    assert!(ns.mounts_at(&ns.path("m2")).is_empty());
    wait_until("only the first runs", || ns.processes().len() == 1);
    assert_eq!(fs::read_to_string(ns.path("pid")).unwrap().trim(), ns.daemon().to_string());
}
