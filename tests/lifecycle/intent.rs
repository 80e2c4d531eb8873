//! `--owner-as` and `--root-as`, and maps to ids that our own user namespace lacks.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;

use shiftbind::cli::{Command, parse};

use crate::namespace::{Namespace, text};

#[test]
fn the_sources_owner_is_shown_as_the_user_and_the_rest_as_it_is() {
    let ns = Namespace::new();
    ns.ok("chown 1000:1001 a && chmod 777 a && touch a/own a/other && chown 1000:1001 a/own && chown 5:6 a/other");
    ns.ok("$F --owner-as=33:34 a m");
    assert_eq!(ns.ok("stat -c %u:%g m m/own m/other"), "33:34\n33:34\n5:6\n");
    ns.ok("setpriv --reuid=33 --regid=34 --clear-groups touch m/a && setpriv --reuid=7 --regid=8 --clear-groups touch m/b");
    assert_eq!(ns.ok("stat -c %u:%g a/a a/b"), "1000:1001\n7:8\n");
    ns.ok("umount m");
    ns.wait_until_gone();
    // The login group is the default, and a map leaves the rest unmapped.
    ns.ok("$F -o owner_as=root,idmap=5:6:1:6:7:1 a m");
    assert_eq!(ns.ok("stat -c %u:%g m/own m/other m/b"), "0:0\n6:7\n65534:65534\n");
    ns.ok("umount m");
    ns.wait_until_gone();
    let overlap = ns.sh("$F --owner-as=33 --idmap=1000:5:1 a m");
    assert_eq!(overlap.status.code(), Some(1), "{overlap:?}");
    let line = text(&overlap.stderr);
    assert!(
        line.contains("overlap") && line.contains("1000:33:1 is of option 'owner-as'"),
        "{line}"
    );
}

#[test]
fn the_owner_of_a_source_that_is_replaced_before_it_is_opened_is_not_taken() {
    for options in ["owner_as=33:34", "owner_as=33:34,idmap=5:6:1,engine=kernel"] {
        let ns = Namespace::new();
        ns.ok("chown 1000:1001 a");
        let (a, m) = (ns.path("a"), ns.path("m"));
        let argv: [OsString; 5] =
            ["shiftbind".into(), a.clone().into(), m.into(), "-o".into(), options.into()];
        let Ok(Command::Mount(config)) = parse(argv) else { panic!("it mounts") };
        // A user who owns the directory above may do so between two system calls.
        fs::rename(&a, ns.path("b")).unwrap();
        symlink("/etc", &a).unwrap();
        let error = shiftbind::daemon::check(&config).unwrap_err().to_string();
        assert!(error.contains("option 'owner-as': the source was replaced"), "{error}");
    }
}

#[test]
fn a_reload_takes_the_owner_of_the_mounted_source_not_of_what_has_its_name() {
    let ns = Namespace::new();
    let line = "line() { echo \"$PWD/a $PWD/m fuse.shiftbind $1 0 0\" > fstab; }; export LIBMOUNT_FSTAB=$PWD/fstab";
    ns.ok("chown 1000:1001 a && touch a/f && chown 1000:1001 a/f");
    // It is mounted without the option, and later with: the owner is that of the mounted directory.
    for mounted_with in ["owner_as=33:34", "cache=none"] {
        ns.ok(&format!(
            "{line}; line {mounted_with}; $F -o {mounted_with} $PWD/a m && mv a b && ln -s /etc a"
        ));
        ns.ok(&format!("{line}; line {mounted_with},owner_as=33:34; $S reload m"));
        assert_eq!(ns.ok("stat -c %u:%g m m/f"), "33:34\n33:34\n", "{mounted_with}");
        ns.ok("umount m && rm a && mv b a");
        ns.wait_until_gone();
    }
}

#[test]
fn a_root_as_without_effect_has_a_warning() {
    let ns = Namespace::new();
    let warnings =
        |options: &str| text(&ns.sh(&format!("$S --explain --root-as=5:6 {options}")).stderr);
    let line = warnings("--uidmap=7:0:1 --gidmap=7:1:1");
    assert_eq!(
        line,
        "shiftbind: warning: option 'root-as' does nothing for uids: an extent holds the mount id 0\n"
    );
    let lines = warnings("");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("for gids: without a map, every id is shown as itself"), "{lines}");
    assert_eq!(warnings("--idmap=0:100000:10"), "");
}

#[test]
fn the_kernels_engine_is_not_asked_for_what_an_owner_alone_needs() {
    let ns = Namespace::new();
    let refused = ns.sh("$S --engine=kernel --owner-as=33 a m");
    assert!(text(&refused.stderr).contains("unmapped uids are not denied"), "{refused:?}");
    let refused = ns.sh("$S --engine=kernel --idmap=0:100000:10 --root-as=0 a m");
    assert!(text(&refused.stderr).contains("option 'root-as' needs the daemon"), "{refused:?}");
}

#[test]
fn what_an_unmapped_root_makes_is_stored_as_the_chosen_id_and_shown_by_the_map() {
    let ns = Namespace::new();
    ns.ok("chown 0:0 a && touch a/foreign && chown 70000:70000 a/foreign");
    ns.ok("$F --idmap=0:100000:65536 a m && ! touch m/refused 2>&1 && umount m");
    ns.wait_until_gone();
    ns.ok("$F --idmap=0:100000:65536 --root-as=0:5 a m");
    ns.ok("touch m/file && mkdir m/dir && ln -s x m/link && mkfifo m/pipe");
    assert_eq!(
        ns.ok("stat -c %u:%g a/file a/dir a/link a/pipe m/file"),
        "0:5\n0:5\n0:5\n0:5\n100000:100005\n"
    );
    ns.ok("chown 100007:100008 m/file && stat -c %u:%g a/file | grep -qx 7:8 && chown 0:0 m/file");
    assert_eq!(ns.ok("stat -c %u:%g a/file m/file m/foreign"), "0:5\n100000:100005\n65534:65534\n");
    // Another unmapped user gains nothing.
    ns.ok("chmod 777 m");
    let refused = ns.sh("setpriv --reuid=9 --regid=9 --clear-groups touch m/more");
    assert!(text(&refused.stderr).contains("Value too large"), "{refused:?}");
    assert!(
        ns.ok("$S explain m")
            .contains("\nuid: mount 0 is stored as 0 (root), because root-as was given\n")
    );
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn a_map_to_ids_that_the_user_namespace_lacks_is_refused() {
    let ns = Namespace::new();
    ns.let_users_mount();
    ns.ok("chown 1000:1000 . a m");
    let run = |options: &str| {
        ns.sh_as_user(&format!(
            "unshare -Urm --propagation private sh -c 'PATH=/usr/sbin:/sbin:/bin; $F {options} a m && umount m'"
        ))
    };
    let refused = run("--idmap=0:1000:1");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let line = text(&refused.stderr);
    assert!(
        line.contains("--uidmap: the mount") && line.contains("uid 1000 does not exist"),
        "{line}"
    );
    for options in ["--idmap=identity", "", "--idmap=0:0:1"] {
        let made = run(options);
        assert!(made.status.success(), "{options}: {made:?}");
    }
}
