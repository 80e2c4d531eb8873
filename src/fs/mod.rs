//! The filesystem's operations, by subject.
//!
//! No FUSE types: a request comes in as node ids, names and a [`Caller`], and is answered with [`Entry`], [`Attr`] or
//! an errno.
//!
//! The kernel checks permissions on what the mount shows (`default_permissions`) before it sends a request, unless the
//! view needs other rules than the kernel's (`checks`). The operations act on the right inode, with the right owner for
//! what they create, and translate ids.

mod acting;
mod aligned_buffer;
mod attr;
mod attr_overrides;
pub(crate) mod buffer;
mod caller;
mod caller_syscall;
mod checks;
mod contended;
mod copy;
mod create;
mod dir;
mod file;
mod file_state;
mod handles;
mod ioctl;
mod killpriv;
mod lock;
mod lookup;
mod mode_bits;
mod name_filter;
mod permission;
mod remove;
mod restricted;
mod shares;
mod spawn_blocking;
mod types;
mod unmounts;
mod usage;
mod validity;
mod write_through;
mod xattr;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use rustix::fs::Statx;
use rustix::io::Errno;

use crate::config::DataPath;
use crate::idmap::{MountUid, UserNamespaceIds};
use crate::source::{Credentials, FoundInode, Inode, SourceTree};
use crate::view::{Checks, Needs, PresentedAttr, View, Viewer};
use crate::watch::{Notifier, Watch};

pub use crate::source::HitCount;
pub use caller::{ClientState, user_of_thread};
pub use dir::OpenDir;
pub use file::{OpenFile, OpenedFile, Read, Write};
pub use ioctl::{Ioctl, sets_flags};
pub use lock::{GrantedLock, LockKind, LockRange, LockRequest, NotedWorkers, PendingCloses};
pub use shares::Shares;
pub use spawn_blocking::spawn_blocking;
pub use types::{
    Attr, Caller, Entry, Lookup, Moved, NewEntry, Result, SetAttr, SetTime, Timestamp, decode_dev,
};
pub use validity::CacheValidity;
pub use write_through::WriteThrough;
pub use xattr::SetXattr;

/// A name in a directory that is about to be looked up.
#[derive(Debug, Clone, Copy)]
struct DirEntryRef<'a> {
    dir: &'a Inode,
    name: &'a OsStr,
    /// How long the kernel may cache names of the directory.
    validity: CacheValidity,
    /// Event count of the directory's mark before the lookup.
    event_seq: u32,
}

/// The id shown for an unmapped owner where the kernel needs one (/proc/sys/kernel/overflowuid).
const OVERFLOW_ID: u32 = 65534;

/// The filesystem of one mount.
#[derive(Debug)]
pub struct Fs {
    tree: SourceTree,
    view: ArcSwap<View>,
    needs: Needs,
    /// The users of `mirror`, as last read from the user database.
    mirrored: ArcSwap<HashSet<MountUid>>,
    credentials: Credentials,
    files: handles::Handles<OpenFile>,
    /// Open files and directories, by user.
    open_shares: Arc<Shares>,
    /// Buffers of half-read directories, by user.
    listing_shares: Arc<Shares>,
    dirs: handles::Handles<OpenDir>,
    idle_streams: dir::IdleStreams,
    prefetcher: dir::Prefetcher,
    contended: contended::ContendedName,
    locks: lock::Locks,
    watch: Option<Watch>,
    uses_passthrough: AtomicBool,
    write_through: write_through::WriteThroughMode,
    /// With forward-odirect: the alignment in bytes that the source requires for O_DIRECT.
    direct_align: Option<NonZeroUsize>,
    /// The ids of the container whose numbers requests carry. `None`: requests carry those of the daemon's namespace.
    container: Option<Arc<UserNamespaceIds>>,
}

impl Fs {
    /// Creates a filesystem that shows `tree` through `view`.
    ///
    /// `watch` invalidates what the kernel caches of it; `open_shares` limits the open files.
    #[must_use]
    pub fn new(
        tree: SourceTree,
        view: View,
        watch: Option<Watch>,
        data: &DataPath,
        open_shares: Arc<Shares>,
    ) -> Self {
        Self {
            tree,
            needs: view.needs(),
            view: ArcSwap::from_pointee(view),
            mirrored: ArcSwap::default(),
            credentials: Credentials::of_process(),
            files: handles::Handles::default(),
            open_shares,
            listing_shares: Shares::new(dir::MAX_HALF_READ),
            dirs: handles::Handles::default(),
            idle_streams: dir::IdleStreams::default(),
            prefetcher: dir::Prefetcher::default(),
            contended: contended::ContendedName::default(),
            locks: lock::Locks::default(),
            watch,
            uses_passthrough: AtomicBool::new(data.may_passthrough()),
            write_through: write_through::WriteThroughMode::default(),
            direct_align: data.forward_odirect,
            container: None,
        }
    }

    /// The same for a filesystem that belongs to a container's user namespace.
    ///
    /// The kernel then numbers the ids of requests as that namespace does, and takes root of the container for root of the
    /// filesystem (`s_user_ns`): no capability over the machine follows from what the kernel has checked.
    #[must_use]
    pub fn in_container(self, ids: Option<&UserNamespaceIds>) -> Self {
        Self { container: ids.cloned().map(Arc::new), ..self }
    }

