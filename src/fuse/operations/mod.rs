//! FUSE requests: parses each, calls the filesystem, and replies with the result. No decision about files is made here.

mod attributes;
mod directories;
mod files;
mod locks;
mod namespace;
mod opening;
mod undo;
mod xattrs;

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

pub(super) use locks::BlockedWorkers;

use super::backing_ids::BackingIds;
use super::convert::{fuse_attr, ttl_parts};
use super::data_path::DataMover;
use super::device::Device;
use super::interrupts::Interrupts;
use super::kernel_cache::KernelCache;
use super::node_ids::NodeIds;
use super::protocol::init::{InitParams, flag, negotiate};
use super::protocol::layout::{AttrOut, EntryOut};
use super::protocol::{Reply, Request, opcode};
use super::request_log::LoggedRequest;
use super::status::Reloads;
use super::status_report::StatusReport;
use super::ttl::Ttls;
use super::worker_pool::Service;
use crate::config::{Access, CachePolicy};
use crate::fs::{Attr, Entry, Fs, Result, user_of_thread};
use crate::idmap::UserNamespaceIds;
use crate::source::{NodeId, drop_admin};
use crate::sys::user_namespace::is_initial;
use crate::view::Checks;

/// The most background requests that the kernel may have under way. RELEASE is one: what the kernel keeps back of them leaves
/// locks of closed files in the way (`fs/lock/closing.rs`). Chosen: four times the usual limit of open files of a process,
/// whose end closes all at once. Requests for which a client waits then come 40 ms late at most.
const MAX_BACKGROUND: u16 = 4096;
/// With so many of them the kernel reads no further ahead. Chosen.
const CONGESTION_THRESHOLD: u16 = 48;

/// Serves the requests of one mount.
#[derive(Debug)]
pub(super) struct Operations {
    pub(super) fs: Arc<Fs>,
    pub(super) ttls: Ttls,
    pub(super) kernel_cache: Arc<KernelCache>,
    pub(super) backing_ids: Arc<BackingIds>,
    pub(super) data: Arc<DataMover>,
    /// What the status ioctl reports of reloads.
    pub(super) reloads: Arc<Reloads>,
    /// What `shiftbind stat` is told.
    pub(super) report: Arc<StatusReport>,
    pub(super) node_ids: NodeIds,
    /// Whether the kernel caches directory listings until they are invalidated.
    pub(super) caches_readdir: bool,
    pub(super) admission: Admission,
    pub(super) blocked: Arc<BlockedWorkers>,
    pub(super) interrupts: Arc<Interrupts>,
    /// Whether the mount may be idmapped (FUSE_ALLOW_IDMAP), so that the kernel does not tell callers.
    pub(super) hides_callers: bool,
}

/// Decides which users are served at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    access: Access,
    /// The user who mounted, by the number that requests have: the effective uid of the daemon, or root of the container
    /// that the filesystem belongs to.
    mounter: u32,
    is_container: bool,
}

impl Admission {
    pub(super) fn new(access: Access, container: Option<&UserNamespaceIds>) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let mounter = container.map_or(own, |ids| ids.root().map_or(0, |(uid, _)| uid));
        Self { access, mounter, is_container: container.is_some() }
    }

    /// Whether the daemon tells callers of itself. To a container it does not: source, options and errors are the host's.
    fn tells(self) -> bool {
        !self.is_container
    }

    /// Whether a request comes from root or from the mounter. If the kernel does not tell the caller's ids, /proc does.
    fn is_mounter_or_root(self, request: &Request<'_>) -> bool {
        let uid = match request.caller() {
            Ok(caller) => match caller.uid() {
                Some(uid) => Some(uid.raw()),
                None => user_of_thread(caller.pid),
            },
            Err(_) => None,
        };
        uid.is_some_and(|uid| uid == self.mounter || uid == 0)
    }

    /// Whether a request is to be served. Requests on files that are open already, and requests that the kernel makes
    /// by itself under any uid, are never refused.
    fn admits(self, request: &Request<'_>) -> bool {
        let uid = request.header.uid;
        let admits = match self.access {
            Access::Everyone => true,
            Access::OwnerAndRoot => self.is_mounter_or_root(request),
            Access::Owner => uid == self.mounter,
        };
        admits
            || matches!(
                request.header.opcode,
                opcode::READ
                    | opcode::WRITE
                    | opcode::READDIR
                    | opcode::READDIRPLUS
                    | opcode::FORGET
                    | opcode::BATCH_FORGET
                    | opcode::FSYNC
                    | opcode::FSYNCDIR
                    | opcode::RELEASE
                    | opcode::RELEASEDIR
                    | opcode::FLUSH
                    | opcode::GETLK
                    | opcode::SETLK
                    | opcode::SETLKW
            )
    }
}

impl Operations {
    /// Whether the kernel may cache listings under a cache policy.
    pub(super) fn caches_readdir(fs: &Fs, cache: CachePolicy) -> bool {
        // Where the daemon checks permissions, it must see OPENDIR.
        fs.needs().checks == Checks::Kernel
            && matches!(cache, CachePolicy::Coherent { .. } | CachePolicy::Forever)
    }

