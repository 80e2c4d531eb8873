//! The `idmap` of container managers on a mount that can be idmapped: they bring the map, on a clone of the mount.

use crate::flow::{Flow, Manager};
use crate::lxc;
use crate::nspawn::NSPAWN;
use crate::oci::CRUN;
use crate::podman::PODMAN;

const SHOWN: &str = "shows f 1000 1000; shows root 0 0; shows other 65534 65534";

/// A flow that is skipped where the kernel's FUSE has no idmapped mounts (before Linux 6.12).
fn idmap(manager: &'static Manager) -> Flow {
    Flow::of(manager).sh("shiftbind -o idmappable /srv/data /mnt/data 2> $W/why ||
            { grep -q 'idmapped mounts' $W/why && cannot_run \"$(cat $W/why)\"; cat $W/why >&2; exit 1; }
        umount /mnt/data")
}

#[test]
fn podmans_volume_option_idmap() {
    idmap(&PODMAN)
        .sh("podman_is_set_up; image_for_podman")
        .block("idmap")
        .sh(SHOWN)
        .sh("podman run --rm --uidmap 0:200000:65536 -v /mnt/data:/data:idmap busybox sh -c \
                 'touch /data/made && chown 33:33 /data/made && grep \" /data .*idmapped.* fuse.shiftbind \" /proc/self/mountinfo'
             is $(owner /srv/data/made) 33:33
             podman run --rm --uidmap 0:300000:65536 -v /mnt/data:/data:idmap busybox touch /data/from-another
             is $(owner /srv/data/from-another) 0:0")
        .run_once();
}

#[test]
fn cruns_mount_option_idmap() {
    idmap(&CRUN)
        .sh("mkdir $W/bundle; cd $W/bundle; bundle 'ls -ln /data && touch /data/made'")
        .feed("idmap-oci", "cat > mount.json")
        .sh("jq --slurpfile mount mount.json '.mounts += $mount' config.json > made.json; mv made.json config.json
             shiftbind /srv/data /mnt/data -o idmappable; OUT=$W/out; crun run web > $OUT")
        .sh(SHOWN)
        .sh("is $(owner /srv/data/made) 0:0")
        .run_once();
}

#[test]
fn nspawns_bind_option_idmap() {
    idmap(&NSPAWN)
        .sh("tree /var/lib/machines/web; chown -R 200000:200000 /var/lib/machines/web")
        .block("idmap-nspawn")
        .sh(SHOWN)
        .sh("is $(owner /srv/data/made) 0:0")
        .run_once();
}

#[test]
fn lxcs_mount_option_idmap() {
    idmap(&lxc::LXC)
        .sh(lxc::TREE)
        .sh("chown -R 200000:200000 /srv/tree; shiftbind /srv/data /mnt/data -o idmappable")
        .feed("idmap-lxc", "lxc_container web /srv/tree")
        .sh("lxc-start -n web; OUT=$W/out; lxc-attach -n web -- ls -ln /srv/data > $OUT")
        .sh(SHOWN)
        .sh("lxc-attach -n web -- touch /srv/data/made; is $(owner /srv/data/made) 0:0; lxc-stop -k -n web")
        .run_once();
}
