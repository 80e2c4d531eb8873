//! No descriptor leaks into a child process: neither the daemon's into the programs that it starts, nor a test's into
//! the daemons of concurrent tests.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use support::{Lock, LockKind, Mount, Process, eventually, inheritable, scratch};

#[test]
fn the_daemon_opens_nothing_that_a_child_would_inherit() {
    for passthrough in ["auto", "off"] {
        let mount = Mount::builder()
            .arg(format!("--passthrough={passthrough}"))
            .arg("-oauto_unmount")
            .start();
        for name in ["a", "b"] {
            fs::create_dir(mount.join(name)).expect("mkdir");
            fs::write(mount.join(name).join("f"), "text").expect("write");
        }
        let file = File::options().read(true).write(true).open(mount.join("a/f")).expect("open");
        Lock::whole(LockKind::Exclusive).try_set(&file).expect("lock");
        let listing = fs::read_dir(mount.join("b")).expect("open the directory");
        let unnamed = rustix::fs::open(
            mount.path(),
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR,
        );
        fs::remove_file(mount.join("a/f")).expect("unlink");
        let daemon = mount.pid().expect("a daemon runs");
        assert_eq!(inheritable(daemon), Vec::<String>::new(), "passthrough={passthrough}");
        drop((file, listing, unnamed));
    }
}

#[test]
fn a_descriptor_that_children_would_inherit_is_found() {
    let scratch = scratch();
    let path = scratch.join("f");
    File::create(&path).expect("create");
    // In a child process, so that concurrent tests do not find the descriptor.
    let holder = Process::on(&path, |file| {
        if fcntl_setfd(file, FdFlags::empty()).is_ok() {
            std::thread::sleep(Duration::from_secs(60));
        }
        1
    });
    let pid = holder.pid().as_raw_nonzero().get().cast_unsigned();
    let is_held = |line: &String| line.ends_with(&format!(" -> {}", path.display()));
    eventually("it is found", || inheritable(pid).iter().any(is_held));
}

/// Calls that open a descriptor without FD_CLOEXEC unless a flag asks for it. std always asks for it.
const OPENING: [&str; 12] = [
    "rustix::fs::open(",
    "openat(",
    "openat2(",
    "open_tree(",
    "fsopen(",
    "fsmount(",
    "socketpair(",
    "inotify::init(",
    "pipe_with(",
    "memfd_create(",
    "epoll::create(",
    "eventfd(",
];

/// Calls without such a flag.
const INHERITABLE: [&str; 4] =
    ["rustix::pipe::pipe(", "rustix::io::dup(", "libc::dup(", "libc::pipe("];

/// How many lines before and after the call the flag may stand.
const NEAR: (usize, usize) = (4, 4);

#[test]
fn no_test_opens_what_the_daemons_of_other_tests_would_inherit() {
    let mut sources = Vec::new();
    for below in ["tests", "benches"] {
        sources_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(below), &mut sources);
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(file!());
    let mut calls = 0;
    for path in sources.iter().filter(|path| **path != own) {
        let text = fs::read_to_string(path).expect("read a source");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let call = format!("{}:{}: {}", path.display(), at + 1, line.trim());
            assert!(!INHERITABLE.iter().any(|name| line.contains(name)), "{call}");
            // A call, and not a string that names one.
            if OPENING.iter().any(|name| line.replace(&format!("\"{name}"), "").contains(name)) {
                let near = &lines[at.saturating_sub(NEAR.0)..lines.len().min(at + NEAR.1 + 1)];
                assert!(near.iter().any(|line| line.contains("CLOEXEC")), "{call}");
                calls += 1;
            }
        }
    }
    assert!(calls > 20, "{calls} calls only: the names of the calls have changed");
}

fn sources_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("list the sources") {
        let path = entry.expect("list the sources").path();
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
