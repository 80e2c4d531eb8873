//! The requests, each handed to the filesystem and its result to the reply. Nothing is decided here.

mod attributes;
mod directories;
mod files;
mod locks;
mod names;
mod opening;
mod xattrs;

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

pub(super) use locks::Waiting;

use super::backing::Backings;
use super::convert::{attributes, validity};
use super::data::Data;
use super::device::Device;
use super::notices::KernelCache;
use super::numbers::Numbers;
use super::protocol::init::{Wishes, flag, negotiate};
use super::protocol::layout::{AttrOut, EntryOut};
use super::protocol::{Reply, Request, opcode};
use super::request_log::LoggedRequest;
use super::status::Reloads;
use super::times::Times;
use crate::config::{Access, CachePolicy};
use crate::fs::{Attr, Entry, Fs, Result};
use crate::source::NodeId;
use crate::view::Checks;

/// Requests that the kernel may have under way in the background.
const MAX_BACKGROUND: u16 = 64;

/// One mount's answers to the kernel.
#[derive(Debug)]
pub(super) struct Operations {
    pub(super) fs: Arc<Fs>,
    pub(super) times: Times,
    pub(super) notices: Arc<KernelCache>,
    pub(super) backings: Arc<Backings>,
    pub(super) data: Arc<Data>,
    /// What is told to whoever asks for a reload.
    pub(super) reloads: Arc<Reloads>,
    pub(super) numbers: Numbers,
    /// Whether the kernel keeps directory listings until it is told that they changed.
    pub(super) keeps_listings: bool,
    pub(super) admission: Admission,
    pub(super) waiting: Arc<Waiting>,
}

/// Who is served at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    access: Access,
    /// Who mounted.
    owner: u32,
}

impl Admission {
    pub(super) fn new(access: Access) -> Self {
        Self { access, owner: rustix::process::geteuid().as_raw() }
    }

    /// Whether a request comes from root or from the user who mounted.
    fn is_mounter_or_root(self, request: &Request<'_>) -> bool {
        request.header.uid == self.owner || request.header.uid == 0
    }

