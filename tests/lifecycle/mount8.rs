//! mount(8), umount(8) and findmnt(8), with shiftbind where they look for helpers.

use std::fs;

use crate::namespace::Namespace;

/// Installs shiftbind where mount.fuse3 and mount(8) find it: in directories of this namespace.
fn installed() -> Namespace {
    let ns = Namespace::new();
    install(&ns);
    ns
}

/// Does so in a namespace, where the programs of /usr/sbin are then missing.
pub(crate) fn install(ns: &Namespace) {
    ns.ok(
        "mkdir sbin && cp -a /usr/sbin/mount.fuse* sbin && cp $S sbin/mount.shiftbind && mount --bind sbin /usr/sbin && \
         mkdir bin && cp $S bin && mount --bind bin /usr/local/bin",
    );
}

/// mount(8) itself may be in the directory that [`installed`] hides.
pub(crate) const MOUNT: &str = "/usr/bin/mount";

fn is_mounted(ns: &Namespace, option: &str) -> bool {
    let mounts = ns.mounts();
    mounts.len() == 1
        && mounts[0].contains(" - fuse.shiftbind ")
        && mounts[0].split(' ').nth(5).unwrap().split(',').any(|o| o == option)
}

#[test]
fn both_spellings_of_the_type_mount() {
    let ns = installed();
    for kind in ["fuse.shiftbind", "shiftbind"] {
        ns.ok(&format!(
            "{MOUNT} -t {kind} -o engine=fuse,nodev,idmap=b:0:100000:65536 $PWD/a $PWD/m"
        ));
        assert!(is_mounted(&ns, "nodev"), "{kind}: {:?}", ns.mounts());
        assert_eq!(
            ns.ok("findmnt -n -o FSTYPE,SOURCE m").split_whitespace().next(),
            Some("fuse.shiftbind")
        );
        ns.ok("umount m");
        ns.wait_until_gone();
    }
}

#[test]
fn a_line_in_fstab_mounts_once() {
    let ns = installed();
    let (a, m) = (ns.path("a"), ns.path("m"));
    // A line for systemd's fstab generator has nofail, _netdev and x-systemd.*.
    let options = "engine=fuse,idmap=b:0:100000:65536,ro,nofail,_netdev,user,x-systemd.automount,x-systemd.requires=network.target,comment=x";
    let line = format!("{} {} fuse.shiftbind {options} 0 0\n", a.display(), m.display());
    fs::write(ns.path("fstab"), line).unwrap();
    ns.ok(&format!("{MOUNT} -T fstab -a"));
    assert!(is_mounted(&ns, "ro"), "{:?}", ns.mounts());
    ns.ok(&format!("{MOUNT} -T fstab -a"));
    assert_eq!(ns.mounts().len(), 1, "mounted already");
    ns.ok("umount m");
    ns.wait_until_gone();
    ns.ok(&format!("{MOUNT} -T fstab m"));
    assert!(is_mounted(&ns, "ro"));
}

#[test]
fn remount_works_through_the_helpers() {
    for kind in ["fuse.shiftbind", "shiftbind"] {
        let ns = installed();
        ns.ok(&format!("{MOUNT} -t {kind} -o engine=fuse,nosuid,noexec $PWD/a $PWD/m"));
        ns.ok(&format!("{MOUNT} -o remount,ro m"));
        assert!(is_mounted(&ns, "ro") && is_mounted(&ns, "nosuid"), "{:?}", ns.mounts());
        ns.ok(&format!("{MOUNT} -o remount,rw,exec m"));
        assert!(is_mounted(&ns, "rw") && is_mounted(&ns, "nosuid"), "{:?}", ns.mounts());
        assert!(!is_mounted(&ns, "noexec"), "{:?}", ns.mounts());
    }
}

/// A remount by mount(8) without the helper, by mount(2): FUSE refuses fsconfig(2)'s reconfiguration with any option,
/// which util-linux 2.41 (Debian 13) would use.
pub(crate) const REMOUNT: &str = "LIBMOUNT_FORCE_MOUNT2=always mount -i -o remount";

#[test]
fn remount_works_without_a_helper() {
    let ns = Namespace::new();
    ns.ok(&format!("$F a m && {REMOUNT},ro m"));
    assert!(is_mounted(&ns, "ro"));
    ns.ok(&format!("{REMOUNT},rw m"));
    assert!(is_mounted(&ns, "rw"));
    ns.ok("mount -i -o remount,bind,ro m");
    assert!(is_mounted(&ns, "ro"));
}

#[test]
fn another_users_mount_of_that_name_is_not_taken_for_what_root_asked_for() {
    let ns = installed();
    ns.let_users_mount();
    ns.ok("echo user_allow_other > fuse.conf && mount --bind fuse.conf /etc/fuse.conf && \
         mkdir b && touch b/theirs a/ours && chown -R 1000:1000 b m");
    let mounted = ns.sh_as_user("$F -o allow_other,fsname=$PWD/a $PWD/b $PWD/m");
    assert!(mounted.status.success(), "{mounted:?}");
    assert_eq!(ns.ok("ls m"), "theirs\n");
    ns.ok(&format!("{MOUNT} -t shiftbind -o engine=fuse $PWD/a $PWD/m"));
    assert_eq!(ns.ok("ls m"), "ours\n");
    ns.ok("umount m; umount m");
}

#[test]
fn a_mount_of_another_source_under_that_name_is_not_taken_for_what_was_asked_for() {
    let ns = installed();
    ns.ok("mkdir b && touch a/ours && $F -o fsname=$PWD/a $PWD/b $PWD/m");
    ns.ok(&format!("{MOUNT} -t shiftbind -o engine=fuse $PWD/a $PWD/m"));
    assert_eq!(ns.ok("ls m"), "ours\n");
    ns.ok("umount m; umount m");
}
