//! The filesystem's operations, by subject. No FUSE types: a request comes in as node ids, names and a [`Caller`], and
//! goes out as [`Entry`], [`Attr`] or an errno.
//!
//! The kernel has checked permissions on what we show (`default_permissions`) before a request arrives, unless the view
//! needs other rules than the kernel's (`checks`). What is left to us is to act on the right inode, as the right user
//! where something is created, and to translate ids.

mod aligned_buffer;
mod attr;
mod attr_overrides;
pub(crate) mod buffer;
mod caller;
mod checks;
mod contended;
mod create;
mod dir;
mod file;
mod handles;
mod ioctl;
mod killpriv;
mod lock;
mod lookup;
mod name_filter;
mod permission;
mod remove;
mod restricted;
mod spawn_blocking;
mod types;
mod xattr;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use rustix::fs::{FileType, Mode, Statx};
use rustix::io::Errno;

use crate::config::DataPath;
use crate::idmap::{MountUid, SourceGid, SourceUid};
use crate::source::{ActingAs, Credentials, FoundInode, Inode, SourceTree};
use crate::view::{Checks, CreatedBy, Needs, PresentedAttr, View, Viewer};
use crate::watch::{Notifier, Watch};

pub use caller::ClientState;
pub use dir::{DirEntry, OpenDir};
pub use file::{OpenFile, OpenedFile, Read, Write};
pub use ioctl::Ioctl;
pub use lock::{Conflict, LockKind, LockRange, LockRequest, Revalidation};
pub use spawn_blocking::spawn_blocking;
pub use types::{
    Attr, CacheValidity, Caller, Entry, Lookup, Moved, Result, SetAttr, SetTime, Timestamp,
    decode_dev, encode_dev,
};

/// A name in a directory that is about to be looked up.
#[derive(Debug, Clone, Copy)]
struct DirEntryRef<'a> {
    dir: &'a Inode,
    name: &'a OsStr,
    /// How long the directory's names may be believed.
    validity: CacheValidity,
    /// The directory's count of what its watch has told.
    event_seq: u32,
}

/// As what an unmapped owner is shown (/proc/sys/kernel/overflowuid).
const OVERFLOW_ID: u32 = 65534;

/// One mount's filesystem.
#[derive(Debug)]
pub struct Fs {
    tree: SourceTree,
    view: ArcSwap<View>,
    needs: Needs,
    /// Who the mirror is for, as the user database had it last.
    mirrored: ArcSwap<HashSet<MountUid>>,
    credentials: Credentials,
    files: handles::Handles<OpenFile>,
    dirs: handles::Handles<OpenDir>,
    idle_streams: dir::IdleStreams,
    prefetcher: dir::Prefetcher,
    contended: contended::ContendedName,
    locks: lock::Locks,
    watch: Option<Watch>,
    uses_passthrough: AtomicBool,
    /// What a client's O_DIRECT takes on the source, where it is kept: buffers aligned to so many bytes.
    direct_align: Option<NonZeroUsize>,
}

impl Fs {
    /// A filesystem that shows `tree` through `view`, and takes note of what it answers in `watch`.
    #[must_use]
    pub fn new(tree: SourceTree, view: View, watch: Option<Watch>, data: &DataPath) -> Self {
        Self {
            tree,
            needs: view.needs(),
            view: ArcSwap::from_pointee(view),
            mirrored: ArcSwap::default(),
            credentials: Credentials::of_process(),
            files: handles::Handles::default(),
            dirs: handles::Handles::default(),
            idle_streams: dir::IdleStreams::default(),
            prefetcher: dir::Prefetcher::default(),
            contended: contended::ContendedName::default(),
            locks: lock::Locks::default(),
            watch,
            uses_passthrough: AtomicBool::new(data.may_passthrough()),
            direct_align: data.forward_odirect,
        }
    }

    /// The kernel passes no file's data by us: it has no FUSE passthrough, or not for us.
    pub fn disable_passthrough(&self) {
        self.uses_passthrough.store(false, Ordering::Relaxed);
    }

    /// Whether the kernel reads and writes files of the source by itself.
    fn uses_passthrough(&self) -> bool {
        self.uses_passthrough.load(Ordering::Relaxed)
    }

    /// The source tree.
    #[must_use]
    pub fn tree(&self) -> &SourceTree {
        &self.tree
    }

