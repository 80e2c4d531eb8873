//! podman as root.

use crate::flow::{Flow, Manager};

pub(crate) const PODMAN: Manager = Manager {
    programs: &[
        ("podman", "podman"),
        ("crun", "crun"),
        ("conmon", "conmon"),
        ("netavark", "netavark"),
        ("busybox", "busybox-static"),
    ],
    control: "podman_is_set_up; image_for_podman
        podman run --rm --uidmap 0:200000:65536 busybox true",
};

/// A flow with an image in podman's storage.
fn podman() -> Flow {
    Flow::of(&PODMAN).sh("podman_is_set_up; image_for_podman")
}

/// What the container of `$1` must see of the source, and what its creation must be stored as.
const BOTH_WAYS: &str = "shows f 1000 1000; shows root 0 0; shows other 65534 65534";

#[test]
fn a_volume_of_a_container_with_a_map_shows_and_stores_the_sources_ids() {
    podman()
        .block("podman")
        .sh(BOTH_WAYS)
        .sh(
            "podman run --rm --uidmap 0:200000:65536 -v /mnt/data:/data busybox sh -c \
                'touch /data/made /data/given && chown 33:1000 /data/given && mkdir /data/dir && ! chown 0 /data/other'
             is $(owner /srv/data/made) 0:0; is $(owner /srv/data/given) 33:1000; is $(owner /srv/data/dir) 0:0
             podman run --rm --uidmap 0:200000:65536 --user 1000 -v /mnt/data:/data busybox touch /data/theirs
             is $(owner /srv/data/theirs) 1000:1000; is $(owner /srv/data/other) 70000:70000",
        )
        .run();
}

#[test]
fn a_line_of_fstab_serves_the_volume() {
    podman()
        .feed("podman-fstab", "cat >> /etc/fstab")
        .sh("mount -a; mount -a; findmnt -n /mnt/data > $W/mounts; is $(wc -l < $W/mounts) 1; OUT=$W/out
             podman run --rm --uidmap 0:200000:65536 -v /mnt/data:/data busybox ls -ln /data > $OUT")
        .sh(BOTH_WAYS)
        .run_once();
}

#[test]
fn the_map_that_podman_chose_is_read_from_its_storage() {
    podman()
        .block("podman-auto")
        .sh(BOTH_WAYS)
        .sh("podman exec web touch /data/made; is $(owner /srv/data/made) 0:0
             grep -q '^ *0 *500000 *65536$' /proc/$(podman inspect -f '{{.State.Pid}}' web)/uid_map")
        .run();
}

#[test]
fn the_map_of_a_container_that_was_given_one_is_read_from_its_storage() {
    podman()
        .sh("podman create --name web --uidmap 0:200000:1000 --gidmap 0:300000:1000 busybox true > $W/id
             shiftbind --explain --map-from=podman:web > $W/explained
             grep -qx 'uid: source 0..999 is shown as 200000..200999' $W/explained
             grep -qx 'gid: source 0..999 is shown as 300000..300999' $W/explained
             head -c 12 $W/id > $W/short; shiftbind --explain --map-from=podman:$(cat $W/short) | cmp - $W/explained")
        .run_once();
}

#[test]
fn containers_with_different_bases_share_a_tree() {
    podman()
        .sh("mkdir /mnt/one /mnt/two")
        .block("podman-two")
        .sh(BOTH_WAYS)
        .sh("shows from-one 0 0; is $(owner /srv/data/from-one) 0:0
             is $(owner /mnt/one/from-one) 200000:200000; is $(owner /mnt/two/from-one) 300000:300000
             podman exec two sh -c 'chown 1000:1000 /data/from-one'; is $(podman exec one stat -c %u:%g /data/from-one) 1000:1000")
        .run();
}

#[test]
fn a_root_filesystem_stored_from_zero_on_is_a_containers_root() {
    podman()
        .sh("tree /srv/tree; mkdir /mnt/tree")
        .block("podman-rootfs")
        .sh("shows made 0 0; shows bin 0 0; is $(owner /srv/tree/made) 0:0; is $(owner /srv/tree/etc) 0:0
             umount /mnt/tree
             # Without root_as podman fails, and says why.
             tree /srv/bare; shiftbind --engine=fuse /srv/bare /mnt/tree -o idmap=b:0:200000:65536
             fails podman run --rm --uidmap 0:200000:65536 --rootfs /mnt/tree true 2> $W/refused
             grep -q 'value too large for defined data type' $W/refused || { cat $W/refused; exit 1; }")
        .run_once();
}

#[test]
fn a_container_that_started_before_the_mount_has_the_directory_under_it() {
    podman()
        .block("check")
        .sh("is $(grep -c / $OUT) 2
             LATE=$(grep -c -e fuse.shiftbind -e idmapped $OUT) || :
             is $LATE 1; tail -n 1 $OUT | grep -q -e fuse.shiftbind -e idmapped")
        .run();
}

#[test]
fn the_directory_of_one_user_is_anothers_in_a_container_without_a_user_namespace() {
    podman()
        .sh("mkdir -p /home/alice/proj /mnt/proj; touch /home/alice/proj/mine /home/alice/proj/roots
             chown 70001:70002 /home/alice/proj /home/alice/proj/mine")
        .block("one-id")
        .sh("shows mine 1000 1000; shows roots 0 0; is $(owner /home/alice/proj/made) 70001:70002")
        .run_once();
}
