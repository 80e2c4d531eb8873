//! A flow: commands of the document between what prepares a machine for them and what must hold afterwards.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::document::block;

#[allow(dead_code)]
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/patience.rs"]
mod patience;

use machine::{program, skipped};

/// What runs containers.
pub(crate) struct Manager {
    /// The programs that it takes, with their Debian packages.
    pub(crate) programs: &'static [(&'static str, &'static str)],
    /// Shell commands that start a container without shiftbind. If they fail, it cannot run on this machine.
    pub(crate) control: &'static str,
}

/// Set where a missing program is a failure: in the root that `.ci/fresh` makes with README.md's packages.
const ALL_PROGRAMS: &str = "SHIFTBIND_TEST_ALL_PROGRAMS";

/// The exit status of `cannot_run` in `world.sh`.
const CANNOT_RUN: i32 = 77;

/// What every manager of containers takes. Where it can be had, one that is installed and yet starts no container is no
/// reason to skip.
const NAMESPACES_WORK: &str =
    "unshare --user --map-root-user --mount --net --pid --fork --mount-proc true";

/// How long a flow may take. Chosen: on an idle machine the slowest takes 5 s.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The script that makes the namespaces. The flow's cgroups lie below one of its own, which is removed with all that the
/// programs left there.
const NAMESPACES: &str = "
mount -t tmpfs -o mode=755 flow \"$W\"
cat > $W/flow.sh
mount -t cgroup2 cgroup2 /sys/fs/cgroup
GROUP=/sys/fs/cgroup/shiftbind-test.$$
mkdir $GROUP
echo 0 > $GROUP/cgroup.procs
unshare --mount --net --pid --cgroup --fork --kill-child --mount-proc bash $W/flow.sh
STATUS=$?
echo 0 > /sys/fs/cgroup/cgroup.procs
TRIES=0
until find $GROUP -depth -type d -exec rmdir {} + 2> $W/left; do
    TRIES=$((TRIES + 1))
    if test $TRIES = 100; then cat $W/left >&2; exit 1; fi
    sleep 0.05
done
exit $STATUS";

impl Manager {
    /// Why it starts no container here.
    fn runs(&self) -> Result<(), String> {
        let control = in_world(self.control);
        if control.status.success() {
            return Ok(());
        }
        let name = self.programs.first().map_or("shiftbind", |(name, _)| name);
        Err(format!("{name} cannot run here: {}", last_line(&control)))
    }
}

/// The last line of standard error that is not the shell's trace.
fn last_line(output: &Output) -> String {
    let errors = text(&output.stderr);
    let line = errors.lines().rfind(|line| !line.starts_with('+'));
    line.unwrap_or("it says nothing").to_owned()
}

fn all_programs() -> bool {
    std::env::var_os(ALL_PROGRAMS).is_some()
}

/// A flow under construction.
#[must_use]
pub(crate) struct Flow {
    manager: &'static Manager,
    steps: Vec<Step>,
}

enum Step {
    /// Shell commands of the test.
    Shell(String),
    /// A block of the document, whose output becomes `$OUT`; run by that shell.
    Block(String, &'static str),
}

impl Flow {
    pub(crate) fn of(manager: &'static Manager) -> Self {
        Self { manager, steps: Vec::new() }
    }

    /// Runs shell commands of the test: preparations or checks.
    pub(crate) fn sh(mut self, commands: &str) -> Self {
        self.steps.push(Step::Shell(commands.to_owned()));
        self
    }

    /// Runs a block of the document.
    pub(crate) fn block(mut self, name: &str) -> Self {
        self.steps.push(Step::Block(block(name), "bash"));
        self
    }

    /// Runs a block of the document as the user alice, in its home directory.
    pub(crate) fn block_of_alice(mut self, name: &str) -> Self {
        self.steps.push(Step::Block(block(name), "cd /home/alice; alice bash"));
        self
    }

    /// Feeds a block of the document to a shell command.
    pub(crate) fn feed(self, name: &str, command: &str) -> Self {
        let text = block(name);
        self.sh(&format!("{command} << 'BLOCK'\n{text}BLOCK"))
    }

    /// Runs the flow with the engine that shiftbind chooses, and with the daemon.
    pub(crate) fn run(self) {
        if self.run_with(None) {
            self.run_with(Some("fuse"));
        }
    }

    /// Runs the flow as it is written, where no block mounts or the engine makes no difference.
    pub(crate) fn run_once(self) {
        self.run_with(None);
    }

    /// Returns whether the flow could be run.
    fn run_with(&self, engine: Option<&str>) -> bool {
        let missing = self.manager.programs.iter().find(|(name, _)| !is_installed(name));
        if let Some((name, package)) = missing {
            let why = format!("{name} is not installed: install {package}");
            assert!(!all_programs(), "{why}");
            skipped(&why);
            return false;
        }
        let script = self.script(engine);
        let output = in_world(&script);
        if output.status.success() {
            return true;
        }
        if output.status.code() == Some(CANNOT_RUN) {
            skipped(&last_line(&output));
            return false;
        }
        if let Err(why) = self.manager.runs() {
            let must_run = all_programs() && in_world(NAMESPACES_WORK).status.success();
            assert!(!must_run, "the flow and its control fail: {why}\n{}", text(&output.stderr));
            skipped(&why);
            return false;
        }
        panic!("{}\n{script}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }

    fn script(&self, engine: Option<&str>) -> String {
        let step = |step: &Step| match (step, engine) {
            (Step::Shell(commands), _) => format!("{commands}\n"),
            (Step::Block(commands, shell), engine) => {
                let commands = match engine {
                    Some(engine) => {
                        commands.replace("shiftbind /", &format!("shiftbind --engine={engine} /"))
                    }
                    None => commands.clone(),
                };
                format!("OUT=$W/out; {shell} -eux <<'BLOCK' > $OUT\n{commands}BLOCK\n")
            }
        };
        self.steps.iter().map(step).collect()
    }
}

/// Runs commands on the machine of `world.sh`.
fn in_world(commands: &str) -> Output {
    let dir = tempfile::tempdir().expect("make a directory");
    let limit = patience::patience(TIMEOUT).as_secs().to_string();
    let mut child = program("timeout")
        .args(["--kill-after=5", &limit])
        .args(["unshare", "--mount", "--propagation", "private", "bash", "-c", NAMESPACES])
        .env("W", dir.path())
        .env("PROGRAM", env!("CARGO_BIN_EXE_shiftbind"))
        .env("PROJECT", env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run unshare");
    let script = format!("{}\nset -x\n{commands}", include_str!("world.sh"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(script.as_bytes()).expect("hand the script over");
    drop(stdin);
    child.wait_with_output().expect("wait for the flow")
}

fn is_installed(name: &str) -> bool {
    let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/usr/lib/podman"];
    dirs.iter().any(|dir| Path::new(dir).join(name).is_file())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
