//! Containers of LXC.

use crate::flow::{Flow, Manager};

pub(crate) const LXC: Manager = Manager {
    programs: &[("lxc-start", "lxc"), ("newuidmap", "uidmap"), ("busybox", "busybox-static")],
    control: "tree /srv/tree; rest='exec sleep 1000'; printf '#!/bin/sh\nexec sleep 1000\n' > /srv/tree/bin/init
        chmod 755 /srv/tree/bin/init; chown -R 200000:200000 /srv/tree
        printf 'lxc.idmap = u 0 200000 65536\nlxc.idmap = g 0 200000 65536\nlxc.init.cmd = /bin/init\n' |
            lxc_container web /srv/tree
        lxc-start -n web; lxc-attach -n web -- true",
};

/// A tree whose init sleeps.
pub(crate) const TREE: &str =
    "tree /srv/tree; mkdir /srv/tree/sbin; ln -s /bin/init /srv/tree/sbin/init
    printf '#!/bin/sh\nexec sleep 1000\n' > /srv/tree/bin/init; chmod 755 /srv/tree/bin/init";

#[test]
fn a_directory_of_the_host_in_a_container() {
    Flow::of(&LXC)
        .sh(TREE)
        .sh("chown -R 200000:200000 /srv/tree")
        .feed("lxc", "lxc_container web /srv/tree")
        .block("lxc-start")
        .sh("shows f 1000 1000; shows root 0 0; shows other 65534 65534
             lxc-attach -n web -- sh -c 'touch /srv/data/made && chown 33:33 /srv/data/made'; is $(owner /srv/data/made) 33:33
             lxc-stop -k -n web")
        .run();
}

#[test]
fn a_root_filesystem_stored_from_zero_on_is_a_containers_root() {
    Flow::of(&LXC)
        .sh(TREE)
        .sh("mkdir /mnt/tree")
        .feed("lxc-rootfs", "lxc_container web /mnt/tree")
        .block("lxc-rootfs-start")
        .sh("shows made 0 0; shows bin 0 0; is $(owner /srv/tree/made) 0:0; is $(owner /srv/tree/bin) 0:0
             lxc-stop -k -n web")
        .run();
}
