//! Other processes: shell commands, forked children that only make system calls, and waiting for what is to come.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

use super::sys;

/// Runs a shell script in a directory with the caller's credentials; its failure is the test's.
pub(crate) fn sh(dir: &Path, script: &str) {
    sh_output(dir, script);
}

/// Runs a shell script in a directory with the caller's credentials and gives its standard output.
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
    assert!(
        output.status.success(),
        "{script}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Waits until the condition holds; fails after ten seconds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A forked child; killed and reaped when dropped.
pub(crate) struct Process {
    pid: Pid,
    done: bool,
}

impl Process {
    /// Forks a child that runs the closure and exits with its result. It has one thread of a process that has many,
    /// so it makes system calls only: no allocation, no locks, no panic.
    pub(crate) fn fork(run: impl FnOnce() -> u8) -> Self {
        let pid = Pid::from_raw(sys::fork(run)).expect("fork gives the parent a pid");
        Self { pid, done: false }
    }

    /// Its id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("signal the child");
    }

    /// Waits for its end and gives its exit status; `None` when a signal ended it.
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

    /// Whether it still runs.
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
