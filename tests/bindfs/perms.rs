//! Permission rules: shown (`perms`), created (`create-with-perms`), and requested by chmod (`chmod-filter`).

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use super::observe::mode;
use super::support::as_root_with_umask;
use super::twins::{Implementation, Mounter, Side, Twins, World, errno};

/// `f` is 640 and `d` 750, as in the table; the rest have bits of other kinds.
const TREE: &str = "touch f run none; mkdir d s t; mkfifo p; ln -s f l
    chmod 640 f; chmod 750 d; chmod 4755 run; chmod 0 none; chmod 2711 s; chmod 1777 t; chmod 604 p";
const NAMES: [&str; 8] = ["f", "d", "run", "none", "s", "t", "p", "l"];

/// Rules, and the modes of `f` and `d` under them.
const ROWS: &[(&str, u32, u32)] = &[
    ("g=rD", 0o640, 0o750),
    ("0644,a+X", 0o644, 0o755),
    ("og-x:og+rD:u=rwX:g+rw", 0o664, 0o775),
    ("=r", 0o444, 0o444),
    ("a=u", 0o666, 0o777),
    ("g=u", 0o660, 0o770),
    ("o=g", 0o644, 0o755),
    ("uf=x", 0o140, 0o750),
    ("f=r", 0o640, 0o750),
    ("d=rx", 0o640, 0o750),
    ("u+s", 0o640, 0o750),
    ("o+t", 0o640, 0o750),
    ("0", 0, 0),
    ("0600", 0o600, 0o600),
    ("600", 0o600, 0o600),
    ("777", 0o777, 0o777),
    ("af=r", 0o444, 0o750),
    ("ad=rx", 0o640, 0o555),
    ("+x", 0o751, 0o751),
    ("-r", 0o200, 0o310),
    ("a+X", 0o640, 0o751),
    ("a+D", 0o640, 0o751),
    ("go=", 0o600, 0o700),
    ("u=g,g=u", 0o460, 0o570),
    ("u=rwX:g=rX:o=rX", 0o644, 0o755),
    ("a-w:u+w", 0o640, 0o750),
    ("0640:ud+x", 0o640, 0o740),
    ("ugo=rwx", 0o777, 0o777),
    ("o=ug", 0o646, 0o757),
];

fn modes(side: &Side) -> [u32; 8] {
    NAMES.map(|name| mode(&side.at(name)))
}

#[test]
fn every_row_of_the_table_shows_what_bindfs_shows() {
    let mut twins = Twins::of(&["-p", ""], TREE);
    let shown = twins.same("an empty list", modes);
    assert_eq!(shown, [0o640, 0o750, 0o4755, 0, 0o2711, 0o1777, 0o604, 0o777]);
    for (rules, file, directory) in ROWS {
        twins.again(&[&format!("--perms={rules}")]);
        let shown = twins.same(rules, modes);
        assert_eq!([shown[0], shown[1]], [*file, *directory], "{rules}");
        assert_eq!(shown[7], 0o777, "{rules}: a symbolic link stays as it is");
    }
}

#[test]
fn a_separator_may_end_the_list_and_each_spelling_of_the_option_means_the_same() {
    let mut twins = Twins::of(&["-p0600,"], TREE);
    let spellings: [&[&str]; 5] = [
        &["-p", "0600:"],
        &["--perms=0600:"],
        &["-o", "perms=0600:"],
        &["-o", r"perms=0644\,0600"],
        &["-p", "777", "--perms=0600"],
    ];
    for options in spellings {
        assert_eq!(twins.same("modes", modes)[..3], [0o600, 0o600, 0o4600], "before {options:?}");
        twins.again(options);
    }
    assert_eq!(twins.same("modes", modes)[..3], [0o600, 0o600, 0o4600]);
}

fn is_refused(world: &World, side: &Side, options: &[&str]) -> bool {
    let (output, has_mounted) = world.try_out(side, options);
    assert_eq!(output.status.success(), has_mounted, "{options:?}: {output:?}");
    !has_mounted
}

#[test]
fn what_is_no_rule_is_refused_as_there() {
    let twins = Twins::of(&[], "");
    let fresh = |implementation| {
        twins.world().side_named(implementation, &format!("{implementation:?}-refused"), "")
    };
    let (theirs, ours) = (fresh(Implementation::Bindfs), fresh(Implementation::Shiftbind));
    let world = twins.world();
    for option in ["perms", "create-with-perms", "chmod-filter"] {
        for rules in ["z=r", "a=q", "a=r=w", "a++", ",", "a+r,,o+r", "u0600", "01000"] {
            let option = format!("--{option}={rules}");
            assert!(is_refused(world, &ours, &[&option]), "{option}");
            assert!(is_refused(world, &theirs, &[&option]), "bindfs takes {option}");
        }
        for rules in ["0644junk", "649", "ug"] {
            let option = format!("--{option}={rules}");
            super::differences::find("perms", "a mistyped rule");
            assert!(is_refused(world, &ours, &[&option]), "{option}");
            assert!(!is_refused(world, &theirs, &[&option]), "bindfs refuses {option} by now");
        }
    }
    super::differences::find("perms", "four octal digits");
    assert!(is_refused(world, &theirs, &["--perms=2750"]));
    assert!(!is_refused(world, &ours, &["--perms=2750"]));
}

