//! The source tree: finds inodes by directory and name, and opens them again by handle.
//!
//! No operation leads outside: a name is one component, never `.` or `..`, and symbolic links are followed only with
//! resolve-symlinks (`resolve.rs`). This module opens only regular files and directories other than with O_PATH.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustix::fs::{AtFlags, FileType, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::descriptor::{NOFOLLOW_DONT_SYNC, kind_of, reopen};
use super::domains::Domains;
use super::fd_cache::{FdCache, HitCount};
use super::fs_class::FUSE_MAGIC;
use super::heap_trim::TrimPolicy;
use super::identity::{Generation, InodeIdentity};
use super::inode::Inode;
use super::mounts::{MountIndex, Mounts, ReopenMethod, SourceMount};
use super::node_id::{DevNo, Domain, NodeId, dev_no};
use super::placeholder::Placeholder;
use super::restrictions::Restrictions;
use super::root::SourceRoot;
use super::same_inode::InodeComparer;
use super::submounts::HostMounts;
use super::table::InodeTable;
use super::via_link::ViaLinks;
use crate::sync::Mutex;
use crate::sys;
use crate::sys::handle::{FileHandle, name_to_handle};

pub(super) const BASIC: StatxFlags = StatxFlags::BASIC_STATS;
/// Which parts of the source are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// Hide mounts below the root, if the root could not be cloned without them.
    pub one_file_system: bool,
    /// Show the targets of symbolic links in their place.
    pub follows_links: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub struct SourceTree {
    pub(super) mounts: Mounts,
    pub(super) domains: Domains,
    pub(super) table: InodeTable,
    pub(super) fd_cache: FdCache,
    pub(super) root: ArcSwap<Inode>,
    /// The path of the source, with follow-source.
    pub(super) followed: Option<PathBuf>,
    pub(super) scope: Scope,
    /// Whether the daemon's own mount can never be part of the tree.
    pub(super) is_private: bool,
    /// The device number of the daemon's own mount.
    own_device: OnceLock<DevNo>,
    /// The directory in the daemon's own filesystem that shows the source's root.
    ///
    /// Unset if it is the root itself.
    own_subdir: OnceLock<&'static OsStr>,
    pub(super) via_links: ViaLinks,
    /// Shown in the place of pseudo-filesystems. `None`: there are none.
    pub(super) placeholder: Option<Placeholder>,
    is_stacked: bool,
    /// Whether part of the root's filesystem was found a second time, through another mount or a symbolic link.
    pub(super) has_aliases: AtomicBool,
    /// How many of the next lookups keep a descriptor of what they find.
    pub(super) keep_open_left: AtomicU32,
    heap_trim: Mutex<TrimPolicy>,
    pub(super) comparer: InodeComparer,
    /// See [`SourceRoot`].
    pub(super) on_host: Option<HostMounts>,
}

