//! Probes what this kernel's FUSE does with notifications, on a mount that is attached nowhere.
//!
//! The daemon serves one lookup of a name that does not exist on that mount, and then sends FUSE_NOTIFY_INVAL_ENTRY for
//! the name. The kernel has a negative dentry by then, and the notification either invalidates it or fails with ENOENT.
//!
//! A child process looks the name up. A thread of the daemon that waited for the reply could not be killed with the
//! daemon: it would keep the device open while it waits for the device to be closed (`request_wait_answer` in Linux).
//! For the same reason the probe does not send a notification during the lookup, to see whether it waits for the
//! directory's lock. That came and went together with the other (Linux c9ba789dad15), as measured on kernels from 6.1
//! to 7.3.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};

use super::device::Device;
use super::protocol::init::{InitParams, Negotiated, flag, negotiate};
use super::protocol::layout::{AttrOut, EntryOut, FuseAttr};
use super::protocol::{MIN_BUFFER, Notification, Reply, Request, opcode};
use crate::source::NodeId;
use crate::sys::process::{Fork, close_all_but, exit_now, fork};

/// The name that the child looks up.
const NAME: &str = "missing";

/// How long the lookup may take to arrive. Chosen: long enough for an emulated CPU.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the kernel does with notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFeatures {
    /// FUSE_NOTIFY_INVAL_ENTRY invalidates a negative dentry. From Linux 6.19 to 7.1.6 it fails with ENOENT and leaves
    /// the dentry.
    pub invalidates_negative: bool,
    /// FUSE_NOTIFY_INVAL_ENTRY waits for the directory's lock, and so for lookups under way there. It does not from
    /// Linux 6.19 to 7.1.6.
    pub waits_for_lookups: bool,
    /// FUSE_NOTIFY_INC_EPOCH invalidates all names at once (Linux 6.16).
    pub has_epoch: bool,
    /// FUSE_INIT offers FUSE_ALLOW_IDMAP: a mount can be idmapped (Linux 6.12).
    pub allows_idmap: bool,
}

impl KernelFeatures {
    /// What is safe to assume of a kernel that was not probed.
    pub const UNKNOWN: Self = Self {
        invalidates_negative: false,
        waits_for_lookups: false,
        has_epoch: false,
        allows_idmap: false,
    };

    /// Probes a new FUSE filesystem before its FUSE_INIT is answered. `root` is on its mount, which is attached
    /// nowhere. The calling process must have a single thread.
    ///
    /// # Errors
    /// EPROTONOSUPPORT where the kernel's FUSE is too old; EPROTO where its first request is not FUSE_INIT; ETIMEDOUT
    /// when no lookup came; EBUSY with more threads than one; and what fork(2) and /dev/fuse say.
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
        let allows_idmap = match serve(&device) {
            Ok(flags) => flags.offered & flag::ALLOW_IDMAP != 0,
            Err(e) => {
                // Aborts the connection, and with it the child's request.
                drop(device);
                let _ = waitpid(Some(client), WaitOptions::empty());
                return Err(e);
            }
        };
        // When the child has ended, the kernel has taken the reply in.
        let _ = waitpid(Some(client), WaitOptions::empty());
        let missing = Notification::InvalEntry {
            parent: NodeId::ROOT.0,
            name: NAME.as_ref(),
            expire_only: false,
        };
        let invalidates_negative = missing.send(&device).is_ok();
        let has_epoch = Notification::IncEpoch.send(&device).is_ok();
        let waits_for_lookups = invalidates_negative;
        Ok(Self { invalidates_negative, waits_for_lookups, has_epoch, allows_idmap })
    }

    /// What this kernel lacks and what that costs, one line each.
    #[must_use]
    pub fn costs(&self) -> Vec<&'static str> {
        let mut costs = Vec::new();
        if !self.invalidates_negative {
            costs.push(
                "this kernel cannot invalidate a negative dentry (FUSE_NOTIFY_INVAL_ENTRY): with cache=coherent each \
                 lookup of a missing name is a request",
            );
        }
        if !self.waits_for_lookups {
            costs.push(
                "this kernel's notifications do not wait for lookups under way: with cache=coherent they are sent \
                 again for a second",
            );
        }
        if !self.has_epoch {
            costs.push(
                "this kernel cannot invalidate all names at once (FUSE_NOTIFY_INC_EPOCH): with follow-source names are \
                 cached for one second, and exclude cannot change by --reload",
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

/// Serves requests until the lookup is answered.
fn serve(device: &Arc<Device>) -> Result<Negotiated, Errno> {
    let params = InitParams {
        flags: 0,
        max_write: 4096,
        max_readahead: 0,
        max_background: 1,
        congestion_threshold: 1,
        stack_depth: 0,
    };
    let flags = negotiate(device, &params)?;
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
            // These have no reply.
            continue;
        }
        let reply = Reply::new(device, request.header.unique);
        match request.header.opcode {
            opcode::GETATTR => reply.out(Ok(root())),
            opcode::LOOKUP => {
                // A negative dentry, with a timeout of a minute.
                reply.out(Ok(EntryOut { entry_valid: 60, ..EntryOut::default() }));
                return Ok(flags);
            }
            _ => reply.error(Errno::NOSYS),
        }
    }
    Err(Errno::TIMEDOUT)
}
