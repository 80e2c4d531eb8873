//! Containers of docker, by a daemon of the test.

use crate::flow::{Flow, Manager};

const PROGRAMS: &[(&str, &str)] =
    &[("dockerd", "docker.io"), ("docker", "docker.io"), ("busybox", "busybox-static")];

const REMAPPED: Manager = Manager {
    programs: PROGRAMS,
    control: "docker_is_set_up --userns-remap=alice; docker run --rm busybox true",
};

const PLAIN: Manager =
    Manager { programs: PROGRAMS, control: "docker_is_set_up; docker run --rm busybox true" };

#[test]
fn a_volume_shows_a_remapped_container_the_sources_ids() {
    Flow::of(&REMAPPED)
        .sh("docker_is_set_up --userns-remap=alice
             fails docker run --rm --user 1000 -v /srv/data:/data busybox sh -c 'echo x >> /data/f'")
        .block("docker")
        .sh("shows f 1000 1000; shows root 0 0; shows other 65534 65534
             docker run --rm -v /mnt/data:/data busybox sh -c 'touch /data/made && chown 33:33 /data/made'
             is $(owner /srv/data/made) 33:33")
        .run();
}

#[test]
fn what_is_copied_into_a_volume_by_docker_cp_is_stored_as_root_as_says() {
    Flow::of(&REMAPPED)
        .sh("docker_is_set_up --userns-remap=alice; echo host > /etc/hostname")
        .block("docker-cp")
        .sh("is $(owner /srv/data/hostname) 0:0; cmp /etc/hostname /srv/data/hostname")
        .run_once();
}

#[test]
fn the_directory_of_one_user_is_anothers_in_a_container_without_a_user_namespace() {
    Flow::of(&PLAIN)
        .sh("mkdir -p /home/alice/proj /mnt/proj; chown 70001:70002 /home/alice/proj; docker_is_set_up")
        .block("one-id-docker")
        .sh("is $(owner /home/alice/proj/made) 70001:70002")
        .run_once();
}
