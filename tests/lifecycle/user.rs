//! Mounts by a normal user, through fusermount3.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::namespace::{Namespace, Signal, signal, text};

/// A namespace in which normal users may open the FUSE device, with a source that user 1000 owns.
fn with_device() -> Namespace {
    let ns = Namespace::new();
    ns.let_users_mount();
    ns.ok("chown 1000:1000 . a m");
    ns
}

/// Runs shiftbind as the user; it must succeed.
fn mount(ns: &Namespace, arguments: &str) {
    let output = ns.sh_as_user(&format!("$S {arguments}"));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Runs shiftbind as the user; it must fail with this status and one line, which is returned.
fn refused(ns: &Namespace, arguments: &str, status: i32) -> String {
    let output = ns.sh_as_user(&format!("$S {arguments}"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    ns.wait_until_gone();
    stderr
}

#[test]
fn a_user_mounts_and_unmounts_their_own_directory() {
    let ns = with_device();
    mount(&ns, "-o ro a m");
    let line = ns.mounts().remove(0);
    for word in ["ro,nosuid,nodev", "user_id=1000", "default_permissions", "fuse.shiftbind"] {
        assert!(line.contains(word), "{line}");
    }
    assert!(!line.contains("allow_other"), "{line}");
    assert!(ns.sh_as_user("stat m").status.success());
    assert!(ns.sh_as_user("fusermount3 -u m").status.success());
    ns.wait_until_gone();
}

#[test]
fn a_user_mounts_a_directory_over_itself() {
    let ns = with_device();
    ns.ok("touch a/f && chown 1000 a/f");
    let output = ns.sh_as_user("timeout -s KILL 60 $S a a && timeout -s KILL 60 ls a");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("f\n".into(), String::new()));
    assert!(ns.sh_as_user("fusermount3 -u a").status.success());
    ns.wait_until_gone();
}

#[test]
fn a_users_mount_shows_pseudo_filesystems_below_the_source_as_empty() {
    let ns = with_device();
    ns.ok("mkdir a/p && touch a/f && mount -t proc p a/p && mount --bind /proc/version a/f");
    for options in ["a m", "--follow-source a m"] {
        mount(&ns, options);
        let listed = ns.sh_as_user("ls -A m/p && cat m/f && ls -A m && ls -la m > /dev/null");
        assert_eq!((text(&listed.stdout), text(&listed.stderr)), ("f\np\n".into(), String::new()));
        assert!(!ns.sh_as_user("cat m/p/version").status.success());
        assert!(!ns.sh_as_user("touch m/p/x").status.success());
        assert!(!ns.sh_as_user("chmod 600 m/f && echo x > m/f").status.success());
        assert!(ns.sh_as_user("fusermount3 -u m").status.success());
        ns.wait_until_gone();
    }
    let line = refused(&ns, "a/p m", 32);
    assert!(line.contains("pseudo-filesystem (proc)"), "{line}");
    assert_eq!(ns.ok("ls -A ${TMPDIR:-/tmp} | grep -c '^\\.shiftbind' || :").trim(), "0");
}

#[test]
fn a_users_mount_has_the_restrictions_of_what_is_mounted_below() {
    let ns = with_device();
    ns.ok(
        "mkdir a/x && mount -t tmpfs -o mode=755 x a/x && cp $(which true) a/x && ln -s true a/x/l && \
         chown 1000 a/x && mount -o remount,bind,noexec,nosymfollow a/x",
    );
    mount(&ns, "a m");
    assert!(ns.mounts()[0].contains("noexec"), "{:?}", ns.mounts());
    assert!(!ns.sh_as_user("m/x/true").status.success());
    assert!(!ns.sh_as_user("cat m/x/l").status.success());
    assert!(ns.sh_as_user("cat m/x/true > /dev/null").status.success());
}

#[test]
fn sigterm_unmounts_a_users_mount() {
    let ns = with_device();
    mount(&ns, "a m");
    signal(ns.daemon(), Signal::TERM);
    ns.wait_until_gone();
}

#[test]
fn a_comma_in_a_users_source_ends_no_option() {
    let ns = with_device();
    ns.ok("mkdir 'a,b\\c' && chown 1000 a,b*");
    mount(&ns, "'a,b\\c' m");
    assert!(ns.mounts()[0].contains(r"/a,b\134c "), "{:?}", ns.mounts());
}

#[test]
fn auto_unmount_works_for_a_user() {
    let ns = with_device();
    mount(&ns, "--pidfile pid -o auto_unmount a m");
    signal(fs::read_to_string(ns.path("pid")).unwrap().trim().parse().unwrap(), Signal::KILL);
    ns.wait_until_gone();
}

#[test]
fn allow_other_without_the_administrators_consent_is_refused_with_advice() {
    let ns = with_device();
    ns.ok("echo > fuse.conf && mount --bind fuse.conf /etc/fuse.conf");
    let line = refused(&ns, "-o allow_other a m", 32);
    assert!(line.contains("user_allow_other") && line.contains("ask root"), "{line}");
}

#[test]
fn allow_other_with_the_administrators_consent_is_granted() {
    let ns = with_device();
    ns.ok("echo user_allow_other > fuse.conf && mount --bind fuse.conf /etc/fuse.conf");
    mount(&ns, "-o allow_other a m");
    assert!(ns.mounts()[0].contains("allow_other"));
    ns.ok("stat m");
}

#[test]
fn a_user_with_cap_sys_admin_mounts_for_every_user_as_root_does() {
    let ns = with_device();
    ns.ok("touch a/f && chmod 755 a && chmod 644 a/f");
    ns.ok(
        "setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=+sys_admin --ambient-caps=+sys_admin $F a m",
    );
    let line = ns.mounts().remove(0);
    assert!(line.contains("user_id=1000") && line.contains("allow_other"), "{line}");
    for uid in [0, 1000, 2000] {
        ns.ok(&format!("setpriv --reuid={uid} --regid={uid} --clear-groups stat m/f"));
    }
}

#[test]
fn a_map_that_needs_root_is_refused_and_the_message_says_so() {
    let ns = with_device();
    let line = refused(&ns, "-o idmap=b:0:1000:1 a m", 1);
    assert!(line.contains("--uidmap") && line.contains("root"), "{line}");
}

#[test]
fn a_device_closed_to_users_is_named() {
    let ns = with_device();
    ns.ok("chmod 600 dev/fuse");
    let line = refused(&ns, "a m", 32);
    assert!(line.contains("/dev/fuse"), "{line}");
}

#[test]
fn a_mount_point_of_another_user_is_refused() {
    let ns = with_device();
    ns.ok("chown 0 m");
    let line = refused(&ns, "a m", 32);
    assert!(line.contains("fusermount3"), "{line}");
}

#[test]
fn a_user_mounts_without_fusermount3_in_a_new_user_namespace() {
    let ns = with_device();
    let output = ns.sh_as_user(
        "unshare -Urm --propagation private sh -c 'PATH=/usr/sbin:/sbin:/bin; $F a m && touch m/x && stat -c %u m/x && \
         umount m'",
    );
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("0\n".to_owned(), String::new()));
    assert_eq!(fs::metadata(ns.path("a/x")).unwrap().uid(), 1000);
}
