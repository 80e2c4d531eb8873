//! Undoes replies that the kernel refuses, because the request was abandoned (`fuse/interrupts.rs`).
//!
//! Lookups and open files in the reply are released, and the kernel's caches of what the request changed are
//! invalidated.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zerocopy::{Immutable, IntoBytes};

use super::Operations;
use crate::fs::{Result, spawn_blocking};
use crate::fuse::protocol::layout::{
    CreateIn, CreateOut, EntryOut, LinkIn, MkdirIn, MknodIn, OpenOut, Rename2In, RenameIn,
};
use crate::fuse::protocol::{DirentBuffer, Reply, Request, opcode};
use crate::source::NodeId;
use crate::watch::Notifier;

/// Maximum number of threads that invalidate for killed clients at a time. Chosen.
const MAX_RUNNING: usize = 256;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// What an abandoned request has changed.
#[derive(Debug)]
enum Change {
    /// The data and attributes of an inode.
    Data(NodeId),
    /// A name in a directory.
    Name(NodeId, OsString),
}

impl Operations {
    /// Replies with an inode that was looked up, linked or created; forgets it if the kernel refuses the reply.
    pub(super) fn reply_entry(&self, reply: Reply, entry: Result<EntryOut>) {
        if !reply.deliver(bytes(&entry))
            && let Ok(entry) = entry
        {
            // After link(2) the file has one name more than the kernel has cached.
            self.kernel_cache.inval_inode(self.node_ids.node_id(entry.nodeid));
            self.forget_node(entry.nodeid, 1);
        }
    }

    /// Replies that names were removed. If the kernel refuses the reply, it does not count the names of the inodes that have
    /// lost one: what it has cached of them is invalidated.
    pub(super) fn reply_removed(&self, reply: Reply, unnamed: Result<Vec<NodeId>>) {
        if !reply.deliver(unnamed.as_ref().map(|_| &[][..]).map_err(|e| *e)) {
            for node in unnamed.into_iter().flatten() {
                self.kernel_cache.inval_inode(node);
            }
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
    ///
    /// A thread of its own does so, since the invalidation of a name waits for the directory's lock, and that of data for
    /// locked pages: a client can hold both, and no worker may wait for it.
    pub(super) fn inval_abandoned(&self, request: &Request<'_>) {
        let changes = self.changes_of(request);
        if changes.is_empty() {
            return;
        }
        if RUNNING.fetch_add(1, Ordering::AcqRel) >= MAX_RUNNING {
            RUNNING.fetch_sub(1, Ordering::AcqRel);
            return log::warn!(
                "{MAX_RUNNING} invalidations for killed clients wait, and stale names may be seen for up to ten \
                 minutes: unique={} nodeid={} pid={}",
                request.header.unique,
                request.header.nodeid,
                request.header.pid
            );
        }
        let kernel_cache = Arc::clone(&self.kernel_cache);
        let is_started = spawn_blocking(move || {
            for change in changes {
                match change {
                    Change::Data(node) => kernel_cache.inval_data(node),
                    Change::Name(dir, name) => {
                        kernel_cache.inval_entry(dir, &name);
                        kernel_cache.inval_readdir(dir);
                    }
                }
            }
            RUNNING.fetch_sub(1, Ordering::AcqRel);
        });
        if !is_started {
            RUNNING.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn changes_of(&self, request: &Request<'_>) -> Vec<Change> {
        let node = self.node(request);
        let name = match request.header.opcode {
            opcode::MKNOD => request.argument::<MknodIn>().and_then(|(_, rest)| rest.name()),
            opcode::MKDIR => request.argument::<MkdirIn>().and_then(|(_, rest)| rest.name()),
            opcode::CREATE => request.argument::<CreateIn>().and_then(|(_, rest)| rest.name()),
            opcode::LINK => request.argument::<LinkIn>().and_then(|(_, rest)| rest.name()),
            opcode::SYMLINK | opcode::UNLINK | opcode::RMDIR => request.body().name(),
            opcode::RENAME | opcode::RENAME2 => return self.changes_of_rename(request),
            opcode::SETATTR
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::IOCTL
            | opcode::WRITE
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE => return vec![Change::Data(node)],
            _ => return Vec::new(),
        };
        let name = name.map(|(name, _)| Change::Name(node, name.to_owned()));
        name.into_iter().collect()
    }

    fn changes_of_rename(&self, request: &Request<'_>) -> Vec<Change> {
        let parts = match request.header.opcode {
            opcode::RENAME => request.argument().map(|(RenameIn { newdir }, rest)| (newdir, rest)),
            _ => request.argument().map(|(Rename2In { newdir, .. }, rest)| (newdir, rest)),
        };
        let names = parts.and_then(|(newdir, rest)| {
            let (name, rest) = rest.name()?;
            Ok([(request.header.nodeid, name), (newdir, rest.name()?.0)])
        });
        let change = |(parent, name): (u64, &OsStr)| {
            Change::Name(self.node_ids.node_id(parent), name.to_owned())
        };
        names.into_iter().flatten().map(change).collect()
    }
}

fn bytes<T: IntoBytes + Immutable>(answer: &Result<T>) -> Result<&[u8]> {
    answer.as_ref().map(T::as_bytes).map_err(|e| *e)
}
