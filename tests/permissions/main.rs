//! The daemon's own permission checks equal the kernel's: every caller asks every question on the bare source, at a
//! plain mount, where the kernel checks, and at mounts that ignore changes, where the daemon checks.

mod ask;
mod caller;
mod layout;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ask::{Changes, Question, questions};
use caller::{CALLERS, Caller};
use layout::{Layout, layouts, state};
use rustix::io::Errno;
use support::Mount;

/// The result of a question: the answer, and the source before and afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    answer: Result<(), Errno>,
    before: String,
    left: String,
}

/// The questions that a caller asks in each layout: all of them if SHIFTBIND_TEST_PERMISSIONS is set, else a part in
/// which each question occurs in some layouts and each layout has some questions.
fn asked(caller: &Caller) -> Vec<(Layout, Question)> {
    let all = std::env::var_os("SHIFTBIND_TEST_PERMISSIONS").is_some();
    let mut asked = Vec::new();
    for (s, layout) in layouts().into_iter().enumerate() {
        for (q, question) in questions().into_iter().enumerate() {
            if all || (3 * s + q + 5 * caller.uid as usize).is_multiple_of(PART) {
                asked.push((layout, question));
            }
        }
    }
    asked
}

const PART: usize = 17;

/// Asks all questions as one caller; `root` is the source or a mount of it, each layout has a name in it.
fn ask_all(caller: &Caller, source: &Path, root: &Path, run: &str) -> Vec<Outcome> {
    let asked = asked(caller);
    let name = |number: usize| format!("{run}-{number}");
    let trees: Vec<(String, Layout)> =
        asked.iter().enumerate().map(|(number, (layout, _))| (name(number), *layout)).collect();
    layout::make(source, &trees);
    let before: Vec<String> = trees.iter().map(|(name, _)| state(&source.join(name))).collect();
    let answers: Vec<_> = caller.run(|| {
        let asked = asked.iter().enumerate();
        asked.map(|(number, (_, question))| (question.ask)(&root.join(name(number)))).collect()
    });
    let outcome = |(number, (answer, before))| {
        let at = source.join(name(number));
        let outcome = Outcome { answer, before, left: state(&at) };
        fs::remove_dir_all(&at).expect("remove the layout");
        outcome
    };
    answers.into_iter().zip(before).enumerate().map(outcome).collect()
}

/// Compares two runs; `permits` accepts the intended differences.
fn compare(
    caller: &Caller,
    expected: &[Outcome],
    found: &[Outcome],
    permits: impl Fn(&Question, &Outcome, &Outcome) -> bool,
) -> Vec<String> {
    let mut differences = Vec::new();
    for ((layout, question), (expected, found)) in
        asked(caller).iter().zip(expected.iter().zip(found))
    {
        if expected == found || permits(question, expected, found) {
            continue;
        }
        let left = if expected.left == found.left {
            String::new()
        } else {
            format!("\n left {}\n and  {}", expected.left, found.left)
        };
        differences.push(format!(
            "{}: {} in {layout:?}: {:?}, expected {:?}{left}",
            caller.name, question.name, found.answer, expected.answer
        ));
    }
    differences
}

fn assert_same(differences: Vec<String>) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for difference in &differences {
        let kind = difference.split(" in Layout").next().unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    assert!(
        differences.is_empty(),
        "{} differences: {kinds:#?}\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// The difference between the bare source and any mount (doc/SEMANTICS.md): chown(-1, -1) by a user who does not own
/// a setuid file. The kernel sends the same SETATTR before a write of such a user; the daemon answers it and clears
/// nothing.
fn is_chown_without_ids(question: &Question, expected: &Outcome, found: &Outcome) -> bool {
    question.name == "chown(-1, -1)"
        && expected.left == found.left
        && (expected.answer, found.answer) == (Err(Errno::PERM), Ok(()))
}

/// Whether a difference is intended.
fn meant(question: &Question, expected: &Outcome, found: &Outcome, ignored: Changes) -> bool {
    if question.changes == ignored {
        // An ignored change succeeds for every user who can reach the file, and changes nothing.
        let is_unreachable =
            expected.answer == Err(Errno::ACCESS) && found.answer == expected.answer;
        return (found.answer.is_ok() || is_unreachable) && found.left == found.before;
    }
    let same_left = expected.left == found.left;
    match question.name {
        // The kernel checks the owner, then the daemon the permissions; the kernel alone checks in the reverse order.
        "open r, noatime" => {
            same_left && (expected.answer, found.answer) == (Err(Errno::ACCESS), Err(Errno::PERM))
        }
        "chown(-1, -1)" => is_chown_without_ids(question, expected, found),
        // Setting an ACL changes permissions, which the option ignores unless the kernel refuses it first.
        "set the ACL" | "remove the ACL" if ignored == Changes::Mode => {
            found.answer == expected.answer && found.left == found.before
        }
        _ => false,
    }
}

/// Asks all callers' questions on a bare source, at a plain mount of it and at one with an option.
fn alike_with(option: &str, ignored: Changes) {
    let plain = Mount::identity().open_to_all();
    let ours = Mount::builder().source(plain.source()).arg(option).start();
    let mut differences = Vec::new();
    for caller in CALLERS {
        let bare = ask_all(caller, plain.source(), plain.source(), "bare");
        let by_kernel = ask_all(caller, plain.source(), plain.path(), "plain");
        differences.extend(compare(caller, &bare, &by_kernel, is_chown_without_ids));
        let by_us = ask_all(caller, plain.source(), ours.path(), "ours");
        differences.extend(compare(caller, &bare, &by_us, |question, expected, found| {
            meant(question, expected, found, ignored)
        }));
    }
    assert_same(differences);
}

#[test]
fn where_changes_of_owner_are_ignored_the_rest_is_judged_as_the_kernel_does() {
    alike_with("--chown-ignore", Changes::Owner);
}

#[test]
fn where_changes_of_mode_are_ignored_the_rest_is_judged_as_the_kernel_does() {
    alike_with("--chmod-ignore", Changes::Mode);
}
