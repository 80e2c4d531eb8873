//! Other processes: shell commands, forked children that only make system calls, and waiting for conditions.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

use super::patience::patience;
use super::{machine, sys};

/// Runs a shell script in a directory with the caller's credentials; the test fails if the script does.
pub(crate) fn sh(dir: &Path, script: &str) {
    sh_output(dir, script);
}

/// Runs a shell script in a directory with the caller's credentials and returns its standard output.
pub(crate) fn sh_output(dir: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .arg("-euc")
        .arg(script)
        .current_dir(dir)
        .env("HOME", dir)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .expect("run sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}{script}: {}\n{text}{errors}",
        machine::missing(&errors),
        output.status
    );
    text
}

/// Waits until the condition holds; fails after ten seconds, stretched by [`patience`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let (start, limit) = (Instant::now(), patience(Duration::from_secs(10)));
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A forked child; killed and reaped when dropped.
pub(crate) struct Process {
    pid: Pid,
    done: bool,
}

impl Process {
    /// Forks a child that opens the file for reading and writing, runs the closure on it and exits with its result.
    ///
    /// The child closes all other descriptors: inherited ones, of this test or of a concurrent one, would keep locks
    /// and mounts alive. The child is a copy of one thread of a multi-threaded process, so the closure makes system
    /// calls only: no allocation, no locks, no panic.
    pub(crate) fn on(file: &Path, run: impl FnOnce(&File) -> u8) -> Self {
        let file = CString::new(file.as_os_str().as_bytes()).expect("a path has no NUL");
        let pid = sys::fork(|| {
            sys::close_from(3);
            match rustix::fs::open(&file, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
                Ok(file) => run(&File::from(file)),
                Err(_) => 255,
            }
        });
        Self { pid: Pid::from_raw(pid).expect("fork gives the parent a pid"), done: false }
    }

    /// The child's process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends the child a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("signal the child");
    }

    /// Waits for the child's end and returns its exit status; `None` if a signal killed it.
    pub(crate) fn wait(mut self) -> Option<u8> {
        let mut status = None;
        eventually("a child process ends", || {
            status = waitpid(Some(self.pid), WaitOptions::NOHANG).expect("wait for the child");
            status.is_some()
        });
        self.done = true;
        status
            .and_then(|(_, status): (Pid, WaitStatus)| status.exit_status())
            .map(|code| code as u8)
    }

    /// Whether the child is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        let ended =
            waitpid(Some(self.pid), WaitOptions::NOHANG).expect("look for the child").is_some();
        self.done |= ended;
        !ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.done {
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}
