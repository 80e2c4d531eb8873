//! Owners: forced, mirrored, mapped, and shifted by an offset.

use std::fs::{self, File};
use std::os::unix::fs as unix;

use rustix::process::{Pid, Signal, kill_process};

use super::caller::Caller;
use super::observe::owner;
use super::support::{eventually, sh};
use super::sweep::{MIRRORED, OTHER_USER, OWNER, ROOT};
use super::twins::{Implementation, Mounter, Side, Twins, World, errno};

const TREE: &str =
    "touch f r; mkdir d; ln -s f l; mkfifo p; chown -h 1000:1000 f d l p; chmod 640 f; chmod 750 d";
const NAMES: [&str; 6] = ["", "f", "d", "r", "l", "p"];

fn owners(side: &Side) -> [String; 6] {
    NAMES.map(|name| owner(&side.at(name)))
}

fn seen_by(caller: Caller, name: &'static str) -> impl Fn(&Side) -> String {
    move |side| caller.run(|| owner(&side.at(name)))
}

// --- force-user and force-group ---

#[test]
fn a_forced_owner_is_shown_of_everything_in_every_spelling() {
    let mut twins = Twins::of(&["-u", "2100"], TREE);
    assert_eq!(twins.same("owners", owners)[1], "2100:1000:640");
    let cases: &[(&[&str], &str)] = &[
        (&["-u2100"], "2100:1000:640"),
        (&["--force-user=2100"], "2100:1000:640"),
        (&["--user=daemon"], "1:1000:640"),
        (&["--owner=2100"], "2100:1000:640"),
        (&["-o", "owner=2100"], "2100:1000:640"),
        (&["-o", "force-user=2100,force-group=60"], "2100:60:640"),
        (&["-g", "60"], "1000:60:640"),
        (&["-gdaemon"], "1000:1:640"),
        (&["--force-group=60"], "1000:60:640"),
        (&["--group=60"], "1000:60:640"),
        (&["-o", "group=60"], "1000:60:640"),
        (&["-u", "5", "-g", "6", "-u", "7"], "7:6:640"),
        (&["-u", "0", "-g", "0"], "0:0:640"),
    ];
    for (options, expected) in cases {
        twins.again(options);
        assert_eq!(twins.same("owners", owners)[1], *expected, "{options:?}");
    }
}

#[test]
fn a_change_of_owner_goes_by_a_forced_one_to_the_source_and_so_does_a_creation() {
    let twins = Twins::of(&["-u", "2100", "-g", "60"], TREE);
    let left = twins.same("chown", |side| {
        unix::chown(side.at("f"), Some(7), Some(8)).expect("chown");
        OTHER_USER.run(|| errno(File::create(side.at("d/none"))));
        File::create(side.at("d/new")).expect("create");
        [
            owner(&side.src("f")),
            owner(&side.at("f")),
            owner(&side.src("d/new")),
            owner(&side.at("d/new")),
        ]
    });
    assert_eq!(left, ["7:8:640", "2100:60:640", "0:0:644", "2100:60:644"]);
}

#[test]
fn a_forced_owner_wins_over_a_map_and_loses_against_a_mirror() {
    let mut twins = Twins::of(&["-u", "2100", "--map=1000/4000:@1000/@4000"], TREE);
    assert_eq!(twins.same("map", owners)[1], "2100:4000:640");
    twins.again(&["-u", "2100", "-g", "60", "--mirror=1500"]);
    assert_eq!(twins.same("mirrored", seen_by(MIRRORED, "f")), "1500:60:640");
    assert_eq!(twins.same("not mirrored", seen_by(OTHER_USER, "f")), "2100:60:640");
}

// --- mirror ---

/// Creates the users joe (1500, in the group 990), bob (1501, a member of it) and ann (1502).
fn with_accounts(world: &World) {
    sh(
        &world.join(""),
        "{ cat /etc/passwd; echo joe:x:1500:990::/:/bin/sh; echo bob:x:1501:1501::/:/bin/sh; echo ann:x:1502:1502::/:/bin/sh; } > passwd
         { cat /etc/group; echo team:x:990:bob; echo bob:x:1501:; echo ann:x:1502:; } > group
         for file in passwd group; do mount --bind $file /etc/$file; done",
    );
}

fn without_accounts(world: &World) {
    sh(&world.join(""), "umount /etc/passwd /etc/group");
}

const BOB: Caller =
    Caller { name: "bob", uid: 1501, gid: 1501, groups: &[990], capabilities: None };
const ANN: Caller = Caller { name: "ann", uid: 1502, gid: 1502, groups: &[], capabilities: None };

