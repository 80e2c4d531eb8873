//! What this kernel's FUSE does with notices: found out by trying, on a mount that is attached nowhere.
//!
//! The daemon serves that mount for one look-up of a name that is not there, and then sends a notice about it: the name is
//! a negative dentry by now, and the notice either invalidates it or finds nothing.
//!
//! A process of its own asks for the name. A thread of the daemon that waited for the answer could not be killed with it:
//! it would keep the device open on whose closing it waits (Linux `request_wait_answer`). For the same reason no notice is
//! sent while the look-up is unanswered, to see whether it waits for the directory's lock: that came and went with the
//! other (Linux c9ba789dad15), as seen on each kernel from 6.1 to 7.3 that was tried.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};

use super::device::Device;
use super::protocol::init::{InitParams, negotiate};
use super::protocol::layout::{AttrOut, EntryOut, FuseAttr};
use super::protocol::{MIN_BUFFER, Notification, Reply, Request, opcode};
use crate::source::NodeId;
use crate::sys::process::{Fork, close_all_but, exit_now, fork};

/// The name that is asked for.
const NAME: &str = "missing";

/// How long the look-up may take to come; chosen long enough for an emulated processor.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the kernel does with notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFeatures {
    /// FUSE_NOTIFY_INVAL_ENTRY invalidates a negative dentry. From Linux 6.19 to 7.1.6 it answers ENOENT and leaves it.
    pub invalidates_negative: bool,
    /// FUSE_NOTIFY_INVAL_ENTRY waits for the directory's lock, and so for the look-ups under way there. It does not from
    /// Linux 6.19 to 7.1.6.
    pub waits_for_lookups: bool,
    /// FUSE_NOTIFY_INC_EPOCH invalidates all names at once (Linux 6.16).
    pub has_epoch: bool,
}

impl KernelFeatures {
    /// What is safe to assume of a kernel that could not be tried.
    pub const UNKNOWN: Self =
        Self { invalidates_negative: false, waits_for_lookups: false, has_epoch: false };

    /// Tries it on a new FUSE filesystem whose FUSE_INIT is not answered yet: `root` is on its mount, which is attached
    /// nowhere. To be called by a process that has a single thread.
    ///
    /// # Errors
    /// EPROTO where the kernel's FUSE is too old; ETIMEDOUT when no look-up came; EBUSY with more threads than one, and what
    /// fork(2) says else.
    pub fn probe(device: OwnedFd, root: OwnedFd) -> Result<Self, Errno> {
        let failed = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        let client = match fork().map_err(failed)? {
            Fork::Parent(client) => client,
            Fork::Child => {
                // Above all the device: as long as it is open here, this process outlives a daemon that dies.
                close_all_but(&[root.as_raw_fd()]);
                let _ = statx(&root, NAME, AtFlags::empty(), StatxFlags::TYPE);
                exit_now(0);
            }
        };
        let device = Arc::new(Device::new(device));
        let served = serve(&device);
        if served.is_err() {
            // Ends the filesystem, and with it the client's request.
            drop(device);
            let _ = waitpid(Some(client), WaitOptions::empty());
            return Err(served.err().unwrap_or(Errno::IO));
        }
        // When the client has ended, the kernel has taken the answer in.
        let _ = waitpid(Some(client), WaitOptions::empty());
        let missing = Notification::InvalEntry {
            parent: NodeId::ROOT.0,
            name: NAME.as_ref(),
            expire_only: false,
        };
        let invalidates_negative = missing.send(&device).is_ok();
        let has_epoch = Notification::IncEpoch.send(&device).is_ok();
        Ok(Self { invalidates_negative, waits_for_lookups: invalidates_negative, has_epoch })
    }

    /// What this kernel costs beside one that has all, a line for each.
    #[must_use]
    pub fn costs(&self) -> Vec<&'static str> {
        let mut costs = Vec::new();
        if !self.invalidates_negative {
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

/// The attributes of the only directory.
fn root() -> AttrOut {
    let attr = FuseAttr { ino: NodeId::ROOT.0, mode: 0o040_755, nlink: 2, ..FuseAttr::default() };
    AttrOut { attr_valid: 60, attr, ..AttrOut::default() }
}

/// Answers requests until the look-up is answered.
fn serve(device: &Arc<Device>) -> Result<(), Errno> {
    let params = InitParams {
        flags: 0,
        max_write: 4096,
        max_readahead: 0,
        max_background: 1,
        stack_depth: 0,
    };
    negotiate(device, &params)?;
    let mut buffer = vec![0; MIN_BUFFER];
    let begin = Instant::now();
    while begin.elapsed() < TIMEOUT {
        let timeout = Timespec::try_from(TIMEOUT / 10).ok();
        let mut polled = [PollFd::new(&**device, PollFlags::IN)];
        if matches!(poll(&mut polled, timeout.as_ref()), Ok(0) | Err(Errno::INTR)) {
            continue;
        }
        let len = match device.receive(&mut buffer) {
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            received => received?,
        };
        let Some(request) = Request::parse(&buffer[..len]) else { continue };
        if let opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT = request.header.opcode {
            // These have no answer.
            continue;
        }
        let reply = Reply::new(device, request.header.unique);
        match request.header.opcode {
            opcode::GETATTR => reply.out(Ok(root())),
            opcode::LOOKUP => {
                // A negative dentry that is good for a minute.
                reply.out(Ok(EntryOut { entry_valid: 60, ..EntryOut::default() }));
                return Ok(());
            }
            _ => reply.error(Errno::NOSYS),
        }
    }
    Err(Errno::TIMEDOUT)
}
