//! crun and runc with bundles made by hand.

use crate::flow::{Flow, Manager};

const PROGRAMS: &[(&str, &str)] =
    &[("crun", "crun"), ("runc", "runc"), ("jq", "jq"), ("busybox", "busybox-static")];

pub(crate) const CRUN: Manager = Manager {
    programs: PROGRAMS,
    control: "mkdir $W/bundle; cd $W/bundle; bundle true; crun run control",
};

pub(crate) const RUNC: Manager = Manager {
    programs: PROGRAMS,
    control: "mkdir $W/bundle; cd $W/bundle; bundle true; runc run control",
};

/// A flow in a bundle whose container has the document's mount.
fn bundle(manager: &'static Manager) -> Flow {
    Flow::of(manager)
        .sh("mkdir $W/bundle; cd $W/bundle; bundle 'ls -ln /data && touch /data/made'")
        .feed("oci-mount", "cat > mount.json")
        .sh("jq --slurpfile mount mount.json '.mounts += $mount' config.json > made.json; mv made.json config.json")
}

const BOTH_WAYS: &str =
    "shows f 1000 1000; shows root 0 0; shows other 65534 65534; is $(owner /srv/data/made) 0:0";

#[test]
fn a_mount_of_cruns_bundle_has_the_map_of_its_configuration() {
    bundle(&CRUN).block("crun").sh(BOTH_WAYS).run();
}

#[test]
fn a_mount_of_runcs_bundle_has_the_map_of_its_configuration() {
    bundle(&RUNC).block("runc").sh(BOTH_WAYS).run();
}
