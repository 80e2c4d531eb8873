//! Containers of systemd-nspawn.

use crate::flow::{Flow, Manager};

pub(crate) const NSPAWN: Manager = Manager {
    programs: &[("systemd-nspawn", "systemd-container"), ("busybox", "busybox-static")],
    control: "tree /var/lib/machines/web; chown -R 200000:200000 /var/lib/machines/web
        systemd-nspawn -q -D /var/lib/machines/web --private-users=200000:65536 true",
};

#[test]
fn a_directory_of_the_host_in_a_container() {
    Flow::of(&NSPAWN)
        .sh("tree /var/lib/machines/web; chown -R 200000:200000 /var/lib/machines/web")
        .block("nspawn")
        .sh("shows f 1000 1000; shows root 0 0; shows other 65534 65534
             systemd-nspawn -q -D /var/lib/machines/web --private-users=200000:65536 --bind=/mnt/data:/data \
                 sh -c 'touch /data/made && chown 33:33 /data/made'
             is $(owner /srv/data/made) 33:33")
        .run();
}

#[test]
fn a_root_filesystem_stored_from_zero_on_is_a_containers_root() {
    Flow::of(&NSPAWN)
        .sh("tree /srv/tree; mkdir /mnt/tree")
        .block("nspawn-root")
        .sh("shows made 0 0; shows bin 0 0; is $(owner /srv/tree/made) 0:0; is $(owner /srv/tree/var) 0:0")
        .run_once();
}
