//! OPEN, CREATE and TMPFILE: chooses whether the kernel reads and writes the file, and waits for leases.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::Operations;
use crate::error::errno_field;
use crate::fs::{Entry, Fs, NewEntry, OpenFile, OpenedFile, Result};
use crate::fuse::backing_ids::BackingIds;
use crate::fuse::convert::open_flags;
use crate::fuse::device::{Backing, Device};
use crate::fuse::protocol::layout::{CreateIn, CreateOut, OpenIn, OpenOut, fopen};
use crate::fuse::protocol::{Reply, Request};
use crate::watch::Notifier;

impl Operations {
    /// Registers a file for passthrough, with no more rights than the file's writers may have.
    fn register_backing(&self, device: &Arc<Device>, file: &OpenFile) -> Result<Backing> {
        let opened = self.fs.act_for_backing_open().and_then(|()| {
            match device.open_backing(file.anchor()) {
                // Linux before 6.16 takes no O_PATH descriptor.
                Err(Errno::BADF) => device.open_backing(file.open()?.as_fd()),
                result => result,
            }
        });
        // The daemon may not (no CAP_SYS_ADMIN), or the kernel cannot. Neither will change.
        if let Err(e @ (Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP)) = opened {
            let (node, errno) = (file.inode().node(), errno_field(e));
            log::info!("no FUSE passthrough from now on: nodeid={node} {errno}");
            self.fs.disable_passthrough();
        }
        opened
    }

    /// The open flags of a file that the daemon reads and writes.
    fn cache_flags(&self) -> u32 {
        if self.data.direct_io { fopen::DIRECT_IO } else { 0 }
    }

    pub(super) fn close(&self, handle: u64) {
        close(&self.fs, &self.backing_ids, handle);
    }

    /// Opens a directory on which only ioctl(2) is to be called.
    fn open_for_ioctl(&self, request: &Request<'_>, reply: Reply) {
        let node = self.node(request);
        match request.caller().and_then(|caller| self.fs.open_for_ioctl(&caller, node)) {
            Ok(opened) => {
                let answer = open_out(opened.handle, 0);
                reply_open(&answer, reply, &self.fs, &self.backing_ids);
            }
            Err(e) => reply.error(e),
        }
    }

    /// Opens a file. The reply says whether the kernel reads and writes it by itself.
    pub(super) fn open(&self, request: &Request<'_>, reply: Reply) {
        let node = self.node(request);
        let opened = request.argument().and_then(|(OpenIn { flags, .. }, _)| {
            let flags = open_flags(flags);
            let caller = request.caller()?;
            Ok((self.fs.open(&caller, node, flags)?, caller, flags.contains(OFlags::NONBLOCK)))
        });
        let (opened, caller, must_not_wait) = match opened {
            Ok(opened) => opened,
            Err(Errno::ISDIR) => return self.open_for_ioctl(request, reply),
            Err(e) => return reply.error(e),
        };
        if opened.stale_attributes {
            self.kernel_cache.inval_inode(node);
        }
        let (handle, file) = (opened.handle, &opened.file);
        let register_backing = || self.register_backing(reply.device(), file);
        let id = self.backing_ids.open(file.inode(), || opened.may_pass_through, register_backing);
        let mut flags = flush_flags(file, self.data.locks_on_source);
        let answer = match &id {
            Some(id) => passthrough_out(handle, flags, id),
            None => {
                flags |= self.cache_flags();
                if self.data.limits_reads() {
                    // Without KEEP_CACHE the kernel would drop the file's pages, and wait for those with reads queued
                    // for the rate. It drops them by the attributes that it now has to fetch, if the file has changed.
                    self.kernel_cache.inval_inode(node);
                    flags |= fopen::KEEP_CACHE;
                }
                open_out(handle, flags)
            }
        };
        // A passthrough file is opened here, too. What the kernel says when it cannot open the backing file reaches the
        // client as EIO (`fuse_file_io_open`), and the kernel does not check at all whether the source is a read-only
        // part of its filesystem (a snapshot of btrfs). For reading, only a lease can be in the way.
        if id.is_some() && !file.is_writable() && !must_not_wait {
            return reply_open(&answer, reply, &self.fs, &self.backing_ids);
        }
        match file.open() {
            Ok(_) => reply_open(&answer, reply, &self.fs, &self.backing_ids),
            Err(Errno::AGAIN) if !must_not_wait => {
                let (fs, backing_ids) = (Arc::clone(&self.fs), Arc::clone(&self.backing_ids));
                let file = Arc::clone(file);
                let wait = move || file.open_and_wait().map(drop);
                let done = move |result| match result {
                    Ok(()) => reply_open(&answer, reply, &fs, &backing_ids),
                    Err(e) => {
                        close(&fs, &backing_ids, handle);
                        reply.error(e);
                    }
                };
                self.fs.wait_for_lease(&caller, request.header.unique, wait, done);
            }
            Err(e) => {
                self.close(opened.handle);
                reply.error(e);
            }
        }
    }