impl SourceTree {
    /// Creates the tree below a root.
    ///
    /// `fd_capacity`: how many recently used descriptors may be cached.
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
            .with_restrictions(restrictions_not_on_ours(facts.restrictions));
        let table = InodeTable::default();
        let identity = InodeIdentity {
            domain: Domain(0),
            ino: stat.stx_ino,
            generation: Generation::Held(None),
        };
        let (fd, placeholder, on_host) = root.into_parts();
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
            on_host,
        }
    }

    /// Returns the inode of the root.
    #[must_use]
    pub fn root(&self) -> Arc<Inode> {
        self.root.load_full()
    }

    /// Replaces the root.
    pub(super) fn replace_root(&self, root: Inode) -> Arc<Inode> {
        let root = self.table.set_root(root);
        self.root.store(Arc::clone(&root));
        root
    }

    /// Sets the device number of the daemon's own mount.
    ///
    /// To be called once, after mounting and before the first request.
    pub fn set_own_device(&self, device: (u32, u32)) {
        let _ = self.own_device.set(device);
    }

    /// Sets the name of the directory that shows the source's root.
    ///
    /// Not needed if the root of the daemon's own filesystem shows it.
    pub fn set_own_subdir(&self, name: &'static OsStr) {
        let _ = self.own_subdir.set(name);
    }

    /// Returns whether a device is the daemon's own mount.
    ///
    /// A worker must never make a request to it, since it could wait for itself.
    pub(super) fn is_own(&self, dev_no: DevNo) -> bool {
        self.own_device.get() == Some(&dev_no)
    }

    /// Returns whether the targets of symbolic links are shown in their place.
    #[must_use]
    pub fn follows_links(&self) -> bool {
        self.scope.follows_links
    }

    /// Returns whether the contents of a mount are hidden.
    pub(super) fn is_hidden_mount(&self, id: u64) -> bool {
        self.scope.one_file_system && id != self.mounts.id(self.root.load().mount())
    }

    /// Returns whether inodes of other mounts can be opened by handle.
    pub(super) fn is_privileged(&self) -> bool {
        self.mounts.reopen_method(MountIndex::ROOT) != ReopenMethod::HeldFd || may_open_by_handle()
    }

    /// Returns the inode number of the root, if it is a directory and fits into a native node id.
    #[must_use]
    pub fn root_ino(&self) -> Option<u64> {
        let root = self.root();
        let ino = root.identity().ino;
        (root.kind().is_dir() && super::table::is_native(ino)).then_some(ino)
    }

    /// Returns whether something is mounted in the daemon's own mount at a name or below it.
    ///
    /// It sees the mounts of the daemon's mount namespace only.
    #[must_use]
    pub fn has_mounts_at(&self, dir: &Inode, name: &OsStr) -> bool {
        let mount_points =
            self.own_device.get().and_then(|own| sys::mountinfo::mountpoints_in(*own).ok());
        let Some(mount_points) = mount_points.filter(|points| !points.is_empty()) else {
            return false;
        };
        let dir = match self.path_of(dir) {
            Ok(Some(dir)) => dir,
            Ok(None) => return false,
            // What may be mounted there must not be unmounted.
            Err(_) => return true,
        };
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            parts.map(<[u8]>::to_vec).collect()
        };
        let subdir = self.own_subdir.get().map(|name| name.as_bytes().to_vec());
        let mut at: Vec<_> = subdir.into_iter().chain(parts(&dir)).collect();
        at.push(name.as_bytes().to_vec());
        mount_points.iter().any(|point| parts(point).starts_with(&at))
    }

    /// Returns the inode with a node id. ESTALE if the table has none.
    pub fn inode(&self, node: NodeId) -> Result<Arc<Inode>, Errno> {
        self.table.get(node).ok_or(Errno::STALE)
    }

    /// Decrements the lookup count. Returns the inode if the count reached 0.
    pub fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        let gone = self.table.forget(node, lookups)?;
        self.fd_cache.remove(&gone);
        Some(gone)
    }

    /// Returns whether every change of a file after a stat gives it another time.
    ///
    /// It holds for files whose filesystem stores fractions of seconds.
    #[must_use]
    pub fn is_multigrain(&self, inode: &Inode) -> bool {
        self.mounts.is_multigrain(inode.mount())
    }

    /// Returns whether the tree is a clone of its own, to which no process can add a mount.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// Returns whether a server of the inode's filesystem may check the ids of the caller.
    #[must_use]
    pub fn is_server_backed(&self, inode: &Inode) -> bool {
        self.mounts.is_server_backed(inode.mount())
    }

    /// Returns the mount options that restrict the inode and that the daemon's own mount does not enforce.
    #[must_use]
    pub fn restrictions(&self, inode: &Inode) -> Restrictions {
        self.mounts.restrictions(inode.mount())
    }

    /// Returns whether passthrough would stack on a source that is itself on a stacked filesystem.
    ///
    /// The kernel limits the depth of the stack. Files of a FUSE or network server are never passed.
    #[must_use]
    pub fn passes_a_stack(&self) -> bool {
        self.is_stacked && !self.mounts.is_server_backed(MountIndex::ROOT)
    }

    /// Closes what was not used for a while; to be called every second.
    pub fn sweep(&self) {
        self.fd_cache.sweep();
        self.table.held.sweep(|held| self.is_known(held));
        self.sweep_links();
        if self.heap_trim.lock().is_due(self.table.stats()) {
            // Reset first: inodes that are forgotten during the trim count for the next one.
            self.table.reset_peak();
            sys::memory::trim_heap();
        }
    }

    /// Returns whether the kernel still knows the inode of a node id and a serial number.
    pub(super) fn is_known(&self, (node, serial): (NodeId, u64)) -> bool {
        self.table.get(node).is_some_and(|known| known.serial() == serial)
    }

    /// Returns a descriptor of an inode: O_PATH, or that of an open file. ESTALE if the inode is gone.
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

    /// Returns a descriptor of an inode that the kernel may have forgotten; it is not cached.
    pub fn uncached_fd(&self, inode: &Inode) -> Result<Arc<OwnedFd>, Errno> {
        match inode.held() {
            Some(fd) => Ok(fd),
            None => Ok(Arc::new(self.open_handle(inode, OFlags::PATH | OFlags::NOFOLLOW)?)),
        }
    }

    /// Opens an inode by its handle.
    ///
    /// If the process is out of descriptors (EMFILE, ENFILE), the cached ones are closed first.
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

    /// Sends what was written to an open file to the server of its filesystem (`sys::file::flush`).
    pub fn flush(&self, file: &OwnedFd) -> Result<(), Errno> {
        match sys::file::flush(file) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.fd_cache.clear();
                sys::file::flush(file)
            }
            result => result,
        }
    }

    /// Opens a regular file or directory other than with O_PATH.
    ///
    /// ESTALE if the inode is gone; EACCES for any other type.
    pub fn open(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !matches!(inode.kind(), FileType::RegularFile | FileType::Directory) {
            return Err(Errno::ACCESS);
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let fd = match inode.held() {
            // Check by an O_PATH descriptor first: opening another inode, perhaps a device, would have effects.
            None if inode.identity().handle_ignores_generation() => self.fd(inode)?,
            None => return self.open_handle(inode, flags),
            Some(fd) => fd,
        };
        reopen(&fd, flags - OFlags::NOFOLLOW)
    }

    /// Returns the current attributes of an inode.
    pub fn stat(&self, inode: &Inode) -> Result<Statx, Errno> {
        let fd = self.fd(inode)?;
        rustix::fs::statx(&*fd, c"", AtFlags::EMPTY_PATH, BASIC)
    }

    /// Returns whether a directory has an entry of this name.
    #[must_use]
    pub fn has_name(&self, dir: &OwnedFd, name: &CString) -> bool {
        rustix::fs::statx(dir, &**name, NOFOLLOW_DONT_SYNC, StatxFlags::TYPE).is_ok()
    }

    /// Returns whether one inode may have two node ids.
    ///
    /// That is so if the root's filesystem is mounted a second time below the source, or a directory is reached through
    /// a symbolic link: a change through one node id changes the other, and the kernel does not know.
    #[must_use]
    pub fn has_aliases(&self) -> bool {
        self.has_aliases.load(Ordering::Relaxed)
    }

    /// Returns whether fanotify(7) events can be assigned to this inode.
    ///
    /// It must be on the root's own filesystem, and the handles must contain inode numbers.
    #[must_use]
    pub fn is_watchable(&self, inode: &Inode) -> bool {
        inode.identity().domain == Domain(0)
            && matches!(self.mounts.reopen_method(MountIndex::ROOT), ReopenMethod::HandleWithIno(_))
    }

    /// Returns the handle by which events name an inode.
    pub fn handle_of(&self, inode: &Inode) -> Result<FileHandle, Errno> {
        match inode.identity().generation {
            Generation::Handle(handle) => Ok(handle),
            _ => Ok(name_to_handle(&*self.fd(inode)?, c"")?.0),
        }
    }

    /// Returns the known inodes that may have this handle: mostly one, more if the number was reused.
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

    /// Returns the inode as which the kernel has looked up again an inode that it had forgotten.
    #[must_use]
    pub fn known_again(&self, inode: &Inode) -> Option<Arc<Inode>> {
        let identity = inode.identity();
        let inodes = self.table.all_generations(identity.domain, identity.ino);
        inodes.into_iter().find(|inode| inode.identity().may_be_same(identity))
    }

    /// Returns whether the kernel still knows an inode: it has not forgotten it.
    #[must_use]
    pub fn has(&self, inode: &Inode) -> bool {
        self.is_known((inode.node(), inode.serial()))
    }

    /// The number of inodes that the kernel knows.
    #[must_use]
    pub fn inode_count(&self) -> usize {
        self.table.stats().len
    }

    /// How often a descriptor of an inode was cached.
    #[must_use]
    pub fn descriptor_hits(&self) -> HitCount {
        self.fd_cache.hit_count()
    }

    /// Returns the node ids of all inodes that the kernel knows.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.table.nodes()
    }

    /// Returns whether a name is that of a directory.
    #[must_use]
    pub fn is_dir(&self, dir_fd: &OwnedFd, name: &CStr) -> bool {
        let stat = rustix::fs::statx(dir_fd, name, NOFOLLOW_DONT_SYNC, StatxFlags::TYPE);
        stat.is_ok_and(|stat| kind_of(&stat).is_dir())
    }

    /// Returns whether a listing must omit a name, because a hidden mount covers it.
    #[must_use]
    pub fn hides(&self, dir_fd: &OwnedFd, name: &OsStr) -> bool {
        if self.is_private || !self.scope.one_file_system {
            return false;
        }
        let Ok(name) = component(name) else { return false };
        rustix::fs::statx(dir_fd, &*name, NOFOLLOW_DONT_SYNC, StatxFlags::MNT_ID)
            .is_ok_and(|stat| self.is_hidden_mount(stat.stx_mnt_id))
    }

    /// Returns whether the table has the inode of a directory entry, judged by its inode number on the source.
    #[must_use]
    pub fn may_be_known(&self, dir: &Inode, kind: FileType, ino: u64) -> bool {
        let domain = match dir.via() {
            Some(_) if !kind.is_dir() => self.domains.without_link(dir.identity().domain),
            _ => dir.identity().domain,
        };
        self.table.find(domain, ino).is_some()
    }
}

