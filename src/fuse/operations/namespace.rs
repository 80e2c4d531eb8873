//! Directory entries: LOOKUP, FORGET, and requests that create, remove and rename.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Operations, entry_out};
use crate::fs::{Entry, Lookup, Moved, NewEntry, Result, spawn_blocking};
use crate::fuse::protocol::layout::{
    BatchForgetIn, EntryOut, ForgetIn, ForgetOne, LinkIn, MkdirIn, MknodIn, Rename2In, RenameIn,
};
use crate::fuse::protocol::{Reply, Request, opcode};
use crate::source::NodeId;

impl Operations {
    pub(super) fn lookup(&self, request: &Request<'_>) -> Result<EntryOut> {
        let name = request.name()?;
        let caller = request.caller()?;
        if let Some(root) = self.node_ids.lookup_root(request.header.nodeid, name) {
            let attr = self.fs.getattr(&caller, NodeId::ROOT)?;
            let time = self.ttls.attr(&attr);
            return Ok(entry_out((root, 0), &attr, time, time));
        }
        match self.fs.lookup(&caller, self.node(request), name)? {
            Lookup::Found(entry) => Ok(self.entry_out(&entry)),
            Lookup::Missing(validity) => match self.ttls.negative(validity) {
                Duration::ZERO => Err(Errno::NOENT),
                // An entry without an inode: the kernel caches a negative dentry.
                time => Ok(EntryOut {
                    entry_valid: time.as_secs(),
                    entry_valid_nsec: time.subsec_nanos(),
                    ..EntryOut::default()
                }),
            },
        }
    }

    pub(super) fn forget(&self, request: &Request<'_>) {
        if let Ok((argument, _)) = request.argument::<ForgetIn>() {
            self.forget_node(request.header.nodeid, argument.nlookup);
        }
    }

    pub(super) fn batch_forget(&self, request: &Request<'_>) {
        let Ok((argument, mut rest)) = request.argument::<BatchForgetIn>() else { return };
        for _ in 0..argument.count {
            let Ok((one, more)) = rest.argument::<ForgetOne>() else { return };
            self.forget_node(one.nodeid, one.nlookup);
            rest = more;
        }
    }

    pub(super) fn forget_node(&self, nodeid: u64, nlookup: u64) {
        let node = self.node_ids.node_id(nodeid);
        if self.fs.forget(node, nlookup) {
            self.backing_ids.evict(node);
        }
    }

    fn created(&self, entry: Result<Entry>) -> Result<EntryOut> {
        entry.map(|entry| self.entry_out(&entry))
    }

    pub(super) fn mknod(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (MknodIn { mode, rdev, umask, .. }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        let new = NewEntry { parent: self.node(request), name, mode, umask };
        self.created(self.fs.mknod(&request.caller()?, &new, rdev))
    }

    pub(super) fn mkdir(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (MkdirIn { mode, umask }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        let new = NewEntry { parent: self.node(request), name, mode, umask };
        self.created(self.fs.mkdir(&request.caller()?, &new))
    }

    pub(super) fn symlink(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (name, rest) = request.body().name()?;
        let (target, _) = rest.name()?;
        self.created(self.fs.symlink(&request.caller()?, self.node(request), name, target))
    }

    pub(super) fn link(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (LinkIn { oldnodeid }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        let node = self.node_ids.node_id(oldnodeid);
        self.created(self.fs.link(&request.caller()?, node, self.node(request), name))
    }

    pub(super) fn unlink(&self, request: &Request<'_>) -> Result<Vec<NodeId>> {
        self.fs.unlink(&request.caller()?, self.node(request), request.name()?)
    }

    pub(super) fn rmdir(&self, request: &Request<'_>) -> Result<Vec<NodeId>> {
        self.fs.rmdir(&request.caller()?, self.node(request), request.name()?)
    }

    pub(super) fn rename(&self, request: &Request<'_>, reply: Reply) {
        let parts = match request.header.opcode {
            opcode::RENAME => {
                request.argument().map(|(RenameIn { newdir }, rest)| (newdir, 0, rest))
            }
            _ => request.argument().map(|(argument, rest)| {
                let Rename2In { newdir, flags, .. } = argument;
                (newdir, flags, rest)
            }),
        };
        let renamed = parts.and_then(|(newdir, flags, rest)| {
            let (name, rest) = rest.name()?;
            let (new_name, _) = rest.name()?;
            let entries = [(self.node(request), name), (self.node_ids.node_id(newdir), new_name)];
            let [from, to] = entries;
            let flags = RenameFlags::from_bits_retain(flags);
            let moved = self.fs.rename(&request.caller()?, from, to, flags)?;
            Ok((moved, entries))
        });
        match renamed {
            Ok(((moved, unnamed), entries)) => {
                self.reply_removed(reply, Ok(unnamed));
                if moved == Moved::WithPaths {
                    self.inval_moved(&entries);
                }
            }
            Err(e) => reply.error(e),
        }
    }

    fn inval_moved(&self, entries: &[(NodeId, &OsStr); 2]) {
        let kernel_cache = Arc::clone(&self.kernel_cache);
        let entries = entries.map(|(dir, name)| (dir, name.to_owned()));
        // In a thread of its own: the kernel holds the directories' locks until it has the reply.
        spawn_blocking(move || kernel_cache.inval_moved(&entries));
    }
}
