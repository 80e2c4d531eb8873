//! Mounts, and if wanted processes, that nobody else sees and that end with us.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs this program again in a mount namespace of its own, with `marker` in its environment. Returns when that failed.
pub fn enter(marker: &str) -> io::Error {
    reexec(marker, &["--mount", "--propagation", "private"], &[])
}

/// As [`enter`], and in a process namespace of its own: daemons that were put into the background end with this program,
/// however it ends. Process ids are then those of the namespace.
pub fn enter_with_processes(marker: &str) -> io::Error {
    let own = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"];
    // The shell is the namespace's first process, which reaps daemons and ignores signals; we are neither.
    let first = ["sh", "-c", "\"$@\"; exit $?", "sh"];
    reexec(marker, &[&own[..], &["--mount-proc"]].concat(), &first)
}

fn reexec(marker: &str, namespaces: &[&str], first: &[&str]) -> io::Error {
    if !rustix::process::geteuid().is_root() {
        return io::Error::other(
            "needs root, to mount; try: sudo --preserve-env=PATH cargo bench …",
        );
    }
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return error,
    };
    Command::new("unshare")
        .args(namespaces)
        .arg("--")
        .args(first)
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(marker, "1")
        .exec()
}
