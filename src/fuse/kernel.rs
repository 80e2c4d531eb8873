//! What this kernel's FUSE does with notices: found out by trying, on a mount that is attached nowhere.
//!
//! The daemon serves that mount for two notices. A client asks for a name that is not there; while its LOOKUP is
//! unanswered it holds the directory's lock, and a notice about the same name either waits for that lock or does not.
//! Then the name is a negative dentry, and the notice either invalidates it or finds nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::gettid;

use super::device::Device;
use super::protocol::init::{Wishes, negotiate};
use super::protocol::layout::{AttrOut, AttrPart, EntryOut};
use super::protocol::{MIN_BUFFER, Notice, Reply, Request, opcode};
use crate::source::NodeId;
use crate::sys::process::wait_until_gone;

/// The name that the client asks for.
const NAME: &str = "missing";

/// How long a notice may take to be seen waiting or to return; chosen long enough for an emulated processor.
const LIMIT: Duration = Duration::from_secs(1);

/// What the kernel does with notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTraits {
    /// FUSE_NOTIFY_INVAL_ENTRY invalidates a negative dentry. From Linux 6.19 to 7.1.6 it answers ENOENT and leaves it.
    pub invalidates_missing: bool,
    /// FUSE_NOTIFY_INVAL_ENTRY waits for the directory's lock, and so for the look-ups under way there. It does not from
    /// Linux 6.19 to 7.1.6.
    pub waits_for_lookups: bool,
    /// FUSE_NOTIFY_INC_EPOCH invalidates all names at once (Linux 6.16).
    pub has_epoch: bool,
}

impl KernelTraits {
    /// What is safe to assume of a kernel that could not be tried.
    pub const UNKNOWN: Self =
        Self { invalidates_missing: false, waits_for_lookups: false, has_epoch: false };

    /// Tries it on a new FUSE filesystem whose FUSE_INIT is not answered yet: `root` is on its mount, which is attached
    /// nowhere. When this returns, no thread of it is left.
    ///
    /// # Errors
    /// EPROTO where the kernel's FUSE is too old or sent no look-up; ETIMEDOUT when a notice neither waited nor returned; EAGAIN when no
    /// thread can be started.
    pub fn probe(device: OwnedFd, root: OwnedFd) -> Result<Self, Errno> {
        let device = Arc::new(Device::new(device));
        // The server alone keeps the device open: should it end early, the client's request fails and does not hang.
        let shared = Arc::downgrade(&device);
        let mut tasks = Vec::new();
        let found = thread::scope(|scope| {
            let server = spawn(scope, "probe-server", move || (serve(&device), gettid()))?;
            let _ = statx(&root, NAME, AtFlags::empty(), StatxFlags::TYPE);
            let (again, has_epoch) = match shared.upgrade() {
                Some(device) => (missing().send(&device), Notice::Epoch.send(&device).is_ok()),
                None => (Err(Errno::NODEV), false),
            };
            // Ends the filesystem, and with it the server.
            drop(root);
            let (tried, task) = server.join().map_err(|_| Errno::IO)?;
            tasks.push(task);
            let tried = tried?;
            tasks.push(tried.notifier);
            Ok(Self {
                invalidates_missing: tried.first.is_ok() || again.is_ok(),
                waits_for_lookups: tried.waited,
                has_epoch,
            })
        });
        tasks.into_iter().for_each(wait_until_gone);
        found
    }

    /// What this kernel costs beside one that has all, a line for each.
    #[must_use]
    pub fn costs(&self) -> Vec<&'static str> {
        let mut costs = Vec::new();
        if !self.invalidates_missing {
            costs.push(
                "this kernel does not let go of a name that was missing (FUSE_NOTIFY_INVAL_ENTRY of a negative dentry): \
                 with cache=coherent each look-up of a missing name is a request",
            );
        }
        if !self.waits_for_lookups {
            costs.push(
                "this kernel's notices do not wait for look-ups: with cache=coherent they are sent again for a second",
            );
        }
        if !self.has_epoch {
            costs.push(
                "this kernel cannot invalidate all names at once (FUSE_NOTIFY_INC_EPOCH): with follow-source names are \
                 believed for one second, and exclude cannot change by --reload",
            );
        }
        costs
    }
}

