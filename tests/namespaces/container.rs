//! A process with a mount namespace, and mostly a user namespace, of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};

use super::namespace::{Namespace, finished, program, text};

/// A container. Killed when dropped.
pub(crate) struct Container {
    holder: Child,
    has_users: bool,
}

impl Container {
    /// One whose ids 0 to 65535 are those from `base` on. A tmpfs of its root is mounted on /mnt.
    pub(crate) fn new(machine: &Namespace, base: u32) -> Self {
        let container = Self::start(machine, &["-U", "-m"]);
        for file in ["uid_map", "gid_map"] {
            let file = format!("/proc/{}/{file}", container.pid());
            fs::write(file, format!("0 {base} 65536")).expect("write the map");
        }
        container.ok("mount -t tmpfs -o mode=755 tmpfs /mnt");
        container
    }

    /// One with a mount namespace alone.
    pub(crate) fn of_root(machine: &Namespace) -> Self {
        let mut container = Self::start(machine, &["-m"]);
        container.has_users = false;
        container.ok("mount -t tmpfs -o mode=755 tmpfs /mnt");
        container
    }

    fn start(machine: &Namespace, kinds: &[&str]) -> Self {
        let mut command = machine.command("unshare");
        command.args(kinds).args(["--propagation", "private", "sh", "-c", "echo ready; exec cat"]);
        let mut holder =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run unshare");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n");
        Self { holder, has_users: true }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Runs a shell script as root of the container.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let mut command = program("nsenter");
        command.args(["-t", &self.pid().to_string(), "-m"]);
        if self.has_users {
            command.args(["-U", "-S0", "-G0"]);
        }
        command.args(["--", "sh", "-c", script]).stdin(Stdio::null()).env_remove("RUST_LOG");
        finished(command)
    }

    /// Runs a shell script that must succeed, and returns its output.
    #[track_caller]
    pub(crate) fn ok(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {output:?}");
        text(&output.stdout)
    }

    /// Runs a shell script that must fail, and returns what it writes to standard error.
    #[track_caller]
    pub(crate) fn fails(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(!output.status.success(), "{script}: {output:?}");
        text(&output.stderr)
    }

    /// Ends its last process.
    pub(crate) fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}
