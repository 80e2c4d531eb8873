//! How a mount in a container is found, changed and ended.

use super::container::Container;
use super::machine;
use super::namespace::{Namespace, Signal, signal, text, wait_until};

fn mounted(n: &Namespace) -> Container {
    let container = Container::new(n, 200_000);
    n.ok(&format!("$S a /mnt/t -N {} --mkdir --engine=fuse", container.pid()));
    assert_eq!(container.ok("cat /mnt/t/f"), "hello\n");
    container
}

fn is_mounted(container: &Container) -> bool {
    container.ok("cat /proc/self/mountinfo").contains(" /mnt/t ")
}

#[test]
fn sigterm_unmounts_in_the_container_and_ends_the_daemon() {
    let n = machine();
    let container = mounted(&n);
    signal(n.daemon(), Signal::TERM);
    n.wait_until_gone();
    assert!(!is_mounted(&container));
    assert_eq!(n.ok("ls /run/shiftbind/elsewhere"), "");
}

#[test]
fn a_mount_in_use_is_kept_until_it_is_detached() {
    let n = machine();
    let container = mounted(&n);
    let pid = container.pid();
    let mut user = super::namespace::program("nsenter")
        .args([
            "-t",
            &pid.to_string(),
            "-m",
            "-U",
            "-S0",
            "-G0",
            "sh",
            "-c",
            "cd /mnt/t && exec sleep 100",
        ])
        .spawn()
        .unwrap();
    wait_until("it is in use", || {
        std::fs::read_link(format!("/proc/{}/cwd", user.id())).is_ok_and(|at| at.ends_with("mnt/t"))
            || std::fs::read(format!("/proc/{}/comm", user.id()))
                .is_ok_and(|name| name == b"sleep\n")
    });
    let busy = n.sh(&format!("$S umount -N {pid} /mnt/t"));
    assert!(text(&busy.stderr).contains("in use"), "{busy:?}");
    assert_eq!(busy.status.code(), Some(32));
    n.ok(&format!("$S umount --lazy -N {pid} /mnt/t"));
    assert!(!is_mounted(&container));
    let _ = user.kill();
    let _ = user.wait();
    n.wait_until_gone();
}

#[test]
fn umount_within_the_container_ends_the_daemon() {
    let n = machine();
    let container = mounted(&n);
    container.ok("umount /mnt/t");
    n.wait_until_gone();
    let gone = n.sh(&format!("$S umount -N {} /mnt/t", container.pid()));
    assert!(text(&gone.stderr).contains("no mount of shiftbind is there"), "{gone:?}");
}

#[test]
fn a_containers_end_leaves_no_daemon_and_no_entry() {
    let n = machine();
    for words in ["--engine=fuse", "--engine=fuse --ids=host", "--engine=kernel"] {
        let container = Container::new(&n, 200_000);
        let pid = container.pid();
        n.ok(&format!("$S a /mnt/t -N {pid} --mkdir {words}"));
        let namespaces = ["mnt", "user"]
            .map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap());
        for daemon in n.processes() {
            let fds = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap();
            for fd in fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()) {
                assert!(!namespaces.contains(&fd), "{words}: the daemon holds {fd:?}");
            }
        }
        container.end();
        n.wait_until_gone();
        assert_eq!(n.ok("$S list"), "", "{words}");
    }
}

#[test]
fn a_mount_is_found_after_the_process_that_named_its_namespace_has_ended() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let mut other = super::namespace::program("nsenter")
        .args(["-t", &container.pid().to_string(), "-m", "-U", "sleep", "100"])
        .spawn()
        .unwrap();
    wait_until("it is in the container", || {
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        namespace(other.id()) == namespace(container.pid())
    });
    n.ok(&format!("$S a /mnt/t -N {} --mkdir --engine=fuse", other.id()));
    let _ = other.kill();
    let _ = other.wait();
    signal(n.daemon(), Signal::TERM);
    n.wait_until_gone();
    assert!(!is_mounted(&container));
}

