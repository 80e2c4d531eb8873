//! Directory listings, with the source's own cookies, which stay valid while names are created and removed.
//!
//! If the kernel caches listings it does not send OPENDIR. A READDIR then contains only the directory and an offset,
//! and continues with the idle stream at that offset.

mod prefetch;
mod prefetched;
mod stream;
mod walk_predictor;

use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{CacheValidity, Caller, DirEntryRef, Entry, Fs, Result};
use crate::source::{Inode, NodeId, OtherServers, PeekedInode};

use prefetch::PrefetchTask;
pub(super) use prefetch::Prefetcher;
use prefetched::Prefetched;
pub use stream::{DirEntry, OpenDir};
pub(super) use stream::{IdleStreams, MAX_HALF_READ};

/// What the caller of `offer` has done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddResult {
    Added,
    Full,
}

/// What a listing shows for a name.
enum ListedEntry {
    /// The name with its inode, whose lookup count was incremented.
    Inode(Entry),
    /// The name alone.
    NameOnly,
    /// Nothing: the name was removed meanwhile.
    Omitted,
}

/// How far one READDIR request has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There are more entries.
    Partial,
    /// The request has returned the last entries.
    ReachedEnd,
    /// The stream was at the end before, so the request has returned nothing.
    AtEnd,
}

/// A directory entry that is offered to the request.
struct OfferedEntry<'a> {
    entry: &'a DirEntry<'a>,
    /// The prefetched inode of the entry, if there is one.
    peeked: Option<(&'a PeekedInode, &'a Prefetched)>,
}

impl Fs {
    /// Opens a directory for listing. EMFILE if the caller's user has its full share of open files.
    pub fn opendir(&self, caller: &Caller, node: NodeId) -> Result<u64> {
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        self.may_list(caller, &inode)?;
        let share = self.take_open_share(caller)?;
        let dir = self.open_dir(inode)?.with_share(share);
        Ok(self.dirs.insert(Arc::new(dir), node.0))
    }

    fn open_dir(&self, inode: Arc<Inode>) -> Result<OpenDir> {
        let fd = self.tree.open(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(OpenDir::requested(inode, fd))
    }

    /// Runs one READDIR request.
    ///
    /// It uses the directory opened as `handle` or, if the kernel has not sent OPENDIR (handle 0), the idle stream at
    /// `offset`.
    fn listing<T>(
        &self,
        caller: &Caller,
        (node, handle, offset): (NodeId, u64, u64),
        run: impl FnOnce(&Arc<OpenDir>) -> Result<T>,
    ) -> Result<T> {
        let _active = self.prefetcher.begin_work();
        if handle != 0 {
            let dir = self.dirs.get(handle)?;
            self.read_as(caller, &dir.inode)?;
            let result = run(&dir);
            dir.keep_unread_entries(|| self.listing_shares.take_for(caller));
            return result;
        }
        let inode = self.tree.inode(node)?;
        self.read_as(caller, &inode)?;
        let dir = match self.idle_streams.take(&inode, offset) {
            Some(dir) => dir,
            None => Arc::new(self.open_dir(inode)?),
        };
        let result = run(&dir);
        let cookie = dir.stream().cookie();
        self.idle_streams.put(dir, cookie, caller.uid());
        result
    }

    /// Closes an open directory.
    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.dirs.remove(handle).map(drop)
    }

    /// Syncs a directory.
    pub fn fsyncdir(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: u64,
        data_only: bool,
    ) -> Result<()> {
        self.read_as(caller, &*self.tree.inode(node)?)?;
        match handle {
            0 => super::file::sync(&self.open_dir(self.tree.inode(node)?)?.fd, data_only),
            _ => super::file::sync(&self.dirs.get(handle)?.fd, data_only),
        }
    }