#[test]
fn members_of_a_mirrored_group_see_themselves_and_so_do_new_ones_after_sigusr1() {
    let mut twins = Twins::of(&[], TREE);
    with_accounts(twins.world());
    twins.again(&["-m", "@team"]);
    for (caller, expected) in [
        (MIRRORED, "1500:1000:640"),
        (BOB, "1501:1000:640"),
        (ANN, "1000:1000:640"),
        (ROOT, "1000:1000:640"),
    ] {
        assert_eq!(twins.same(caller.name, seen_by(caller, "f")), expected, "{}", caller.name);
    }
    sh(&twins.world().join(""), "sed 's/^team:.*/&,ann/' group > new && cat new > group");
    for side in twins.both() {
        let pid = Pid::from_raw(side.pid().cast_signed()).expect("a pid");
        kill_process(pid, Signal::USR1).expect("signal the daemon");
        eventually("the new member owns the file", || seen_by(ANN, "f")(side) == "1502:1000:640");
    }
    without_accounts(twins.world());
}

#[test]
fn a_mirrored_user_owns_everything_and_other_users_see_the_source() {
    let mut twins = Twins::of(&["--mirror=1500,4000"], TREE);
    for separator in ["1500,4000", "1500:4000"] {
        twins.again(&["-m", separator]);
        for caller in [MIRRORED, OTHER_USER] {
            assert_eq!(
                twins.same("mirrored", seen_by(caller, "r")),
                format!("{}:0:644", caller.uid)
            );
        }
        assert_eq!(twins.same("other users", seen_by(OWNER, "f")), "1000:1000:640");
    }
    let wrote = twins.same("a mirrored user writes another user's file", |side| {
        MIRRORED.run(|| errno(fs::write(side.at("f"), "text")))
    });
    assert_eq!(wrote, "ok");
}

/// With bindfs the kernel caches one caller's attributes for all; with shiftbind each caller owns everything at any
/// time.
#[test]
fn concurrent_mirrored_users_each_see_themselves_and_may_always_write() {
    let mount = World::new(Mounter::Root).ours(&["-m", "1500,4000"], TREE);
    let side = &mount.ours;
    std::thread::scope(|scope| {
        for caller in [MIRRORED, OTHER_USER, MIRRORED, OTHER_USER] {
            scope.spawn(move || {
                caller.run(|| {
                    for _ in 0..300 {
                        assert_eq!(owner(&side.at("f")), format!("{}:1000:640", caller.uid));
                        fs::OpenOptions::new().append(true).open(side.at("f")).expect("open");
                    }
                });
            });
        }
    });
}

#[test]
fn with_mirror_only_all_other_users_but_root_see_no_permission_and_no_later_rule() {
    let twins = Twins::of(&["--mirror-only=1500", "--perms=a+r", "--hide-hard-links"], TREE);
    assert_eq!(twins.same("mirrored", seen_by(MIRRORED, "f")), "1500:1000:644");
    assert_eq!(twins.same("root", seen_by(ROOT, "f")), "1000:1000:644");
    assert_eq!(twins.same("root", seen_by(ROOT, "d")), "1000:1000:754");
    assert_eq!(twins.same("other users", seen_by(OTHER_USER, "")), "0:0:0");
    assert_eq!(twins.same("other users", seen_by(OTHER_USER, "f")), "EACCES");
}

// --- map ---

#[test]
fn a_map_shows_one_id_as_another_and_leaves_unlisted_ids_alone() {
    let mut twins = Twins::of(&["--map=1000/4000:@1000/@4001"], TREE);
    let expected =
        ["0:0:755", "4000:4001:640", "4000:4001:750", "0:0:644", "4000:4001:777", "4000:4001:644"];
    assert_eq!(twins.same("owners", owners), expected);
    for options in [
        ["--map=0/5,@0/@6"],
        ["--map=0/daemon:@root/@daemon"],
        ["--map=1000/1000:0/7"],
        ["--map=@0/@7"],
    ] {
        twins.again(&options);
        twins.same(options[0], owners);
    }
    twins.again(&["-o", "map=1000/4000:@1000/@4001"]);
    assert_eq!(twins.same("within -o", owners), expected);
}

