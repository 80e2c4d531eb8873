//! Names: look-ups and what the kernel gives back of them, making, removing and moving.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Operations, entry_out};
use crate::fs::{Entry, Lookup, Moved, Result, beside};
use crate::fuse::protocol::layout::{
    BatchForgetIn, EntryOut, ForgetIn, ForgetOne, LinkIn, MkdirIn, MknodIn, Rename2In, RenameIn,
};
use crate::fuse::protocol::{Reply, Request, opcode};
use crate::source::NodeId;

impl Operations {
    pub(super) fn lookup(&self, request: &Request<'_>) -> Result<EntryOut> {
        let name = request.name()?;
        let caller = request.caller()?;
        if let Some(root) = self.numbers.root_at(request.header.node, name) {
            let attr = self.fs.getattr(&caller, NodeId::ROOT)?;
            let time = self.times.attr(&attr);
            return Ok(entry_out((root, 0), &attr, time, time));
        }
        match self.fs.lookup(&caller, self.node(request), name)? {
            Lookup::Found(entry) => Ok(self.entry_out(&entry)),
            Lookup::Missing(trust) => match self.times.missing(trust) {
                Duration::ZERO => Err(Errno::NOENT),
                // An entry without an inode: the kernel remembers that there is none.
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
            self.give_back(request.header.node, argument.lookups);
        }
    }

    pub(super) fn batch_forget(&self, request: &Request<'_>) {
        let Ok((argument, mut rest)) = request.argument::<BatchForgetIn>() else { return };
        for _ in 0..argument.count {
            let Ok((one, more)) = rest.argument::<ForgetOne>() else { return };
            self.give_back(one.node, one.lookups);
            rest = more;
        }
    }

    fn give_back(&self, number: u64, lookups: u64) {
        let node = self.numbers.node(number);
        if self.fs.forget(node, lookups) {
            self.backings.cool(node);
        }
    }

    fn made(&self, entry: Result<Entry>) -> Result<EntryOut> {
        entry.map(|entry| self.entry_out(&entry))
    }

    pub(super) fn mknod(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (MknodIn { mode, rdev, umask, .. }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        let node = self.node(request);
        self.made(self.fs.mknod(&request.caller()?, node, name, mode, umask, rdev))
    }

    pub(super) fn mkdir(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (MkdirIn { mode, umask }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        self.made(self.fs.mkdir(&request.caller()?, self.node(request), name, mode, umask))
    }

    pub(super) fn symlink(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (name, rest) = request.body().name()?;
        let (target, _) = rest.name()?;
        self.made(self.fs.symlink(&request.caller()?, self.node(request), name, target))
    }

    pub(super) fn link(&self, request: &Request<'_>) -> Result<EntryOut> {
        let (LinkIn { node }, rest) = request.argument()?;
        let (name, _) = rest.name()?;
        let node = self.numbers.node(node);
        self.made(self.fs.link(&request.caller()?, node, self.node(request), name))
    }

    pub(super) fn unlink(&self, request: &Request<'_>) -> Result<()> {
        self.fs.unlink(&request.caller()?, self.node(request), request.name()?)
    }

    pub(super) fn rmdir(&self, request: &Request<'_>) -> Result<()> {
        self.fs.rmdir(&request.caller()?, self.node(request), request.name()?)
    }

    pub(super) fn rename(&self, request: &Request<'_>, reply: Reply) {
        let parts = match request.header.opcode {
            opcode::RENAME => {
                request.argument().map(|(RenameIn { new_parent }, rest)| (new_parent, 0, rest))
            }
            _ => request.argument().map(|(argument, rest)| {
                let Rename2In { new_parent, flags, .. } = argument;
                (new_parent, flags, rest)
            }),
        };
        let renamed = parts.and_then(|(new_parent, flags, rest)| {
            let (name, rest) = rest.name()?;
            let (new_name, _) = rest.name()?;
            let places = [(self.node(request), name), (self.numbers.node(new_parent), new_name)];
            let moved = self.fs.rename(
                &request.caller()?,
                places[0].0,
                name,
                places[1].0,
                new_name,
                RenameFlags::from_bits_retain(flags),
            )?;
            Ok((moved, places))
        });
        match renamed {
            Ok((moved, places)) => {
                reply.done(Ok(()));
                if moved == Moved::WithPaths {
                    self.tell_of_moved(&places);
                }
            }
            Err(e) => reply.error(e),
        }
    }

    fn tell_of_moved(&self, places: &[(NodeId, &OsStr); 2]) {
        let notices = Arc::clone(&self.notices);
        let places = places.map(|(dir, name)| (dir, name.to_owned()));
        // The kernel holds the directories until it has the reply.
        beside(move || notices.moved(&places));
    }
}
