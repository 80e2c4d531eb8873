//! The contenders: the source itself, and each kind of mount that shows it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use crate::area::Area;
use crate::{idmapped, process};

/// The offset of all ids but root's. Root is shown as itself, so that root can do the same work everywhere.
const SHIFT: u32 = 100_000;
/// How many ids other than root's every map has.
const NON_ROOT_IDS: u32 = 65_535;

/// The kind of a contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bare source: all ratios are to it.
    Source,
    /// A kernel idmapped mount.
    Idmapped,
    /// bindfs with its default of one thread.
    Bindfs,
    /// bindfs with `--multithreaded`.
    BindfsThreads,
    /// fuse-overlayfs with the source as its upper layer.
    FuseOverlayfs,
    /// shiftbind with the kernel's engine.
    ShiftbindKernel,
    /// shiftbind with its daemon.
    Shiftbind,
}

impl Kind {
    /// All kinds, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::Source,
        Self::Idmapped,
        Self::Bindfs,
        Self::BindfsThreads,
        Self::FuseOverlayfs,
        Self::ShiftbindKernel,
        Self::Shiftbind,
    ];

    /// The name in reports and in `--with`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Idmapped => "idmapped",
            Self::Bindfs => "bindfs",
            Self::BindfsThreads => "bindfs-mt",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::ShiftbindKernel => "shiftbind-kernel",
            Self::Shiftbind => "shiftbind",
        }
    }

    /// The program that must be installed.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Source | Self::Idmapped | Self::ShiftbindKernel | Self::Shiftbind => None,
            Self::Bindfs | Self::BindfsThreads => Some("bindfs"),
            Self::FuseOverlayfs => Some("fuse-overlayfs"),
        }
    }
}

/// The shiftbind binary under test and its extra options.
pub struct Shiftbind {
    /// The binary.
    pub binary: PathBuf,
    /// More `-o` options.
    pub options: Option<String>,
}

/// A contender under which the source is visible; unmounted when dropped.
pub struct Contender {
    /// Its kind.
    pub kind: Kind,
    /// The source's root as the contender shows it.
    pub root: PathBuf,
    /// The uid at the contender of the source's user 1.
    pub user: u32,
    state: State,
}

enum State {
    Unmounted,
    /// The source itself.
    Plain,
    Mounted,
    Served(Child),
}

impl Contender {
    /// Mounts the contender.
    pub fn new(kind: Kind, area: &Area, shiftbind: &Shiftbind) -> io::Result<Self> {
        let root = match kind {
            Kind::Source => area.source(),
            _ => area.mount_point(kind.name())?,
        };
        let user = if kind == Kind::Source { 1 } else { 1 + SHIFT };
        let mut contender = Self { kind, root, user, state: State::Unmounted };
        contender.mount(area, shiftbind)?;
        Ok(contender)
    }

    /// Mounts it again, without anything cached.
    pub fn remount(&mut self, area: &Area, shiftbind: &Shiftbind) -> io::Result<()> {
        self.unmount()?;
        self.mount(area, shiftbind)
    }

    /// The process id of its daemon.
    pub fn daemon(&self) -> Option<u32> {
        match &self.state {
            State::Served(child) => Some(child.id()),
            _ => None,
        }
    }

    fn mount(&mut self, area: &Area, shiftbind: &Shiftbind) -> io::Result<()> {
        let source = area.source();
        let mut command = match self.kind {
            Kind::Source => {
                self.state = State::Plain;
                return Ok(());
            }
            Kind::Idmapped => {
                idmapped::mount(
                    &source,
                    &self.root,
                    &format!("0 0 1\n1 {} {NON_ROOT_IDS}\n", 1 + SHIFT),
                )?;
                self.state = State::Mounted;
                return Ok(());
            }
            Kind::Bindfs | Kind::BindfsThreads => {
                let mut bindfs = killed_with_parent("bindfs");
                bindfs.arg("-f").arg(format!("--map=1/{0}:@1/@{0}", 1 + SHIFT));
                if self.kind == Kind::BindfsThreads {
                    bindfs.arg("--multithreaded");
                }
                bindfs.arg(&source).arg(&self.root);
                bindfs
            }
            Kind::FuseOverlayfs => {
                // The source is the upper layer on an empty lower one, so that writes go straight into it.
                let map = format!("0:0:1:1:{}:{NON_ROOT_IDS}", 1 + SHIFT);
                let mut overlay = killed_with_parent("fuse-overlayfs");
                overlay.arg("-f").arg("-o").arg(format!(
                    "lowerdir={},upperdir={},workdir={},uidmapping={map},gidmapping={map}",
                    area.other("empty")?.display(),
                    source.display(),
                    area.other("overlay")?.display(),
                ));
                overlay.arg(&self.root);
                overlay
            }
            Kind::ShiftbindKernel => {
                let options = format!("engine=kernel,idmap=0:0:1:1:{}:{NON_ROOT_IDS}", 1 + SHIFT);
                let mut command = Command::new(&shiftbind.binary);
                let output =
                    command.arg("-o").arg(options).arg(&source).arg(&self.root).output()?;
                if !output.status.success() {
                    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    return Err(io::Error::other(message));
                }
                self.state = State::Mounted;
                return Ok(());
            }
            Kind::Shiftbind => {
                let mut options = format!("engine=fuse,idmap=0:0:1:1:{}:{NON_ROOT_IDS}", 1 + SHIFT);
                if let Some(more) = &shiftbind.options {
                    options = format!("{options},{more}");
                }
                let mut command = killed_with_parent(&shiftbind.binary);
                command.arg("-f").arg("-o").arg(options).arg(&source).arg(&self.root);
                command
            }
        };
        let log = area.log(self.kind.name());
        let messages = File::create(&log)?;
        let before = fs::metadata(&self.root)?.dev();
        let child =
            command.stdin(Stdio::null()).stdout(messages.try_clone()?).stderr(messages).spawn()?;
        self.state = State::Served(child);
        self.wait_until_mounted(before, &log)
    }

    /// Waits until the mount point has another device number.
    fn wait_until_mounted(&mut self, before: u64, log: &Path) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if fs::metadata(&self.root).is_ok_and(|now| now.dev() != before) {
                return Ok(());
            }
            if let State::Served(child) = &mut self.state
                && let Some(status) = child.try_wait()?
            {
                self.state = State::Unmounted;
                let messages = fs::read_to_string(log).unwrap_or_default();
                let last = messages.lines().last().unwrap_or("no message").to_owned();
                return Err(io::Error::other(format!("ended with {status}: {last}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("was not mounted within 10 s"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn unmount(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Unmounted) {
            State::Unmounted | State::Plain => Ok(()),
            State::Mounted => Ok(unmount(&self.root, UnmountFlags::empty())?),
            State::Served(mut child) => {
                // Retries: the kernel sends RELEASE after close(2) has returned, and the mount is busy until then.
                let deadline = Instant::now() + Duration::from_secs(2);
                while unmount(&self.root, UnmountFlags::empty()).is_err() {
                    if Instant::now() > deadline {
                        unmount(&self.root, UnmountFlags::DETACH)?;
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                let deadline = Instant::now() + Duration::from_secs(5);
                while child.try_wait()?.is_none() {
                    if Instant::now() > deadline {
                        eprintln!("compare: {} goes on after umount; killed", self.kind.name());
                        child.kill()?;
                        child.wait()?;
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            }
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("compare: cannot unmount {}: {error}", self.kind.name());
        }
    }
}

/// A command that the kernel kills when this process ends (PR_SET_PDEATHSIG).
fn killed_with_parent(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if process::find("setpriv").is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
