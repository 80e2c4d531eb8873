//! The source tree: inodes found by name under a directory, one name at a time, and reached again by handle.
//!
//! No operation leads outside: a name is one component, never `.` or `..`, symbolic links are never followed unless
//! that is asked for (`resolve.rs`), and only regular files and directories are ever opened for real.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::domains::{DevNo, Domains, dev_no};
use super::fd_cache::FdCache;
use super::heap_trim::TrimPolicy;
use super::identity::{Generation, InodeIdentity};
use super::inode::{Domain, Inode, NodeId};
use super::mounts::{MountIndex, Mounts, ReopenMethod, SourceMount};
use super::placeholder::Placeholder;
use super::resolve::{ViaLink, ViaLinks, fd_path, strip_dir};
use super::restrictions::Restrictions;
use super::root::SourceRoot;
use super::same_inode::InodeComparer;
use super::table::InodeTable;
use crate::sys;
use crate::sys::descriptors::DescriptorPath;
use crate::sys::handle::{FileHandle, name_to_handle};

pub(super) const BASIC: StatxFlags = StatxFlags::BASIC_STATS;
/// A name, not what it leads to.
pub(super) const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);
/// As it is known, without asking a server.
pub(super) const NOFOLLOW_DONT_SYNC: AtFlags = NOFOLLOW.union(AtFlags::STATX_DONT_SYNC);

/// What of the source is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// Hide what is mounted below, where the root could not be cloned without it.
    pub one_file_system: bool,
    /// Symbolic links are shown as what they lead to.
    pub follows_links: bool,
}

/// See the module's head.
#[derive(Debug)]
pub struct SourceTree {
    pub(super) mounts: Mounts,
    pub(super) domains: Domains,
    pub(super) table: InodeTable,
    pub(super) fd_cache: FdCache,
    pub(super) root: ArcSwap<Inode>,
    /// The source's path, if it is to be followed.
    pub(super) followed: Option<PathBuf>,
    pub(super) scope: Scope,
    /// Whether our own mount can never be part of it.
    pub(super) is_private: bool,
    /// The device of our own mount.
    own_device: OnceLock<DevNo>,
    /// The directory in our own filesystem that shows the source's root; absent where that is its root.
    own_subdir: OnceLock<&'static OsStr>,
    pub(super) via_links: ViaLinks,
    /// What pseudo-filesystems are hidden behind. `None`: there are none.
    pub(super) placeholder: Option<Placeholder>,
    is_stacked: bool,
    /// Whether part of the root's filesystem was met a second time, through another mount.
    pub(super) has_aliases: AtomicBool,
    /// How many look-ups are still to keep what they find open.
    pub(super) keep_open_left: AtomicU32,
    heap_trim: Mutex<TrimPolicy>,
    pub(super) comparer: InodeComparer,
}

impl SourceTree {
    /// The tree below a root. `fd_capacity`: how many recently used descriptors may be kept.
    #[must_use]
    pub fn new(root: SourceRoot, fd_capacity: usize, scope: Scope) -> Self {
        let stat = *root.stat();
        let kind = root.kind();
        let is_private = root.is_private();
        let followed = root.followed().map(PathBuf::from);
        let privileged = may_open_by_handle();
        let by_handle = privileged && root.is_dir();
        let (facts, id) = (root.mounts().own, stat.stx_mnt_id);
        let mount = SourceMount::probe(&root, id, facts, by_handle)
            .as_root(restrictions_not_on_ours(facts.restrictions));
        let table = InodeTable::default();
        let identity = InodeIdentity {
            domain: Domain(0),
            ino: stat.stx_ino,
            generation: Generation::Held(None),
        };
        let (fd, placeholder) = root.into_parts();
        let pin = Some(fd);
        let root =
            table.set_root(Inode::new(NodeId::ROOT, identity, MountIndex::ROOT, kind, pin, None));
        let domains = Domains::new(MountIndex::ROOT, dev_no(&stat));
        let fd_cache = FdCache::new(fd_capacity);
        let is_stacked = is_stacked(&root);
        Self {
            mounts: Mounts::new(mount),
            domains,
            table,
            fd_cache,
            root: ArcSwap::new(root),
            followed,
            scope,
            is_private,
            own_device: OnceLock::new(),
            own_subdir: OnceLock::new(),
            via_links: ViaLinks::default(),
            placeholder,
            is_stacked,
            has_aliases: AtomicBool::new(false),
            keep_open_left: AtomicU32::new(0),
            heap_trim: Mutex::default(),
            comparer: InodeComparer::default(),
        }
    }