/// A notice about the name that the client asks for.
fn missing() -> Notice<'static> {
    Notice::Name { parent: NodeId::ROOT.0, name: NAME.as_ref(), stays: false }
}

/// The attributes of the only directory.
fn root() -> AttrOut {
    let attr = AttrPart { ino: NodeId::ROOT.0, mode: 0o040_755, nlink: 2, ..AttrPart::default() };
    AttrOut { valid: 60, attr, ..AttrOut::default() }
}

/// What the server saw.
struct Tried {
    /// Whether the notice waited for the look-up.
    waited: bool,
    /// What the notice answered.
    first: Result<(), Errno>,
    /// The thread that sent it.
    notifier: Pid,
}

/// Answers the one look-up, sends a notice during it, and stays until the filesystem ends.
fn serve(device: &Arc<Device>) -> Result<Tried, Errno> {
    let wishes =
        Wishes { flags: 0, max_write: 4096, max_readahead: 0, max_background: 1, stack_depth: 0 };
    negotiate(device, &wishes)?;
    // As long as nothing was looked up.
    let mut tried = Err(Errno::PROTO);
    let mut buffer = vec![0; MIN_BUFFER];
    loop {
        let len = match device.receive(&mut buffer) {
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            // The filesystem has ended.
            Err(_) => return tried,
            Ok(len) => len,
        };
        let Some(request) = Request::read(&buffer[..len]) else { continue };
        if let opcode::FORGET | opcode::BATCH_FORGET = request.header.opcode {
            // These have no answer.
            continue;
        }
        let reply = Reply::new(device, request.header.unique);
        match request.header.opcode {
            opcode::GETATTR => reply.with(Ok(root())),
            opcode::LOOKUP if tried.is_err() => tried = during_lookup(device, reply),
            opcode::LOOKUP => reply.error(Errno::NOENT),
            opcode::DESTROY => reply.done(Ok(())),
            _ => reply.error(Errno::NOSYS),
        }
    }
}

/// Sends a notice about the name that is being looked up, watches whether it waits, and answers the look-up.
fn during_lookup(device: &Arc<Device>, reply: Reply) -> Result<Tried, Errno> {
    thread::scope(|scope| {
        let (started, start) = mpsc::channel();
        let (ended, end) = mpsc::channel();
        let notifier = spawn(scope, "probe-notice", move || {
            let _ = started.send(gettid());
            let _ = ended.send(missing().send(device));
        });
        let seen = start
            .recv_timeout(LIMIT)
            .map_err(|_| Errno::TIMEDOUT)
            .and_then(|task| Ok((task, waits(task, &end)?)));
        // A negative dentry that is good for a minute.
        reply.with(Ok(EntryOut { entry_valid: 60, ..EntryOut::default() }));
        notifier?;
        let (task, returned) = seen?;
        let waited = returned.is_none();
        let first = match returned {
            Some(answer) => answer,
            None => end.recv_timeout(LIMIT).map_err(|_| Errno::TIMEDOUT)?,
        };
        Ok(Tried { waited, first, notifier: task })
    })
}

/// Watches a thread that sends a notice: `None` when it waits for a lock, else what the notice answered.
///
/// In the kernel a thread that waits for a directory's lock is in uninterruptible sleep (`down_write`), which
/// /proc/PID/stat shows as `D`. Seen twice, it is not a page fault in passing.
fn waits(task: Pid, end: &Receiver<Result<(), Errno>>) -> Result<Option<Result<(), Errno>>, Errno> {
    let stat = format!("/proc/self/task/{}/stat", task.as_raw_nonzero());
    let begin = Instant::now();
    let mut asleep = 0;
    while begin.elapsed() < LIMIT {
        match end.try_recv() {
            Ok(answer) => return Ok(Some(answer)),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(Errno::IO),
        }
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        // The state stands behind the name, which is in brackets and may hold any character.
        let sleeps = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'));
        asleep = if sleeps { asleep + 1 } else { 0 };
        if asleep == 2 {
            return Ok(None);
        }
        thread::sleep(Duration::from_micros(200));
    }
    Err(Errno::TIMEDOUT)
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Errno> {
    let thread = thread::Builder::new().name(name.into()).spawn_scoped(scope, work);
    thread.map_err(|e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::AGAIN))
}
