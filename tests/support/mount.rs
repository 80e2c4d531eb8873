//! One mount for one test: starts the daemon, waits for the mount, unmounts it at the end and checks how the daemon
//! ended.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::descriptors::inheritable;
use super::patience::patience;
use super::scratch::{Scratch, scratch};
use super::{standin, sys};

/// The parameters of a mount.
pub(crate) struct Builder {
    maps: Vec<String>,
    args: Vec<OsString>,
    source: Option<PathBuf>,
    mountpoint: Option<PathBuf>,
    program: PathBuf,
    called: Option<OsString>,
}

/// A running mount. Dropping it unmounts and checks that the daemon exited with status 0 and no thread panicked.
pub(crate) struct Mount {
    source: PathBuf,
    mountpoint: PathBuf,
    daemon: Option<Child>,
    // Dropped last: it holds the daemon's log.
    scratch: Scratch,
}

impl Builder {
    /// Adds a map in the format of `idmap=` (`b:0:100000:65536`).
    pub(crate) fn map(mut self, map: &str) -> Self {
        self.maps.push(map.to_owned());
        self
    }

    /// Adds a command line argument.
    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Calls the program by another name (argv[0]), whose defaults then apply.
    pub(crate) fn called(mut self, name: &str) -> Self {
        self.called = Some(name.into());
        self
    }

    /// Runs another program in place of shiftbind, to test a test.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// Mounts this source instead of a new directory.
    pub(crate) fn source(mut self, source: &Path) -> Self {
        self.source = Some(source.to_owned());
        self
    }

    /// Mounts here instead of on a new directory.
    pub(crate) fn mountpoint(mut self, mountpoint: &Path) -> Self {
        self.mountpoint = Some(mountpoint.to_owned());
        self
    }

    /// Mounts, and returns when the mount answers.
    pub(crate) fn start(self) -> Mount {
        match self.try_start() {
            Ok(mount) => mount,
            Err(why) => panic!("{why}"),
        }
    }

