//! Twins of one source, both mounted: one by the kernel with an idmap, the other by the engine under test.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Pid;

use crate::act::act;
use crate::caller::Caller;
use crate::differences::{Conditions, Verdict, judge};
use crate::observe;
use crate::op::{Op, SLOTS, Step};
use crate::patience::patience;
use crate::scenario::{self, Scenario};
use crate::small_filesystem;
use crate::sys;

/// What makes the second mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Shiftbind,
    /// Without FUSE passthrough: the daemon reads and writes.
    ShiftbindWithoutPassthrough,
    /// shiftbind, which has the kernel make the mount.
    ShiftbindByKernel,
    /// With `idmappable`: the kernel does not tell the daemon who sends a request.
    Idmappable,
    /// shiftbind without a map but with `idmappable`, and on top the kernel with the map.
    IdmappedClone,
    /// The kernel, as for the first mount: no difference is allowed.
    Kernel,
    /// The kernel with another map: the harness must report differences.
    KernelWithAnotherMap,
}

/// A source and its mount.
struct Side {
    source: PathBuf,
    /// A noatime bind mount of the source, to inspect it without changing access times.
    view: PathBuf,
    mount: PathBuf,
    slots: [Option<OwnedFd>; SLOTS],
    /// The source as last inspected.
    seen: observe::Tree,
}

impl Side {
    /// Removes a case's directory from the source. A whiteout that the kernel made for an unmapped caller has no
    /// valid owner: not even root can unlink it before a chown.
    fn remove_case(&self, case: &str) {
        let root = self.source.join(case);
        if case.is_empty() || fs::remove_dir_all(&root).is_ok() {
            return;
        }
        for name in self.seen.keys() {
            // Both ids if both are missing, else the missing one.
            for (uid, gid) in [(Some(0), Some(0)), (Some(0), None), (None, Some(0))] {
                let _ = std::os::unix::fs::lchown(root.join(name), uid, gid);
            }
        }
        let _ = fs::remove_dir_all(&root);
    }
}

/// The twins of one scenario.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    engine: Engine,
    pub(crate) callers: Vec<Caller>,
    namespace: OwnedFd,
    sides: [Side; 2],
    /// Whether this kernel's idmapped mounts show the named ids of ACLs as they are stored, as on Linux 6.1. What the
    /// first side shows is then translated here, as newer kernels do it.
    acls_as_stored: bool,
    /// Whether this kernel's idmapped mounts give a caller who cannot be stored an O_TMPFILE file.
    tmpfile_unchecked: bool,
    daemon: Option<Child>,
    log: PathBuf,
    cases: u32,
    /// The name of the case's directory, and whether its source was changed.
    case: String,
    used: bool,
    directory: tempfile::TempDir,
}

/// The result of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) errno: Option<Errno>,
    pub(crate) told: String,
}

