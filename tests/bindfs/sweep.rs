//! Every caller asks every question at both mounts; answers, attributes and the source afterwards are compared.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::ask::{Question, questions};
use super::caller::Caller;
use super::differences::{DIFFERENCES, Difference};
use super::layout::{self, Grant, Layout, state};
use super::observe;
use super::twins::{Mounter, Side, Twins};

/// The questions, by the names that tests/permissions gives them.
const ASKED: &[&str] = &[
    "stat through a link",
    "readlink",
    "list",
    "access W",
    "access X",
    "getxattr",
    "listxattr",
    "get the ACL",
    "open r",
    "open rw",
    "open a",
    "open w, truncate",
    "open the other's rw",
    "truncate",
    "run",
    "create",
    "create, read only",
    "create what is there",
    "mkdir",
    "mkfifo",
    "symlink",
    "link",
    "link the other's",
    "unlink",
    "unlink the other's",
    "unlink a link",
    "rmdir",
    "rmdir what is not empty",
    "rename",
    "rename away",
    "rename over the other's",
    "rename to here",
    "rename, replacing nothing",
    "exchange",
    "move a directory",
    "make a file below",
    "touch",
    "set times",
    "set one time to now",
    "touch the other's",
    "setxattr",
    "setxattr of the other's",
    "setxattr trusted",
    "removexattr",
    "set the ACL",
    "chown to the owner",
    "chown to another user",
    "chown the other's",
    "chgrp to 60",
    "chgrp to 4000",
    "chmod",
    "chmod with setgid",
    "chmod with setuid",
    "chmod of the directory",
    "chmod of the other's",
];

pub(crate) const ROOT: Caller =
    Caller { name: "root", uid: 0, gid: 0, groups: &[], capabilities: None };
pub(crate) const OWNER: Caller =
    Caller { name: "the owner", uid: 1000, gid: 1000, groups: &[60], capabilities: None };
pub(crate) const MEMBER: Caller =
    Caller { name: "a member", uid: 2100, gid: 2100, groups: &[1000], capabilities: None };
pub(crate) const OTHER_USER: Caller =
    Caller { name: "another user", uid: 4000, gid: 4000, groups: &[60], capabilities: None };
/// A mirrored user.
pub(crate) const MIRRORED: Caller =
    Caller { name: "a mirrored user", uid: 1500, gid: 1500, groups: &[], capabilities: None };

/// The result of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    seen: Vec<String>,
    answer: String,
    left: String,
}

fn asked() -> Vec<Question> {
    let asked: Vec<_> =
        questions().into_iter().filter(|question| ASKED.contains(&question.name)).collect();
    assert_eq!(asked.len(), ASKED.len(), "a question has another name");
    asked
}

/// The permissions of a layout: writable for the owner only, or for all users.
const LAYOUTS: [Layout; 2] = [
    Layout { dir: Grant::Mode(0o755), file: Grant::Mode(0o644) },
    Layout { dir: Grant::Mode(0o777), file: Grant::Mode(0o666) },
];