    /// The root's inode.
    #[must_use]
    pub fn root(&self) -> Arc<Inode> {
        self.root.load_full()
    }

    /// Shows another root.
    pub(super) fn replace_root(&self, root: Inode) -> Arc<Inode> {
        let root = self.table.set_root(root);
        self.root.store(Arc::clone(&root));
        root
    }

    /// Tells the device of our own mount, once it is made and before anything is asked of the tree.
    pub fn set_own_device(&self, device: (u32, u32)) {
        let _ = self.own_device.set(device);
    }

    /// Tells under which name in our own filesystem the source's root is shown, where that is not its root.
    pub fn set_own_subdir(&self, name: &'static OsStr) {
        let _ = self.own_subdir.set(name);
    }

    /// Whether a device is that of our own mount, of which we must never ask anything.
    pub(super) fn is_own(&self, dev_no: DevNo) -> bool {
        self.own_device.get() == Some(&dev_no)
    }

    /// Whether symbolic links are shown as what they lead to.
    #[must_use]
    pub fn follows_links(&self) -> bool {
        self.scope.follows_links
    }

    /// Whether what is in a mount is not shown.
    pub(super) fn is_hidden_mount(&self, id: u64) -> bool {
        self.scope.one_file_system && id != self.mounts.id(self.root.load().mount())
    }

    /// Whether inodes of other mounts can be reached by handles.
    pub(super) fn is_privileged(&self) -> bool {
        self.mounts.reopen_method(MountIndex::ROOT) != ReopenMethod::HeldFd || may_open_by_handle()
    }

    /// The path of a directory from the source's root, empty for the root itself. `None` when it is not below the root.
    #[must_use]
    pub fn path_of(&self, dir: &Inode) -> Option<Vec<u8>> {
        if dir.node() == NodeId::ROOT {
            return Some(Vec::new());
        }
        let root = fd_path(&*self.root.load().held()?).ok()?;
        let own = fd_path(&*self.fd(dir).ok()?).ok()?;
        strip_dir(&root, &own).map(<[u8]>::to_vec)
    }

    /// The root's inode number, where it is a directory and no other inode's node id can be the same.
    #[must_use]
    pub fn root_ino(&self) -> Option<u64> {
        let root = self.root();
        let ino = root.identity().ino;
        (root.kind().is_dir() && super::table::is_native(ino)).then_some(ino)
    }

