//! Directory listings: a stream of entries with the source's own cookies, which stay good while names come and go.
//!
//! Where the kernel caches listings it does not ask us to open directories: a listing then names only the directory and
//! how far it came, and goes on with the stream that stands there.

mod prefetch;
mod stream;
mod walk_predictor;

use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{CacheValidity, Caller, DirEntryRef, Entry, Fs, Result};
use crate::source::{Inode, NodeId, PeekedInode};

pub(super) use prefetch::Prefetcher;
use prefetch::{PrefetchTask, Prefetched};
pub(super) use stream::IdleStreams;
pub use stream::{DirEntry, OpenDir};

/// What becomes of a listing after an entry was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddResult {
    Added,
    Full,
}

/// How far one request of a listing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There is more.
    Partial,
    /// To the end, with the last entries.
    ReachedEnd,
    /// Nowhere: it was at the end already.
    AtEnd,
}

/// An entry of a directory where its stream stands.
struct OfferedEntry<'a> {
    entry: &'a DirEntry<'a>,
    /// What it was seen to be ahead.
    seen: Option<(&'a PeekedInode, &'a Prefetched)>,
}

impl Fs {
    /// Opens a directory for listing.
    pub fn opendir(&self, caller: &Caller, node: NodeId) -> Result<u64> {
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        self.may_list(caller, &inode)?;
        Ok(self.dirs.insert(Arc::new(self.open_dir(inode)?), node.0))
    }