/// Returns whether the process may open files by handle (CAP_DAC_READ_SEARCH).
fn may_open_by_handle() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|s| s.effective.contains(rustix::thread::CapabilitySet::DAC_READ_SEARCH))
}

/// Returns those of the source's own restrictions that the daemon's mount cannot enforce.
///
/// fusermount3 does not know `nosymfollow`.
fn restrictions_not_on_ours(source: Restrictions) -> Restrictions {
    let may_mount = rustix::thread::capabilities(None)
        .is_ok_and(|s| s.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    Restrictions { nosymfollow: source.nosymfollow && !may_mount, ..Restrictions::NONE }
}

/// Returns whether an inode is on a filesystem that may be stacked on another.
fn is_stacked(inode: &Inode) -> bool {
    const OVERLAYFS: i64 = 0x794c_7630;
    const ECRYPTFS: i64 = 0xf15f;
    let kind = inode.held().and_then(|fd| rustix::fs::fstatfs(&*fd).ok()).map(|fs| fs.f_type);
    matches!(kind, Some(OVERLAYFS | ECRYPTFS | FUSE_MAGIC))
}

/// Converts a name for system calls. EINVAL unless it is one component other than `.` and `..`.
pub(crate) fn component(name: &OsStr) -> Result<CString, Errno> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    CString::new(bytes).map_err(|_| Errno::INVAL)
}