fn ask(side: &Side, caller: &Caller, layout: Layout, round: usize) -> Vec<Outcome> {
    let asked = asked();
    let name = |number: usize| format!("{round}-{}-{number}", caller.uid);
    let trees: Vec<(String, Layout)> =
        (0..asked.len()).map(|number| (name(number), layout)).collect();
    layout::make(&side.src(""), &trees);
    for number in 0..asked.len() {
        let at = side.src(&name(number));
        let time = Timespec { tv_sec: 1_000_000, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        for path in ["", "d/f", "d/o", "d/e", "d/s", "d/l", "d", "to"] {
            rustix::fs::utimensat(CWD, at.join(path), &times, AtFlags::SYMLINK_NOFOLLOW)
                .expect("set times on the source");
        }
    }
    let answers = caller.run(|| {
        let one = |(number, question): (usize, &Question)| {
            let at = side.at(&name(number));
            let seen = ["", "d", "d/f", "d/o", "d/l", "d/e", "to"];
            let seen = seen.iter().map(|path| format!("{path} {}", observe::stat(&at.join(path))));
            let seen = seen.collect();
            let answer = match (question.ask)(&at) {
                Ok(()) => "ok".to_owned(),
                Err(errno) => observe::name(errno.raw_os_error()),
            };
            (seen, answer)
        };
        asked.iter().enumerate().map(one).collect::<Vec<_>>()
    });
    let outcome = |(number, (seen, answer))| {
        let at = side.src(&name(number));
        Outcome { seen, answer, left: state(&at) + &times_set(&at) }
    };
    answers.into_iter().enumerate().map(outcome).collect()
}

/// Which times are the ones that were set, and which come from a clock.
fn times_set(at: &Path) -> String {
    let mut text = String::new();
    for name in ["d/f", "d/o"] {
        if let Ok(meta) = std::fs::symlink_metadata(at.join(name)) {
            for time in [meta.atime(), meta.mtime()] {
                text += if time == 1_000_000 { " set" } else { " now" };
            }
        }
    }
    text
}

/// Stands for an option: all mounts by a user.
const BY_USER: &str = "(a user's mount)";

/// Whether an entry of the table names an option, a question and a caller.
fn names(difference: &Difference, option: &str, caller: &Caller, question: &Question) -> bool {
    is_about(difference, option)
        && difference.operations.iter().any(|one| {
            *one == question.name || *one == format!("{} by {}", question.name, caller.name)
        })
}

fn is_about(difference: &Difference, option: &str) -> bool {
    let name = difference.option;
    let is_user = || name == BY_USER && option.starts_with(BY_USER);
    name == "*" || is_user() || option.split([' ', '=']).any(|word| word == name)
}

/// Compares the callers' answers with an option. Each difference must be listed, and each listed one must occur.
pub(crate) fn alike(mounter: Mounter, options: &[&str], callers: &[Caller]) {
    let twins = Twins::mounted_by(mounter, options, "");
    let (mut told, mut met) = (Vec::new(), HashSet::new());
    let prefix = if mounter == Mounter::User { BY_USER } else { "" };
    let option = format!("{prefix} {}", options.join(" "));
    for (round, layout) in LAYOUTS.into_iter().enumerate() {
        for caller in callers {
            let theirs = ask(&twins.theirs, caller, layout, round);
            let ours = ask(&twins.ours, caller, layout, round);
            for (question, (theirs, ours)) in asked().iter().zip(theirs.iter().zip(&ours)) {
                if theirs == ours {
                    continue;
                }
                let meant = |one: &&Difference| names(one, &option, caller, question);
                match DIFFERENCES.iter().find(meant) {
                    Some(_) => drop(met.insert(question.name)),
                    None => told.push(tell(caller, question, theirs, ours)),
                }
            }
        }
    }
    assert!(told.is_empty(), "{} differences with {option}:\n{}", told.len(), told.join("\n"));
    let of_option = |one: &&Difference| one.option.starts_with('-') && is_about(one, &option);
    for difference in DIFFERENCES.iter().filter(of_option) {
        for operation in difference.operations.iter().filter(|one| ASKED.contains(one)) {
            assert!(
                met.contains(operation),
                "with {option}, bindfs does {operation} as we do by now"
            );
        }
    }
}

fn tell(caller: &Caller, question: &Question, theirs: &Outcome, ours: &Outcome) -> String {
    let mut text = format!(
        "{} by {}: ours {}, bindfs {}",
        question.name, caller.name, ours.answer, theirs.answer
    );
    let lines = |one: &str, other: &str| -> String {
        let other: Vec<_> = other.lines().collect();
        let only = one.lines().filter(|line| !other.contains(line));
        only.collect::<Vec<_>>().join(" | ")
    };
    for (what, ours, theirs) in [
        ("seen", ours.seen.join("\n"), theirs.seen.join("\n")),
        ("left", ours.left.clone(), theirs.left.clone()),
    ] {
        if ours != theirs {
            text += &format!(
                "\n    {what}: ours {}\n        bindfs {}",
                lines(&ours, &theirs),
                lines(&theirs, &ours)
            );
        }
    }
    text
}
