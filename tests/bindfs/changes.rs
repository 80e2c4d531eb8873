//! The effect of changes: chmod with `chmod-allow-x`, chown of both ids at once, times, extended attributes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{self as unix, MetadataExt, PermissionsExt};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use super::observe::{mode, owner};
use super::support::sh;
use super::sweep::{OTHER_USER, OWNER, ROOT};
use super::twins::{Side, Twins, errno};

const TREE: &str = "touch f; mkdir d; chown 1000:1000 f d; chmod 640 f; chmod 750 d";

/// Sets these modes of `f` and `d` as the owner, one after the other from the same start.
fn chmods(side: &Side) -> Vec<String> {
    let mut all = Vec::new();
    for name in ["f", "d"] {
        for asked in [0o640, 0o751, 0o650, 0o600, 0o777, 0o666, 0o4755, 0o2750] {
            let start = if name == "f" { 0o640 } else { 0o750 };
            fs::set_permissions(side.src(name), Permissions::from_mode(start)).expect("chmod");
            let answer = OWNER
                .run(|| errno(fs::set_permissions(side.at(name), Permissions::from_mode(asked))));
            all.push(format!("{name} {asked:o}: {answer} {:o}", mode(&side.src(name))));
        }
    }
    all
}

#[test]
fn execute_bits_pass_where_they_may() {
    let mut twins = Twins::of(&["--chmod-ignore", "--chmod-allow-x"], TREE);
    let told = twins.same("ignore", chmods);
    for expected in
        ["f 751: ok 751", "f 600: ok 640", "f 777: ok 751", "f 666: ok 640", "d 777: ok 750"]
    {
        assert!(told.iter().any(|line| line == expected), "{expected}: {told:#?}");
    }
    twins.again(&["--chmod-deny", "--chmod-allow-x"]);
    let told = twins.same("deny", chmods);
    for expected in [
        "f 751: ok 751",
        "f 650: ok 650",
        "f 600: EPERM 640",
        "f 777: EPERM 640",
        "d 751: EPERM 750",
    ] {
        assert!(told.iter().any(|line| line == expected), "{expected}: {told:#?}");
    }
    for options in
        [["--chmod-ignore"], ["--chmod-deny"], ["--chmod-allow-x"], ["--chmod-filter=o-rwx"]]
    {
        twins.again(&options);
        twins.same(options[0], chmods);
    }
    twins.again(&["--chmod-ignore", "--chmod-filter=o-rwx"]);
    twins.same("a filter does nothing to what is ignored", chmods);
}

#[test]
fn a_change_of_owner_and_group_at_once_is_judged_in_parts() {
    let mut twins = Twins::of(&[], TREE);
    let ask = |side: &Side| {
        [
            (Some(7), Some(8)),
            (Some(7), None),
            (None, Some(8)),
            (None, None),
            (Some(1000), Some(1000)),
        ]
        .map(|(uid, gid)| {
            unix::chown(side.src("f"), Some(1000), Some(1000)).expect("chown on the source");
            let answer = ROOT.run(|| errno(unix::chown(side.at("f"), uid, gid)));
            format!("{answer} {}", owner(&side.src("f")))
        })
    };
    let rows: [(&[&str], [&str; 3]); 6] = [
        (&["--chown-ignore"], ["ok 1000:8:640", "ok 1000:1000:640", "ok 1000:8:640"]),
        (&["--chgrp-ignore"], ["ok 7:1000:640", "ok 7:1000:640", "ok 1000:1000:640"]),
        (&["--chown-deny"], ["EPERM 1000:1000:640", "EPERM 1000:1000:640", "ok 1000:8:640"]),
        (&["--chgrp-deny"], ["EPERM 1000:1000:640", "ok 7:1000:640", "EPERM 1000:1000:640"]),
        (
            &["--chown-deny", "--chgrp-ignore"],
            ["EPERM 1000:1000:640", "EPERM 1000:1000:640", "ok 1000:1000:640"],
        ),
        (
            &["--chown-ignore", "--chgrp-ignore"],
            ["ok 1000:1000:640", "ok 1000:1000:640", "ok 1000:1000:640"],
        ),
    ];
    for (options, expected) in rows {
        twins.again(options);
        let told = twins.same(&format!("{options:?}"), ask);
        assert_eq!(told[..3], expected, "{options:?}");
    }
}

