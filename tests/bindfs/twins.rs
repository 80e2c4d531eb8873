//! Twins of one source: one mounted by bindfs, one by shiftbind under that name.

use std::fmt::Debug;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, unmount};

use super::differences;
use super::support::{
    ACCOUNT, Scratch, mount_small_filesystem, patience, program, scratch, sh, sys,
};

/// The user that mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounter {
    Root,
    /// The user 1000, through fusermount3; /etc/fuse.conf has user_allow_other.
    User,
}

/// A program under comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Implementation {
    Bindfs,
    Shiftbind,
}

/// The source and the mount of one program.
pub(crate) struct Side {
    pub(crate) implementation: Implementation,
    source: PathBuf,
    point: PathBuf,
    log: PathBuf,
    daemon: Option<Child>,
}

/// The mounts of both programs.
pub(crate) struct Twins {
    pub(crate) theirs: Side,
    pub(crate) ours: Side,
    world: World,
}

/// The directory for mounts: reachable for users, on a small filesystem, with shiftbind as `bindfs` in `bin`.
pub(crate) struct World {
    scratch: Scratch,
    mounter: Mounter,
    is_gone: bool,
}

impl World {
    pub(crate) fn new(mounter: Mounter) -> Self {
        let scratch = scratch();
        let area = scratch.dir("w");
        mount_small_filesystem(&area, MountFlags::empty());
        sh(&area, "mkdir bin && touch log");
        let program = area.join("bin/shiftbind");
        // Users may be unable to reach the build's directory.
        File::create(&program).expect("make a place for the program");
        mount_bind(env!("CARGO_BIN_EXE_shiftbind"), &program).expect("bind the program");
        symlink("shiftbind", area.join("bin/bindfs")).expect("name it bindfs");
        if mounter == Mounter::User {
            sh(
                &area,
                &format!(
                    "mknod -m 666 fuse c 10 229; echo user_allow_other > conf; \
                     mount --bind fuse /dev/fuse; mount --bind conf /etc/fuse.conf; {ACCOUNT}"
                ),
            );
        }
        Self { scratch, mounter, is_gone: false }
    }

    /// A path in the directory.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.scratch.join("w").join(name)
    }

    /// A command of one of the programs that will run as the mounter.
    pub(crate) fn command(&self, implementation: Implementation) -> Command {
        let direct = match implementation {
            Implementation::Bindfs => program("bindfs"),
            Implementation::Shiftbind => Command::new(self.join("bin/bindfs")),
        };
        let mut command = match self.mounter {
            Mounter::Root => direct,
            Mounter::User => {
                let mut command = program("setpriv");
                command.args([
                    "--reuid=1000",
                    "--regid=1000",
                    "--clear-groups",
                    "--pdeathsig=KILL",
                ]);
                command.arg(direct.get_program());
                command
            }
        };
        command.stdin(Stdio::null()).env("LC_ALL", "C").env_remove("RUST_LOG");
        command.current_dir(self.join(""));
        command
    }

    /// A new source, filled by the shell script `tree`, and an empty mount point.
    pub(crate) fn side(&self, implementation: Implementation, tree: &str) -> Side {
        self.side_named(
            implementation,
            if implementation == Implementation::Bindfs { "theirs" } else { "ours" },
            tree,
        )
    }

    pub(crate) fn side_named(
        &self,
        implementation: Implementation,
        name: &str,
        tree: &str,
    ) -> Side {
        let dir = self.join(name);
        let (source, point, log) = (dir.join("source"), dir.join("mnt"), dir.join("log"));
        sh(&self.join(""), &format!("mkdir -p {name}/source {name}/mnt"));
        if self.mounter == Mounter::User {
            sh(&dir, "chown 1000:1000 source mnt");
        }
        sh(&source, tree);
        Side { implementation, source, point, log, daemon: None }
    }

    /// Mounts; the error is the program's message.
    pub(crate) fn mount(&self, side: &mut Side, options: &[&str]) -> Result<(), String> {
        let log = File::create(&side.log).expect("make a log");
        let mut command = self.command(side.implementation);
        command.arg("-f").args(options).arg(&side.source).arg(&side.point);
        command.stdout(log.try_clone().expect("share the log")).stderr(log);
        sys::die_with_parent(&mut command);
        let mut daemon = command.spawn().expect("start the program");
        let start = Instant::now();
        loop {
            if let Some(status) = daemon.try_wait().expect("look for the program") {
                return Err(format!("{status}: {}", side.said()));
            }
            if side.is_mounted() {
                break;
            }
            assert!(
                start.elapsed() < patience(Duration::from_secs(20)),
                "no mount: {}",
                side.said()
            );
            thread::sleep(Duration::from_millis(2));
        }
        side.daemon = Some(daemon);
        Ok(())
    }

    /// Runs a program to its end with these arguments, source and mount point, and unmounts what it has mounted.
    pub(crate) fn try_out(&self, side: &Side, arguments: &[&str]) -> (Output, bool) {
        let mut command = self.command(side.implementation);
        command.args(arguments).arg(&side.source).arg(&side.point);
        // A background daemon would keep pipes open.
        let (out, err) = (self.join("out"), self.join("err"));
        command.stdout(File::create(&out).expect("make a file"));
        command.stderr(File::create(&err).expect("make a file"));
        let status = command.status().expect("run the program");
        let has_mounted = side.is_mounted();
        if has_mounted {
            let _ = unmount(&side.point, UnmountFlags::DETACH);
        }
        let read = |path| fs::read(path).expect("read what it said");
        (Output { status, stdout: read(out), stderr: read(err) }, has_mounted)
    }

    /// Mounts shiftbind without a twin.
    pub(crate) fn ours(self, options: &[&str], tree: &str) -> Alone {
        let mut ours = self.side(Implementation::Shiftbind, tree);
        self.mount(&mut ours, options).unwrap_or_else(|why| panic!("ours, {options:?}: {why}"));
        Alone { ours, world: self }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.is_gone {
            return;
        }
        let _ = unmount(self.join(""), UnmountFlags::DETACH);
        if self.mounter == Mounter::User {
            for file in ["/dev/fuse", "/etc/fuse.conf", "/etc/passwd", "/etc/group"] {
                let _ = unmount(file, UnmountFlags::DETACH);
            }
        }
        self.is_gone = true;
    }
}