    fn open_dir(&self, inode: Arc<Inode>) -> Result<OpenDir> {
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(OpenDir::requested(inode, fd))
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
        let _active = self.prefetcher.begin_work();
        if handle != 0 {
            return run(&self.dirs.get(handle)?);
        }
        let inode = self.tree.inode(node)?;
        let dir = match self.idle_streams.take(&inode, offset) {
            Some(dir) => dir,
            None => Arc::new(self.open_dir(inode)?),
        };
        let result = run(&dir);
        let cookie = dir.stream().cookie();
        self.idle_streams.put(dir, cookie);
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
            self.watch_names(&dir.inode);
            self.offer(dir, offset, |OfferedEntry { entry, .. }| {
                let resolved;
                let entry = match entry.kind {
                    FileType::Symlink if self.tree.follows_links() => {
                        resolved = self.resolved(dir, entry);
                        &resolved
                    }
                    _ => entry,
                };
                Ok(if add(entry) { AddResult::Full } else { AddResult::Added })
            })
        })?;
        Ok(())
    }

    /// The entry of a symbolic link as a look-up would show it.
    fn resolved<'a>(&self, dir: &OpenDir, entry: &DirEntry<'a>) -> DirEntry<'a> {
        match self.find_in(&dir.inode, &dir.fd, entry.c_name, entry.kind) {
            Ok(found) => {
                let kind = self.view().presented_kind(found.inode.kind());
                let ino = found.inode.ino();
                self.undo_lookup(found.inode.node());
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
        self.read_as(caller, &*self.tree.inode(node)?)?;
        let next = self.listing(node, handle, offset, |dir| {
            let validity = self.watch_names(&dir.inode);
            let mut subdirs = Vec::new();
            let progress = self.offer(dir, offset, |OfferedEntry { entry, seen }| {
                if entry.is_dot() {
                    return Ok(if add(entry, None) { AddResult::Full } else { AddResult::Added });
                }
                let event_seq = self.event_seq(&dir.inode);
                let entry_ref =
                    DirEntryRef { dir: &dir.inode, name: entry.name, validity, event_seq };
                // What the kernel knows is looked at again: its clients may have done something to it.
                let prefetched = seen.and_then(|(seen, prefetched)| {
                    let inode = self.tree.insert_unknown(&dir.inode, seen)?;
                    if !self.is_unchanged_since(prefetched) {
                        self.undo_lookup(inode.node());
                        return None;
                    }
                    let entry_ref = DirEntryRef { event_seq: prefetched.event_seq(), ..entry_ref };
                    Some(self.entry_of(caller, &entry_ref, &inode, seen.stat(), false))
                });
                let found = match prefetched {
                    Some(entry) => entry,
                    None => match self.entry_for(caller, dir, entry, &entry_ref)? {
                        Some(entry) => entry,
                        None => return Ok(AddResult::Added),
                    },
                };
                if add(entry, Some(&found)) {
                    self.undo_lookup(found.node);
                    return Ok(AddResult::Full);
                }
                if found.attr.kind.is_dir() {
                    subdirs.push(found.node);
                }
                Ok(AddResult::Added)
            })?;
            Ok(if handle == 0 {
                self.next_prefetch(dir, offset, progress, &subdirs)
            } else {
                PrefetchTask::None
            })
        })?;
        // Before the answer: then a processor is idle, since the client waits. When he has it he may take ours.
        self.queue_prefetch(next);
        Ok(())
    }

    /// The entry for a name of a directory. `None` where there is nothing to show.
    fn entry_for(
        &self,
        caller: &Caller,
        dir: &OpenDir,
        entry: &DirEntry<'_>,
        entry_ref: &DirEntryRef<'_>,
    ) -> Result<Option<Entry>> {
        match self.find_in(&dir.inode, &dir.fd, entry.c_name, entry.kind) {
            Ok(found) => Ok(Some(self.entry(caller, entry_ref, &found))),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            // A link to our own mount: as the link that it is, until somebody asks for it.
            Err(Errno::PERM) if entry.kind == FileType::Symlink => {
                let link = self.tree.lookup_itself(&dir.inode, entry.name)?;
                Ok(Some(self.entry(
                    caller,
                    &DirEntryRef { validity: CacheValidity::Uncached, ..*entry_ref },
                    &link,
                )))
            }
            // Our own mount.
            Err(Errno::PERM) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What may be asked for when a request of a listing is answered that has found directories `subdirs`.
    fn next_prefetch(
        &self,
        dir: &Arc<OpenDir>,
        offset: u64,
        progress: Progress,
        subdirs: &[NodeId],
    ) -> PrefetchTask {
        if progress == Progress::AtEnd || !self.prefetches() {
            return PrefetchTask::None;
        }
        let node = dir.inode.node();
        let mut predictor = self.prefetcher.predictor();
        if offset == 0 {
            predictor.start_dir(node);
        }
        predictor.add_subdirs(node, subdirs);
        match progress {
            Progress::ReachedEnd => {
                predictor.predict_next(node).map_or(PrefetchTask::None, PrefetchTask::NextDir)
            }
            // Who wants only the beginning is answered already.
            _ if offset > 0 || predictor.is_confident(node) => {
                PrefetchTask::SameDir(Arc::clone(dir))
            }
            _ => PrefetchTask::None,
        }
    }

    fn offer(
        &self,
        dir: &OpenDir,
        offset: u64,
        mut offer: impl FnMut(OfferedEntry<'_>) -> Result<AddResult>,
    ) -> Result<Progress> {
        // First: whoever reads ahead leaves off.
        let is_first = dir.mark_requested();
        let mut stream = dir.stream();
        self.validate_and_seek(dir, &mut stream, offset, is_first)?;
        let view = self.view();
        let excluded_names = self.excluded_names(&view, &dir.inode);
        let mut progress = Progress::AtEnd;
        loop {
            let Some((record, size, prefetched)) = stream.entry(&dir.fd)? else {
                return Ok(if progress == Progress::AtEnd {
                    progress
                } else {
                    Progress::ReachedEnd
                });
            };
            let cookie = record.cookie;
            let ino = self.tree.shown_ino(&dir.inode, record.kind, record.ino);
            let kind = view.presented_kind(record.kind);
            let is_there = record.is_dot()
                || !(excluded_names.has(record.name) || self.tree.hides(&dir.fd, record.name));
            if is_there {
                let seen =
                    prefetched.and_then(|prefetched| Some((prefetched.first()?, prefetched)));
                match offer(OfferedEntry { entry: &DirEntry { ino, kind, ..record }, seen }) {
                    Ok(AddResult::Added) => {}
                    Ok(AddResult::Full) => return Ok(Progress::Partial),
                    // What was taken so far is good; the error comes again, first thing.
                    Err(_) if progress == Progress::Partial => return Ok(progress),
                    Err(e) => return Err(e),
                }
                progress = Progress::Partial;
            }
            stream.advance(cookie, size);
        }
    }
}
