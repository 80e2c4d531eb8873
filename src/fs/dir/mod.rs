//! Directory listings: a stream of entries with the source's own cookies, which stay good while names come and go.
//!
//! Where the kernel caches listings it does not ask us to open directories: a listing then names only the directory and
//! how far it came, and goes on with the stream that stands there.

mod ahead;
mod stream;
mod trail;

use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Caller, Entry, Fs, Place, Result, Trust};
use crate::source::{Inode, NodeId, Seen};

pub(super) use ahead::Lookout;
use ahead::{Ahead, Next};
pub(super) use stream::Streams;
pub use stream::{DirEntry, OpenDir};

/// What becomes of a listing after an entry was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    Full,
}

/// How far one request of a listing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// There is more.
    Somewhere,
    /// To the end, with the last entries.
    ToTheEnd,
    /// Nowhere: it was at the end already.
    Nowhere,
}

/// An entry of a directory where its stream stands.
struct Offer<'a> {
    entry: &'a DirEntry<'a>,
    /// What it was seen to be ahead.
    seen: Option<(&'a Seen, &'a Ahead)>,
}

impl Fs {
    /// Opens a directory for listing.
    pub fn opendir(&self, caller: &Caller, node: NodeId) -> Result<u64> {
        let inode = self.tree.inode(node)?;
        self.look_as(caller, &inode)?;
        self.may_list(caller, &inode)?;
        Ok(self.dirs.insert(Arc::new(self.open_dir(inode)?), node.0))
    }

    fn open_dir(&self, inode: Arc<Inode>) -> Result<OpenDir> {
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(OpenDir::asked(inode, fd))
    }

    /// Runs one request of a listing: on the directory that was opened as `handle`, or, where the kernel opened it
    /// without us (handle 0), on the stream that stands at `offset`.
    fn listing<T>(
        &self,
        node: NodeId,
        handle: u64,
        offset: u64,
        run: impl FnOnce(&Arc<OpenDir>) -> Result<T>,
    ) -> Result<T> {
        let _works = self.lookout.works();
        if handle != 0 {
            return run(&self.dirs.get(handle)?);
        }
        let inode = self.tree.inode(node)?;
        let dir = match self.streams.take(&inode, offset) {
            Some(dir) => dir,
            None => Arc::new(self.open_dir(inode)?),
        };
        let result = run(&dir);
        let cookie = dir.stream().cookie();
        self.streams.put(dir, cookie);
        result
    }

