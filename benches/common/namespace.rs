//! Private mount namespaces and, for background daemons, PID namespaces that end with the benchmark.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Executes this program again in a mount namespace of its own with `marker` set in the environment. Returns only on
/// failure.
pub fn enter(marker: &str) -> io::Error {
    reexec(marker, &["--mount", "--propagation", "private"], &[])
}

/// As [`enter`], and in a PID namespace of its own, so that background daemons are killed when this program ends,
/// however it ends. Process ids are those of the namespace.
pub fn enter_with_processes(marker: &str) -> io::Error {
    let own = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"];
    // The shell runs as process 1 of the namespace: it reaps daemons and ignores signals, which this program does
    // not.
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