    /// Passes entries from `offset` on to `add`, until it returns that the reply is full.
    pub fn readdir(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        self.listing(caller, (node, handle, offset), |dir| {
            // The kernel may cache the listing, so changes must become events.
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

    /// Returns the entry of a symbolic link as a lookup would show it.
    fn resolved<'a>(&self, dir: &OpenDir, entry: &DirEntry<'a>) -> DirEntry<'a> {
        let asked = OtherServers::Asked;
        match self.find_in(&dir.inode, &dir.fd, entry.c_name, entry.kind, asked) {
            Ok(found) => {
                let kind = self.view().presented_kind(found.inode.kind());
                let ino = self.tree.shown_ino(&found.inode);
                self.undo_lookup(found.inode.node());
                DirEntry { ino, kind, ..*entry }
            }
            Err(_) => DirEntry { ..*entry },
        }
    }

    /// Passes entries with their inodes to `add`.
    ///
    /// A name that was removed meanwhile is left out. For `.`, `..` and mounts of other servers no lookup is counted,
    /// and the inode is `None`.
    pub fn readdirplus(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<()> {
        let next = self.listing(caller, (node, handle, offset), |dir| {
            let validity = self.watch_names(&dir.inode);
            let mut subdirs = Vec::new();
            let progress = self.offer(dir, offset, |OfferedEntry { entry, peeked }| {
                if entry.is_dot() {
                    return Ok(if add(entry, None) { AddResult::Full } else { AddResult::Added });
                }
                let event_seq = self.event_seq(&dir.inode);
                let entry_ref =
                    DirEntryRef { dir: &dir.inode, name: entry.name, validity, event_seq };
                // An inode that the kernel knows is looked up again, because clients of the mount may have changed it.
                let prefetched = peeked.and_then(|(peeked, prefetched)| {
                    let inode = self.tree.insert_unknown(&dir.inode, peeked)?;
                    if !self.is_unchanged_since(prefetched) {
                        self.undo_lookup(inode.node());
                        return None;
                    }
                    let entry_ref = DirEntryRef { event_seq: prefetched.event_seq(), ..entry_ref };
                    Some(self.entry_of(caller, &entry_ref, &inode, peeked.stat(), false))
                });
                let found = match prefetched {
                    Some(entry) => entry,
                    None => match self.entry_for(caller, dir, entry, &entry_ref)? {
                        ListedEntry::Inode(entry) => entry,
                        ListedEntry::NameOnly => {
                            return Ok(if add(entry, None) {
                                AddResult::Full
                            } else {
                                AddResult::Added
                            });
                        }
                        ListedEntry::Omitted => return Ok(AddResult::Added),
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
        // Queue it before the reply: while the client waits, a processor is idle, and after it the client may use this
        // one.
        self.queue_prefetch(next);
        Ok(())
    }

    /// Returns the entry for a name of a directory.
    fn entry_for(
        &self,
        caller: &Caller,
        dir: &OpenDir,
        entry: &DirEntry<'_>,
        entry_ref: &DirEntryRef<'_>,
    ) -> Result<ListedEntry> {
        let not_asked = OtherServers::NotAsked;
        match self.find_in(&dir.inode, &dir.fd, entry.c_name, entry.kind, not_asked) {
            Ok(found) => Ok(ListedEntry::Inode(self.entry(caller, entry_ref, &found))),
            Err(Errno::NOENT | Errno::STALE) => Ok(ListedEntry::Omitted),
            // The root of a mount whose server, if it has one, might never answer: the listing must not wait for it.
            Err(Errno::XDEV) => Ok(ListedEntry::NameOnly),
            // A link to the daemon's own mount is listed as a link, without being resolved.
            Err(Errno::PERM) if entry.kind == FileType::Symlink => {
                let link = self.tree.lookup_itself(&dir.inode, entry.name)?;
                let entry_ref = DirEntryRef { validity: CacheValidity::Uncached, ..*entry_ref };
                Ok(ListedEntry::Inode(self.entry(caller, &entry_ref, &link)))
            }
            // The daemon's own mount.
            Err(Errno::PERM) => Ok(ListedEntry::Omitted),
            Err(e) => Err(e),
        }
    }

    /// Returns what to prefetch after a READDIR that has found the directories `subdirs`.
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
            // Not after the first request, since the client may want only the beginning, unless the walk was predicted.
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
        // First of all, so that a prefetch of this directory stops.
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
            let ino = self.tree.shown_entry_ino(&dir.inode, record.kind, record.ino);
            let kind = view.presented_kind(record.kind);
            let is_there = record.is_dot()
                || !(excluded_names.has(record.name) || self.tree.hides(&dir.fd, record.name));
            if is_there {
                let peeked =
                    prefetched.and_then(|prefetched| Some((prefetched.first()?, prefetched)));
                match offer(OfferedEntry { entry: &DirEntry { ino, kind, ..record }, peeked }) {
                    Ok(AddResult::Added) => {}
                    Ok(AddResult::Full) => return Ok(Progress::Partial),
                    // The entries so far are returned; the next request gets the error again.
                    Err(_) if progress == Progress::Partial => return Ok(progress),
                    Err(e) => return Err(e),
                }
                progress = Progress::Partial;
            }
            stream.advance(cookie, size);
        }
    }
}