    /// Creates a file and opens it.
    pub(super) fn create(&self, request: &Request<'_>, device: &Arc<Device>) -> Result<CreateOut> {
        let (CreateIn { flags, mode, umask, .. }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        let new = NewEntry { parent: self.node(request), name, mode, umask };
        let created = self.fs.create(&request.caller()?, &new, open_flags(flags))?;
        Ok(self.created_out(created, device))
    }

    /// Creates a file without a name and opens it.
    pub(super) fn tmpfile(&self, request: &Request<'_>, device: &Arc<Device>) -> Result<CreateOut> {
        let (CreateIn { flags, mode, umask, .. }, _) = request.argument()?;
        let (caller, parent) = (request.caller()?, self.node(request));
        let created = self.fs.tmpfile(&caller, parent, mode, umask, open_flags(flags))?;
        Ok(self.created_out(created, device))
    }

    fn created_out(&self, (entry, opened): (Entry, OpenedFile), device: &Arc<Device>) -> CreateOut {
        let (handle, file) = (opened.handle, &opened.file);
        let register_backing = || self.register_backing(device, file);
        let id = self.backing_ids.open(file.inode(), || opened.may_pass_through, register_backing);
        let open = match id {
            Some(id) => passthrough_out(handle, 0, &id),
            None => open_out(handle, self.cache_flags()),
        };
        CreateOut { entry: self.entry_out(&entry), open }
    }
}

fn open_out(handle: u64, open_flags: u32) -> OpenOut {
    OpenOut { fh: handle, open_flags, backing_id: 0 }
}

fn passthrough_out(handle: u64, flags: u32, backing: &Backing) -> OpenOut {
    OpenOut { fh: handle, open_flags: flags | fopen::PASSTHROUGH, backing_id: backing.id() }
}

/// The open flag that says whether the kernel sends FLUSH at each close(2), and not only RELEASE after the last one.
///
/// Where locks are held on the source, files opened for reading need FLUSH as well. A close of any descriptor of a file
/// releases all POSIX locks that the process has on it, and they must be gone when close(2) returns (fcntl(2)). FLUSH
/// is the only request that arrives by then: RELEASE comes after close(2) has returned, and not at all while a copy of
/// the descriptor (dup(2), fork(2)) is open. The flag is chosen at open, when no lock is held yet, and the kernel sends
/// no unlock by itself, because it has no list of locks that the daemon holds (`locks_remove_posix`).
///
/// Where the kernel keeps the locks, it sends FLUSH at the first close only, which fails with ENOSYS. It still writes
/// out at each close what was written through a mapping, and reports the errors.
fn flush_flags(file: &OpenFile, locks_on_source: bool) -> u32 {
    if locks_on_source || file.is_writable() { 0 } else { fopen::NOFLUSH }
}

/// Replies with an open file; closes it if the kernel refuses the reply.
fn reply_open(answer: &OpenOut, reply: Reply, fs: &Fs, backing_ids: &BackingIds) {
    if !reply.deliver(Ok(answer.as_bytes())) {
        close(fs, backing_ids, answer.fh);
    }
}
fn close(fs: &Fs, backing_ids: &BackingIds, handle: u64) {
    if let Ok(file) = fs.release(handle) {
        backing_ids.close(file.inode());
    }
}