/// A shiftbind mount without a twin, for options that this bindfs lacks or gets wrong.
pub(crate) struct Alone {
    pub(crate) ours: Side,
    #[allow(dead_code)]
    pub(crate) world: World,
}

impl Twins {
    /// Twins that root mounts. The shell script fills each source.
    pub(crate) fn of(options: &[&str], tree: &str) -> Self {
        Self::mounted_by(Mounter::Root, options, tree)
    }

    pub(crate) fn mounted_by(mounter: Mounter, options: &[&str], tree: &str) -> Self {
        let world = World::new(mounter);
        let (mut theirs, mut ours) =
            (world.side(Implementation::Bindfs, tree), world.side(Implementation::Shiftbind, tree));
        for side in [&mut theirs, &mut ours] {
            if let Err(why) = world.mount(side, options) {
                panic!("{:?} does not mount with {options:?}: {why}", side.implementation);
            }
        }
        Self { theirs, ours, world }
    }

    /// Mounts both again, with other options.
    pub(crate) fn again(&mut self, options: &[&str]) {
        for side in [&mut self.theirs, &mut self.ours] {
            side.end();
            if let Err(why) = self.world.mount(side, options) {
                panic!("{:?} does not mount with {options:?}: {why}", side.implementation);
            }
        }
    }

    /// Both sides, for work on one after the other.
    pub(crate) fn both(&self) -> [&Side; 2] {
        [&self.theirs, &self.ours]
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Runs the same at both; the results must be equal, and one is returned.
    #[track_caller]
    pub(crate) fn same<T: PartialEq + Debug>(&self, what: &str, run: impl Fn(&Side) -> T) -> T {
        let [theirs, ours] = self.both().map(run);
        assert_eq!(ours, theirs, "{what}: ours, and bindfs's");
        ours
    }

    /// Runs the same at both; shiftbind's result must be `right` and bindfs's must not, as `DIFFERENCES` says.
    #[track_caller]
    pub(crate) fn differ<T: PartialEq + Debug>(
        &self,
        (option, operation): (&str, &str),
        right: &T,
        run: impl Fn(&Side) -> T,
    ) {
        differences::find(option, operation);
        let [theirs, ours] = self.both().map(run);
        assert_eq!(ours, *right, "{option}, {operation}");
        assert_ne!(theirs, *right, "{option}, {operation}: bindfs is right by now");
    }
}

impl Side {
    /// A path at the mount.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.point.clone() } else { self.point.join(name) }
    }

    /// A path on the source.
    pub(crate) fn src(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.source.clone() } else { self.source.join(name) }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.implementation == Implementation::Shiftbind
    }

    /// The program's messages.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it is mounted").id()
    }

    pub(crate) fn is_mounted(&self) -> bool {
        self.mount_line().is_some()
    }

    /// The mount's line of the mount table (proc_pid_mountinfo(5)).
    pub(crate) fn mount_line(&self) -> Option<String> {
        let table =
            fs::read_to_string("/proc/thread-self/mountinfo").expect("read the mount table");
        let field = format!(" {} ", self.point.display());
        table.lines().rfind(|line| line.contains(&field)).map(str::to_owned)
    }

    /// Unmounts and returns the daemon's exit status.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        let mut daemon = self.daemon.take()?;
        let start = Instant::now();
        while unmount(&self.point, UnmountFlags::empty()).is_err() {
            if start.elapsed() > patience(Duration::from_secs(2)) {
                let _ = unmount(&self.point, UnmountFlags::DETACH);
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        loop {
            match daemon.try_wait().expect("look for the program") {
                Some(status) => return Some(status),
                None if start.elapsed() > patience(Duration::from_secs(5)) => {
                    let _ = daemon.kill();
                    return daemon.wait().ok();
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let status = self.end();
        if self.is_ours() && !thread::panicking() {
            assert!(status.is_none_or(|status| status.success()), "{status:?}: {}", self.said());
        }
    }
}

/// The name of the error number; `ok` for success.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => super::observe::name(error.raw_os_error().expect("an error of the kernel's")),
    }
}

/// Whether a path exists, of whatever type.
pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