#[test]
fn what_is_stored_goes_back_by_the_map_and_an_id_that_two_are_shown_as_means_the_mapped_one() {
    let twins = Twins::of(
        &["--map=1000/1001:@1000/@1001"],
        "mkdir d; chmod 777 d; touch d/f d/g; chown 1001:1001 d/g",
    );
    let left = twins.same("chown and create", |side| {
        unix::chown(side.at("d/f"), Some(1001), Some(1001)).expect("chown");
        let seen_g = owner(&side.at("d/g"));
        for uid in [1000, 1001, 1002] {
            let caller = Caller { name: "", uid, gid: uid, groups: &[], capabilities: None };
            caller.run(|| File::create(side.at(&format!("d/{uid}")))).expect("create");
        }
        unix::chown(side.at("d/g"), Some(1000), Some(1000)).expect("chown");
        let sources =
            ["d/f", "d/1000", "d/1001", "d/1002", "d/g"].map(|name| owner(&side.src(name)));
        (seen_g, sources)
    });
    let sources =
        ["1000:1000:644", "1000:1000:644", "1000:1000:644", "1002:1002:644", "1000:1000:644"];
    assert_eq!(left, ("1001:1001:644".to_owned(), sources.map(str::to_owned)));
}

fn is_refused(world: &World, side: &Side, options: &[&str]) -> bool {
    let (output, has_mounted) = world.try_out(side, options);
    if side.is_ours() {
        assert_eq!(output.status.success(), has_mounted, "{options:?}: {output:?}");
    }
    !has_mounted
}

fn idle(twins: &Twins) -> [Side; 2] {
    [Implementation::Bindfs, Implementation::Shiftbind].map(|implementation| {
        twins.world().side_named(implementation, &format!("{implementation:?}-idle"), "")
    })
}

#[test]
fn a_map_that_is_no_map_is_refused_as_there() {
    let twins = Twins::of(&[], "");
    let [theirs, ours] = idle(&twins);
    let bad = [
        "--map=1000/2000:1000/3000",
        "--map=1000/2000:1001/2000",
        "--map=@1/@2:@1/@3",
        "--map=@1/@3:@2/@3",
        "--map=nosuchuser/1",
        "--map=1/nosuchuser",
        "--map=@nosuchgroup/@1",
        "--map=1000",
        "--map=1000/@1000",
    ];
    for option in bad {
        assert!(is_refused(twins.world(), &ours, &[option]), "{option}");
        assert!(is_refused(twins.world(), &theirs, &[option]), "bindfs takes {option}");
    }
    for (option, more) in [
        ("--map=1000/2000", "--uid-offset=5"),
        ("--map=1000/2000", "--gid-offset=5"),
        ("-m1000", "-M1000"),
    ] {
        assert!(is_refused(twins.world(), &ours, &[option, more]), "{option} {more}");
        assert!(
            is_refused(twins.world(), &theirs, &[option, more]),
            "bindfs takes {option} {more}"
        );
    }
    super::differences::find("map", "an empty value");
    for option in [
        "--map=1000/",
        "--map=/1000",
        "--map=1000/4294967296",
        "-u4294967296",
        "--uid-offset=99999999999999999999",
    ] {
        assert!(is_refused(twins.world(), &ours, &[option]), "{option}");
        assert!(!is_refused(twins.world(), &theirs, &[option]), "bindfs refuses {option} by now");
    }
}

// --- map-passwd and its kin ---

#[test]
fn the_ids_in_files_of_accounts_are_shown_as_those_of_the_same_names_here() {
    let mut twins = Twins::of(&[], TREE);
    let file = |name: &str, text: &str| {
        fs::write(twins.world().join(name), text).expect("write a file of accounts");
        twins.world().join(name).display().to_string()
    };
    let passwd =
        file("accounts", "daemon:x:1000:1000:a:b:c\nno-such-user:x:7:7::/:\nbin:x:4:5::/:\n");
    let group = file("groups", "daemon:x:1000:\nsys:x:9:a,b\n");
    let (passwd, group) = (format!("--map-passwd={passwd}"), format!("--map-group={group}"));
    twins.again(&[&passwd, &group]);
    let seen = twins.same("owners", owners);
    assert_eq!((seen[0].as_str(), seen[1].as_str()), ("0:0:755", "1:1:640"));
    twins.again(&[&passwd]);
    assert_eq!(twins.same("users alone", owners)[1], "1:1000:640");
    twins.again(&[&group]);
    assert_eq!(twins.same("groups alone", owners)[1], "1000:1:640");
    twins.again(&[&passwd, "--uid-offset=10", "--gid-offset=20"]);
    assert_eq!(twins.same("and an offset", owners)[1], "11:1020:640");
    let as_word = passwd[2..].to_owned();
    twins.again(&["-o", &as_word]);
    assert_eq!(twins.same("within -o", owners)[1], "1:1000:640");
}