    /// Returns a caller whose groups and capabilities are read when they are needed.
    fn requester<'a>(&self, caller: &'a Caller) -> caller::LazyCallerCreds<'a> {
        caller::LazyCallerCreds::of(caller, self.container.clone())
    }

    /// Turns FUSE passthrough off: the kernel does not have it, or refuses it to the daemon.
    pub fn disable_passthrough(&self) {
        self.uses_passthrough.store(false, Ordering::Relaxed);
    }

    /// Returns whether the kernel may read and write files of the source directly, now or after a reload.
    ///
    /// The options allow it, and the kernel has not refused it so far.
    #[must_use]
    pub fn may_use_passthrough(&self) -> bool {
        self.uses_passthrough.load(Ordering::Relaxed)
    }

    /// Returns whether the kernel may read and write files of the source directly (FUSE passthrough).
    fn uses_passthrough(&self) -> bool {
        self.may_use_passthrough() && !self.writes_all_through()
    }

    /// Returns the source tree.
    #[must_use]
    pub fn tree(&self) -> &SourceTree {
        &self.tree
    }

    /// Returns the current view.
    ///
    /// A request takes it once, because a reload may replace it at any moment.
    fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Returns the current view, for use beyond one request.
    #[must_use]
    pub fn view_snapshot(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Replaces the view. Requests that have taken the old one finish with it.
    ///
    /// The new view must have the same needs, because the mount was made for them.
    pub fn set_view(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    /// Returns whether the given view excludes other names than the current one.
    #[must_use]
    pub fn excludes_other_names_than(&self, view: &View) -> bool {
        self.view().excluded != view.excluded
    }

    /// Returns what the view needs the kernel not to do; it never changes while the mount exists.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Returns whether the daemon checks permissions, instead of the kernel.
    fn checks(&self) -> bool {
        self.needs.checks == Checks::Daemon
    }

    /// Sets the users of `mirror`.
    pub fn set_mirrored(&self, users: HashSet<MountUid>) {
        self.mirrored.store(Arc::new(users));
    }

    /// Returns how the view shows inodes to a caller.
    fn viewer(&self, view: &View, caller: &Caller) -> Viewer {
        match &view.mirror {
            None => Viewer::Anyone,
            Some(mirror) => match caller.uid() {
                Some(uid) if self.mirrored.load().contains(&uid) => Viewer::Mirrored(uid),
                Some(uid) if uid.raw() == 0 => Viewer::Anyone,
                _ if mirror.only => Viewer::Outsider,
                _ => Viewer::Anyone,
            },
        }
    }

    /// Returns an inode's attributes as the view shows them to a caller.
    fn attr(&self, caller: &Caller, inode: &Inode, stat: &Statx, validity: CacheValidity) -> Attr {
        let view = self.view();
        let mut attr = Attr::shown(
            self.tree.shown_ino(inode),
            stat,
            &view,
            self.viewer(&view, caller),
            validity,
        );
        inode.set_has_unmapped_id(attr.uid.is_none() || attr.gid.is_none());
        if self.needs.per_caller {
            // The kernel keeps one owner for all callers, and an invalid one would lock out the user that the mirror
            // shows as the owner, too. Only the daemon's own checks then know that the id is unmapped.
            attr.uid = attr.uid.or(MountUid::new(OVERFLOW_ID));
        }
        self.apply_overrides(&view.attr_overrides, inode, self.restricted(inode, attr))
    }

    /// Returns owner and permissions of an inode as the view shows them to a caller.
    fn shown(&self, caller: &Caller, stat: &Statx) -> PresentedAttr {
        let view = self.view();
        view.present(types::stored(stat), self.viewer(&view, caller))
    }

    /// Returns the entry for a found inode.
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
            // Read the attributes again: changes before the mark are in them, changes after it become events.
            covered = self.tree.stat(inode).ok();
        }
        let stat = covered.as_ref().unwrap_or(stat);
        let name = self.name_validity(entry_ref, inode, is_by_link);
        let validity = match is_by_link {
            // The mark on the directory of the link does not report changes of the target.
            true => CacheValidity::Timeout,
            false => self.found_validity(entry_ref, inode, stat),
        };
        let attr = self.attr(caller, inode, stat, validity);
        Entry { node: inode.node(), generation: inode.generation(), attr, name }
    }

    /// Takes a share for one more open file of the caller. EMFILE if its user has a full share.
    fn take_open_share(&self, caller: &Caller) -> Result<shares::Share> {
        self.open_shares.take_for(caller).ok_or(Errno::MFILE)
    }

    /// Runs the watch, if there is one, until the mount ends.
    pub fn watch<N: Notifier + Send + Sync + 'static>(&self, notifier: &Arc<N>) {
        if let Some(watch) = &self.watch {
            watch.run(&self.tree, notifier);
        }
    }

    /// Sets the marks of files that were looked up, until the mount ends.
    pub fn mark_files(&self, notifier: &impl Notifier) {
        if let Some(watch) = &self.watch {
            watch.mark_files(&self.tree, notifier);
        }
    }

    /// Follows the path of the source, frees what was not used for a while, and checks the watch.
    ///
    /// To be called every second.
    pub fn sweep(&self, notifier: &impl Notifier) {
        if let Some((old, new)) = self.tree.follow() {
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

    /// Returns whether changes by processes on the source are watched for.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.watch.is_some()
    }
}
