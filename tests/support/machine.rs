//! The programs and the account that the tests need. README.md says how to install the programs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// The Debian packages of the programs that the tests run and that a minimal Debian lacks.
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
    ("util-linux", &["findmnt", "flock", "fsfreeze", "nsenter", "prlimit", "setpriv", "unshare"]),
    ("util-linux-extra", &["fincore"]),
    ("xfsprogs", &["mkfs.xfs", "xfs_io"]),
    ("zsh", &["zsh"]),
];

/// Shell commands that create the account `user` with uid and gid 1000 in this mount namespace only; they write its
/// files into the working directory. fusermount3(1) refuses users without an account.
pub(crate) const ACCOUNT: &str = "\
    for file in passwd group; do grep -v -e '^user:' -e '^[^:]*:[^:]*:1000:' /etc/$file > $file; done; \
    echo 'user:x:1000:1000::/:/bin/sh' >> passwd; echo 'user:x:1000:' >> group; chmod 644 passwd group; \
    for file in passwd group; do mount --bind $file /etc/$file; done";

/// Reports that this kernel or machine lacks what the test needs. It writes to standard error directly, because the
/// test harness captures the output of print! and its kin.
pub(crate) fn skipped(why: &str) {
    let test = thread::current();
    let _ = writeln!(io::stderr(), "SKIPPED {}: {why}", test.name().unwrap_or("a test"));
    // tests/kernels/run counts this line: the harness keeps the captured output of each test apart.
    println!("skipped: {why}");
}

/// Ends a test because this kernel or machine lacks what it needs. Run by hand, the test fails; tests/kernels/run
/// counts it as skipped, with the reason.
#[track_caller]
pub(crate) fn cannot_run(why: &str) -> ! {
    panic!("cannot be run here: {why}")
}

/// A command that runs that program; the test fails if it is not installed.
#[track_caller]
pub(crate) fn program(name: &str) -> Command {
    if find(name).is_none() {
        panic!("{}", is_missing(name));
    }
    Command::new(name)
}

/// Copies the shiftbind binary to a path that normal users can reach; the build's directory may be out of their
/// reach.
///
/// Another process copies: a child that a concurrent test forks meanwhile would inherit the copy open for writing,
/// and execve(2) would fail with ETXTBSY.
#[track_caller]
pub(crate) fn copy_program(to: &Path) {
    let copied = program("cp").arg(env!("CARGO_BIN_EXE_shiftbind")).arg(to).status();
    assert!(copied.expect("run cp").success(), "copy the program to {}", to.display());
}

/// Names the packages of the programs that a shell did not find.
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