    /// An open directory's descriptor lives until its release.
    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.dirs.remove(handle).map(drop)
    }

    /// Writes a directory to disk.
    pub fn fsyncdir(&self, node: NodeId, handle: u64, data_only: bool) -> Result<()> {
        match handle {
            0 => super::file::sync(&self.open_dir(self.tree.inode(node)?)?.fd, data_only),
            _ => super::file::sync(&self.dirs.get(handle)?.fd, data_only),
        }
    }

    /// Offers entries from `offset` on, until `add` says that it is full.
    pub fn readdir(
        &self,
        node: NodeId,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        self.listing(node, handle, offset, |dir| {
            // The kernel may keep the listing: it must be told when it changes.
            self.cover_names(&dir.inode);
            self.offer(dir, offset, |Offer { entry, .. }| {
                let resolved;
                let entry = match entry.kind {
                    FileType::Symlink if self.tree.follows_links() => {
                        resolved = self.resolved(dir, entry);
                        &resolved
                    }
                    _ => entry,
                };
                Ok(if add(entry) { Taken::Full } else { Taken::Yes })
            })
        })?;
        Ok(())
    }

    /// The entry of a symbolic link as a look-up would show it.
    fn resolved<'a>(&self, dir: &OpenDir, entry: &DirEntry<'a>) -> DirEntry<'a> {
        match self.find_in(&dir.inode, &dir.fd, entry.c_name, entry.kind) {
            Ok(found) => {
                let kind = self.view().presented_kind(found.inode.kind());
                let ino = found.inode.number();
                self.give_back(found.inode.node());
                DirEntry { ino, kind, ..*entry }
            }
            Err(_) => DirEntry { ..*entry },
        }
    }

    /// Offers entries with their inodes. A name that vanished meanwhile is left out. For `.` and `..` no look-up is
    /// counted; their inode is that of the directory itself and stands only for the type.
    pub fn readdirplus(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<()> {
        self.look_as(caller, &*self.tree.inode(node)?)?;
        let next = self.listing(node, handle, offset, |dir| {
            let trust = self.cover_names(&dir.inode);
            let mut below = Vec::new();
            let came = self.offer(dir, offset, |Offer { entry, seen }| {
                if entry.is_dot() {
                    return Ok(if add(entry, None) { Taken::Full } else { Taken::Yes });
                }
                let told = self.told_of(&dir.inode);
                let place = Place { dir: &dir.inode, name: entry.name, trust, told };
                // What the kernel knows is looked at again: its clients may have done something to it.
                let ahead = seen.and_then(|(seen, ahead)| {
                    let inode = self.tree.enter_unknown(&dir.inode, seen)?;
                    if !self.has_changed_nothing_since(ahead) {
                        self.give_back(inode.node());
                        return None;
                    }
                    let place = Place { told: ahead.told(), ..place };
                    Some(self.entry_of(caller, &place, &inode, seen.stat(), false))
                });
                let found = match ahead {
                    Some(entry) => entry,
                    None => match self.listed(caller, dir, entry, &place)? {
                        Some(entry) => entry,
                        None => return Ok(Taken::Yes),
                    },
                };
                if add(entry, Some(&found)) {
                    self.give_back(found.node);
                    return Ok(Taken::Full);
                }
                if found.attr.kind.is_dir() {
                    below.push(found.node);
                }
                Ok(Taken::Yes)
            })?;
            Ok(if handle == 0 { self.next(dir, offset, came, &below) } else { Next::Unknown })
        })?;
        // Before the answer: then a processor is idle, since the client waits. When he has it he may take ours.
        self.look_ahead(next);
        Ok(())
    }

    /// The entry for a name of a directory. `None` where there is nothing to show.
    fn listed(
        &self,
        caller: &Caller,
        dir: &OpenDir,
        entry: &DirEntry<'_>,
        place: &Place<'_>,
    ) -> Result<Option<Entry>> {
        match self.find_in(&dir.inode, &dir.fd, entry.c_name, entry.kind) {
            Ok(found) => Ok(Some(self.entry(caller, place, &found))),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            // A link to our own mount: as the link that it is, until somebody asks for it.
            Err(Errno::PERM) if entry.kind == FileType::Symlink => {
                let link = self.tree.lookup_itself(&dir.inode, entry.name)?;
                Ok(Some(self.entry(caller, &Place { trust: Trust::Never, ..*place }, &link)))
            }
            // Our own mount.
            Err(Errno::PERM) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What may be asked for when a request of a listing is answered that has found directories `below`.
    fn next(&self, dir: &Arc<OpenDir>, offset: u64, came: Came, below: &[NodeId]) -> Next {
        if came == Came::Nowhere || !self.looks_ahead() {
            return Next::Unknown;
        }
        let node = dir.inode.node();
        let mut trails = self.lookout.trails();
        if offset == 0 {
            trails.begin(node);
        }
        trails.found(node, below);
        match came {
            Came::ToTheEnd => trails.next(node).map_or(Next::Unknown, Next::Dir),
            // Who wants only the beginning is answered already.
            _ if offset > 0 || trails.is_sure(node) => Next::More(Arc::clone(dir)),
            _ => Next::Unknown,
        }
    }

    fn offer(
        &self,
        dir: &OpenDir,
        offset: u64,
        mut offer: impl FnMut(Offer<'_>) -> Result<Taken>,
    ) -> Result<Came> {
        // First: whoever reads ahead leaves off.
        let is_first = dir.ask();
        let mut stream = dir.stream();
        self.confirm(dir, &mut stream, offset, is_first)?;
        let view = self.view();
        let absent = self.absent(&view, &dir.inode);
        let mut came = Came::Nowhere;
        loop {
            let Some((record, size, ahead)) = stream.entry(&dir.fd)? else {
                return Ok(if came == Came::Nowhere { came } else { Came::ToTheEnd });
            };
            let cookie = record.cookie;
            let ino = self.tree.shown_ino(&dir.inode, record.kind, record.ino);
            let kind = view.presented_kind(record.kind);
            let is_there = record.is_dot()
                || !(absent.has(record.name) || self.tree.hides(&dir.fd, record.name));
            if is_there {
                let seen = ahead.and_then(|ahead| Some((ahead.first()?, ahead)));
                match offer(Offer { entry: &DirEntry { ino, kind, ..record }, seen }) {
                    Ok(Taken::Yes) => {}
                    Ok(Taken::Full) => return Ok(Came::Somewhere),
                    // What was taken so far is good; the error comes again, first thing.
                    Err(_) if came == Came::Somewhere => return Ok(came),
                    Err(e) => return Err(e),
                }
                came = Came::Somewhere;
            }
            stream.pass(cookie, size);
        }
    }
}