    /// What is shown and what may be changed, as it is at this moment: to be taken once for a request.
    fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// The view of this moment, for whoever needs it for longer than a request.
    #[must_use]
    pub fn view_snapshot(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Shows the source through another view from now on. A request that has taken the former acts by that to its end.
    ///
    /// Its needs must be those of the former: the mount was made for them.
    pub fn set_view(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    /// Whether names that the present view hides are others than those which this one hides.
    #[must_use]
    pub fn excludes_other_names_than(&self, view: &View) -> bool {
        self.view().excluded != view.excluded
    }

    /// What the view keeps the kernel from doing by itself; the same for as long as the mount lives.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Whether permissions are ours to check.
    fn checks(&self) -> bool {
        self.needs.checks == Checks::Daemon
    }

    /// Tells whom the mirror is for.
    pub fn set_mirrored(&self, users: HashSet<MountUid>) {
        self.mirrored.store(Arc::new(users));
    }

    /// How a caller sees things.
    fn viewer(&self, view: &View, caller: &Caller) -> Viewer {
        match &view.mirror {
            None => Viewer::Anyone,
            Some(_) if self.mirrored.load().contains(&caller.uid) => Viewer::Mirrored(caller.uid),
            Some(mirror) if mirror.only && caller.uid.raw() != 0 => Viewer::Outsider,
            Some(_) => Viewer::Anyone,
        }
    }

    /// An inode's attributes as a caller sees them.
    fn attr(&self, caller: &Caller, inode: &Inode, stat: &Statx, validity: CacheValidity) -> Attr {
        let view = self.view();
        let mut attr = Attr::shown(inode, stat, &view, self.viewer(&view, caller), validity);
        inode.set_has_unmapped_id(attr.uid.is_none() || attr.gid.is_none());
        if self.needs.per_caller {
            // The kernel keeps one owner for all callers, and "none" would be for who owns it all the same as for
            // others. That nobody owns the file is then for our own checks to know.
            attr.uid = attr.uid.or(MountUid::new(OVERFLOW_ID));
        }
        self.apply_overrides(&view.attr_overrides, inode, self.restricted(inode, attr))
    }

    /// Owner and permissions of an inode as a caller sees them.
    fn shown(&self, caller: &Caller, stat: &Statx) -> PresentedAttr {
        let view = self.view();
        view.present(types::stored(stat), self.viewer(&view, caller))
    }

    /// The caller's ids on the source. EOVERFLOW when one has no counterpart there: he cannot own anything.
    fn source_ids(&self, caller: &Caller) -> Result<(SourceUid, SourceGid)> {
        let view = self.view();
        let uid = view.ids.uid_to_source(caller.uid).ok_or(Errno::OVERFLOW)?;
        let gid = view.ids.gid_to_source(caller.gid).ok_or(Errno::OVERFLOW)?;
        Ok((uid, gid))
    }

    /// The ids that what a caller makes gets on the source. EOVERFLOW when one that counts has no counterpart there.
    fn owner_of_new(&self, view: &View, caller: &Caller) -> Result<(SourceUid, SourceGid)> {
        let creation = &view.creation;
        let (uid, gid) = match creation.by {
            CreatedBy::Caller => {
                (view.ids.uid_to_source(caller.uid), view.ids.gid_to_source(caller.gid))
            }
            CreatedBy::Mounter => {
                let (own_uid, own_gid) = self.credentials.own();
                (
                    view.ids.uids.explicit_to_source(caller.uid).or(own_uid),
                    view.ids.gids.explicit_to_source(caller.gid).or(own_gid),
                )
            }
        };
        let uid = creation.uid.or(uid).ok_or(Errno::OVERFLOW)?;
        let gid = creation.gid.or(gid).ok_or(Errno::OVERFLOW)?;
        Ok((uid, gid))
    }

    /// Whether the caller may give a name to what is there already. EOVERFLOW when he could own nothing (Linux
    /// `may_create`), unless the view lets him.
    fn may_add_names(&self, caller: &Caller) -> Result<()> {
        let view = self.view();
        match view.changes.names_by_unmapped {
            true => Ok(()),
            false => self.owner_of_new(&view, caller).map(drop),
        }
    }

    /// Acts as whom what the caller makes is to belong to, so that it does from its first instant, and sets the umask
    /// that the source is to apply: the permissions to make it with.
    fn create_as(
        &self,
        caller: &Caller,
        kind: FileType,
        mode: u32,
        umask: u32,
    ) -> Result<(ActingAs<'_>, Mode)> {
        let view = self.view();
        let (uid, gid) = self.owner_of_new(&view, caller)?;
        let perms = &view.creation.perms;
        let mut mode = mode;
        // Bits by which others would get what somebody else may do are not the caller's to give.
        if view.ids.uid_to_source(caller.uid) != Some(uid) {
            mode &= !killpriv::SETUID;
        }
        if !kind.is_dir() && view.ids.gid_to_source(caller.gid) != Some(gid) {
            mode &= !killpriv::SETGID;
        }
        let (mode, umask) = match perms.is_empty() {
            true => (mode & 0o7777, umask),
            false => (perms.apply(kind, mode & 0o7777 & !umask), 0),
        };
        let mut acting = self.credentials.creator((uid, gid), umask)?;
        if mode & killpriv::SETGID != 0 {
            // The kernel has taken the bit from whoever may not give it.
            acting.set_fsetid(true);
        }
        Ok((acting, Mode::from_raw_mode(mode)))
    }

    /// Acts for the caller where nothing is created: by his source ids, or as one who owns nothing where he has none. A
    /// source may judge by them (another FUSE filesystem, NFS), so those of whoever was served before will not do.
    fn act_for(&self, caller: &Caller) -> Result<ActingAs<'_>> {
        self.credentials.on_behalf(self.source_ids(caller).ok())
    }

    /// Acts for the caller where an inode is only looked at or opened, if a server may judge him by his ids. Elsewhere
    /// whichever ids are in force will do.
    fn read_as(&self, caller: &Caller, inode: &Inode) -> Result<()> {
        if self.tree.is_server_backed(inode) {
            let _acting = self.act_for(caller)?;
        }
        Ok(())
    }

    /// Acts as the caller himself on an inode: reserved space is his or not, whatever he is on the source. Where a server
    /// is told who writes, he is who he is there.
    fn write_as(
        &self,
        caller: &Caller,
        inode: &Inode,
        rights: killpriv::KillprivRights,
    ) -> Result<ActingAs<'_>> {
        let mut acting = if self.tree.is_server_backed(inode) {
            self.act_for(caller)?
        } else {
            let gid = rights.membership.acting_gid(caller.gid.raw());
            self.credentials.writer(caller.uid.raw(), gid)?
        };
        if let Some(fsetid) = rights.fsetid {
            acting.set_fsetid(fsetid);
        }
        Ok(acting)
    }

