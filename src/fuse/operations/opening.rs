//! Opening files: whether the kernel reads and writes them by itself, and what may have to wait.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Operations;
use crate::fs::{Entry, Fs, OpenFile, OpenedFile, Result};
use crate::fuse::backing_ids::BackingIds;
use crate::fuse::convert::open_flags;
use crate::fuse::device::{Backing, Device};
use crate::fuse::protocol::layout::{CreateIn, CreateOut, OpenIn, OpenOut, fopen};
use crate::fuse::protocol::{Reply, Request};
use crate::watch::Notifier;

impl Operations {
    /// Hands a file over to the kernel, as somebody with no more rights than its writers may have.
    fn register_backing(&self, device: &Arc<Device>, file: &OpenFile) -> Result<Backing> {
        let opened = self.fs.act_for_backing_open().and_then(|()| {
            match device.open_backing(file.anchor()) {
                // Linux before 6.16 takes only files that are open for real.
                Err(Errno::BADF) => device.open_backing(file.open()?.as_fd()),
                result => result,
            }
        });
        // Not ours to have (no CAP_SYS_ADMIN), or a kernel without it: it will not change.
        if let Err(e @ (Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP)) = opened {
            log::info!("no FUSE passthrough: {e}");
            self.fs.disable_passthrough();
        }
        opened
    }

    /// Whether what we read and write goes past the page cache.
    fn cache_flags(&self) -> u32 {
        if self.data.direct_io { fopen::DIRECT_IO } else { 0 }
    }

    pub(super) fn close(&self, handle: u64) {
        close(&self.fs, &self.backing_ids, handle);
    }

    /// Opens a file and answers how: the kernel reads and writes it by itself, or we do.
    pub(super) fn open(&self, request: &Request<'_>, reply: Reply) {
        let node = self.node(request);
        let opened = request.argument().and_then(|(OpenIn { flags, .. }, _)| {
            let flags = open_flags(flags);
            let caller = request.caller()?;
            Ok((self.fs.open(&caller, node, flags)?, caller, flags.contains(OFlags::NONBLOCK)))
        });
        let (opened, caller, must_not_wait) = match opened {
            Ok(opened) => opened,
            Err(Errno::ISDIR) => {
                let opened = self.fs.open_for_ioctl(node);
                return reply.out(opened.map(|opened| open_out(opened.handle, 0)));
            }
            Err(e) => return reply.error(e),
        };
        if opened.stale_attributes {
            self.kernel_cache.inval_inode(node);
        }
        let (handle, file) = (opened.handle, &opened.file);
        let register_backing = || self.register_backing(reply.device(), file);
        let id = self.backing_ids.open(file.inode(), || opened.may_pass_through, register_backing);
        let mut flags = flush_flags(&opened);
        let answer = match &id {
            Some(id) => passthrough_out(handle, flags, id),
            None => {
                flags |= self.cache_flags();
                if self.data.limits_reads() {
                    // To drop its pages, the kernel would wait for those that wait for their turn. It drops them by the
                    // attributes that it is made to ask for, if the file has changed.
                    self.kernel_cache.inval_inode(node);
                    flags |= fopen::KEEP_CACHE;
                }
                open_out(handle, flags)
            }
        };
        // Of what is passed, too: whatever the source has against it when the kernel opens it by itself, the caller is
        // told EIO (`fuse_file_io_open`), and whether a read-only part of a filesystem may be written the kernel does
        // not ask at all (a snapshot of btrfs). To read, nothing else can stand in the way than a lease.
        if id.is_some() && !file.is_writable() && !must_not_wait {
            return reply.out(Ok(answer));
        }
        match file.open() {
            Ok(_) => reply.out(Ok(answer)),
            Err(Errno::AGAIN) if !must_not_wait => {
                let (fs, backing_ids) = (Arc::clone(&self.fs), Arc::clone(&self.backing_ids));
                let file = Arc::clone(file);
                let wait = move || file.open_and_wait().map(drop);
                let done = move |result| match result {
                    Ok(()) => reply.out(Ok(answer)),
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

    /// Makes a file and opens it.
    pub(super) fn create(&self, request: &Request<'_>, device: &Arc<Device>) -> Result<CreateOut> {
        let (CreateIn { flags, mode, umask, .. }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        let (caller, parent) = (request.caller()?, self.node(request));
        let created = self.fs.create(&caller, parent, name, mode, umask, open_flags(flags))?;
        Ok(self.created_out(created, device))
    }

    /// Makes a file without a name and opens it.
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

/// Whether the kernel is to tell of each close. What was opened for reading has nothing to lose by it but read locks,
/// which go with the last close then.
///
/// Of what was opened for writing it must tell where locks are held on the source, though most who write take no lock.
/// Whether it tells is settled at open, and a lock can be taken later, through this descriptor or another: it must be
/// gone when close(2) returns (fcntl(2)), and this is the only word of the closing process that comes by then. The last
/// close's own (RELEASE) comes some time afterwards, and not at all while a copy of the descriptor (dup(2), fork(2)) is
/// open elsewhere. Where the kernel keeps the locks, it is told at the first close to tell of no other; what was
/// written through a mapping is written out at each close all the same, and its errors are told.
fn flush_flags(opened: &OpenedFile) -> u32 {
    if opened.needs_flush { 0 } else { fopen::NOFLUSH }
}

fn close(fs: &Fs, backing_ids: &BackingIds, handle: u64) {
    if let Ok(file) = fs.release(handle) {
        backing_ids.close(file.inode());
    }
}
