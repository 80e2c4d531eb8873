//! Opening files: whether the kernel reads and writes them by itself, and what may have to wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use fuser::{BackingId, FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen};
use rustix::fs::OFlags;

use super::adapter::Adapter;
use super::backing::Backings;
use super::convert::{errno, file_attr};
use crate::fs::{Caller, Entry, Fs, OpenFile, Opened, Result};
use crate::source::NodeId;
use crate::watch::Notices;

impl Adapter {
    /// Hands a file over to the kernel, as somebody with no more rights than its writers may have.
    fn register(
        &self,
        file: &OpenFile,
        hand_over: impl Fn(BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> std::io::Result<BackingId> {
        self.fs.hand_over()?;
        match hand_over(file.anchor()) {
            // Linux before 6.16 takes only files that are open for real.
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => hand_over(file.open()?.as_fd()),
            result => result,
        }
    }

    /// Whether what we read and write goes past the page cache.
    fn cache_flags(&self) -> FopenFlags {
        match self.data.direct_io {
            true => FopenFlags::FOPEN_DIRECT_IO,
            false => FopenFlags::empty(),
        }
    }

    pub(super) fn close(&self, handle: u64) {
        close(&self.fs, &self.backings, handle);
    }

    /// Opens a file and answers how: the kernel reads and writes it by itself, or we do.
    pub(super) fn answer_open(
        &self,
        caller: Result<Caller>,
        node: NodeId,
        flags: OFlags,
        reply: ReplyOpen,
    ) {
        let opened = match caller.and_then(|caller| self.fs.open(&caller, node, flags)) {
            Ok(opened) => opened,
            Err(rustix::io::Errno::ISDIR) => {
                return match self.fs.open_for_ioctl(node) {
                    Ok(opened) => reply.opened(FileHandle(opened.handle), FopenFlags::empty()),
                    Err(e) => reply.error(errno(e)),
                };
            }
            Err(e) => return reply.error(errno(e)),
        };
        if opened.stale_attributes {
            self.notices.attributes(node);
        }
        let (handle, file) = (FileHandle(opened.handle), &opened.file);
        let register = || self.register(file, |fd| reply.open_backing(fd));
        let id = self.backings.open(file.inode(), || opened.may_pass, register);
        let flags = flush_flags(&opened);
        if let Some(id) = id {
            return reply.opened_passthrough(handle, flags, &id);
        }
        let flags = flags | self.cache_flags();
        match file.open() {
            Ok(_) => reply.opened(handle, flags),
            Err(rustix::io::Errno::AGAIN) => {
                let (fs, backings) = (Arc::clone(&self.fs), Arc::clone(&self.backings));
                let file = Arc::clone(file);
                beside(move || match file.open_and_wait() {
                    Ok(_) => reply.opened(handle, flags),
                    Err(e) => {
                        close(&fs, &backings, handle.0);
                        reply.error(errno(e));
                    }
                });
            }
            Err(e) => {
                self.close(opened.handle);
                reply.error(errno(e));
            }
        }
    }

    /// Answers for a file that was made and opened.
    pub(super) fn answer_create(&self, made: Result<(Entry, Opened)>, reply: ReplyCreate) {
        match made {
            Ok((entry, opened)) => {
                let (handle, file) = (FileHandle(opened.handle), &opened.file);
                let register = || self.register(file, |fd| reply.open_backing(fd));
                let id = self.backings.open(file.inode(), || opened.may_pass, register);
                let ttl = self.times.both(&entry);
                let (attr, generation) = (file_attr(&entry.attr), Generation(0));
                let flags = FopenFlags::empty();
                match id {
                    Some(id) => {
                        reply.created_passthrough(&ttl, &attr, generation, handle, flags, &id);
                    }
                    None => {
                        reply.created(&ttl, &attr, generation, handle, flags | self.cache_flags());
                    }
                }
            }
            Err(e) => reply.error(errno(e)),
        }
    }
}

/// Whether the kernel is to tell of each close. What was opened for reading has nothing to lose by it but read locks, which
/// go with the last close then.
///
/// Of what was opened for writing it must tell where locks are held on the source, though most who write take no lock.
/// Whether it tells is settled at open, and a lock can be taken later, through this descriptor or another: it must be gone
/// when close(2) returns (fcntl(2)), and this is the only word of the closing process that comes by then. The last
/// close's own (RELEASE) comes some time afterwards, and not at all while a copy of the descriptor (dup(2), fork(2)) is
/// open elsewhere. Where the kernel keeps the locks, it is told at the first close to tell of no other; what was written
/// through a mapping is written out at each close all the same, and its errors are told.
fn flush_flags(opened: &Opened) -> FopenFlags {
    match opened.needs_flush {
        true => FopenFlags::empty(),
        false => FopenFlags::FOPEN_NOFLUSH,
    }
}

fn close(fs: &Fs, backings: &Backings, handle: u64) {
    if let Ok(file) = fs.release(handle) {
        backings.close(file.inode());
    }
}

/// Answers a request that has to wait for somebody in a thread of its own, so that no worker does. Without a thread the
/// request is answered with EIO, when its reply is dropped.
pub(super) fn beside(answer: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("waiter".into()).stack_size(256 * 1024);
    if let Err(e) = thread.spawn(answer) {
        log::warn!("no thread to wait in: {e}");
    }
}
