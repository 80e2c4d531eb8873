//! The parts of the document about programs that Debian lacks which shiftbind alone can run.

use crate::flow::{Flow, Manager};

const NOTHING: Manager = Manager { programs: &[], control: "true" };

#[test]
fn the_maps_of_incus_are_read_as_it_writes_them() {
    Flow::of(&NOTHING)
        .feed("incus-json", "cat > $W/web.json")
        .sh("shiftbind /srv/data /mnt/data --map-from=json:$W/web.json; is $(owner /mnt/data/f) 1001000:1001000; umount /mnt/data")
        .block("incus-raw")
        .sh("is $(owner /mnt/data/f) 201000:201000")
        .run_once();
}

#[test]
fn the_maps_of_proxmox_are_read_as_it_writes_them() {
    Flow::of(&NOTHING)
        .feed("pve-fstab", "cat >> /etc/fstab")
        .sh("mount -a; is $(owner /mnt/data/f) 101000:101000; umount /mnt/data; mkdir -p /etc/pve/lxc")
        .feed("pve-config", "cat > /etc/pve/lxc/101.conf")
        .block("pve-map")
        .sh("is $(owner /mnt/data/f) 201000:201000")
        .run_once();
}