    /// Where a name is about to be looked up. What is told of the directory from now on counts against what is found.
    fn entry_ref<'a>(&self, dir: &'a Inode, name: &'a OsStr) -> DirEntryRef<'a> {
        let validity = self.watch_names(dir);
        DirEntryRef { dir, name, validity, event_seq: self.event_seq(dir) }
    }

    fn event_seq(&self, dir: &Inode) -> u32 {
        self.watch.as_ref().map_or(0, |watch| watch.event_seq(dir))
    }

    /// The entry for what was found at a place.
    fn entry(&self, caller: &Caller, entry_ref: &DirEntryRef<'_>, found: &FoundInode) -> Entry {
        self.entry_of(caller, entry_ref, &found.inode, &found.stat, found.is_by_link)
    }

    fn entry_of(
        &self,
        caller: &Caller,
        entry_ref: &DirEntryRef<'_>,
        inode: &Inode,
        stat: &Statx,
        is_by_link: bool,
    ) -> Entry {
        let mut covered = None;
        if let Some(watch) = &self.watch
            && inode.kind().is_dir()
            && !inode.is_watched()
            && watch.ensure_marked(&self.tree, inode)
        {
            // What changed before the watch began is seen now, what changes after it is told.
            covered = self.tree.stat(inode).ok();
        }
        let stat = covered.as_ref().unwrap_or(stat);
        let name = self.name_validity(entry_ref, inode, is_by_link);
        let validity = match is_by_link {
            // The directory does not tell of what is elsewhere.
            true => CacheValidity::Timeout,
            false => self.found_validity(entry_ref, inode, stat),
        };
        let attr = self.attr(caller, inode, stat, validity);
        Entry { node: inode.node(), generation: inode.generation(), attr, name }
    }

