//! Requests on open files: data, space, RELEASE and IOCTL.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde_json::{Map, Value, json};

use super::Operations;
use crate::fs::{HitCount, Ioctl, Read, Result, Write, sets_flags, spawn_blocking};
use crate::fuse::convert::{is_direct, open_flags};
use crate::fuse::device::Device;
use crate::fuse::protocol::layout::{
    CopyFileRangeIn, FSYNC_FDATASYNC, FallocateIn, FsyncIn, IoctlIn, IoctlOut, LseekIn, LseekOut,
    READ_LOCKOWNER, ReadIn, ReleaseIn, WriteIn, WriteOut, ioctl, write,
};
use crate::fuse::protocol::{NOTIFICATIONS, Reply, Request};
use crate::fuse::status::STATUS_IOCTL;
use crate::fuse::status_report::REPORT_IOCTL;
use crate::source::NodeId;
use crate::watch::Notifier;

impl Operations {
    pub(super) fn read(&self, request: &Request<'_>, reply: Reply) {
        let parts =
            request.argument::<ReadIn>().and_then(|(asked, _)| Ok((asked, request.caller()?)));
        let (asked, caller) = match parts {
            Ok(parts) => parts,
            Err(e) => return reply.error(e),
        };
        // Without a lock owner the page cache reads, and the kernel does not say for which process.
        let for_cache = asked.read_flags & READ_LOCKOWNER == 0;
        let direct = is_direct(asked.flags) && !for_cache;
        let read = Read { handle: asked.fh, offset: asked.offset, direct, for_cache };
        self.data.read(&self.fs, caller, read, asked.size as usize, move |data| {
            reply.payload(data);
        });
    }

    pub(super) fn write(&self, request: &Request<'_>, reply: Reply) {
        let parts = request
            .argument::<WriteIn>()
            .and_then(|(asked, rest)| Ok((asked, rest.bytes(asked.size)?, request.caller()?)));
        let (asked, data, caller) = match parts {
            Ok(parts) => parts,
            Err(e) => return reply.error(e),
        };
        let is = |flag: u32| asked.write_flags & flag != 0;
        // Write-back of the page cache (FUSE_WRITE_CACHE) goes to the offset that was mapped, also in a file opened to
        // append. It has no client: the ids are the kernel's own, and the pid is 0 before Linux 7.2, and since then
        // that of the thread that happens to write back (`fuse_fill_creds`). No other field of the request tells
        // write-back apart.
        let is_cached = is(write::CACHE);
        let caller = if is_cached { caller.without_thread() } else { caller };
        let how = Write {
            handle: asked.fh,
            offset: asked.offset,
            direct: is_direct(asked.flags) && is(write::LOCKOWNER),
            appends: open_flags(asked.flags).contains(OFlags::APPEND) && !is_cached,
            takes_privileges: is(write::KILL_SUIDGID),
        };
        self.data.write(&self.fs, caller, data, how, move |written| {
            reply.device().counts().written(written.unwrap_or(0));
            reply.out(written.map(write_out));
        });
    }

    pub(super) fn release(&self, request: &Request<'_>) -> Result<()> {
        let (ReleaseIn { fh: handle, .. }, _) = request.argument()?;
        self.close(handle);
        Ok(())
    }

    pub(super) fn fsync(&self, request: &Request<'_>) -> Result<()> {
        let (FsyncIn { fh: handle, flags, .. }, _) = request.argument()?;
        self.fs.fsync(&request.caller()?, handle, flags & FSYNC_FDATASYNC != 0)
    }

    pub(super) fn fallocate(&self, request: &Request<'_>) -> Result<()> {
        let (FallocateIn { fh: handle, offset, length, mode, .. }, _) = request.argument()?;
        self.fs.fallocate(&request.caller()?, handle, mode as i32, offset, length)
    }

    pub(super) fn lseek(&self, request: &Request<'_>) -> Result<LseekOut> {
        let (LseekIn { fh: handle, offset, whence, .. }, _) = request.argument()?;
        let offset = self.fs.lseek(&request.caller()?, handle, offset as i64, whence as i32)?;
        Ok(LseekOut { offset })
    }