/// With bindfs the kernel refuses ignored changes to other users; with shiftbind they succeed.
#[test]
fn an_ignored_change_succeeds_for_other_users_and_changes_nothing() {
    let twins = Twins::of(&["--chown-ignore", "--chgrp-ignore", "--chmod-ignore"], TREE);
    let right = (["ok", "ok", "ok"].map(str::to_owned), "1000:1000:640".to_owned());
    twins.differ(("--chown-ignore", "by other users"), &right, |side| {
        let answers = OTHER_USER.run(|| {
            [
                errno(unix::chown(side.at("f"), Some(7), None)),
                errno(unix::chown(side.at("f"), None, Some(7))),
                errno(fs::set_permissions(side.at("f"), Permissions::from_mode(0o777))),
            ]
        });
        (answers, owner(&side.src("f")))
    });
}

#[test]
fn times_that_are_set_are_set_to_the_nanosecond() {
    let twins = Twins::of(&["--ctime-from-mtime"], TREE);
    let set = |side: &Side, name: &str| {
        let of = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let times =
            Timestamps { last_access: of(1, 999_999_999), last_modification: of(4_000_000_000, 5) };
        rustix::fs::utimensat(CWD, side.at(name), &times, AtFlags::empty()).expect("utimensat");
        [side.at(name), side.src(name)].map(|path| {
            let meta = fs::metadata(path).expect("stat");
            (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec())
        })
    };
    for name in ["f", "d"] {
        let expected = (1, 999_999_999, 4_000_000_000, 5);
        assert_eq!(twins.same(name, |side| set(side, name)), [expected; 2], "{name}");
    }
}

#[test]
fn extended_attributes_are_read_and_changed_as_far_as_the_policy_goes() {
    let mut twins = Twins::of(&[], "touch f; setfattr -n user.a -v 1 f");
    let ask = |side: &Side| {
        let path = side.at("f");
        let answers = [
            rustix::fs::getxattr(&path, "user.a", &mut [0u8; 9][..]).map(drop),
            rustix::fs::listxattr(&path, &mut [0u8; 99][..]).map(drop),
            rustix::fs::setxattr(&path, "user.b", b"2", XattrFlags::empty()),
            rustix::fs::removexattr(&path, "user.a"),
            rustix::fs::getxattr(&path, "user.none", &mut [0u8; 9][..]).map(drop),
        ];
        let left = super::support::sh_output(
            &side.src(""),
            "getfattr -d f | grep -v ^#; setfattr -n user.a -v 1 f; setfattr -x user.b f || true",
        );
        (answers.map(|answer| errno(answer.map_err(Into::into))), left.trim().to_owned())
    };
    let rows: [(&[&str], [&str; 5], &str); 4] = [
        (&["--xattr-rw"], ["ok", "ok", "ok", "ok", "ENODATA"], "user.b=\"2\""),
        (&["--xattr-ro"], ["ok", "ok", "EACCES", "EACCES", "ENODATA"], "user.a=\"1\""),
        (&["--xattr-none"], ["EOPNOTSUPP"; 5], "user.a=\"1\""),
        (
            &["-o", "xattr-none,xattr-ro"],
            ["ok", "ok", "EACCES", "EACCES", "ENODATA"],
            "user.a=\"1\"",
        ),
    ];
    for (options, answers, left) in rows {
        twins.again(options);
        let told = twins.same(&format!("{options:?}"), ask);
        assert_eq!((told.0, told.1.as_str()), (answers.map(str::to_owned), left), "{options:?}");
    }
}

#[test]
fn an_access_control_list_is_translated_and_decides() {
    let twins =
        Twins::of(&["--map=1000/4000"], "echo text > f; chmod 600 f; setfacl -m u:1000:r f");
    twins.differ(("map", "an ACL"), &"ok".to_owned(), |side| {
        OTHER_USER.run(|| errno(fs::read(side.at("f"))))
    });
    twins.differ(("map", "an ACL"), &"user:4000:r--".to_owned(), |side| {
        let text = super::support::sh_output(&side.at(""), "getfacl -cn f");
        text.lines()
            .find(|line| line.starts_with("user:") && !line.starts_with("user::"))
            .unwrap_or_default()
            .to_owned()
    });
    sh(&twins.ours.at(""), "setfacl -m u:4000:rw f");
    let stored = super::support::sh_output(&twins.ours.src(""), "getfacl -cn f");
    assert!(stored.contains("user:1000:rw-"), "{stored}");
}