/// A difference between the two mounts.
#[derive(Debug, Clone)]
pub(crate) enum Difference {
    /// In the result that the caller got.
    Outcome { kernel: Outcome, ours: Outcome },
    /// In the contents of the source, or in the mount's view of them.
    State { side: &'static str, path: String, kernel: String, ours: String },
}

impl World {
    /// Creates the twins and their mounts in this thread's (private) mount namespace.
    pub(crate) fn new(scenario: Scenario, engine: Engine) -> Self {
        sys::enter_private_mount_namespace();
        // On a tmpfs, which suits thousands of short-lived trees, unless the environment names a directory.
        let directory = match std::env::var_os("SHIFTBIND_DIFF_DIR") {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        }
        .expect("tempdir");
        let base = directory.path();
        fs::set_permissions(base, fs::Permissions::from_mode(0o755)).expect("chmod");
        let side = |name: &str| {
            let (source, mount) = (base.join(name).join("source"), base.join(name).join("mount"));
            fs::create_dir_all(&source).expect("mkdir");
            fs::create_dir_all(&mount).expect("mkdir");
            let view = base.join(name).join("view");
            fs::create_dir_all(&view).expect("mkdir");
            rustix::mount::mount_bind(&source, &view).expect("bind");
            let noatime = rustix::mount::MountFlags::NOATIME | rustix::mount::MountFlags::BIND;
            rustix::mount::mount_remount(&view, noatime, c"").expect("remount");
            Side { source, view, mount, slots: Default::default(), seen: observe::Tree::new() }
        };
        if std::env::var_os("SHIFTBIND_DIFF_DIR").is_none() {
            // noatime: answers from FUSE's caches (listings, symbolic links) move no access time on the source.
            small_filesystem::mount_small_filesystem(base, rustix::mount::MountFlags::NOATIME);
        }
        let sides = [side("kernel"), side("ours")];
        kernel_mount(&scenario, &sides[0].source, &sides[0].mount).expect("idmapped mount");
        let log = base.join("log");
        let (source, mount) = (&sides[1].source, &sides[1].mount);
        let daemon = match engine {
            Engine::Shiftbind | Engine::ShiftbindWithoutPassthrough | Engine::Idmappable => {
                Some(start_shiftbind(&scenario, engine, source, mount, &log))
            }
            Engine::IdmappedClone => {
                let below = base.join("ours").join("below");
                fs::create_dir(&below).expect("mkdir");
                let daemon = start_shiftbind(&scenario, engine, source, &below, &log);
                kernel_mount(&scenario, &below, mount).expect("idmap the mount");
                rustix::mount::unmount(&below, UnmountFlags::DETACH).expect("unmount");
                Some(daemon)
            }
            Engine::ShiftbindByKernel => {
                mount_by_kernel(&scenario, source, mount);
                None
            }
            Engine::Kernel => {
                kernel_mount(&scenario, source, mount).expect("idmapped mount");
                None
            }
            Engine::KernelWithAnotherMap => {
                let other = scenario.with_the_unmapped_owner_mapped();
                kernel_mount(&other, source, mount).expect("idmapped mount");
                None
            }
        };
        let size = scenario.namespace_size;
        let namespace = sys::user_namespace(
            &format!("0 {} {size}\n", scenario.a.mount.0),
            &format!("0 {} {size}\n", scenario.a.mount.1),
        );
        let callers = Caller::all(&scenario);
        let mut world = Self {
            scenario,
            engine,
            callers,
            namespace,
            sides,
            acls_as_stored: false,
            tmpfile_unchecked: false,
            daemon,
            log,
            cases: 0,
            case: String::new(),
            used: false,
            directory,
        };
        world.new_case();
        let acl = |root: &Path| {
            let mut buffer = [0; 256];
            let path = root.join(&world.case).join("facl");
            let len = rustix::fs::getxattr(path, "system.posix_acl_access", &mut buffer[..]);
            buffer[..len.expect("the file has an ACL")].to_vec()
        };
        // Two mounts of the kernel show them alike.
        world.acls_as_stored = !matches!(engine, Engine::Kernel | Engine::ShiftbindByKernel)
            && acl(&world.sides[0].mount) == acl(&world.sides[0].source);
        let caller = world.callers.iter().position(|caller| caller.name == "unmapped caller");
        let tmpfile = Step {
            caller: caller.expect("every scenario has one"),
            umask: 0,
            op: Op::Tmpfile { dir: "d777", mode: 0o666, slot: 0 },
        };
        let (made, _) = world.start(&world.sides[0], &tmpfile).finish();
        world.tmpfile_unchecked = made.errno.is_none();
        world
    }

    /// Starts over with a fresh tree, in a directory that the mounts have not cached.
    pub(crate) fn new_case(&mut self) {
        for side in &mut self.sides {
            side.slots = Default::default();
            side.remove_case(&self.case);
        }
        self.cases += 1;
        self.case = format!("case{}", self.cases);
        for side in &mut self.sides {
            let root = side.source.join(&self.case);
            // In a child: a process that a concurrent test forks meanwhile would inherit a descriptor of this process
            // that is open for writing, and execve(2) of the file would fail with ETXTBSY.
            sys::run_in_child(|| self.scenario.build_tree(&root));
            side.seen = observe::source(&side.view.join(&self.case), &observe::Tree::new());
        }
        self.used = false;
    }

    /// Starts over if anything was changed or is still open.
    pub(crate) fn new_case_if_used(&mut self) {
        if self.used || self.sides.iter().any(|side| side.slots.iter().any(Option::is_some)) {
            self.new_case();
        }
    }