    /// Whether a request is to be answered. What a user may have opened before, and what the kernel asks for by itself,
    /// under whose name ever, is not refused.
    fn admits(self, request: &Request<'_>) -> bool {
        let uid = request.header.uid;
        let admits = match self.access {
            Access::Everyone => true,
            Access::OwnerAndRoot => self.is_mounter_or_root(request),
            Access::Owner => uid == self.owner,
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
    /// Whether the kernel may keep listings under a cache policy.
    pub(super) fn keeps_listings(fs: &Fs, cache: CachePolicy) -> bool {
        // Where we check permissions, we must see who opens a directory.
        fs.needs().checks == Checks::Kernel
            && matches!(cache, CachePolicy::Coherent { .. } | CachePolicy::Forever)
    }

    /// Answers the kernel's first request.
    pub(super) fn begin(&self, device: &Arc<Device>) -> Result<()> {
        // ATOMIC_O_TRUNC is left out: the kernel then clears setuid bits of a truncated file by the caller's rights.
        let mut flags = flag::ASYNC_READ
            | flag::BIG_WRITES
            | flag::DONT_MASK
            | flag::PARALLEL_DIROPS
            | flag::CACHE_SYMLINKS
            | flag::AUTO_INVAL_DATA
            | flag::ASYNC_DIO
            | flag::NO_OPENDIR_SUPPORT
            // Spares a getxattr for every write(2). Which bits a write takes is then ours to see to.
            | flag::HANDLE_KILLPRIV_V2
            | flag::HAS_EXPIRE_ONLY
            | flag::PASSTHROUGH;
        let needs = self.fs.needs();
        let kernel_checks = needs.checks == Checks::Kernel;
        // Without extended attributes there are no ACLs to look for. Where we check permissions we look at them: for
        // the kernel the flag implies that it checks.
        if needs.xattrs && kernel_checks {
            flags |= flag::POSIX_ACL;
        }
        // Of no use where the kernel keeps no names.
        if kernel_checks {
            flags |= flag::DO_READDIRPLUS | flag::READDIRPLUS_AUTO;
        }
        // Else the kernel keeps them, within the mount.
        if self.data.locks_on_source {
            flags |= flag::POSIX_LOCKS | flag::FLOCK_LOCKS;
        }
        // Files past the page cache can be mapped all the same, also to be shared.
        if self.data.direct_io {
            flags |= flag::DIRECT_IO_ALLOW_MMAP;
        }
        let wishes = Wishes {
            flags,
            max_write: self.data.most_written,
            max_readahead: self.data.most_readahead,
            max_background: MAX_BACKGROUND,
            stack_depth: if self.fs.tree().is_stacked() { 2 } else { 1 },
        };
        let agreed = negotiate(device, &wishes)?;
        log::debug!("the kernel's FUSE lacks {:#x} of what was asked", flags & !agreed);
        if agreed & flag::HAS_EXPIRE_ONLY != 0 {
            self.notices.allow_expiry();
        }
        if agreed & flag::PASSTHROUGH == 0 {
            log::info!("the kernel's FUSE has no passthrough");
            self.fs.serves_all_data();
        }
        Ok(())
    }

    /// Answers a request, now or later.
    pub(super) fn serve(&self, bytes: &[u8], device: &Arc<Device>) {
        let Some(request) = Request::read(bytes) else {
            return log::error!("the kernel sent a request that is none");
        };
        let request = &request;
        if let opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT = request.header.opcode {
            return self.serve_without_reply(request);
        }
        let reply = Reply::logged(device, request);
        if !self.admission.admits(request) {
            return reply.error(Errno::ACCESS);
        }
        match request.header.opcode {
            opcode::LOOKUP => reply.with(self.lookup(request)),
            opcode::GETATTR => reply.with(self.getattr(request)),
            opcode::SETATTR => self.setattr(request, reply),
            opcode::READLINK => reply.data(self.readlink(request)),
            opcode::SYMLINK => reply.with(self.symlink(request)),
            opcode::MKNOD => reply.with(self.mknod(request)),
            opcode::MKDIR => reply.with(self.mkdir(request)),
            opcode::UNLINK => reply.done(self.unlink(request)),
            opcode::RMDIR => reply.done(self.rmdir(request)),
            opcode::RENAME | opcode::RENAME2 => self.rename(request, reply),
            opcode::LINK => reply.with(self.link(request)),
            opcode::OPEN => self.open(request, reply),
            opcode::CREATE => reply.with(self.create(request, device)),
            opcode::TMPFILE => reply.with(self.tmpfile(request, device)),
            opcode::READ => self.read(request, reply),
            opcode::WRITE => self.write(request, reply),
            opcode::STATFS => reply.with(self.statfs(request)),
            opcode::RELEASE => reply.done(self.release(request)),
            opcode::FSYNC => reply.done(self.fsync(request)),
            opcode::SETXATTR => reply.done(self.setxattr(request)),
            opcode::GETXATTR => self.getxattr(request, reply),
            opcode::LISTXATTR => self.listxattr(request, reply),
            opcode::REMOVEXATTR => reply.done(self.removexattr(request)),
            opcode::FLUSH => reply.done(self.flush(request)),
            opcode::OPENDIR => reply.with(self.opendir(request)),
            opcode::READDIR => reply.data(self.readdir(request)),
            opcode::READDIRPLUS => reply.data(self.readdirplus(request)),
            opcode::RELEASEDIR => reply.done(self.releasedir(request)),
            opcode::FSYNCDIR => reply.done(self.fsyncdir(request)),
            opcode::GETLK => reply.with(self.getlk(request)),
            opcode::SETLK => self.setlk(request, false, reply),
            opcode::SETLKW => self.setlk(request, true, reply),
            opcode::ACCESS => reply.done(self.access(request)),
            opcode::IOCTL => self.ioctl(request, reply),
            opcode::FALLOCATE => reply.done(self.fallocate(request)),
            opcode::LSEEK => reply.with(self.lseek(request)),
            opcode::COPY_FILE_RANGE => reply.with(self.copy_file_range(request)),
            opcode::DESTROY => reply.done(Ok(())),
            // Told so once, the kernel does without: POLL (regular files are always ready, poll(2)), BMAP, STATX (which
            // would be asked for each time that a program wants to know a birth time, as many do without looking at
            // it).
            _ => reply.error(Errno::NOSYS),
        }
    }

    /// Serves the requests that the kernel expects no reply to.
    fn serve_without_reply(&self, request: &Request<'_>) {
        LoggedRequest::new(request);
        match request.header.opcode {
            opcode::FORGET => self.forget(request),
            opcode::BATCH_FORGET => self.batch_forget(request),
            _ => self.interrupt(request),
        }
    }

    /// The node that a request is for.
    pub(super) fn node(&self, request: &Request<'_>) -> NodeId {
        self.numbers.node(request.header.node)
    }

    fn entry_out(&self, entry: &Entry) -> EntryOut {
        let (name, attr) = self.times.entry(entry);
        let node = (self.numbers.number(entry.node), entry.generation);
        entry_out(node, &entry.attr, name, attr)
    }

    fn attr_out(&self, attr: &Attr) -> AttrOut {
        attr_out(attr, &self.times)
    }
}

fn attr_out(attr: &Attr, times: &Times) -> AttrOut {
    let (valid, valid_nsec) = validity(times.attr(attr));
    AttrOut { valid, valid_nsec, padding: 0, attr: attributes(attr) }
}

/// The answer for an inode by its number and generation.
fn entry_out(
    (node, generation): (u64, u32),
    attr: &Attr,
    name_time: Duration,
    attr_time: Duration,
) -> EntryOut {
    let ((entry_valid, entry_valid_nsec), (attr_valid, attr_valid_nsec)) =
        (validity(name_time), validity(attr_time));
    EntryOut {
        node,
        generation: generation.into(),
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attributes(attr),
    }
}