#[test]
fn a_mount_that_another_one_covers_is_not_taken_for_it() {
    let n = machine();
    let container = mounted(&n);
    container.ok("mount -t tmpfs cover /mnt/t && touch /mnt/t/cover");
    signal(n.daemon(), Signal::TERM);
    let refused = n.sh(&format!("$S umount -N {} /mnt/t", container.pid()));
    assert!(text(&refused.stderr).contains("no mount of shiftbind is there"), "{refused:?}");
    assert_eq!(container.ok("ls /mnt/t"), "cover\n");
    container.ok("umount /mnt/t && cat /mnt/t/f");
    signal(n.daemon(), Signal::TERM);
    n.wait_until_gone();
}

#[test]
fn list_stat_and_reload_reach_the_daemon() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    n.ok(&format!(
        "echo idmap=1000:5:1 > conf && $S a /mnt/t -N {pid} --mkdir --engine=fuse -o config=conf"
    ));
    let listed = n.ok("$S list");
    assert!(listed.contains(&format!("{pid}:/mnt/t")) && listed.contains("1000:5:1"), "{listed}");
    let told = n.ok(&format!("$S stat -N {pid} /mnt/t --json"));
    for part in
        ["\"inode\": ", "\"state\": \"serving\"", "\"requests\"", &format!("\"value\": \"{pid}\"")]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(container.ok("stat -c %u /mnt/t/f"), "5\n");
    n.ok(&format!("echo idmap=1000:6:1 > conf && $S reload -N {pid} /mnt/t"));
    assert_eq!(container.ok("stat -c %u /mnt/t/f"), "6\n");
    let refused = n.sh(&format!("echo threads=1 > conf; $S reload -N {pid} /mnt/t"));
    assert!(text(&refused.stderr).contains("option 'threads' cannot change"), "{refused:?}");
    // The namespace of another process is no place of a mount of ours.
    let other = Container::of_root(&n);
    let none = n.sh(&format!("$S stat -N {} /mnt", other.pid()));
    assert_eq!(none.status.code(), Some(32), "{none:?}");
}

#[test]
fn a_daemon_that_was_killed_is_not_listed() {
    let n = machine();
    let container = mounted(&n);
    signal(n.daemon(), Signal::KILL);
    // It leaves its namespace before it has ended.
    wait_until("it is not listed", || n.ok("$S list; ls /run/shiftbind/elsewhere").is_empty());
    n.ok(&format!("$S umount -N {} /mnt/t", container.pid()));
    assert!(!is_mounted(&container));
}

#[test]
fn a_reload_does_not_take_a_path_of_the_container_for_one_of_the_machine() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    let source = n.path("a").display().to_string();
    n.ok(&format!("echo '{source} /mnt/t fuse.shiftbind idmap=1000:9:1 0 0' > fstab"));
    n.ok(&format!("LIBMOUNT_FSTAB=$PWD/fstab $S a /mnt/t -N {pid} --mkdir --engine=fuse"));
    let refused = n.sh(&format!("$S reload -N {pid} /mnt/t"));
    let error = text(&refused.stderr);
    assert!(error.contains("in another namespace: mount with config=FILE"), "{error}");
    assert_eq!(container.ok("stat -c %u /mnt/t/f"), "1000\n");
}

#[test]
fn a_mount_below_another_one_of_the_container_is_unmounted() {
    let n = machine();
    let container = mounted(&n);
    n.ok("mkdir b && touch b/below");
    let pid = container.pid();
    n.ok(&format!("$S b /mnt/t/sub -N {pid} --engine=fuse"));
    assert_eq!(container.ok("ls /mnt/t/sub"), "below\n");
    n.ok(&format!("$S umount -N {pid} /mnt/t/sub"));
    assert_eq!(container.ok("ls /mnt/t/sub"), "");
    n.ok(&format!("$S umount -N {pid} /mnt/t"));
    n.wait_until_gone();
}

#[test]
fn a_container_that_keeps_the_mount_does_not_keep_the_daemon() {
    let n = machine();
    for kept in ["mount -t tmpfs cover /mnt/t", "mkdir /mnt/q && mount --bind /mnt/t /mnt/q"] {
        let container = mounted(&n);
        container.ok(kept);
        let daemon = n.daemon();
        signal(daemon, Signal::TERM);
        // Signals that wait are merged to one.
        wait_until("the first signal has been received", || {
            let status = std::fs::read_to_string(format!("/proc/{daemon}/status"));
            status.is_ok_and(|status| status.contains("ShdPnd:\t0000000000000000"))
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        signal(daemon, Signal::TERM);
        n.wait_until_gone();
    }
}