    /// Answers FUSE_INIT.
    ///
    /// # Errors
    /// EOPNOTSUPP if mounts are to be idmappable and the kernel's FUSE does not have that; those of [`negotiate`].
    pub(super) fn init(&self, device: &Arc<Device>) -> Result<()> {
        // ATOMIC_O_TRUNC is left out: the kernel then clears the setuid bits of a truncated file by the caller's
        // capabilities.
        let mut flags = flag::ASYNC_READ
            | flag::BIG_WRITES
            | flag::DONT_MASK
            | flag::PARALLEL_DIROPS
            | flag::CACHE_SYMLINKS
            | flag::AUTO_INVAL_DATA
            | flag::ASYNC_DIO
            | flag::NO_OPENDIR_SUPPORT
            // Saves a GETXATTR for every write(2). The daemon then has to clear the setuid and setgid bits.
            | flag::HANDLE_KILLPRIV_V2
            | flag::HAS_EXPIRE_ONLY;
        let needs = self.fs.needs();
        let kernel_checks = needs.checks == Checks::Kernel;
        // The flag adds a level to the filesystem stack (`s_stack_depth`), whether or not any file is passed.
        let wants_passthrough = self.fs.may_use_passthrough() && may_register_backing_files();
        if wants_passthrough {
            flags |= flag::PASSTHROUGH;
        }
        // Without extended attributes there are no ACLs. Where the daemon checks permissions it evaluates them: for the
        // kernel this flag implies default_permissions.
        if needs.xattrs && kernel_checks {
            flags |= flag::POSIX_ACL;
        }
        // Of no use where the kernel caches no names.
        if kernel_checks {
            flags |= flag::DO_READDIRPLUS | flag::READDIRPLUS_AUTO;
        }
        // Otherwise the kernel keeps the locks, within the mount.
        if self.data.locks_on_source {
            flags |= flag::POSIX_LOCKS | flag::FLOCK_LOCKS;
        }
        // Files that bypass the page cache can still be mapped, shared mappings included.
        if self.data.direct_io {
            flags |= flag::DIRECT_IO_ALLOW_MMAP;
        }
        // By the second flag the kernel says whether an ACL clears the setgid bit, which depends on the caller.
        let idmap = flag::ALLOW_IDMAP | flag::SETXATTR_EXT;
        if self.hides_callers {
            flags |= idmap;
        }
        let params = InitParams {
            flags,
            max_write: self.data.max_write,
            max_readahead: self.data.max_readahead,
            max_background: MAX_BACKGROUND,
            congestion_threshold: CONGESTION_THRESHOLD,
            stack_depth: if self.fs.tree().passes_a_stack() { 2 } else { 1 },
        };
        let negotiated = negotiate(device, &params)?.agreed;
        if self.hides_callers && negotiated & idmap != idmap {
            return Err(Errno::OPNOTSUPP);
        }
        log::debug!(
            "the kernel's FUSE lacks INIT flags that were asked for: flags={:#x}",
            flags & !negotiated
        );
        if negotiated & flag::HAS_EXPIRE_ONLY != 0 {
            self.kernel_cache.enable_expire_only();
        }
        if negotiated & flag::PASSTHROUGH == 0 {
            if wants_passthrough {
                log::info!("the kernel's FUSE has no passthrough");
            }
            self.fs.disable_passthrough();
        }
        Ok(())
    }

    /// Serves the requests that the kernel expects no reply to.
    fn serve_without_reply(&self, request: &Request<'_>, device: &Device) {
        device.counts().request(request.header.opcode);
        LoggedRequest::new(request);
        match request.header.opcode {
            opcode::FORGET => self.forget(request),
            opcode::BATCH_FORGET => self.batch_forget(request),
            _ => self.interrupt(request),
        }
    }

    /// The node that a request is for.
    pub(super) fn node(&self, request: &Request<'_>) -> NodeId {
        self.node_ids.node_id(request.header.nodeid)
    }

    fn entry_out(&self, entry: &Entry) -> EntryOut {
        let (name, attr) = self.ttls.entry(entry);
        let id = (self.node_ids.wire_id(entry.node), entry.generation);
        entry_out(id, &entry.attr, name, attr)
    }

    /// As [`Self::entry_out`], for a listing.
    fn listed_out(&self, entry: &Entry) -> EntryOut {
        let (name, attr) = self.ttls.listed(entry);
        let id = (self.node_ids.wire_id(entry.node), entry.generation);
        entry_out(id, &entry.attr, name, attr)
    }

    fn attr_out(&self, attr: &Attr) -> AttrOut {
        attr_out(attr, &self.ttls)
    }
}

/// Whether a worker keeps CAP_SYS_ADMIN for a request, if the registration of a backing file has left it in force.
///
/// Requests that look up, open, create or close a file make no system call that depends on it, and one of them registers
/// or closes the next backing file, which needs it again.
fn keeps_admin(opcode: u32) -> bool {
    matches!(
        opcode,
        opcode::LOOKUP
            | opcode::GETATTR
            | opcode::GETXATTR
            | opcode::READDIRPLUS
            | opcode::OPEN
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::FLUSH
            | opcode::RELEASE
    )
}

