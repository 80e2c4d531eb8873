//! What the daemon logs of requests: with `-d` one line for each and one for its reply, otherwise none.

mod support;

use std::fs;

use support::{Mount, as_user, eventually};

/// The lines that a mount has logged and that hold all of these words.
fn lines(mount: &Mount, words: &[&str]) -> Vec<String> {
    let messages = mount.messages();
    let holds = |line: &&str| words.iter().all(|word| line.contains(word));
    messages.lines().filter(holds).map(str::to_owned).collect()
}

/// The field `unique=` of a line.
fn unique(line: &str) -> &str {
    line.split(' ').find(|word| word.starts_with("unique=")).expect("a request has a number")
}

#[test]
fn each_request_is_a_line_with_its_caller_and_its_reply_one_with_its_outcome() {
    let mount = Mount::builder().arg("-d").start();
    fs::write(mount.in_source("file"), "content").expect("write");
    fs::create_dir(mount.in_source("closed")).expect("mkdir");
    as_user(1234, 1235, &[], || {
        assert!(fs::metadata(mount.join("missing")).is_err());
        assert_eq!(fs::read(mount.join("file")).expect("read"), b"content");
        assert!(fs::create_dir(mount.join("closed/dir")).is_err());
    });
    let missing = lines(&mount, &["LOOKUP", "uid=1234", "gid=1235", "name=\"missing\""]);
    assert_eq!(missing.len(), 1, "{}", mount.messages());
    let open = lines(&mount, &[" OPEN ", "uid=1234"]);
    assert_eq!(open.len(), 1, "{}", mount.messages());
    for request in [&missing[0], &open[0]] {
        // The reply's line is written after the reply itself.
        eventually("the reply is logged", || {
            lines(&mount, &[&format!("{} ok size=", unique(request)), " us="]).len() == 1
        });
    }
}

#[test]
fn a_reply_with_an_error_names_it() {
    let mount = Mount::builder().arg("-vv").start();
    fs::create_dir(mount.in_source("full")).expect("mkdir");
    fs::write(mount.in_source("full/f"), "").expect("write");
    assert!(fs::remove_dir(mount.join("full")).is_err());
    let request = lines(&mount, &["RMDIR", "uid=0", "name=\"full\""]);
    assert_eq!(request.len(), 1, "{}", mount.messages());
    eventually("the reply is logged", || {
        lines(&mount, &["RMDIR", unique(&request[0]), "errno=39 (Directory not empty)"]).len() == 1
    });
}

#[test]
fn a_name_with_control_characters_stays_on_its_line() {
    let mount = Mount::builder().arg("-d").start();
    assert!(fs::metadata(mount.join("a\nFORGED \x1b[2J")).is_err());
    assert_eq!(lines(&mount, &["name=\"a\\nFORGED \\u{1b}[2J\""]).len(), 1, "{}", mount.messages());
    assert!(!mount.messages().lines().any(|line| line.starts_with("FORGED")));
}

#[test]
fn requests_are_not_logged_unless_asked_for() {
    for verbose in [None, Some("-v")] {
        let mut builder = Mount::builder();
        if let Some(flag) = verbose {
            builder = builder.arg(flag);
        }
        let mount = builder.start();
        assert!(fs::metadata(mount.join("missing")).is_err());
        assert_eq!(lines(&mount, &["unique="]), [""; 0], "{}", mount.messages());
    }
}