    pub(super) fn copy_file_range(&self, request: &Request<'_>) -> Result<WriteOut> {
        if self.data.is_rate_limited() {
            // The kernel then copies by reads and writes, which the rate limits.
            return Err(Errno::OPNOTSUPP);
        }
        let (asked, _) = request.argument::<CopyFileRangeIn>()?;
        let (from, to) = ((asked.fh_in, asked.off_in), (asked.fh_out, asked.off_out));
        let is_interrupted = || self.interrupts.contains(request.header.unique);
        let caller = request.caller()?;
        self.fs.copy_file_range(&caller, from, to, asked.len, is_interrupted).map(write_out)
    }

    pub(super) fn ioctl(&self, request: &Request<'_>, reply: Reply) {
        let parts = request
            .argument::<IoctlIn>()
            .and_then(|(asked, rest)| Ok((asked, rest.bytes(asked.in_size)?)));
        let (asked, input) = match parts {
            Ok(parts) => parts,
            Err(e) => return reply.error(e),
        };
        let node = self.node(request);
        if asked.cmd == STATUS_IOCTL && node == NodeId::ROOT && self.admission.tells() {
            let in_full = self.admission.is_mounter_or_root(request);
            return reply_ioctl(reply, Ok((0, self.reloads.answer(in_full))));
        }
        if asked.cmd == REPORT_IOCTL && node == NodeId::ROOT && self.admission.tells() {
            let answer = match self.admission.is_mounter_or_root(request) {
                true => self.report.answer(input, || self.numbers(reply.device())),
                false => Err(Errno::PERM),
            };
            return reply_ioctl(reply, answer.map(|bytes| (0, bytes)));
        }
        let caller = match request.caller() {
            Ok(caller) => caller,
            Err(e) => return reply.error(e),
        };
        let out_size = asked.out_size as usize;
        let forwarded = Ioctl {
            node,
            handle: asked.fh,
            is_dir: asked.flags & ioctl::DIR != 0,
            is_compat: asked.flags & ioctl::COMPAT != 0,
            command: asked.cmd,
            out_size,
        };
        if self.fs.forwards(&forwarded) {
            let (fs, kernel_cache) = (Arc::clone(&self.fs), Arc::clone(&self.kernel_cache));
            let input = input.to_vec();
            spawn_blocking(move || {
                let answer = fs.forward_ioctl(&caller, &forwarded, &input);
                // Before the reply, so that the client then sees what the ioctl changed.
                kernel_cache.inval_inode(node);
                reply_ioctl(reply, answer);
            });
            return;
        }
        let output = self.fs.ioctl(&caller, node, asked.cmd, input, out_size);
        if sets_flags(asked.cmd) {
            self.kernel_cache.inval_inode(node);
        }
        reply_ioctl(reply, output.map(|output| (0, output)));
    }
}

impl Operations {
    /// The part of the report that changes all the time.
    /// The report, as JSON.
    pub(in crate::fuse) fn report_text(&self, device: &Device) -> String {
        self.report.text(self.numbers(device))
    }

    fn numbers(&self, device: &Device) -> Map<String, Value> {
        let (counts, usage) = (device.counts(), self.fs.usage());
        let hits = |hits: HitCount| json!({ "hits": hits.hits, "misses": hits.misses });
        let numbers = [
            ("reloads", self.reloads.describe()),
            ("requests", counts.describe()),
            ("data", counts.describe_data()),
            ("invalidations", counts.describe_notifications(&NOTIFICATIONS)),
            ("inodes", self.fs.tree().inode_count().into()),
            ("open", json!({ "files": usage.files, "directories": usage.directories })),
            ("backing_files", self.backing_ids.describe()),
            (
                "caches",
                json!({ "descriptors": hits(usage.descriptors), "listings": hits(usage.listings) }),
            ),
        ];
        numbers.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
    }
}

fn reply_ioctl(reply: Reply, answer: Result<(i32, impl AsRef<[u8]>)>) {
    match answer {
        Ok((result, output)) => {
            reply.out_and_payload(&IoctlOut { result, ..IoctlOut::default() }, output.as_ref());
        }
        Err(e) => reply.error(e),
    }
}

fn write_out(count: usize) -> WriteOut {
    WriteOut { size: count as u32, padding: 0 }
}
