//! Deleting and renaming, permitted or refused, of open and of closed files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use super::sweep::{OTHER_USER, OWNER};
use super::twins::{Side, Twins, errno, exists};

const TREE: &str =
    "mkdir d d/sub d/full; echo one > d/f; echo two > d/g; touch d/full/x; chown -R 1000:1000 d";

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn delete_deny_refuses_to_unlink_and_to_rmdir_and_lets_the_rest() {
    let twins = Twins::of(&["--delete-deny"], TREE);
    let told = twins.same("delete-deny", |side| {
        OWNER.run(|| {
            [
                errno(fs::remove_file(side.at("d/f"))),
                errno(fs::remove_dir(side.at("d/sub"))),
                errno(fs::remove_file(side.at("d/none"))),
                errno(fs::rename(side.at("d/f"), side.at("d/h"))),
                errno(fs::rename(side.at("d/h"), side.at("d/f"))),
                errno(fs::write(side.at("d/f"), "")),
            ]
        })
    });
    assert_eq!(told, ["EPERM", "EPERM", "ENOENT", "ok", "ok", "ok"]);
    let told = twins.same("another user", |side| {
        OTHER_USER.run(|| {
            [errno(fs::remove_file(side.at("d/f"))), errno(fs::remove_dir(side.at("d/sub")))]
        })
    });
    assert_eq!(told, ["EACCES", "EACCES"]);
}

#[test]
fn delete_deny_refuses_a_rename_over_a_file_or_an_empty_directory() {
    let twins = Twins::of(&["--delete-deny"], TREE);
    let right = (["EPERM", "EPERM"].map(str::to_owned), "two\n".to_owned());
    twins.differ(("--delete-deny", "rename over the other's"), &right, |side| {
        let answers = [
            errno(fs::rename(side.at("d/f"), side.at("d/g"))),
            errno(fs::rename(side.at("d/full"), side.at("d/sub"))),
        ];
        (answers, fs::read_to_string(side.src("d/g")).expect("read"))
    });
}

/// Opens a file, removes it and uses it; returns the results, and the names on the source before and after the close.
fn removed_while_open(side: &Side) -> (String, Vec<String>, Vec<String>) {
    let mut file = File::options().read(true).write(true).open(side.at("d/f")).expect("open");
    let answer = errno(fs::remove_file(side.at("d/f")));
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read what is open");
    assert_eq!(text, "one\n");
    file.write_all(b"more").expect("write to what is open");
    let during = names(&side.src("d"));
    drop(file);
    std::thread::sleep(std::time::Duration::from_millis(100));
    (answer, during, names(&side.src("d")))
}

fn told(answer: &str, names: &[&str]) -> (String, Vec<String>, Vec<String>) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    (answer.to_owned(), names.clone(), names)
}

#[test]
fn an_open_file_is_removed_like_a_closed_one_and_leaves_no_name() {
    let twins = Twins::of(&[], TREE);
    twins.differ(
        ("*", "rm of an open file"),
        &told("ok", &["full", "g", "sub"]),
        removed_while_open,
    );
}

#[test]
fn delete_deny_holds_for_an_open_file_as_well() {
    let twins = Twins::of(&["--delete-deny"], TREE);
    twins.differ(
        ("--delete-deny", "rm of an open file"),
        &told("EPERM", &["f", "full", "g", "sub"]),
        removed_while_open,
    );
}

#[test]
fn rename_deny_refuses_renames_only() {
    let twins = Twins::of(&["--rename-deny"], TREE);
    let answers = twins.same("rename-deny", |side| {
        [
            errno(fs::rename(side.at("d/f"), side.at("d/h"))),
            errno(fs::rename(side.at("d/f"), side.at("d/g"))),
            errno(fs::rename(side.at("d/sub"), side.at("sub"))),
            errno(fs::hard_link(side.at("d/f"), side.at("d/h"))),
            errno(fs::remove_file(side.at("d/h"))),
            errno(fs::remove_dir(side.at("d/sub"))),
        ]
    });
    assert_eq!(answers, ["EPERM", "EPERM", "EPERM", "ok", "ok", "ok"]);
    twins.differ(
        ("--rename-deny", "rm of an open file"),
        &told("ok", &["full", "g"]),
        removed_while_open,
    );
}

#[test]
fn a_file_whose_name_was_taken_over_on_the_source_is_still_that_file() {
    let twins = Twins::of(&[], TREE);
    let right = ("one\n".to_owned(), "two\n".to_owned());
    twins.differ(("*", "an open file whose name was taken"), &right, |side| {
        let file = File::options().write(true).open(side.at("d/f")).expect("open");
        fs::rename(side.src("d/f"), side.src("d/old")).expect("rename on the source");
        fs::rename(side.src("d/g"), side.src("d/f")).expect("rename on the source");
        std::thread::sleep(std::time::Duration::from_millis(50));
        let set = file.set_len(4);
        assert!(!side.is_ours() || set.is_ok());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        let _ = file.set_permissions(mode);
        let left = (
            fs::read_to_string(side.src("d/old")).expect("read"),
            fs::read_to_string(side.src("d/f")).expect("read"),
        );
        assert!(!side.is_ours() || super::observe::mode(&side.src("d/old")) == 0o600);
        let touched = super::observe::mode(&side.src("d/f")) == 0o600;
        (left.0, if touched { "touched".to_owned() } else { left.1 })
    });
    assert!(exists(&twins.ours.src("d/f")));
}
