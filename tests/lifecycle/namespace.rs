//! A private mount namespace for each test, with a directory `a` as the source and a directory `m` to mount on, and
//! methods to inspect it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};
use tempfile::TempDir;

#[allow(dead_code)]
#[path = "../support/machine.rs"]
pub(crate) mod machine;
#[path = "../support/patience.rs"]
pub(crate) mod patience;

pub(crate) use machine::program;
use patience::patience;

/// Longer than any step takes; a step that is not done by then hangs.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Holds the namespace, in which the records of mounts that the kernel's engine makes are the test's own.
const HOLDER: &str = "mount -t tmpfs -o mode=755 run /run; echo ready; exec cat";

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
        machine::copy_program(&dir.path().join("shiftbind"));
        let mut holder = program("unshare")
            .args(["-m", "--propagation", "private", "sh", "-ec", HOLDER])
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

    /// A command that will run in the namespace, in the test's directory.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self::program("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg(format!("--wdns={}", self.dir.path().display()))
            .arg("--")
            .arg(program)
            .stdin(Stdio::null())
            .env_remove("RUST_LOG");
        command
    }

    /// Runs a shell script in the namespace; `$S` is the shiftbind binary, and `$F` that with the option for the daemon:
    /// without it the kernel makes the mount where it can.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let mut command = self.command("sh");
        command.args(["-c", script]).envs(self.programs());
        finished(command)
    }

    fn programs(&self) -> [(&'static str, String); 2] {
        let program = self.path("shiftbind").display().to_string();
        [("F", format!("{program} --engine=fuse")), ("S", program)]
    }

    /// Runs a shell script that must succeed, and returns its output.
    pub(crate) fn ok(&self, script: &str) -> String {
        let output = self.sh(script);
        let errors = text(&output.stderr);
        let missing = machine::missing(&errors);
        assert!(output.status.success(), "{missing}{script}: {} {errors}", output.status);
        text(&output.stdout)
    }

    /// Creates an account for uid 1000 and opens the FUSE device to all users.
    pub(crate) fn let_users_mount(&self) {
        self.ok(&format!(
            "mkdir dev && mount -t tmpfs dev dev && mknod -m 666 dev/fuse c 10 229 && \
             mount --bind dev/fuse /dev/fuse && mkdir accounts && cd accounts && {}",
            machine::ACCOUNT
        ));
    }

    /// As [`Self::sh`], as the normal user 1000.
    pub(crate) fn sh_as_user(&self, script: &str) -> Output {
        let mut command = self.command("setpriv");
        command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", script]);
        command.envs(self.programs());
        finished(command)
    }

    /// A path of the namespace as the test reaches it from outside.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// The mount table's lines for the mount point `m`, the topmost last.
    pub(crate) fn mounts(&self) -> Vec<String> {
        self.mounts_at(&self.path("m"))
    }

    /// The mount table's lines for a mount point without special characters.
    pub(crate) fn mounts_at(&self, mountpoint: &Path) -> Vec<String> {
        let table = text(&fs::read(format!("/proc/{}/mountinfo", self.holder.id())).unwrap());
        let field = format!(" {} ", mountpoint.display());
        table.lines().filter(|line| line.contains(&field)).map(str::to_owned).collect()
    }

    /// The processes in the namespace that run shiftbind, without zombies.
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

    /// The daemon, which must be the only such process.
    pub(crate) fn daemon(&self) -> u32 {
        let processes = self.processes();
        assert_eq!(processes.len(), 1, "{processes:?}");
        processes[0]
    }

    /// Waits until no mount and no process of shiftbind is left.
    pub(crate) fn wait_until_gone(&self) {
        wait_until("the mount and the daemon are gone", || {
            self.mounts().is_empty() && self.processes().is_empty()
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for pid in self.processes() {
            // Fails if the process has just ended, which serves as well.
            let _ = kill_process(id(pid), Signal::KILL);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Sends a signal to a process, which must exist.
#[track_caller]
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(id(pid), signal).expect("signal the process");
}

fn id(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).expect("a process id is positive")
}

/// Waits for the end of a child; fails after a time limit.
#[track_caller]
pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("a process goes on that should end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a condition holds; fails after a time limit.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + patience(TIMEOUT);
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command until it has ended and its standard output and error are closed: a daemon that keeps them open
/// makes this wait. After the time limit it kills the command's process group.
pub(crate) fn finished(mut command: Command) -> Output {
    let (done, waiting) = mpsc::channel();
    let name = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().unwrap();
    let group = id(child.id());
    thread::spawn(move || {
        let _ = done.send(child.wait_with_output());
    });
    waiting
        .recv_timeout(patience(TIMEOUT))
        .unwrap_or_else(|_| {
            let _ = kill_process_group(group, Signal::KILL);
            panic!("hangs: {name}")
        })
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
