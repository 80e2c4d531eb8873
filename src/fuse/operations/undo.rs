//! Undoes replies that the kernel refuses, because the request was abandoned (`fuse/interrupts.rs`).
//!
//! Lookups and open files in the reply are released, and the kernel's caches of what the request changed are
//! invalidated.

use zerocopy::{Immutable, IntoBytes};

use super::Operations;
use crate::fs::Result;
use crate::fuse::protocol::layout::{
    CreateIn, CreateOut, EntryOut, LinkIn, MkdirIn, MknodIn, OpenOut, Rename2In, RenameIn,
};
use crate::fuse::protocol::{DirentBuffer, Reply, Request, opcode};
use crate::watch::Notifier;

impl Operations {
    /// Replies with an inode that was looked up or created; forgets it if the kernel refuses the reply.
    pub(super) fn reply_entry(&self, reply: Reply, entry: Result<EntryOut>) {
        if !reply.deliver(bytes(&entry))
            && let Ok(entry) = entry
        {
            self.forget_node(entry.nodeid, 1);
        }
    }

    /// Replies with a file that was created and opened; closes and forgets it if the kernel refuses the reply.
    pub(super) fn reply_create(&self, reply: Reply, created: Result<CreateOut>) {
        if !reply.deliver(bytes(&created))
            && let Ok(CreateOut { entry, open }) = created
        {
            self.close(open.fh);
            self.forget_node(entry.nodeid, 1);
        }
    }

    /// Replies with a directory that was opened; closes it if the kernel refuses the reply.
    pub(super) fn reply_opendir(&self, reply: Reply, opened: Result<OpenOut>) {
        if !reply.deliver(bytes(&opened))
            && let Ok(opened) = opened
        {
            // It cannot fail: the kernel does not know the handle, so nothing else has released it.
            let _ = self.fs.releasedir(opened.fh);
        }
    }

    /// Replies with entries whose inodes were looked up; forgets them if the kernel refuses the reply.
    pub(super) fn reply_readdirplus(&self, reply: Reply, entries: Result<DirentBuffer>) {
        if !reply.deliver(entries.as_ref().map(AsRef::as_ref).map_err(|e| *e))
            && let Ok(entries) = entries
        {
            for nodeid in entries.nodeids() {
                self.forget_node(nodeid, 1);
            }
        }
    }

    /// Invalidates what an abandoned request has changed: the kernel cached it before, or since its client got EINTR.
    pub(super) fn inval_abandoned(&self, request: &Request<'_>) {
        let node = self.node(request);
        let name = match request.header.opcode {
            opcode::MKNOD => request.argument::<MknodIn>().and_then(|(_, rest)| rest.name()),
            opcode::MKDIR => request.argument::<MkdirIn>().and_then(|(_, rest)| rest.name()),
            opcode::CREATE => request.argument::<CreateIn>().and_then(|(_, rest)| rest.name()),
            opcode::LINK => request.argument::<LinkIn>().and_then(|(_, rest)| rest.name()),
            opcode::SYMLINK | opcode::UNLINK | opcode::RMDIR => request.body().name(),
            opcode::RENAME | opcode::RENAME2 => return self.inval_abandoned_rename(request),
            opcode::SETATTR
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::IOCTL
            | opcode::WRITE
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE => return self.kernel_cache.inval_data(node),
            _ => return,
        };
        if let Ok((name, _)) = name {
            self.kernel_cache.inval_entry(node, name);
            self.kernel_cache.inval_readdir(node);
        }
    }

    fn inval_abandoned_rename(&self, request: &Request<'_>) {
        let parts = match request.header.opcode {
            opcode::RENAME => request.argument().map(|(RenameIn { newdir }, rest)| (newdir, rest)),
            _ => request.argument().map(|(Rename2In { newdir, .. }, rest)| (newdir, rest)),
        };
        let names = parts.and_then(|(newdir, rest)| {
            let (name, rest) = rest.name()?;
            Ok([(request.header.nodeid, name), (newdir, rest.name()?.0)])
        });
        for (parent, name) in names.into_iter().flatten() {
            let dir = self.node_ids.node_id(parent);
            self.kernel_cache.inval_entry(dir, name);
            self.kernel_cache.inval_readdir(dir);
        }
    }
}

fn bytes<T: IntoBytes + Immutable>(answer: &Result<T>) -> Result<&[u8]> {
    answer.as_ref().map(T::as_bytes).map_err(|e| *e)
}
