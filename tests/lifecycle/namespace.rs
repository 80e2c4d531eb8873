//! A mount namespace of its own for each test, with a directory `a` to show and a directory `m` to mount on; and what
//! there is to ask about it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

#[path = "../support/patience.rs"]
pub(crate) mod patience;

use patience::patience;

/// Longer than anything here takes; what is not done by then hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Namespace {
    holder: Child,
    dir: TempDir,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        assert!(
            fs::metadata("/proc/self").unwrap().uid() == 0,
            "these tests mount: run them as root"
        );
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["a", "m"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        // The target directory may be closed to normal users.
        fs::copy(env!("CARGO_BIN_EXE_shiftbind"), dir.path().join("shiftbind")).unwrap();
        let mut holder = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { holder, dir }
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program that is about to run inside, in the test's directory.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg(format!("--wdns={}", self.dir.path().display()))
            .arg("--")
            .arg(program)
            .stdin(Stdio::null())
            .env_remove("RUST_LOG");
        command
    }

    /// Runs a shell script inside; `$S` is our program.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let mut command = self.command("sh");
        command.args(["-c", script]).env("S", self.path("shiftbind"));
        finished(command)
    }

    /// Runs a shell script inside that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {} {}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Like [`Self::sh`], as the normal user 1000.
    pub(crate) fn sh_as_user(&self, script: &str) -> Output {
        let mut command = self.command("setpriv");
        command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", script]);
        command.env("S", self.path("shiftbind"));
        finished(command)
    }

    /// A path of the namespace, as it is reached from outside.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// The mount table's lines for the mount point `m`, the topmost last.
    pub(crate) fn mounts(&self) -> Vec<String> {
        self.mounts_at(&self.path("m"))
    }

    /// The mount table's lines for a mount point without odd characters.
    pub(crate) fn mounts_at(&self, place: &Path) -> Vec<String> {
        let table = text(&fs::read(format!("/proc/{}/mountinfo", self.holder.id())).unwrap());
        let place = format!(" {} ", place.display());
        table.lines().filter(|line| line.contains(&place)).map(str::to_owned).collect()
    }

    /// The processes inside that run our program, zombies left out.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let ours = namespace(self.holder.id());
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != self.holder.id() && ours.is_some() && namespace(*pid) == ours)
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|c| c.starts_with("shiftbind"))
            })
            .collect()
    }

    /// The daemon, when there is only that.
    pub(crate) fn daemon(&self) -> u32 {
        let processes = self.processes();
        assert_eq!(processes.len(), 1, "{processes:?}");
        processes[0]
    }

    /// Waits until nothing of ours is left: no mount, no process.
    pub(crate) fn wait_until_gone(&self) {
        wait_until("the mount and the daemon are gone", || {
            self.mounts().is_empty() && self.processes().is_empty()
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for pid in self.processes() {
            signal(pid, "KILL");
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

/// Waits for something that must come true.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + patience(PATIENCE);
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command to its end AND to the end of its standard output and error: a daemon that keeps these open would make
/// this wait for ever.
pub(crate) fn finished(mut command: Command) -> Output {
    let (done, waiting) = mpsc::channel();
    let name = format!("{command:?}");
    thread::spawn(move || {
        let _ = done.send(command.output());
    });
    waiting.recv_timeout(patience(PATIENCE)).unwrap_or_else(|_| panic!("hangs: {name}")).unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
