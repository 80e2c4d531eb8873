//! podman of a user, and user namespaces without podman.

use crate::flow::{Flow, Manager};

pub(crate) const ROOTLESS: Manager = Manager {
    programs: &[
        ("podman", "podman"),
        ("crun", "crun"),
        ("conmon", "conmon"),
        ("newuidmap", "uidmap"),
        ("busybox", "busybox-static"),
    ],
    control: "podman_is_set_up; image_for_podman alice; alice podman run --rm busybox true",
};

const UNSHARE: Manager =
    Manager { programs: &[("unshare", "util-linux")], control: "alice unshare -Urm true" };

const DIRECTORIES: &str =
    "alice mkdir /home/alice/proj /home/alice/view; alice touch /home/alice/proj/mine
    touch /home/alice/proj/hosts";

fn rootless() -> Flow {
    Flow::of(&ROOTLESS).sh("podman_is_set_up; image_for_podman alice").sh(DIRECTORIES)
}

#[test]
fn the_files_of_a_user_are_those_of_another_one_in_its_container() {
    rootless()
        .block_of_alice("rootless")
        .sh("shows mine 1000 1000; shows hosts 65534 65534; is $(owner /home/alice/proj/made) 1000:1000
             is $(alice podman unshare shiftbind list | wc -l) 0")
        .run_once();
}

#[test]
fn a_nested_map_takes_the_ids_of_podmans_own_namespace() {
    rootless()
        .block_of_alice("rootless-nested")
        .sh("shows mine 0 0; shows hosts 65534 65534; is $(owner /home/alice/proj/made) 1000:1000")
        .run_once();
}

#[test]
fn explain_says_what_a_mount_in_a_rootless_namespace_lacks() {
    rootless()
        .sh("cd /home/alice; alice podman unshare shiftbind --explain --idmap=0:1000:1 proj view > $W/explained")
        .sh("grep -q '^passthrough: off: .*CAP_SYS_ADMIN' $W/explained; grep -q '^cache: timeout: everything 1s' $W/explained
             grep -q '^namespace: .*seen in this mount namespace only' $W/explained
             fails grep -q '^warning: .*setuid root on the source' $W/explained")
        .run_once();
}

#[test]
fn a_mount_outside_of_podmans_namespace_is_not_what_the_container_gets() {
    rootless()
        .block_of_alice("trap")
        .sh("cd /home/alice; umount view; alice shiftbind --explain --idmap=identity proj view > $W/explained
             grep -q '^namespace: the mount point is on a private mount' $W/explained
             alice shiftbind --idmap=identity proj view")
        .sh("is $(wc -l < $OUT) 1; fails grep fuse.shiftbind $OUT
             findmnt -n -o FSTYPE /home/alice/view | grep -qx fuse.shiftbind")
        .run_once();
}

#[test]
fn a_user_without_subordinate_ids_mounts_in_a_namespace_of_its_own() {
    Flow::of(&UNSHARE)
        .sh(DIRECTORIES)
        .block_of_alice("unshare")
        .sh("shows mine 0 0; grep -q '^-rw------- .* mine$' $OUT")
        .run_once();
}