    /// How long the attributes may be believed that came with a name: as long as the name, where the directory's watch
    /// tells what is done to the file, and nothing was told while it was looked up.
    fn found_validity(
        &self,
        entry_ref: &DirEntryRef<'_>,
        inode: &Inode,
        stat: &Statx,
    ) -> CacheValidity {
        if entry_ref.validity != CacheValidity::WhileWatched || !self.tree.is_watchable(inode) {
            return CacheValidity::Timeout;
        }
        let is_covered = match inode.kind() {
            FileType::Directory => inode.is_watched(),
            // See `watch_attributes`.
            FileType::RegularFile if !self.uses_passthrough() => false,
            _ => {
                // With several names it may be changed by another, in a directory that nobody watches.
                let has_one_name = stat.stx_nlink == 1;
                inode.set_covered_by_parent(has_one_name);
                has_one_name
            }
        };
        if self.is_changing(inode) {
            CacheValidity::Uncached
        } else if is_covered && self.event_seq(entry_ref.dir) == entry_ref.event_seq {
            CacheValidity::WhileWatched
        } else {
            CacheValidity::Timeout
        }
    }

    /// Sees to it that changes in a directory are told from now on: how long its names may be believed.
    fn watch_names(&self, dir: &Inode) -> CacheValidity {
        match &self.watch {
            Some(watch) if watch.ensure_marked(&self.tree, dir) && watch.is_delivering(dir) => {
                CacheValidity::WhileWatched
            }
            _ => CacheValidity::Timeout,
        }
    }

    /// Sees to it that changes of an inode that is asked for again are told from now on: how long its attributes may be
    /// believed.
    fn watch_attributes(&self, inode: &Inode) -> CacheValidity {
        let Some(watch) = &self.watch else { return CacheValidity::Timeout };
        if self.is_changing(inode) {
            return CacheValidity::Uncached;
        }
        let covered = match inode.kind() {
            // The kernel keeps its data by its attributes, and a store to a mapping on the source tells nobody.
            FileType::RegularFile if !self.uses_passthrough() => false,
            FileType::Directory => watch.ensure_marked(&self.tree, inode),
            _ => inode.is_covered_by_parent() || watch.ensure_file_marked(&self.tree, inode),
        };
        if covered { CacheValidity::WhileWatched } else { CacheValidity::Timeout }
    }

    /// Whether what is said of an inode may be wrong in a moment. A store to a mapping of the source's file, which the
    /// kernel makes of a client's where it passes data, changes its times and tells nobody; and who writes now will
    /// write again.
    fn is_changing(&self, inode: &Inode) -> bool {
        inode.is_busy() || (self.uses_passthrough() && inode.has_writers())
    }

    /// Whether an inode of which its directory was to tell has got more names. It may be changed by one in a directory
    /// that nobody watches, and the watch on its own directory tells of it no longer.
    fn gained_links(&self, inode: &Inode, stat: &Statx) -> bool {
        let has = stat.stx_nlink > 1 && inode.is_covered_by_parent() && !inode.kind().is_dir();
        if has {
            inode.set_covered_by_parent(false);
        }
        has
    }

    /// Runs the watch over the source, if there is one, until the mount ends.
    pub fn watch<N: Notifier + Send + Sync + 'static>(&self, notifier: &Arc<N>) {
        if let Some(watch) = &self.watch {
            watch.run(&self.tree, notifier);
        }
    }

    /// Lets go of what was not used for a while, and looks after the watch; to be called every second.
    pub fn sweep(&self, notifier: &impl Notifier) {
        if let Some((old, new)) = self.tree.follow() {
            log::info!("the source is another directory now");
            self.idle_streams.clear();
            if let Some(watch) = &self.watch {
                watch.forget(&self.tree, &old);
                watch.ensure_marked(&self.tree, &new);
            }
            notifier.inval_all();
        }
        for _ in 0..self.idle_streams.sweep() {
            self.prefetcher.record_result(false);
        }
        self.tree.sweep();
        if let Some(watch) = &self.watch {
            watch.check();
        }
    }

    /// Whether the source is watched for changes by others.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.watch.is_some()
    }
}
