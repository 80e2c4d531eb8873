//! Mounts in the mount namespace of a container (`--namespace`): whose ids they have, what the container can do with them,
//! how they end. Containers are made by unshare(1); tests of container engines are elsewhere.

mod container;
mod escape;
mod hook;
#[allow(dead_code)]
#[path = "../lifecycle/namespace.rs"]
mod namespace;
mod reload;
mod rights;
mod service;
mod target;
mod told;
mod user;
#[path = "../support/without_call.rs"]
mod without_call;

use container::Container;
use namespace::Namespace;

/// A machine with a private /run, and a source of files of several owners.
fn machine() -> Namespace {
    let n = Namespace::new();
    n.ok("mount -t tmpfs run /run && echo hello > a/f && chown 1000:1000 a a/f && echo root > a/r && mkdir a/sub");
    n
}

#[test]
fn two_containers_with_different_bases_share_a_tree_with_nothing_typed() {
    let n = machine();
    let (one, other) = (Container::new(&n, 200_000), Container::new(&n, 300_000));
    for container in [&one, &other] {
        n.ok(&format!("$S a /mnt/t -N {} --mkdir --engine=fuse", container.pid()));
        let shown = container.ok("stat -c '%u:%g %n' /mnt/t /mnt/t/f /mnt/t/r");
        assert_eq!(shown, "1000:1000 /mnt/t\n1000:1000 /mnt/t/f\n0:0 /mnt/t/r\n");
    }
    one.ok("cd /mnt/t && echo x > new && chown 33:34 new && setpriv --reuid=1000 --regid=1000 --clear-groups touch own");
    assert_eq!(n.ok("stat -c %u:%g a/new a/own"), "33:34\n1000:1000\n");
    assert_eq!(
        other.ok("stat -c %u:%g /mnt/t/new /mnt/t/own; cat /mnt/t/new"),
        "33:34\n1000:1000\nx\n"
    );
    other.ok("setpriv --reuid=33 --regid=34 --clear-groups sh -c 'echo y > /mnt/t/new'");
    assert_eq!(one.ok("cat /mnt/t/new"), "y\n");
    // Users outside of the container cannot use the mount, and root of the machine is one of them.
    let outside = n.sh(&format!("ls /proc/{}/root/mnt/t", one.pid()));
    assert!(!outside.status.success(), "the mount is the container's alone");
    assert!(n.mounts().is_empty(), "nothing is mounted here");
}

#[test]
fn ids_of_a_typed_map_are_numbered_as_in_the_container_or_as_here() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    n.ok(&format!("$S a /mnt/t -N {pid} --mkdir --engine=fuse --idmap=1000:5:1"));
    assert_eq!(container.ok("stat -c %u /mnt/t/f /mnt/t/r"), "5\n65534\n");
    n.ok(&format!("$S umount -N {pid} /mnt/t"));
    n.ok(&format!("$S a /mnt/t -N {pid} --engine=fuse --ids=host --idmap=1000:200005:1"));
    assert_eq!(container.ok("stat -c %u /mnt/t/f /mnt/t/r"), "5\n65534\n");
    n.ok(&format!("$S umount -N {pid} /mnt/t"));
    n.ok(&format!("$S a /mnt/t -N {pid} --engine=fuse --ids=host --map-from=pid:{pid}"));
    assert_eq!(container.ok("stat -c %u /mnt/t/f /mnt/t/r"), "1000\n0\n");
    let missing = n.sh(&format!("$S a /mnt/t -N {pid} --idmap=1000:70000:1"));
    let error = namespace::text(&missing.stderr);
    assert!(error.contains("the container has no uid 70000"), "{error}");
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn the_kernels_engine_shows_the_same_and_can_be_unmounted_from_both_sides() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    let mount = format!("$S a /mnt/t -N {pid} --mkdir --engine=kernel");
    n.ok(&mount);
    assert!(n.processes().is_empty(), "no daemon runs");
    assert_eq!(container.ok("stat -c %u /mnt/t/f /mnt/t/r"), "1000\n0\n");
    container.ok("cd /mnt/t && touch new && chown 33:33 new");
    assert_eq!(n.ok("stat -c %u a/new"), "33\n");
    let listed = n.ok("$S list");
    assert!(listed.contains(&format!("{pid}:/mnt/t")) && listed.contains("kernel"), "{listed}");
    n.ok(&format!("$S umount -N {pid} /mnt/t"));
    assert_eq!(container.ok("ls /mnt/t; grep -c ' /mnt/t ' /proc/self/mountinfo || true"), "0\n");
    n.ok(&format!("{mount} --idmap=1000:0:1"));
    assert_eq!(container.ok("stat -c %u /mnt/t/f; umount /mnt/t; ls /mnt/t"), "0\n");
}

#[test]
fn a_mount_namespace_with_our_own_users_is_an_ordinary_mount_elsewhere() {
    let n = machine();
    let other = Container::of_root(&n);
    let pid = other.pid();
    n.ok(&format!("$S a /mnt/t -N /proc/{pid}/ns/mnt --mkdir --engine=fuse --idmap=1000:5:1"));
    assert_eq!(other.ok("stat -c %u /mnt/t/f"), "5\n");
    let refused = n.sh(&format!("$S a /mnt/t -N {pid} --ids=container"));
    assert!(namespace::text(&refused.stderr).contains("the same user namespace"), "{refused:?}");
    n.ok(&format!("$S umount -N {pid} /mnt/t"));
    n.wait_until_gone();
}

#[test]
fn what_names_no_namespace_is_refused_with_the_status_of_a_wrong_call() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    for (words, why) in [
        ("-N 4194304", "process 4194304: there is no such process"),
        ("-N x", "neither a process id nor the path"),
        ("-N /dev/null", "this is no mount namespace"),
        ("-N /proc/self/ns/user", "this is no mount namespace"),
        ("-o namespace=", "the value is empty"),
        ("--ids=host", "has a meaning with namespace only"),
        ("-N $$ --ids=both", "give container or host"),
        ("-N $$ -o auto_unmount", "contradicts namespace"),
        ("-N $CONTAINER -o dev", "may not open devices"),
    ] {
        let output = n.sh(&format!("CONTAINER={}; $S a m {words}", container.pid()));
        let error = namespace::text(&output.stderr);
        assert!(error.contains(why) && error.lines().count() == 1, "{words}: {error}");
        assert_eq!(output.status.code(), Some(1), "{words}");
    }
}

#[test]
fn the_namespace_is_an_option_of_lists_and_files_and_explained() {
    let n = machine();
    let container = Container::new(&n, 200_000);
    let pid = container.pid();
    let told = n.ok(&format!("$S --explain a /mnt/t -o namespace={pid},mkdir,engine=fuse"));
    let expected = format!("namespace: {pid}, container mode");
    assert!(told.contains(&expected), "{told}");
    assert!(container.ok("ls /mnt").is_empty(), "nothing is made");
    n.ok(&format!(
        "printf 'namespace={pid}\\nmkdir\\nengine=fuse\\n' > conf && $S a /mnt/t -o config=conf"
    ));
    assert_eq!(container.ok("cat /mnt/t/f"), "hello\n");
}