impl Service for Operations {
    /// Serves a request. The reply may be sent later, by another thread.
    fn serve(&self, bytes: &[u8], device: &Arc<Device>) {
        let Some(request) = Request::parse(bytes) else {
            return log::error!("the kernel sent a malformed request: size={}", bytes.len());
        };
        let request = &request.with_hidden_caller(self.hides_callers);
        if let opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT = request.header.opcode {
            return self.serve_without_reply(request, device);
        }
        let reply = Reply::logged(device, request);
        if !self.admission.admits(request) {
            return reply.error(Errno::ACCESS);
        }
        if !keeps_admin(request.header.opcode) {
            drop_admin();
        }
        match request.header.opcode {
            opcode::LOOKUP => self.reply_entry(reply, self.lookup(request)),
            opcode::GETATTR => reply.out(self.getattr(request)),
            opcode::SETATTR => self.setattr(request, reply),
            opcode::READLINK => reply.payload(self.readlink(request)),
            opcode::SYMLINK => self.reply_entry(reply, self.symlink(request)),
            opcode::MKNOD => self.reply_entry(reply, self.mknod(request)),
            opcode::MKDIR => self.reply_entry(reply, self.mkdir(request)),
            opcode::UNLINK => self.reply_removed(reply, self.unlink(request)),
            opcode::RMDIR => self.reply_removed(reply, self.rmdir(request)),
            opcode::RENAME | opcode::RENAME2 => self.rename(request, reply),
            opcode::LINK => self.reply_entry(reply, self.link(request)),
            opcode::OPEN => self.open(request, reply),
            opcode::CREATE => self.reply_create(reply, self.create(request, device)),
            opcode::TMPFILE => self.reply_create(reply, self.tmpfile(request, device)),
            opcode::READ => self.read(request, reply),
            opcode::WRITE => self.write(request, reply),
            opcode::STATFS => reply.out(self.statfs(request)),
            opcode::RELEASE => reply.ok(self.release(request)),
            opcode::FSYNC => reply.ok(self.fsync(request)),
            opcode::SETXATTR => reply.ok(self.setxattr(request)),
            opcode::GETXATTR => self.getxattr(request, reply),
            opcode::LISTXATTR => self.listxattr(request, reply),
            opcode::REMOVEXATTR => reply.ok(self.removexattr(request)),
            opcode::FLUSH => reply.ok(self.flush(request)),
            opcode::OPENDIR => self.reply_opendir(reply, self.opendir(request)),
            opcode::READDIR => reply.payload(self.readdir(request)),
            opcode::READDIRPLUS => self.reply_readdirplus(reply, self.readdirplus(request)),
            opcode::RELEASEDIR => reply.ok(self.releasedir(request)),
            opcode::FSYNCDIR => reply.ok(self.fsyncdir(request)),
            opcode::GETLK => reply.out(self.getlk(request)),
            opcode::SETLK => self.setlk(request, false, reply),
            opcode::SETLKW => self.setlk(request, true, reply),
            opcode::ACCESS => reply.ok(self.access(request)),
            opcode::IOCTL => self.ioctl(request, reply),
            opcode::FALLOCATE => reply.ok(self.fallocate(request)),
            opcode::LSEEK => reply.out(self.lseek(request)),
            opcode::COPY_FILE_RANGE => reply.out(self.copy_file_range(request)),
            opcode::DESTROY => reply.ok(Ok(())),
            // After ENOSYS the kernel sends these no more: POLL (regular files are always ready, poll(2)), BMAP, and
            // STATX, which would be sent each time that a program asks for a birth time, as many do without using it.
            _ => reply.error(Errno::NOSYS),
        }
    }

    fn was_abandoned(&self, bytes: &[u8]) {
        if let Some(request) = Request::parse(bytes) {
            self.inval_abandoned(&request);
        }
    }
}

/// Returns whether the kernel lets this process register backing files: `fuse_backing_open` requires CAP_SYS_ADMIN in the
/// initial user namespace.
#[must_use]
pub fn may_register_backing_files() -> bool {
    let capabilities = rustix::thread::capabilities(None);
    is_initial() && capabilities.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn attr_out(attr: &Attr, ttls: &Ttls) -> AttrOut {
    let (attr_valid, attr_valid_nsec) = ttl_parts(ttls.attr(attr));
    AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: fuse_attr(attr) }
}

/// The reply for an inode with this node id and generation.
fn entry_out(
    (nodeid, generation): (u64, u32),
    attr: &Attr,
    name_time: Duration,
    attr_time: Duration,
) -> EntryOut {
    let ((entry_valid, entry_valid_nsec), (attr_valid, attr_valid_nsec)) =
        (ttl_parts(name_time), ttl_parts(attr_time));
    EntryOut {
        nodeid,
        generation: generation.into(),
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: fuse_attr(attr),
    }
}
