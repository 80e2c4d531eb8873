//! `--map-from` and `--idmap=/proc/PID/ns/user`: maps of real user namespaces, of /etc/subuid and of containers' files.

use std::fs;

use crate::namespace::{Namespace, text};

/// A namespace whose source has a file of 5:6.
fn namespace() -> Namespace {
    let ns = Namespace::new();
    ns.ok("touch a/f && chown 5:6 a/f");
    ns
}

/// Mounts with options, and returns the owner that the file of 5:6 is shown with.
fn shown(ns: &Namespace, options: &str) -> String {
    let owner = ns.ok(&format!("$F {options} a m && stat -c %u:%g m/f && umount m"));
    ns.wait_until_gone();
    owner.trim().to_owned()
}

fn refused(ns: &Namespace, options: &str) -> String {
    let output = ns.sh(&format!("$F {options} a m"));
    assert_eq!(output.status.code(), Some(1), "{options}: {output:?}");
    assert_eq!(ns.mounts(), [""; 0]);
    text(&output.stderr).trim().strip_prefix("shiftbind: option 'map-from': ").unwrap().to_owned()
}

/// A script that runs `$1` while `$P` is a process in a user namespace with the map 0:300000:65536.
fn with_user_namespace(run: &str) -> String {
    format!(
        "set -e; unshare -U sleep 60 & P=$!; trap 'kill $P' EXIT
         until test \"$(readlink /proc/$P/ns/user)\" != \"$(readlink /proc/self/ns/user)\"; do sleep 0.01; done
         echo 0 300000 65536 > /proc/$P/uid_map; echo 0 400000 65536 > /proc/$P/gid_map
         {run}"
    )
}

#[test]
fn the_map_of_a_process_and_of_a_namespace_is_taken() {
    let ns = namespace();
    for option in [
        "--map-from=pid:$P",
        "--map-from=userns:/proc/$P/ns/user",
        "-o map_from=pid:$P",
        "--idmap=/proc/$P/ns/user",
    ] {
        let script = format!("$F {option} a m; stat -c %u:%g m/f; umount m");
        assert_eq!(ns.ok(&with_user_namespace(&script)), "300005:400006\n", "{option}");
        ns.wait_until_gone();
    }
    let script = "touch a/g; chown 300007:400008 a/g; $F --map-from=pid:$P --invert-map a m; stat -c %u:%g m/g; umount m";
    assert_eq!(ns.ok(&with_user_namespace(script)), "7:8\n");
    ns.wait_until_gone();
}

#[test]
fn a_process_in_the_namespace_sees_the_ids_of_the_source() {
    let ns = namespace();
    let script = "chmod 777 a; $F --map-from=pid:$P a m
        nsenter -U -t $P -S 0 -G 0 sh -c 'stat -c %u:%g m/f; touch m/made'; umount m; stat -c %u:%g a/made";
    assert_eq!(ns.ok(&with_user_namespace(script)), "5:6\n0:0\n");
    ns.wait_until_gone();
}

#[test]
fn the_map_of_a_namespace_without_a_process_is_taken() {
    let ns = namespace();
    let script =
        "touch held; mount --bind /proc/$P/ns/user held; kill $P; trap - EXIT; wait $P || :
        $F --map-from=userns:held a m; stat -c %u:%g m/f; umount m held";
    assert_eq!(ns.ok(&with_user_namespace(script)), "300005:400006\n");
    ns.wait_until_gone();
    assert!(refused(&ns, "--map-from=userns:/proc/self/ns/mnt").contains("no user namespace"));
    assert!(refused(&ns, "--map-from=pid:$$").contains("same user namespace"));
}