#[test]
fn four_digits_and_rules_for_files_or_directories_alone_are_ours() {
    let rows = [
        ("2750", [0o2750, 0o2750, 0o2750]),
        ("0600", [0o600, 0o600, 0o4600]),
        ("f0600:d0700", [0o600, 0o700, 0o4600]),
        ("d=", [0o640, 0o750, 0o4755]),
    ];
    for (rules, expected) in rows {
        let mount = World::new(Mounter::Root).ours(&["-p", rules], TREE);
        assert_eq!(modes(&mount.ours)[..3], expected, "{rules}");
    }
}

/// `create-with-perms` on a file created with 666 and a directory with 777, both with umask 022.
#[test]
fn new_files_and_directories_get_the_permissions_that_bindfs_gives_them() {
    let rows = [
        ("u=rwX:go=", 0o600, 0o700),
        ("0640", 0o640, 0o640),
        ("og-rwx:ug+X", 0o600, 0o710),
        ("a+X", 0o644, 0o755),
        ("0640:ud+x", 0o640, 0o740),
        ("o-rwx", 0o640, 0o750),
        ("0644,ud+X:gd-rwX:od-rwX", 0o644, 0o700),
        ("u=rwD:g=rwD:o=", 0o660, 0o770),
        ("g=u", 0o664, 0o775),
        ("af=r", 0o444, 0o755),
    ];
    let mut twins = Twins::of(&[], "");
    for (number, (rules, file, directory)) in rows.iter().enumerate() {
        twins.again(&[&format!("--create-with-perms={rules}")]);
        let (file_name, dir_name, fifo) =
            (format!("f{number}"), format!("d{number}"), format!("p{number}"));
        let made = twins.same(rules, |side| {
            as_root_with_umask(0o022, || {
                let new = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o666)
                    .open(side.at(&file_name));
                new.expect("create");
                fs::create_dir(side.at(&dir_name)).expect("mkdir");
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    side.at(&fifo),
                    rustix::fs::FileType::Fifo,
                    0o666.into(),
                    0,
                )
                .expect("mkfifo");
            });
            [&file_name, &dir_name, &fifo].map(|name| (mode(&side.src(name)), mode(&side.at(name))))
        });
        assert_eq!(made.map(|(source, _)| source), [*file, *directory, *file], "{rules}");
    }
}

/// `chmod-filter` on a chmod of a file and of a directory to 777.
#[test]
fn a_chmod_is_filtered_as_bindfs_filters_it() {
    let rows = [
        ("a-x", 0o666, 0o666),
        ("o-rwx", 0o770, 0o770),
        ("g=r", 0o747, 0o747),
        ("0644:a+X", 0o755, 0o755),
        ("af-x", 0o666, 0o777),
        ("ad-w", 0o777, 0o555),
        ("o=", 0o770, 0o770),
    ];
    let mut twins = Twins::of(&[], "touch f; mkdir d");
    for (rules, file, directory) in rows {
        twins.again(&[&format!("--chmod-filter={rules}")]);
        let left = twins.same(rules, |side| {
            ["f", "d"].map(|name| {
                fs::set_permissions(side.at(name), Permissions::from_mode(0o777)).expect("chmod");
                mode(&side.src(name))
            })
        });
        assert_eq!(left, [file, directory], "{rules}");
    }
}

#[test]
fn what_is_shown_decides_what_is_permitted() {
    let mut twins = Twins::of(&["-p", "a=rX"], "echo text > f; chmod 600 f");
    let by_other_user = |side: &Side| {
        super::support::as_user(4000, 4000, &[], || {
            [
                errno(fs::read(side.at("f"))),
                errno(OpenOptions::new().write(true).open(side.at("f"))),
                errno(File::create(side.at("new"))),
            ]
        })
    };
    assert_eq!(twins.same("a=rX", by_other_user), ["ok", "EACCES", "EACCES"]);
    twins.again(&["-p", "a=rwX"]);
    assert_eq!(twins.same("a=rwX", by_other_user), ["ok", "ok", "ok"]);
}

#[test]
fn umask_uid_and_gid_of_libfuse_are_shown() {
    let options = ["-o", "umask=027,uid=77,gid=78"];
    let mount = World::new(Mounter::Root).ours(&options, TREE);
    // The third is setuid on the source; under a forced owner the bit is not shown.
    assert_eq!(modes(&mount.ours)[..4], [0o750, 0o750, 0o750, 0o750]);
    assert_eq!(super::observe::owner(&mount.ours.at("d")), "77:78:750");
}