    /// Runs one step on both sides and compares results and states.
    pub(crate) fn step(&mut self, step: &Step) -> Verdict {
        let running: Vec<Running> = self.sides.iter().map(|side| self.start(side, step)).collect();
        let mut results: Vec<(Outcome, Option<OwnedFd>)> =
            running.into_iter().map(Running::finish).collect();
        let (mut ours, our_fd) = results.pop().expect("two sides");
        let (mut kernel, kernel_fd) = results.pop().expect("two sides");
        if self.acls_as_stored && self.callers[step.caller].inside {
            // The kernel has translated the stored ids into the caller's namespace, where most have no counterpart.
            kernel.told = scenario::without_named_ids(&kernel.told);
            ours.told = scenario::without_named_ids(&ours.told);
        } else if self.acls_as_stored {
            kernel.told = self.scenario.translate_acls(&kernel.told);
        }
        if let Op::Open { slot, .. } | Op::Tmpfile { slot, .. } | Op::FdReopen { slot, .. } =
            step.op
        {
            // A descriptor that only one side could open is useless to later steps.
            let both = kernel_fd.is_some() && our_fd.is_some();
            if both {
                self.sides[0].slots[slot] = kernel_fd;
                self.sides[1].slots[slot] = our_fd;
            }
        } else if let Op::Close { slot } = step.op {
            self.sides[0].slots[slot] = None;
            self.sides[1].slots[slot] = None;
        }
        let outcomes = [kernel, ours];
        let mut differences = Vec::new();
        if let [kernel, ours] = &outcomes
            && kernel != ours
        {
            differences.push(Difference::Outcome { kernel: kernel.clone(), ours: ours.clone() });
        }
        let mut paths: BTreeSet<String> = step.op.paths().into_iter().map(str::to_owned).collect();
        paths.retain(|path| path != ".");
        for side in &mut self.sides {
            let now = observe::source(&side.view.join(&self.case), &side.seen);
            paths.extend(observe::changed(&side.seen, &now));
            self.used |= side.seen != now;
            side.seen = now;
        }
        let parents: Vec<String> =
            paths.iter().filter_map(|path| Some(path.rsplit_once('/')?.0.to_owned())).collect();
        paths.extend(parents);
        differences.extend(self.compare_states(&paths));
        let conditions = Conditions {
            old_kernel: self.acls_as_stored,
            tmpfile_unchecked: self.tmpfile_unchecked,
            engine: self.engine,
        };
        judge(&step.op, &outcomes, differences, conditions)
    }

    /// Compares the views of both mounts of everything that their sources hold.
    pub(crate) fn compare_all(&self) -> Vec<Difference> {
        self.compare_states(&self.sides[0].seen.keys().cloned().collect())
    }

    fn compare_states(&self, paths: &BTreeSet<String>) -> Vec<Difference> {
        let [kernel, ours] = &self.sides;
        let text = |side: &Side| {
            side.seen.iter().map(|(path, seen)| (path.clone(), seen.text.clone())).collect()
        };
        let shown = |side: &Side| observe::mount(&side.mount.join(&self.case), &side.seen, paths);
        let mut differences = parted("source", &text(kernel), &text(ours));
        let mut reference = shown(kernel);
        if self.acls_as_stored {
            for text in reference.values_mut() {
                *text = self.scenario.translate_acls(text);
            }
        }
        differences.extend(parted("mount", &reference, &shown(ours)));
        differences
    }

    /// Runs the operation on one side in a child process.
    fn start(&self, side: &Side, step: &Step) -> Running {
        let flags = SocketFlags::CLOEXEC;
        let (here, there) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .expect("socketpair");
        let base = side.mount.join(&self.case);
        let child = sys::fork(|| {
            let caller = &self.callers[step.caller];
            let slots: Vec<_> = side.slots.iter().map(|s| s.as_ref().map(AsFd::as_fd)).collect();
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(step.umask));
            let result = match caller.become_it(self.namespace.as_fd()) {
                Ok(()) => act(&step.op, &self.scenario, &base, &slots),
                Err(errno) => Ok((format!("could not become the caller: {errno:?}"), None)),
            };
            let (code, told, fd) = match result {
                Ok((told, fd)) => (0, told, fd),
                Err(errno) => (errno.raw_os_error(), String::new(), None),
            };
            let mut message = code.to_le_bytes().to_vec();
            message.extend(told.as_bytes());
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let _ = rustix::net::sendmsg(
                &there,
                &[IoSlice::new(&message)],
                &mut control,
                SendFlags::empty(),
            );
        });
        Running { child, socket: here }
    }

