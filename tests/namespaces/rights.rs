//! Root of a container gets nothing that is the machine's.

use super::container::Container;
use super::{machine, namespace};

#[test]
fn root_of_a_container_is_not_root_of_the_machine() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    n.ok(&format!("$S a /mnt/t -N {} --mkdir --engine=fuse", container.pid()));
    for call in [
        "mknod /mnt/t/dev c 1 3",
        "mknod /mnt/t/dev b 7 0",
        "setfattr -n trusted.x -v y /mnt/t/r",
        "setfattr -n security.x -v y /mnt/t/r",
        "chattr +i /mnt/t/r",
        "chown 70000 /mnt/t/r",
    ] {
        container.fails(call);
    }
    // Its numbers are those of the source: it may give files away among these, and make programs set-user-ID.
    container.ok("cd /mnt/t && chown 65535 r && chown 0 r && chmod u+s r && getfattr -d -m - r");
    assert_eq!(n.ok("stat -c '%u %a' a/r; ls a"), "0 4644\nf\nr\nsub\n");
    assert_eq!(n.ok("getfattr -m - a/r"), "");
}

#[test]
fn a_set_user_id_program_has_its_owners_rights_in_the_container_alone() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    n.ok("cp $(command -v id) a/id && chmod 4755 a/id");
    n.ok(&format!("$S a /mnt/t -N {} --mkdir --engine=fuse", container.pid()));
    let run = "setpriv --reuid=1000 --regid=1000 --clear-groups /mnt/t/id -u";
    assert_eq!(container.ok(run), "0\n");
    // The kernel's view from outside: the user is the container's root.
    let status =
        "setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'cd /mnt/t && ls > /dev/null'";
    container.ok(status);
    container
        .ok("cp /mnt/t/f /mnt/t/prog && setcap cap_net_raw=ep /mnt/t/prog && getcap /mnt/t/prog");
}

#[test]
fn a_file_capability_of_the_source_is_valid_in_the_container_alone() {
    let n = machine();
    n.ok("cp $(command -v grep) a/g && setcap cap_sys_admin=ep a/g");
    let run = "setpriv --reuid=1000 --regid=1000 --clear-groups ./g CapEff /proc/self/status";
    for engine in ["fuse", "kernel"] {
        let container = Container::new(&n, 200_000);
        let pid = container.pid();
        n.ok(&format!("$S a /mnt/t -N {pid} --mkdir --engine={engine}"));
        let inside = container.ok(&format!("cd /mnt/t && {run}"));
        assert_eq!(inside, "CapEff:\t0000000000200000\n", "{engine}");
        let outside = n.sh(&format!("cd /proc/{pid}/root/mnt/t && {run}"));
        let told = namespace::text(&outside.stdout);
        match engine {
            "fuse" => assert!(!outside.status.success() && told.is_empty(), "{outside:?}"),
            _ => assert_eq!(told, "CapEff:\t0000000000000000\n", "{outside:?}"),
        }
    }
}

#[test]
fn the_daemon_tells_a_container_nothing() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    n.ok(&format!("$S a /mnt/t -N {pid} --mkdir --engine=fuse"));
    let program = n.path("shiftbind");
    let told = container.sh(&format!("{} stat /mnt/t", program.display()));
    let told = namespace::text(&told.stdout);
    assert!(told.contains("state: unknown") && !told.contains("daemon pid"), "{told}");
    container.fails(&format!("{} --reload /mnt/t", program.display()));
}

#[test]
fn root_of_a_container_cannot_make_a_read_only_mount_writable() {
    let n = machine();
    for words in ["--engine=fuse", "--engine=fuse --ids=host", "--engine=kernel"] {
        let container = Container::new(&n, 200_000);
        n.ok(&format!("$S a /mnt/t -N {} --mkdir {words} -o ro,nodev", container.pid()));
        container.sh("mount -o remount,bind,rw,dev /mnt/t; mount -o remount,rw,dev /mnt/t");
        let error = container.fails("touch /mnt/t/new");
        assert!(error.contains("Read-only file system"), "{words}: {error}");
        assert_eq!(n.ok("ls a"), "f\nr\nsub\n", "{words}");
    }
}

#[test]
fn a_device_on_the_source_cannot_be_opened_whatever_a_container_mounts_again() {
    let n = machine();
    n.ok("mknod -m 666 a/zero c 1 5");
    for words in ["--engine=fuse", "--engine=fuse --ids=host", "--engine=kernel"] {
        let container = Container::new(&n, 200_000);
        n.ok(&format!("$S a /mnt/t -N {} --mkdir {words}", container.pid()));
        container.sh("mount -o remount,bind,dev /mnt/t");
        let error = container.fails("head -c 1 /mnt/t/zero");
        assert!(error.contains("Permission denied"), "{words}: {error}");
    }
}

#[test]
fn reserved_blocks_of_the_source_are_not_for_root_of_a_container() {
    let n = machine();
    let made = n
        .sh("test -e /dev/loop-control && truncate -s 8M image && mkfs.ext4 -q -F -m 40 image && \
                     mkdir full && mount -o loop image full && chmod 777 full");
    if !made.status.success() {
        return super::target::skipped("no loop devices with ext4");
    }
    let container = Container::new(&n, 200_000);
    n.ok(&format!("$S full /mnt/t -N {} --mkdir --engine=fuse --passthrough=off", container.pid()));
    container.sh("head -c 8M /dev/zero > /mnt/t/fill");
    let left = n.ok("stat -f -c '%f %a' full");
    let left: Vec<u64> = left.split_whitespace().map(|word| word.parse().unwrap()).collect();
    n.ok("umount -l full");
    assert!(left[1] < 100 && left[0] > 2000, "the reserve was used: {left:?}");
}
