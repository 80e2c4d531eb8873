//! The owner of new files on the source: by every option, kind of file and caller, also in a directory with setgid.

use std::fs::{self, File};
use std::os::unix::fs as unix;
use std::path::Path;

use rustix::fs::{CWD, FileType, mknodat};

use super::caller::Caller;
use super::differences;
use super::observe::owner;
use super::sweep::{OTHER_USER, ROOT};
use super::twins::{Mounter, Side, Twins, errno};

/// A caller whose ids the maps store as uid 3000 and gid 3100.
const MAPPED: Caller =
    Caller { name: "mapped", uid: 1000, gid: 1000, groups: &[], capabilities: None };
const CALLERS: [Caller; 3] = [ROOT, MAPPED, OTHER_USER];
const KINDS: [&str; 5] = ["file", "dir", "fifo", "socket", "symlink"];
/// Writable for all; `s` has setgid and the group 50, which has no members.
const TREE: &str = "mkdir d s; chown 7:50 d s; chmod 777 d; chmod 2777 s";

fn make(path: &Path, kind: &str) -> String {
    errno(match kind {
        "file" => File::create(path).map(drop),
        "dir" => fs::create_dir(path),
        "fifo" => mknodat(CWD, path, FileType::Fifo, 0o644.into(), 0).map_err(Into::into),
        "socket" => mknodat(CWD, path, FileType::Socket, 0o644.into(), 0).map_err(Into::into),
        _ => unix::symlink("target", path),
    })
}

/// Creates files of every kind as every caller; returns the answers and the owners and modes on the source.
fn made(side: &Side, dir: &str, round: &str, callers: &[Caller]) -> Vec<String> {
    let mut all = Vec::new();
    for caller in callers {
        for kind in KINDS {
            let name = format!("{dir}/{round}-{}-{kind}", caller.name);
            let answer = caller.run(|| make(&side.at(&name), kind));
            all.push(format!("{kind} by {}: {answer} {}", caller.name, owner(&side.src(&name))));
        }
    }
    all
}

/// A new file in a plain directory has the owner that bindfs gives it; in a setgid directory, where bindfs is right.
fn owned_alike(mounter: Mounter, rows: &[&[&str]]) {
    let mut twins = Twins::mounted_by(mounter, &[], TREE);
    for (number, options) in rows.iter().enumerate() {
        twins.again(options);
        let round = number.to_string();
        // With an offset root has no counterpart on the source.
        let has_offset = options.iter().any(|one| one.contains("offset"));
        let callers = if has_offset { &CALLERS[1..] } else { &CALLERS[..] };
        twins.same(&format!("{options:?}"), |side| made(side, "d", &round, callers));
        let [theirs, ours] = twins.both().map(|side| made(side, "s", &round, callers));
        let is_chosen = options.iter().any(|one| one.contains("-group=") || one.contains('@'));
        if is_chosen {
            differences::find("create-for-group", "in a directory with setgid");
            assert!(ours.iter().all(|made| made.contains(":50:")), "{options:?}: {ours:#?}");
        } else {
            assert_eq!(ours, theirs, "{options:?}, setgid");
        }
    }
}

#[test]
fn a_created_file_gets_the_owner_that_bindfs_gives_it() {
    owned_alike(
        Mounter::Root,
        &[
            &[],
            &["--create-as-user"],
            &["--create-as-mounter"],
            &["--create-for-user=77"],
            &["--create-for-group=78"],
            &["--create-for-user=77", "--create-for-group=daemon"],
            &["-o", "create-for-user=77,create-as-mounter"],
            &["--map=3000/1000:@3100/@1000"],
            &["--map=3000/1000"],
            &["--map=3000/1000:@3100/@1000", "--create-as-mounter"],
            &["--map=3000/1000:@3100/@1000", "--create-for-user=77"],
            &["--force-user=5", "--force-group=6"],
            &["--force-user=5", "--create-for-user=77"],
            &["--mirror=1000"],
            &["--mirror=1000", "--create-for-user=77", "--create-for-group=78"],
            &["--uid-offset=3", "--gid-offset=2"],
            &["--uid-offset=3", "--create-as-mounter"],
            &["--uid-offset=3", "--create-for-user=77"],
            &["--create-with-perms=go-rwx"],
            &["--create-with-perms=a+rwX", "--create-for-user=77"],
        ],
    );
}

#[test]
fn a_file_created_in_a_users_mount_belongs_to_that_user() {
    owned_alike(
        Mounter::User,
        &[
            &[],
            &["--create-as-mounter"],
            &["--force-user=5"],
            &["--mirror=4000"],
            &["--create-with-perms=go="],
        ],
    );
}

#[test]
fn an_unmapped_caller_creates_nothing_and_leaves_nothing_behind() {
    let twins = Twins::of(&["--uid-offset=5000"], TREE);
    let left = |side: &Side| {
        let answers =
            KINDS.map(|kind| OTHER_USER.run(|| make(&side.at(&format!("d/{kind}")), kind)));
        (answers, fs::read_dir(side.src("d")).expect("list").count())
    };
    twins.differ(
        ("--uid-offset", "created by an unmapped caller"),
        &(["EOVERFLOW"; 5].map(str::to_owned), 0),
        left,
    );
}