#[test]
fn a_reload_keeps_the_map_of_a_user_namespace_until_the_option_names_another() {
    for option in ["map_from=pid:$P", "map_from=userns:$PWD/held", "idmap=$PWD/held"] {
        let ns = namespace();
        // The process ends, and the path comes to name the namespace of another one.
        let script = format!(
            "export LIBMOUNT_FSTAB=$PWD/fstab
            line() {{ echo \"$PWD/a $PWD/m fuse.shiftbind $1 0 0\" > fstab; }}
            touch held; mount --bind /proc/$P/ns/user held; line {option}; $F -o {option} a m
            kill $P; wait $P || :; umount held
            unshare -U sleep 60 & Q=$!; trap 'kill $Q' EXIT
            until test \"$(readlink /proc/$Q/ns/user)\" != \"$(readlink /proc/self/ns/user)\"; do sleep 0.01; done
            echo 0 0 65536 > /proc/$Q/uid_map; echo 0 0 65536 > /proc/$Q/gid_map
            mount --bind /proc/$Q/ns/user held
            $S reload m; stat -c %u:%g m/f; line {option},ro; $S reload m; stat -c %u:%g m/f
            line map_from=pid:$Q; $S reload m; stat -c %u:%g m/f; umount m held"
        );
        let owners = ns.ok(&with_user_namespace(&script));
        assert_eq!(owners, "300005:400006\n300005:400006\n5:6\n", "{option}");
        ns.wait_until_gone();
    }
}

#[test]
fn a_reload_takes_the_map_of_a_namespace_that_has_no_process() {
    let ns = namespace();
    let script =
        "touch held; mount --bind /proc/$P/ns/user held; kill $P; trap - EXIT; wait $P || :
        echo idmap=5:7:1 > conf; $S --engine=fuse -o config=conf a m; stat -c %u m/f
        echo map-from=userns:$PWD/held > conf; $S reload m; stat -c %u:%g m/f; umount m held";
    assert_eq!(ns.ok(&with_user_namespace(script)), "7\n300005:400006\n");
    ns.wait_until_gone();
}

#[test]
fn a_process_of_our_own_user_namespace_that_we_may_not_look_at_has_no_map() {
    let ns = namespace();
    ns.let_users_mount();
    let script = "sleep 60 & P=$!; trap 'kill $P' EXIT
        setpriv --reuid=1000 --regid=1000 --clear-groups $S --explain --map-from=pid:$P 2>&1 || :";
    let line = ns.ok(script);
    assert!(line.contains("is in the same user namespace as this program"), "{line}");
}

#[test]
fn the_ranges_of_a_user_are_taken() {
    let ns = namespace();
    ns.let_users_mount();
    ns.ok("name=$(id -un 1000); for f in subuid subgid; do
           { echo other:1:1; echo $name:500000:3; echo 1000:600000:1000; } > $f; touch /etc/$f; mount --bind $f /etc/$f; done");
    let name = ns.ok("id -un 1000").trim().to_owned();
    let gid: u32 = ns.ok("id -g 1000").trim().parse().unwrap();
    for user in [name.as_str(), "1000"] {
        assert_eq!(shown(&ns, &format!("--map-from=subuid:{user}")), "600002:600003");
        assert_eq!(shown(&ns, &format!("--map-from=rootless:{user}")), "600001:600002");
    }
    let owner = ns.ok(&format!("touch a/r && chown 0:0 a/r && $F --map-from=rootless:{name} a m && stat -c %u:%g m/r && umount m"));
    assert_eq!(owner, format!("1000:{gid}\n"));
    ns.wait_until_gone();
    let error = refused(&ns, "--map-from=subuid:daemon");
    assert_eq!(
        error,
        "subuid: user daemon has no map of uids and gids in /etc/subuid and /etc/subgid"
    );
}

#[test]
fn configurations_of_containers_are_read() {
    let ns = namespace();
    let map = r#"[{"containerID": 0, "hostID": 100000, "size": 1000}]"#;
    let own = r#"[{"containerID": 5, "hostID": 9, "size": 1}, {"containerID": 6, "hostID": 8, "size": 1}]"#;
    let config = format!(
        r#"{{"linux": {{"uidMappings": {map}, "gidMappings": {map}}},
            "mounts": [{{"destination": "/d", "uidMappings": {own}, "gidMappings": {own}}}]}}"#
    );
    fs::write(ns.path("config.json"), &config).unwrap();
    assert_eq!(shown(&ns, "--map-from=oci:config.json"), "100005:100006");
    assert_eq!(shown(&ns, "'--map-from=oci:config.json#/d'"), "9:8");
    fs::write(ns.path("lxc"), "lxc.idmap = u 0 200000 10\nlxc.idmap = g 0 300000 10\n").unwrap();
    assert_eq!(shown(&ns, "--map-from=lxc:lxc"), "200005:300006");
    let set = r#"[{"Isuid":true,"Isgid":true,"Hostid":1000000,"Nsid":0,"Maprange":65536}]"#;
    fs::write(ns.path("set"), set).unwrap();
    assert_eq!(shown(&ns, "--map-from=json:set"), "1000005:1000006");
    assert_eq!(shown(&ns, "--map-from=json:- < set"), "1000005:1000006");
    assert_eq!(shown(&ns, "'--map-from=incus:both 1000-1009 0-9'"), "1005:1006");
    assert_eq!(shown(&ns, "'--map-from=pve:u:0:5:1;g:0:6:1'"), "0:0");
    assert_eq!(shown(&ns, "--map-from=foreign --invert-map"), "2147352581:2147352582");
    assert_eq!(shown(&ns, "--map-from=lxc:lxc --idmap=u:100:7:1"), "200005:300006");
    let error = refused(&ns, "'--map-from=incus:both 0-9 100000'");
    assert!(
        error.contains("id 100000 of the container and id 0 of the host, not 0 of the"),
        "{error}"
    );
}

#[test]
fn a_container_of_podman_is_found_in_its_state() {
    let ns = namespace();
    ns.ok("mkdir -p store/overlay-containers/ab34/userdata");
    fs::write(
        ns.path("conf"),
        format!("[storage]\ngraphroot = \"{}\"\n", ns.path("store").display()),
    )
    .unwrap();
    let maps = r#""uidmap": [{"container_id": 0, "host_id": 100000, "size": 10}],
        "gidmap": [{"container_id": 0, "host_id": 200000, "size": 10}]"#;
    let list = format!(
        r#"[{{"id": "ab12", "names": ["web"], {maps}}}, {{"id": "ab34", "names": ["auto"]}}]"#
    );
    fs::write(ns.path("store/overlay-containers/containers.json"), list).unwrap();
    let map = r#"[{"containerID": 0, "hostID": 700000, "size": 10}]"#;
    let config = format!(r#"{{"linux": {{"uidMappings": {map}, "gidMappings": {map}}}}}"#);
    fs::write(ns.path("store/overlay-containers/ab34/userdata/config.json"), config).unwrap();
    let mounted = |name: &str| {
        let script = format!(
            "export CONTAINERS_STORAGE_CONF=$PWD/conf; $F --map-from=podman:{name} a m; stat -c %u:%g m/f; umount m"
        );
        let owner = ns.ok(&script);
        ns.wait_until_gone();
        owner
    };
    assert_eq!(mounted("web"), "100005:200006\n");
    assert_eq!(mounted("ab3"), "700005:700006\n");
}

#[test]
fn fstab_and_a_file_of_options_name_a_map_and_a_reload_reads_it_again() {
    let ns = namespace();
    fs::write(ns.path("lxc"), "lxc.idmap = u 0 200000 10\nlxc.idmap = g 0 200000 10\n").unwrap();
    let (a, m, lxc) = (ns.path("a"), ns.path("m"), ns.path("lxc"));
    let line = format!(
        "{} {} fuse.shiftbind map_from=lxc:{},map_from=incus:both\\040300000\\04010 0 0\n",
        a.display(),
        m.display(),
        lxc.display()
    );
    fs::write(ns.path("fstab"), line).unwrap();
    // As mount(8) calls its helper for that line.
    ns.ok("LIBMOUNT_FSTAB=$PWD/fstab bash -c 'exec -a mount.fuse.shiftbind $S a m -o \"$0\"' \
           \"rw,engine=fuse,map_from=lxc:$PWD/lxc,map_from=incus:both 300000 10\"");
    assert_eq!(ns.ok("stat -c %u:%g m/f"), "200005:200006\n");
    fs::write(ns.path("lxc"), "lxc.idmap = u 0 500000 10\nlxc.idmap = g 0 500000 10\n").unwrap();
    ns.ok("$S reload m");
    assert_eq!(ns.ok("stat -c %u:%g m/f"), "500005:500006\n");
    ns.ok("umount m");
    ns.wait_until_gone();
    fs::write(ns.path("conf"), "map-from = incus:both 800000-800009 0-9\n").unwrap();
    assert_eq!(shown(&ns, "-o config=conf"), "800005:800006");
}