#[test]
fn an_empty_field_is_a_field_and_a_blank_line_is_none() {
    let mut twins = Twins::of(&[], TREE);
    super::differences::find("map-passwd", "an empty field, a blank line");
    let path = twins.world().join("accounts").display().to_string();
    let option = format!("--map-passwd={path}");
    fs::write(&path, "daemon::1000:55\n").expect("write");
    twins.again(&[&option]);
    assert_eq!(owner(&twins.ours.at("f")), "1:1000:640");
    assert_ne!(owner(&twins.theirs.at("f")), "1:1000:640", "bindfs is right by now");
    fs::write(&path, "\n# a comment\ndaemon:x:1000:\n").expect("write");
    let [theirs, ours] = idle(&twins);
    assert!(!is_refused(twins.world(), &ours, &[&option]));
    assert!(is_refused(twins.world(), &theirs, &[&option]), "bindfs takes it by now");
}

/// Later versions of bindfs have these options; they map in the reverse direction.
#[test]
fn the_reverse_of_a_file_of_accounts_shows_local_ids_as_those_in_it() {
    let world = World::new(Mounter::Root);
    fs::write(world.join("accounts"), "daemon:x:1000:\n").expect("write");
    let path = world.join("accounts").display().to_string();
    let tree = "touch f; chown 1:1 f; chmod 644 f";
    let mount = world
        .ours(&[&format!("--map-passwd-rev={path}"), &format!("--map-group-rev={path}")], tree);
    assert_eq!(owner(&mount.ours.at("f")), "1000:1000:644");
    OWNER
        .run(|| {
            fs::set_permissions(
                mount.ours.at("f"),
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )
        })
        .expect("the caller owns it");
    unix::chown(mount.ours.at("f"), Some(1000), Some(1000)).expect("chown");
    assert_eq!(owner(&mount.ours.src("f")), "1:1:600");
}

// --- offsets ---

#[test]
fn an_offset_is_added_to_what_is_shown_and_taken_from_what_is_stored() {
    let tree = "touch f g; chown 1000:1000 f; chown 5000:6000 g; mkdir d; chown 2000:2000 . d; chmod 777 d";
    let mut twins = Twins::of(&["--uid-offset=1000", "--gid-offset=2000"], tree);
    let made = |name: &'static str, uid: u32| {
        move |side: &Side| {
            let caller = Caller { name: "", uid, gid: uid, groups: &[], capabilities: None };
            caller.run(|| File::create(side.at(name))).expect("create");
            [owner(&side.at("f")), owner(&side.src(name)), owner(&side.at("g"))]
        }
    };
    let chowned = |side: &Side| {
        let answer = errno(unix::chown(side.at("f"), Some(4000), Some(4000)));
        [answer, owner(&side.at("f")), owner(&side.src("f"))]
    };
    let shown = twins.same("positive", made("d/one", 4000));
    assert_eq!(shown, ["2000:3000:644", "3000:2000:644", "6000:8000:644"]);
    assert_eq!(twins.same("chown", chowned), ["ok", "4000:4000:644", "3000:2000:644"]);
    twins.again(&["-o", "uid-offset=-1000,gid-offset=-500"]);
    let shown = |side: &Side| [owner(&side.at("f")), owner(&side.at("g"))];
    assert_eq!(twins.same("negative", shown), ["2000:1500:644", "4000:5500:644"]);
    let right = ["2000:1500:644", "5000:4500:644", "4000:5500:644"].map(str::to_owned);
    twins.differ(("--uid-offset", "created with a negative offset"), &right, made("d/two", 4000));
    let right = ["ok", "4000:4000:644", "5000:4500:644"].map(str::to_owned);
    twins.differ(("--uid-offset", "chown with a negative offset"), &right, chowned);
    twins.again(&["--uid-offset=+7"]);
    let plus = |side: &Side| {
        [
            owner(&side.at("g")),
            errno(unix::chown(side.at("g"), Some(1007), None)),
            owner(&side.src("g")),
        ]
    };
    assert_eq!(twins.same("a sign", plus), ["5007:6000:644", "ok", "1000:6000:644"]);
}

#[test]
fn an_offset_that_is_no_number_is_refused() {
    let twins = Twins::of(&[], "");
    let [theirs, ours] = idle(&twins);
    for option in ["--uid-offset=x", "--gid-offset=1x"] {
        assert!(is_refused(twins.world(), &ours, &[option]), "{option}");
        assert!(is_refused(twins.world(), &theirs, &[option]), "bindfs takes {option}");
    }
}

#[test]
fn ids_above_two_thousand_million_are_shown_and_listed() {
    let twins =
        Twins::of(&["--uid-offset=1"], "mkdir d; touch d/f d/g; chown 3000000000:3000000001 d/f");
    twins.differ(("--uid-offset", "large ids"), &"3000000001:3000000001:644".to_owned(), |side| {
        owner(&side.at("d/f"))
    });
    // Later versions of bindfs omit such a file and all that follow.
    assert_eq!(
        twins.same("a listing", |side| fs::read_dir(side.at("d")).map_or(0, Iterator::count)),
        2
    );
}