    /// Mounts, and returns when the mount answers, or why it does not.
    pub(crate) fn try_start(self) -> Result<Mount, String> {
        let scratch = scratch();
        let source = self.source.unwrap_or_else(|| scratch.dir("source"));
        let mountpoint = self.mountpoint.unwrap_or_else(|| scratch.dir("mnt"));
        let mut mount = Mount { source, mountpoint, daemon: None, scratch };
        if standin::in_use() {
            standin::mount(&mount.source, &mount.mountpoint, &self.maps);
            return Ok(mount);
        }
        let log = File::create(mount.log()).expect("make the daemon's log");
        let mut command = Command::new(&self.program);
        if let Some(name) = &self.called {
            command.arg0(name);
        }
        command.arg("-f").arg(&mount.source).arg(&mount.mountpoint).args(&self.args);
        for map in &self.maps {
            command.arg("-o").arg(format!("idmap={map}"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        sys::die_with_parent(&mut command);
        let before = mounts_at(&mount.mountpoint);
        // Pipes and devices keep no mount busy; a parent process that has ended may have left them.
        let mut inherited = inheritable(std::process::id());
        inherited.retain(|line| line.contains(" -> /") && !line.contains(" -> /dev/"));
        assert!(inherited.is_empty(), "the daemon would inherit {inherited:?} from a test");
        mount.daemon = Some(command.spawn().expect("start shiftbind"));
        mount.wait_until_it_answers(before)?;
        Ok(mount)
    }
}

impl Mount {
    /// A builder with the default parameters.
    pub(crate) fn builder() -> Builder {
        Builder {
            maps: Vec::new(),
            args: Vec::new(),
            source: None,
            mountpoint: None,
            program: env!("CARGO_BIN_EXE_shiftbind").into(),
            called: None,
        }
    }

    /// An identity mount of a new directory.
    pub(crate) fn identity() -> Self {
        Self::builder().start()
    }

    /// A mount of a new directory that shows 0..65535 as 100000..165535. Its root directory belongs to the mount's
    /// 100000.
    pub(crate) fn shifted() -> Self {
        Self::builder().map(super::SHIFT).start()
    }

    /// The source directory.
    pub(crate) fn source(&self) -> &Path {
        &self.source
    }

    /// The mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// The path of a name on the source.
    pub(crate) fn in_source(&self, name: impl AsRef<Path>) -> PathBuf {
        self.source.join(name)
    }

    /// The path of a name at the mount.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// A directory of the test outside the source and the mount.
    pub(crate) fn outside(&self) -> &Path {
        self.scratch.path()
    }

    /// Sets mode 0777 on the source's root.
    pub(crate) fn open_to_all(self) -> Self {
        fs::set_permissions(&self.source, Permissions::from_mode(0o777))
            .expect("open the source to all");
        // The mount shows changes made on the source within milliseconds, not at once.
        super::eventually("the mount shows the new mode", || {
            fs::metadata(&self.mountpoint)
                .is_ok_and(|meta| meta.permissions().mode() & 0o777 == 0o777)
        });
        self
    }

    /// The daemon's process id; `None` with the stand-in.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// The daemon's messages.
    pub(crate) fn messages(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The number of descriptors that the daemon has open.
    pub(crate) fn open_descriptors(&self) -> usize {
        let pid = self.pid().expect("a daemon runs");
        fs::read_dir(format!("/proc/{pid}/fd")).expect("list the daemon's descriptors").count()
    }

    /// The daemon's resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let pid = self.pid().expect("a daemon runs");
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).expect("read the daemon's status");
        let line =
            status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has VmRSS");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS is a number")
    }

    /// The number of the daemon's threads for which malloc(3) created an arena: 64 MiB of addresses each, most of
    /// them without access.
    pub(crate) fn arenas_of_threads(&self) -> usize {
        let pid = self.pid().expect("a daemon runs");
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("read the daemon's maps");
        let ends = maps.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let end = u64::from_str_radix(range.split_once('-')?.1, 16).ok()?;
            (rest.starts_with("---p") && end % (64 << 20) == 0).then_some(end)
        });
        ends.count()
    }

    /// Makes the kernel free the unused dentries and inodes of this mount only: a remount shrinks them
    /// (`shrink_dcache_sb`).
    pub(crate) fn forget_all(&self) {
        if mount_remount(&self.mountpoint, MountFlags::empty(), c"").is_err() {
            fs::write("/proc/sys/vm/drop_caches", "2").expect("drop caches");
        }
    }

    /// Unmounts and returns the daemon's exit status; `None` with the stand-in.
    pub(crate) fn unmount(mut self) -> Option<ExitStatus> {
        self.finish().expect("unmount")
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("log")
    }

    fn wait_until_it_answers(&mut self, before: usize) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let daemon = self.daemon.as_mut().expect("just started");
            if let Some(status) = daemon.try_wait().expect("look for the daemon") {
                self.daemon = None;
                return Err(format!("shiftbind: {status}: {}", self.messages()));
            }
            if mounts_at(&self.mountpoint) > before
                && fs::symlink_metadata(&self.mountpoint).is_ok()
            {
                return Ok(());
            }
            if start.elapsed() > patience(Duration::from_secs(20)) {
                return Err(format!("no mount in time: {}", self.messages()));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn finish(&mut self) -> Result<Option<ExitStatus>, String> {
        let mut trouble = Vec::new();
        let start = Instant::now();
        loop {
            match unmount(&self.mountpoint, UnmountFlags::empty()) {
                Ok(()) => break,
                Err(Errno::BUSY) if start.elapsed() < patience(Duration::from_secs(3)) => {
                    thread::sleep(Duration::from_millis(10))
                }
                Err(error) => {
                    trouble.push(format!("umount: {error}"));
                    let _ = unmount(&self.mountpoint, UnmountFlags::DETACH);
                    break;
                }
            }
        }
        let Some(mut daemon) = self.daemon.take() else {
            return if trouble.is_empty() { Ok(None) } else { Err(trouble.join("; ")) };
        };
        let start = Instant::now();
        let status = loop {
            match daemon.try_wait().expect("look for the daemon") {
                Some(status) => break status,
                None if start.elapsed() > patience(Duration::from_secs(20)) => {
                    trouble.push("the daemon outlives its mount".to_owned());
                    let _ = daemon.kill();
                    break daemon.wait().expect("reap the daemon");
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        if trouble.is_empty() && !status.success() {
            trouble.push(format!("the daemon ended with {status}"));
        }
        let messages = self.messages();
        if messages.contains("panicked") {
            trouble.push("a thread of the daemon panicked".to_owned());
        }
        if trouble.is_empty() {
            Ok(Some(status))
        } else {
            Err(format!("{}: {messages}", trouble.join("; ")))
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = self.daemon.is_none() && !standin::in_use();
        if unmounted {
            return;
        }
        if let Err(why) = self.finish() {
            if thread::panicking() {
                eprintln!("{why}");
            } else {
                panic!("{why}");
            }
        } else if thread::panicking() {
            eprintln!("the daemon said: {}", self.messages());
        }
    }
}

/// The number of mounts at that path in this thread's namespace.
fn mounts_at(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("read the mount table");
    let path = path.to_str().expect("test paths are text");
    table.lines().filter(|line| line.split(' ').nth(4) == Some(path)).count()
}
