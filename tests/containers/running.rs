//! Mounts in containers that run (`-N PID`), and by the hook of the runtime before they do.

use crate::flow::{Flow, Manager};
use crate::lxc;
use crate::oci;
use crate::podman::PODMAN;
use crate::rootless::ROOTLESS;

/// What `ls -ln` in the container must show.
const SHOWN: &str = "shows f 1000 1000; shows root 0 0; shows other 65534 65534";

/// The daemons end with the containers.
const GONE: &str = "until_true '! pgrep -x shiftbind'; is \"$(shiftbind list)\" ''";

/// A policy of root, and the hook of contrib.
const HOOK: &str = "mkdir -p /etc/shiftbind /etc/containers/oci/hooks.d
    cp $PROJECT/contrib/oci-hook/shiftbind.json /etc/containers/oci/hooks.d";

#[test]
fn two_containers_with_different_bases_share_a_tree_and_no_map_is_typed() {
    Flow::of(&PODMAN)
        .sh("podman_is_set_up; image_for_podman")
        .block("running")
        .sh(SHOWN)
        .sh("shows from-one 0 0; is $(owner /srv/data/from-one) 0:0; is $(grep -c ':/data  */srv/data ' $OUT) 2
             podman exec two sh -c 'chown 33:33 /data/from-one'; is $(owner /srv/data/from-one) 33:33
             podman kill one two > $W/killed")
        .sh(GONE)
        .run();
}

#[test]
fn podmans_hook_mounts_for_a_container_whose_ids_podman_chooses() {
    Flow::of(&PODMAN)
        .sh("podman_is_set_up; image_for_podman")
        .sh(HOOK)
        .feed("hook-conf", "cat > /etc/shiftbind/oci-hook.conf")
        .block("hook")
        .sh("shows root 0 0; is $(owner /srv/data/made) 0:0")
        .sh(GONE)
        .sh("fails podman --hooks-dir /etc/containers/oci/hooks.d run --rm --userns=auto \\
                 --annotation org.shiftbind.mount=/etc:/data busybox true 2> $W/refused
             grep -q 'error executing hook' $W/refused || { cat $W/refused; exit 1; }")
        .run_once();
}

/// A container of crun or runc that has the annotation and the hook.
fn hooked(manager: &'static Manager, run: &str) {
    Flow::of(manager)
        .sh("mkdir $W/bundle; cd $W/bundle; bundle 'ls -ln /data && touch /data/made'; mkdir -p /etc/shiftbind")
        .feed("hook-conf", "cat > /etc/shiftbind/oci-hook.conf")
        .feed("hook-oci", "cat > hook.json")
        .sh("jq --slurpfile hook hook.json '. + $hook[0]' config.json > made.json; mv made.json config.json")
        .sh(&format!("OUT=$W/out; {run} run web > $OUT"))
        .sh(SHOWN)
        .sh("is $(owner /srv/data/made) 0:0")
        .sh(GONE)
        .run_once();
}

#[test]
fn the_hook_of_cruns_bundle_mounts() {
    hooked(&oci::CRUN, "crun");
}

#[test]
fn the_hook_of_runcs_bundle_mounts() {
    hooked(&oci::RUNC, "runc");
}

#[test]
fn a_user_mounts_in_its_own_container() {
    Flow::of(&ROOTLESS)
        .sh("podman_is_set_up; image_for_podman alice; alice mkdir /home/alice/proj; alice touch /home/alice/proj/mine")
        .block_of_alice("rootless-running")
        .sh("shows mine 0 0; is $(owner /home/alice/proj/made) 1000:1000; alice podman kill web > $W/killed")
        .sh(GONE)
        .run_once();
}

#[test]
fn a_directory_is_plugged_into_a_container_of_lxc_and_unplugged() {
    for block in ["lxc-hotplug", "lxc-hotplug-host"] {
        Flow::of(&lxc::LXC)
            .sh(lxc::TREE)
            .sh("chown -R 200000:200000 /srv/tree")
            .feed("lxc-rootfs", "lxc_container web /srv/tree")
            .sh("lxc-start -n web")
            .block(block)
            .sh(SHOWN)
            .sh("lxc-attach -n web -- touch /srv/hot/made; is $(owner /srv/data/made) 0:0
                 shiftbind umount -N $(lxc-info -n web -pH) /srv/hot
                 is \"$(lxc-attach -n web -- ls /srv/hot)\" ''")
            .sh(GONE)
            .sh("lxc-stop -k -n web")
            .run();
    }
}
