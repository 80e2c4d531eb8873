//! What the tests need of the machine: programs, which README.md says how to install, and an account.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// The Debian packages of the programs that the tests run and that not every Debian has.
const PACKAGES: &[(&str, &[&str])] = &[
    ("acl", &["getfacl", "setfacl"]),
    ("attr", &["getfattr", "setfattr"]),
    ("bindfs", &["bindfs"]),
    ("btrfs-progs", &["btrfs", "mkfs.btrfs"]),
    (
        "e2fsprogs",
        &["chattr", "debugfs", "e2label", "filefrag", "lsattr", "mke2fs", "mkfs.ext4", "tune2fs"],
    ),
    ("fio", &["fio"]),
    ("fish", &["fish"]),
    ("fuse3", &["fusermount3"]),
    ("gcc", &["cc", "gcc"]),
    ("git", &["git"]),
    ("groff-base", &["groff"]),
    ("libcap2-bin", &["capsh", "getcap", "setcap"]),
    ("make", &["make"]),
    ("mandoc", &["mandoc"]),
    ("mount", &["losetup", "mount", "umount"]),
    ("quota", &["setquota"]),
    ("rsync", &["rsync"]),
    ("strace", &["strace"]),
    ("util-linux", &["findmnt", "flock", "nsenter", "setpriv", "unshare"]),
    ("util-linux-extra", &["fincore"]),
    ("xfsprogs", &["mkfs.xfs", "xfs_io"]),
    ("zsh", &["zsh"]),
];

/// Shell commands that give the account `user` the ids 1000, in this mount namespace only, and write the files for that
/// into the working directory. A user without an account is refused by fusermount3(1).
pub(crate) const ACCOUNT: &str = "\
    for file in passwd group; do grep -v -e '^user:' -e '^[^:]*:[^:]*:1000:' /etc/$file > $file; done; \
    echo 'user:x:1000:1000::/:/bin/sh' >> passwd; echo 'user:x:1000:' >> group; chmod 644 passwd group; \
    for file in passwd group; do mount --bind $file /etc/$file; done";

/// Says that this kernel or this machine cannot have what the test is about. It is seen also where the test harness keeps
/// back what tests print: that goes for print! and its kin only.
pub(crate) fn skipped(why: &str) {
    let test = thread::current();
    let _ = writeln!(io::stderr(), "SKIPPED {}: {why}", test.name().unwrap_or("a test"));
    // What tests/kernels/run counts: the harness keeps this apart for each test.
    println!("skipped: {why}");
}

/// Ends a test that is deep in something which this kernel or this machine cannot have: a failure where the tests are run
/// by hand, and skipped with its reason where tests/kernels/run runs them.
#[track_caller]
pub(crate) fn cannot_run(why: &str) -> ! {
    panic!("cannot be run here: {why}")
}

/// A command of that program, which must be installed.
#[track_caller]
pub(crate) fn program(name: &str) -> Command {
    if find(name).is_none() {
        panic!("{}", is_missing(name));
    }
    Command::new(name)
}

/// Copies our program to a place that normal users can reach, as the build's directory may not be.
///
/// By another process: a child that another test forks meanwhile would keep the copy open for writing, and it could not
/// be run (ETXTBSY).
#[track_caller]
pub(crate) fn copy_program(to: &Path) {
    let copied = program("cp").arg(env!("CARGO_BIN_EXE_shiftbind")).arg(to).status();
    assert!(copied.expect("run cp").success(), "copy the program to {}", to.display());
}

/// What a shell says of programs that it did not find, in words that tell what to install.
pub(crate) fn missing(stderr: &str) -> String {
    let names =
        stderr.lines().filter_map(|line| line.strip_suffix(": not found")?.rsplit(' ').next());
    names.map(|name| format!("{}\n", is_missing(name))).collect()
}

fn is_missing(name: &str) -> String {
    match PACKAGES.iter().find(|(_, programs)| programs.contains(&name)) {
        Some((package, _)) => format!("{name} is missing: install {package}"),
        None => format!("{name} is missing"),
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Path::new).map(Path::to_owned))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
