//! mount(8), umount(8) and findmnt(8) with mounts that the kernel's engine makes.

use std::fs;

use crate::engine;
use crate::mount8::{MOUNT, install};
use crate::namespace::Namespace;

/// A namespace where mount(8) finds shiftbind, with an ext4 source.
fn namespace() -> Namespace {
    let ns = engine::namespace();
    ns.ok("touch a/f");
    install(&ns);
    ns
}

fn options(ns: &Namespace) -> Vec<String> {
    let mounts = ns.mounts();
    let [mount] = &mounts[..] else { panic!("one mount, not {mounts:?}") };
    assert!(mount.contains(" - ext4 "), "{mount}");
    mount.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect()
}

fn has(ns: &Namespace, option: &str) -> bool {
    options(ns).iter().any(|one| one == option)
}

#[test]
fn a_line_in_fstab_mounts_once_and_remounts_and_unmounts() {
    for kind in ["fuse.shiftbind", "shiftbind"] {
        let ns = namespace();
        // A line for systemd's fstab generator has nofail, _netdev and x-systemd.*.
        let words = "idmap=b:0:100000:65536,nosuid,nofail,_netdev,user,exec,suid,dev,x-systemd.automount,comment=x";
        let (a, m) = (ns.path("a"), ns.path("m"));
        let line = format!("{} {} {kind} {words} 0 0\n", a.display(), m.display());
        fs::write(ns.path("fstab"), line).unwrap();
        for command in ["-a", "-a", "-a -O no_netdev"] {
            ns.ok(&format!("{MOUNT} -T fstab {command}"));
            assert_eq!(options(&ns).len(), 3, "{command}: {:?}", options(&ns));
        }
        assert_eq!(ns.ok("stat -c %u m/f"), "100000\n");
        let shown = ns.ok("findmnt -n -o TARGET,FSTYPE,FSROOT m");
        let shown: Vec<&str> = shown.split_whitespace().collect();
        assert_eq!(shown, [m.to_str().unwrap(), "ext4", "/"]);
        ns.ok(&format!("LIBMOUNT_FSTAB=$PWD/fstab {MOUNT} -o remount,ro m"));
        assert!(has(&ns, "ro"), "{:?}", options(&ns));
        assert!(!ns.mounts()[0].ends_with(" ro"), "the source's filesystem stays writable");
        ns.ok(&format!("LIBMOUNT_FSTAB=$PWD/fstab {MOUNT} -o remount,rw m"));
        assert!(has(&ns, "rw"));
        ns.ok("umount m");
        assert_eq!(ns.mounts(), [""; 0]);
    }
}

#[test]
fn what_one_engine_has_mounted_is_not_mounted_again_by_the_other() {
    let ns = namespace();
    ns.ok("mkdir a/proc");
    for (first, second) in [("fuse", "kernel"), ("kernel", "fuse")] {
        for engine in [first, second] {
            ns.ok(&format!("{MOUNT} -t shiftbind -o engine={engine} $PWD/a $PWD/m"));
            assert_eq!(ns.mounts().len(), 1, "{first}, then {second}: {:?}", ns.mounts());
        }
        ns.ok("umount m");
        ns.wait_until_gone();
    }
}

#[test]
fn a_remount_without_a_line_in_fstab_needs_the_type_or_bind() {
    for map in ["idmap=b:0:100000:65536", "nosuid"] {
        let ns = namespace();
        ns.ok(&format!("{MOUNT} -t shiftbind -o {map} $PWD/a $PWD/m"));
        for with in ["-t shiftbind -o remount", "-o remount,bind"] {
            ns.ok(&format!("{MOUNT} {with},ro m"));
            assert!(has(&ns, "ro"), "{with}: {:?}", options(&ns));
            ns.ok(&format!("{MOUNT} {with},rw m"));
            assert!(
                has(&ns, "rw") && has(&ns, "nosuid") == (map == "nosuid"),
                "{with}: {:?}",
                options(&ns)
            );
        }
        let refused = ns.sh(&format!("{MOUNT} -t shiftbind -o remount,nosiud m"));
        assert!(!refused.status.success());
        ns.ok("umount -l m");
        assert_eq!(ns.mounts(), [""; 0]);
    }
}

#[test]
fn the_exit_statuses_are_those_of_mount8() {
    let ns = namespace();
    for (arguments, status) in [
        ("-o engine=kernel,idmap=b:0:1:1 $PWD/a $PWD/m", 0),
        ("-o engine=kernel,idmap=b:0:1:1 $PWD/absent $PWD/m", 32),
        ("-o engine=kernel,cache=none $PWD/a $PWD/m", 32),
        ("-o engine=kernel,nonsense $PWD/a $PWD/m", 1),
    ] {
        let output = ns.sh(&format!("{MOUNT} -t shiftbind {arguments}"));
        assert_eq!(output.status.code(), Some(status), "{arguments}: {output:?}");
    }
    ns.ok("umount m");
}
