//! What is told of mounts in a container, under which name they are found, and that none is made twice.

use super::container::Container;
use super::machine;
use super::namespace::text;

#[test]
fn a_mount_is_listed_and_found_under_its_real_path() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    container.ok("mkdir /mnt/t '/mnt/a b' && ln -s /mnt/t /mnt/link");
    let pid = container.pid();
    for engine in ["fuse", "kernel"] {
        n.ok(&format!("$S a /mnt//link/../t/. -N {pid} --engine={engine}"));
        assert!(n.ok("$S list").contains(&format!("\n{pid}:/mnt/t ")), "{}", n.ok("$S list"));
        for path in ["/mnt/t", "mnt/./t/", "/mnt/link", "/../mnt/x/../t"] {
            if path.contains('x') {
                container.ok("mkdir -p /mnt/x");
            }
            let told = n.ok(&format!("$S stat -N {pid} {path}"));
            assert!(told.starts_with("mountpoint: /mnt/t\n"), "{told}");
        }
        n.ok(&format!("$S umount -N {pid} /mnt/link"));
        n.ok(&format!("$S a '/mnt/a b' -N {pid} --engine={engine}"));
        assert!(n.ok("$S list").contains(&format!("{pid}:/mnt/a\\040b ")), "{}", n.ok("$S list"));
        n.ok(&format!("$S umount -N {pid} '/mnt/a b'"));
        let error = n.sh(&format!("$S umount -N {pid} \"/mnt/new\n\""));
        assert_eq!(text(&error.stderr).lines().count(), 1, "{error:?}");
    }
}

#[test]
fn metrics_and_the_live_view_are_those_of_the_mount() {
    let n = machine();
    let (one, other) = (Container::new(&n, 200_000), Container::new(&n, 300_000));
    for (container, engine) in [(&one, "fuse"), (&other, "kernel")] {
        n.ok(&format!("$S a /mnt/t -N {} --mkdir --engine={engine}", container.pid()));
    }
    one.ok("cat /mnt/t/f");
    let pid = one.pid();
    let inode = |container: &Container| {
        let link = std::fs::read_link(format!("/proc/{}/ns/mnt", container.pid())).unwrap();
        link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).to_owned()
    };
    let metrics = n.ok(&format!("$S stat -N {pid} /mnt/t --prometheus"));
    let labels = format!("mountpoint=\"/mnt/t\",namespace=\"{}\"", inode(&one));
    assert!(metrics.contains(&format!("shiftbind_up{{{labels}}} 1\n")), "{metrics}");
    assert!(metrics.contains(&format!("shiftbind_requests_total{{{labels},kind=\"OPEN\"}} ")));
    let all = n.ok("$S stat --prometheus");
    for container in [&one, &other] {
        let up =
            format!("shiftbind_up{{mountpoint=\"/mnt/t\",namespace=\"{}\"}} 1\n", inode(container));
        assert_eq!(all.matches(&up).count(), 1, "{all}");
    }
    let error = n.sh(&format!("$S stat -N {pid} --prometheus"));
    assert!(text(&error.stderr).contains("MOUNTPOINT is missing"), "{error:?}");
    // The view ends with the mount.
    let view = n.ok(&format!(
        "($S stat -N {pid} /mnt/t --watch=0.1; echo ended) > view & sleep 0.5; $S umount -N {pid} /mnt/t; wait; cat view"
    ));
    assert!(view.matches("/mnt/t from ").count() > 1 && view.ends_with("ended\n"), "{view}");
    let view = n.ok(&format!(
        "timeout 0.5 $S stat -N {} /mnt/t --watch=0.1 --json | head -n 1",
        other.pid()
    ));
    assert!(view.contains("\"engine\":\"kernel\""), "{view}");
}

#[test]
fn mount8_makes_no_second_mount() {
    let n = machine();
    n.ok("ln -s $S mount.shiftbind");
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    for engine in ["fuse", "kernel"] {
        let mount = format!("./mount.shiftbind a /mnt/t -o namespace={pid},mkdir,engine={engine}");
        let count = || container.ok("grep -c ' /mnt/t ' /proc/self/mountinfo || true");
        n.ok(&format!("{mount} && {mount}"));
        assert_eq!(count(), "1\n", "{engine}");
        // Another source, or a mount of the container itself, is no reason not to mount.
        n.ok(&format!(
            "mkdir -p b && ./mount.shiftbind b /mnt/t -o namespace={pid},engine={engine}"
        ));
        assert_eq!(count(), "2\n", "{engine}");
        n.ok(&format!("$S umount -N {pid} /mnt/t && $S umount -N {pid} /mnt/t"));
        container.ok("mount -t tmpfs a /mnt/t");
        n.ok(&mount);
        assert_eq!(count(), "2\n", "{engine}");
        n.ok(&format!("$S umount -N {pid} /mnt/t"));
        container.ok("umount /mnt/t");
    }
}

#[test]
fn a_copy_of_the_mount_is_another_mount() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    n.ok(&format!("$S a /mnt/t -N {pid} --mkdir --engine=kernel"));
    // A process of the container in a mount namespace of its own, whose mounts are copies.
    container.ok("mkfifo /mnt/up; unshare -m --propagation private sh -c 'echo > /mnt/up; exec sleep 600' > /dev/null 2>&1 & \
                  read line < /mnt/up; echo $! > /mnt/pid");
    let copy = container.ok("cat /mnt/pid").trim().to_owned();
    let error = n.sh(&format!("$S umount -N {copy} /mnt/t"));
    assert!(text(&error.stderr).contains("no mount of shiftbind is there"), "{error:?}");
    assert_eq!(n.ok("$S list | wc -l"), "2\n");
    n.ok(&format!("$S umount -N {pid} /mnt/t"));
    assert_eq!(n.ok("$S list"), "");
    let there = n.ok(&format!("grep -c ' /mnt/t ' /proc/{copy}/mountinfo; kill {copy}"));
    assert_eq!(there, "1\n", "the copy stays until its namespace ends");
}

#[test]
fn a_containers_end_lets_go_of_the_source() {
    let n = machine();
    n.ok("mkdir disk && mount -t tmpfs disk disk && echo x > disk/f");
    for engine in ["fuse", "kernel"] {
        let container = Container::new(&n, 200_000);
        n.ok(&format!("$S disk /mnt/t -N {} --mkdir --engine={engine}", container.pid()));
        container.ok("cat /mnt/t/f");
        container.end();
        n.wait_until_gone();
    }
    n.ok("umount disk");
}