    /// Whether something is mounted in our own mount at a name or below it, as far as our mount namespace goes.
    #[must_use]
    pub fn has_mounts_at(&self, dir: &Inode, name: &OsStr) -> bool {
        let places = self.own_device.get().and_then(|own| sys::mount::mountpoints_in(*own).ok());
        let Some(places) = places.filter(|places| !places.is_empty()) else { return false };
        let Some(dir) = self.path_of(dir) else { return false };
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            parts.map(<[u8]>::to_vec).collect()
        };
        let part = self.own_subdir.get().map(|part| part.as_bytes().to_vec());
        let mut at: Vec<_> = part.into_iter().chain(parts(&dir)).collect();
        at.push(name.as_bytes().to_vec());
        places.iter().any(|place| parts(place).starts_with(&at))
    }

    /// The inode of a node id. ESTALE when the kernel was never told of it.
    pub fn inode(&self, node: NodeId) -> Result<Arc<Inode>, Errno> {
        self.table.get(node).ok_or(Errno::STALE)
    }

    /// Gives back look-ups: the inode, if they were the last.
    pub fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        let gone = self.table.forget(node, lookups)?;
        self.fd_cache.remove(&gone);
        Some(gone)
    }

    /// Whether no change of a file leaves the times that it had when it was looked at, where its filesystem stores
    /// fractions of seconds.
    #[must_use]
    pub fn is_multigrain(&self, inode: &Inode) -> bool {
        self.mounts.is_multigrain(inode.mount())
    }

    /// Whether a server of the inode's file system may judge who asks for it by his ids.
    #[must_use]
    pub fn is_server_backed(&self, inode: &Inode) -> bool {
        self.mounts.is_server_backed(inode.mount())
    }

    /// What is forbidden on the mount that an inode is on and that our own mount does not forbid.
    #[must_use]
    pub fn restrictions(&self, inode: &Inode) -> Restrictions {
        self.mounts.restrictions(inode.mount())
    }

    /// Whether the source is itself stacked on another filesystem, which deepens the stack that passthrough makes.
    #[must_use]
    pub fn is_stacked(&self) -> bool {
        self.is_stacked
    }

    /// Lets go of what was not used for a while; to be called every second.
    pub fn sweep(&self) {
        self.fd_cache.sweep();
        self.sweep_links();
        if self.heap_trim.lock().unwrap_or_else(PoisonError::into_inner).is_due(self.table.stats())
        {
            // First: what is forgotten meanwhile counts for the next time.
            self.table.reset_peak();
            sys::memory::trim_heap();
        }
    }

    /// A descriptor of an inode: O_PATH, or that of a file open on it. ESTALE when the inode is gone.
    pub fn fd(&self, inode: &Inode) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = inode.held() {
            return Ok(fd);
        }
        if let Some(fd) = self.fd_cache.get(inode) {
            return Ok(fd);
        }
        let fd = Arc::new(self.open_handle(inode, OFlags::PATH | OFlags::NOFOLLOW)?);
        self.fd_cache.put(inode, Arc::clone(&fd));
        Ok(fd)
    }

    /// A descriptor of an inode that the kernel may have forgotten: it is not kept.
    pub fn uncached_fd(&self, inode: &Inode) -> Result<Arc<OwnedFd>, Errno> {
        match inode.held() {
            Some(fd) => Ok(fd),
            None => Ok(Arc::new(self.open_handle(inode, OFlags::PATH | OFlags::NOFOLLOW)?)),
        }
    }

    /// Opens an inode by its handle. Where the process has no descriptor left, those that are only kept for speed go.
    fn open_handle(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        let handle = inode.identity().handle().ok_or(Errno::STALE)?;
        let fd = match self.mounts.open(inode.mount(), &handle, flags) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.fd_cache.clear();
                self.mounts.open(inode.mount(), &handle, flags)
            }
            result => result,
        }?;
        if inode.identity().handle_ignores_generation() {
            inode.identity().verify(&fd)?;
        }
        Ok(fd)
    }

    /// Opens a regular file or directory for real. ESTALE when the inode is gone; EACCES for anything else, which is
    /// never opened.
    pub fn open(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !matches!(inode.kind(), FileType::RegularFile | FileType::Directory) {
            return Err(Errno::ACCESS);
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let fd = match inode.held() {
            // What is another inode by now, a device perhaps, is not to be opened for real.
            None if inode.identity().handle_ignores_generation() => self.fd(inode)?,
            None => return self.open_handle(inode, flags),
            Some(fd) => fd,
        };
        reopen(&fd, flags - OFlags::NOFOLLOW)
    }

    /// The attributes of an inode as they are now.
    pub fn stat(&self, inode: &Inode) -> Result<Statx, Errno> {
        let fd = self.fd(inode)?;
        rustix::fs::statx(&*fd, c"", AtFlags::EMPTY_PATH, BASIC)
    }

    /// Whether a directory has a name.
    #[must_use]
    pub fn has_name(&self, dir: &OwnedFd, name: &CString) -> bool {
        rustix::fs::statx(dir, &**name, NOFOLLOW_DONT_SYNC, StatxFlags::TYPE).is_ok()
    }

    /// Whether one inode may have two node ids, because its filesystem is mounted a second time below the source: what
    /// happens to the one happens to the other unseen.
    #[must_use]
    pub fn has_aliases(&self) -> bool {
        self.has_aliases.load(Ordering::Relaxed)
    }

    /// Whether fanotify(7) events can be told to be of this inode: it is on the root's own filesystem, whose handles
    /// name inode numbers.
    #[must_use]
    pub fn is_watchable(&self, inode: &Inode) -> bool {
        inode.identity().domain == Domain(0)
            && matches!(self.mounts.reopen_method(MountIndex::ROOT), ReopenMethod::HandleWithIno(_))
    }

    /// The handle by which events name an inode.
    pub fn handle_of(&self, inode: &Inode) -> Result<FileHandle, Errno> {
        match inode.identity().generation {
            Generation::Handle(handle) => Ok(handle),
            _ => Ok(name_to_handle(&*self.fd(inode)?, c"")?.0),
        }
    }

    /// The inodes that the kernel knows and an event may name: mostly one, more where the number was used before.
    #[must_use]
    pub fn inodes_by_handle(&self, handle: &FileHandle) -> Vec<Arc<Inode>> {
        let ReopenMethod::HandleWithIno(field) = self.mounts.reopen_method(MountIndex::ROOT) else {
            return Vec::new();
        };
        let Some(ino) = field.of(handle) else { return Vec::new() };
        let root = self.root.load();
        if (Domain(0), ino) == (root.identity().domain, root.identity().ino) {
            return vec![Arc::clone(&root)];
        }
        let mut inodes = self.table.all_generations(Domain(0), ino);
        inodes.retain(|inode| inode.identity().may_match_handle(handle));
        inodes
    }

    /// Whether the kernel, which has forgotten this inode, knows it again.
    #[must_use]
    pub fn is_known_again(&self, inode: &Inode) -> bool {
        let identity = inode.identity();
        let inodes = self.table.all_generations(identity.domain, identity.ino);
        inodes.iter().any(|inode| inode.identity().may_be_same(identity))
    }

    /// The node ids of all inodes that the kernel knows.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.table.nodes()
    }

    /// Whether a name in a directory has a directory.
    #[must_use]
    pub fn is_dir(&self, dir_fd: &OwnedFd, name: &CStr) -> bool {
        let stat = rustix::fs::statx(dir_fd, name, NOFOLLOW_DONT_SYNC, StatxFlags::TYPE);
        stat.is_ok_and(|stat| FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir())
    }

    /// Whether a listing leaves a name out that a look-up does not find, since something is mounted there.
    #[must_use]
    pub fn hides(&self, dir_fd: &OwnedFd, name: &OsStr) -> bool {
        if self.is_private || !self.scope.one_file_system {
            return false;
        }
        let Ok(name) = component(name) else { return false };
        rustix::fs::statx(dir_fd, &*name, NOFOLLOW_DONT_SYNC, StatxFlags::MNT_ID)
            .is_ok_and(|stat| self.is_hidden_mount(stat.stx_mnt_id))
    }

    /// Whether the kernel knows an entry of a directory, as far as its inode number tells.
    #[must_use]
    pub fn may_be_known(&self, dir: &Inode, kind: FileType, ino: u64) -> bool {
        self.table.get(NodeId(self.shown_ino(dir, kind, ino))).is_some()
    }

    /// The inode number to show for an entry of a directory.
    #[must_use]
    pub fn shown_ino(&self, dir: &Inode, kind: FileType, ino: u64) -> u64 {
        let domain = match dir.via() {
            Some(_) if !kind.is_dir() => self.domains.without_link(dir.identity().domain),
            _ => dir.identity().domain,
        };
        self.table.shown_ino(domain, ino)
    }
}