    /// The daemon's messages.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for side in &mut self.sides {
            side.slots = Default::default();
            side.remove_case(&self.case);
            let _ = rustix::mount::unmount(&side.mount, UnmountFlags::DETACH);
            let _ = rustix::mount::unmount(&side.view, UnmountFlags::DETACH);
        }
        if let Some(mut daemon) = self.daemon.take() {
            let gone = Instant::now() + patience(Duration::from_secs(3));
            while matches!(daemon.try_wait(), Ok(None)) {
                if Instant::now() > gone {
                    let _ = daemon.kill();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // The tmpfs, if there is one: the directory below it is removed next.
        let _ = rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}

struct Running {
    child: Pid,
    socket: OwnedFd,
}

impl Running {
    /// Waits for the child's answer; kills a child that hangs and reports it.
    fn finish(self) -> (Outcome, Option<OwnedFd>) {
        let mut message = vec![0; 64 << 10];
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit));
        if ready != Ok(1) {
            let _ = rustix::process::kill_process(self.child, rustix::process::Signal::KILL);
            // Not reaped: it may hang in the kernel for as long as the daemon does.
            return (Outcome { errno: None, told: "no answer in 20 s".into() }, None);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut message)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let len = received.map_or(0, |r| r.bytes);
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        sys::reap(self.child);
        let Some((code, told)) = message[..len].split_first_chunk::<4>() else {
            return (Outcome { errno: None, told: "the caller died".into() }, None);
        };
        let errno = match i32::from_le_bytes(*code) {
            0 => None,
            code => Some(Errno::from_raw_os_error(code)),
        };
        (Outcome { errno, told: String::from_utf8_lossy(told).into_owned() }, fd)
    }
}

fn parted(
    side: &'static str,
    kernel: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let missing = "(not there)".to_owned();
    let mut paths: Vec<_> = kernel.keys().chain(ours.keys()).collect();
    paths.sort();
    paths.dedup();
    let at =
        |tree: &BTreeMap<String, String>, path: &String| tree.get(path).unwrap_or(&missing).clone();
    paths
        .into_iter()
        .filter(|path| kernel.get(*path) != ours.get(*path))
        .map(|path| Difference::State {
            side,
            path: path.clone(),
            kernel: at(kernel, path),
            ours: at(ours, path),
        })
        .collect()
}

/// Makes an idmapped mount.
fn kernel_mount(scenario: &Scenario, source: &Path, target: &Path) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    let (uid_map, gid_map) = scenario.kernel_maps();
    let namespace = sys::user_namespace(&uid_map, &gid_map);
    let refused = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    sys::idmap_mount(&tree, &namespace).map_err(refused)?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", CWD, target, empty)
}

/// Has shiftbind make the mount by the kernel's engine.
fn mount_by_kernel(scenario: &Scenario, source: &Path, target: &Path) {
    // The record of the mount goes with the namespace.
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("run", "/run", "tmpfs", flags, c"mode=755").expect("mount on /run");
    let mut command = Command::new(binary());
    command.args(["-o", &scenario.options(), "--engine=kernel"]).args([source, target]);
    let output = command.stdin(Stdio::null()).output().expect("run shiftbind");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn binary() -> OsString {
    std::env::var_os("SHIFTBIND_DIFF_BINARY")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_shiftbind").into())
}

fn start_shiftbind(
    scenario: &Scenario,
    engine: Engine,
    source: &Path,
    mount: &Path,
    log: &Path,
) -> Child {
    const FUSE: u64 = 0x6573_5546;
    let stderr = fs::File::create(log).expect("log");
    let options = match engine {
        Engine::ShiftbindWithoutPassthrough => scenario.options() + ",passthrough=off",
        Engine::Idmappable => scenario.options() + ",idmappable",
        Engine::IdmappedClone => "idmappable".to_owned(),
        _ => scenario.options(),
    };
    let mut daemon = Command::new(binary())
        .args(["-f", "--engine=fuse"])
        .args([source, mount])
        .args(["-o", &options])
        .stdin(Stdio::null())
        .stderr(stderr)
        .spawn()
        .expect("start shiftbind");
    let limit = Instant::now() + patience(Duration::from_secs(10));
    while rustix::fs::statfs(mount).is_ok_and(|s| s.f_type.cast_unsigned() != FUSE) {
        let ended = daemon.try_wait().expect("wait");
        let said = || fs::read_to_string(log).unwrap_or_default();
        assert!(ended.is_none(), "shiftbind ended at once ({ended:?}): {}", said());
        assert!(Instant::now() < limit, "not mounted in time: {}", said());
        std::thread::sleep(Duration::from_millis(5));
    }
    daemon
}
