//! Starts shiftbind as users do: the command returns when the mount answers, and a daemon stays.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

/// The shiftbind binary under test and its extra options.
pub struct Shiftbind {
    /// The binary.
    pub binary: PathBuf,
    /// More `-o` options.
    pub options: Option<String>,
}

/// A mount and the daemon that serves it; dropping it unmounts.
pub struct Daemon {
    pid: u32,
    mountpoint: PathBuf,
    /// How long the starting command ran.
    pub startup_time: Duration,
    mounted: bool,
}

impl Shiftbind {
    /// The binary that cargo has just built.
    pub fn built() -> Self {
        Self { binary: PathBuf::from(env!("CARGO_BIN_EXE_shiftbind")), options: None }
    }

    /// Mounts `source` at `mountpoint`, which is created if missing. The options of the benchmark's command line
    /// follow `options`.
    pub fn mount(&self, source: &Path, mountpoint: &Path, options: &[&str]) -> io::Result<Daemon> {
        fs::create_dir_all(mountpoint)?;
        let pidfile = mountpoint.with_extension("pid");
        let mut command = Command::new(&self.binary);
        command.arg("-o").arg(format!("engine=fuse,pidfile={}", pidfile.display()));
        for option in options.iter().copied().chain(self.options.as_deref()) {
            command.arg("-o").arg(option);
        }
        command.arg(source).arg(mountpoint);
        let before = fs::metadata(mountpoint)?.dev();
        let start = Instant::now();
        finish(&mut command)?;
        let startup_time = start.elapsed();
        if fs::metadata(mountpoint)?.dev() == before {
            return Err(io::Error::other("shiftbind returned without a mount"));
        }
        let pid = fs::read_to_string(&pidfile)?.trim().parse().map_err(io::Error::other)?;
        Ok(Daemon { pid, mountpoint: mountpoint.to_owned(), startup_time, mounted: true })
    }
}

impl Daemon {
    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The mount point.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Unmounts, waits until the daemon has ended, and returns how long that took.
    pub fn stop(mut self) -> io::Result<Duration> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Duration> {
        self.mounted = false;
        let start = Instant::now();
        // Retries: the kernel sends RELEASE after close(2) has returned, and the mount is busy until then.
        while let Err(error) = unmount(&self.mountpoint, UnmountFlags::empty()) {
            if start.elapsed() > Duration::from_secs(5) {
                unmount(&self.mountpoint, UnmountFlags::DETACH)?;
                return Err(error.into());
            }
            sleep(Duration::from_millis(5));
        }
        let process = Path::new("/proc").join(self.pid.to_string());
        while process.exists() {
            if start.elapsed() > Duration::from_secs(60) {
                return Err(io::Error::other("shiftbind still runs a minute after its unmount"));
            }
            sleep(Duration::from_millis(1));
        }
        Ok(start.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = self.end()
        {
            eprintln!("{}: {error}", self.mountpoint.display());
        }
    }
}

/// Runs a command to its end; the error has its exit status and the last line of its standard error.
pub fn finish(command: &mut Command) -> io::Result<()> {
    let output =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let last = message.lines().last().unwrap_or("no message");
    let program = command.get_program().to_string_lossy();
    Err(io::Error::other(format!("{program}: {}: {last}", output.status)))
}