/// Of a link: the number by which domains know it.
pub(super) fn via_id(via: Option<&Arc<ViaLink>>) -> u32 {
    via.map_or(0, |via| via.id)
}

/// Whether the process may open files by handle (CAP_DAC_READ_SEARCH).
fn may_open_by_handle() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|s| s.effective.contains(rustix::thread::CapabilitySet::DAC_READ_SEARCH))
}

/// What of the source's own restrictions our mount cannot have: fusermount3 does not know `nosymfollow`.
fn restrictions_not_on_ours(source: Restrictions) -> Restrictions {
    let may_mount = rustix::thread::capabilities(None)
        .is_ok_and(|s| s.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    Restrictions { nosymfollow: source.nosymfollow && !may_mount, ..Restrictions::NONE }
}

/// Whether an inode is on a filesystem that may have another below it.
fn is_stacked(inode: &Inode) -> bool {
    const OVERLAYFS: i64 = 0x794c_7630;
    const ECRYPTFS: i64 = 0xf15f;
    const FUSE: i64 = 0x6573_5546;
    let kind = inode.held().and_then(|fd| rustix::fs::fstatfs(&*fd).ok()).map(|fs| fs.f_type);
    matches!(kind, Some(OVERLAYFS | ECRYPTFS | FUSE))
}

/// A name as the system calls take it: one component, never `.` or `..`.
pub(crate) fn component(name: &OsStr) -> Result<CString, Errno> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

/// The path by which the kernel finds the inode behind a descriptor of ours, whatever its name is (proc_pid_fd(5)).
#[must_use]
pub fn proc_path(fd: &OwnedFd) -> DescriptorPath<'_> {
    DescriptorPath::of(fd)
}

/// Opens the inode behind a descriptor once more, with other flags.
pub fn reopen(fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = proc_path(fd);
    let (dir, name) = path.relative();
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())
}
