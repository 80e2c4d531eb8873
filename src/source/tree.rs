//! The source tree: inodes found by name under a directory, one name at a time, and reached again by handle.
//!
//! No operation leads outside: a name is one component, never `.` or `..`, symbolic links are never followed unless that is
//! asked for (`resolve.rs`), and only regular files and directories are ever opened for real.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::domains::{Device, Domains, device};
use super::fds::FdCache;
use super::inode::{Domain, Identity, Inode, NodeId};
use super::mounts::{MountIndex, Mounts, Reach, SourceMount};
use super::resolve::{Links, Target, Via, below, look, path};
use super::root::SourceRoot;
use super::table::{InodeTable, Newcomer};
use crate::sys;
use crate::sys::descriptors::DescriptorPath;
use crate::sys::handle::{FileHandle, name_to_handle};

const BASIC: StatxFlags = StatxFlags::BASIC_STATS;
/// A name, not what it leads to.
const ITSELF: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);
/// As it is known, without asking a server.
const UNASKED: AtFlags = ITSELF.union(AtFlags::STATX_DONT_SYNC);

/// An inode with its attributes as they were when it was found.
#[derive(Debug)]
pub struct Found {
    /// The inode, with one look-up counted.
    pub inode: Arc<Inode>,
    /// Its attributes.
    pub stat: Statx,
    /// Whether it is, or was found by, a symbolic link that is to be shown as what it leads to: it may come to mean
    /// something else without a change of its directory.
    pub is_by_link: bool,
}

/// What of the source is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// Hide what is mounted below, where the root could not be cloned without it.
    pub one_file_system: bool,
    /// Symbolic links are shown as what they lead to.
    pub follows_links: bool,
}

/// Inodes about to lose their last name, with descriptors of them.
#[derive(Debug, Default)]
pub struct LastName(Vec<(Arc<OwnedFd>, Arc<Inode>)>);

impl LastName {
    /// The name is gone: the descriptors stay until the inodes are forgotten.
    pub fn is_gone(self) {
        for (fd, inode) in self.0 {
            inode.pin(fd);
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct SourceTree {
    mounts: Mounts,
    domains: Domains,
    table: InodeTable,
    fds: FdCache,
    root: ArcSwap<Inode>,
    /// The source's path, if it is to be followed.
    followed: Option<PathBuf>,
    scope: Scope,
    /// Whether our own mount can never be part of it.
    is_private: bool,
    /// The device of our own mount.
    own: OnceLock<Device>,
    links: Links,
    is_stacked: bool,
    /// Whether part of the root's filesystem was met a second time, through another mount.
    has_siblings: AtomicBool,
    /// How many look-ups are still to keep what they find open.
    careful: AtomicU32,
    /// The most inodes known since memory was last given back.
    most_known: AtomicUsize,
}

impl SourceTree {
    /// The tree below a root. `fd_room`: how many recently used descriptors may be kept.
    #[must_use]
    pub fn new(root: SourceRoot, fd_room: usize, scope: Scope) -> Self {
        let stat = *root.stat();
        let kind = root.kind();
        let is_private = root.is_private();
        let followed = root.followed().map(PathBuf::from);
        let privileged = may_open_by_handle();
        let mount = SourceMount::probe(&root, stat.stx_mnt_id, privileged && root.is_dir());
        let table = InodeTable::default();
        let identity = Identity { domain: Domain(0), ino: stat.stx_ino, handle: None };
        let pin = Some(root.into_fd());
        let root =
            table.enter_root(Inode::new(NodeId::ROOT, identity, MountIndex::ROOT, kind, pin, None));
        let domains = Domains::new(MountIndex::ROOT, device(&stat));
        let fds = FdCache::new(fd_room);
        let is_stacked = is_stacked(&root);
        Self {
            mounts: Mounts::new(mount),
            domains,
            table,
            fds,
            root: ArcSwap::new(root),
            followed,
            scope,
            is_private,
            own: OnceLock::new(),
            links: Links::default(),
            is_stacked,
            has_siblings: AtomicBool::new(false),
            careful: AtomicU32::new(0),
            most_known: AtomicUsize::new(0),
        }
    }

    /// The root's inode.
    #[must_use]
    pub fn root(&self) -> Arc<Inode> {
        self.root.load_full()
    }

    /// Shows another root.
    pub(super) fn replace_root(&self, root: Inode) -> Arc<Inode> {
        let root = self.table.enter_root(root);
        self.root.store(Arc::clone(&root));
        root
    }

    /// Tells the device of our own mount, once it is made and before anything is asked of the tree.
    pub fn beware_of(&self, own: (u32, u32)) {
        let _ = self.own.set(own);
    }

    /// Whether a device is that of our own mount, of which we must never ask anything.
    pub(super) fn is_own(&self, device: Device) -> bool {
        self.own.get() == Some(&device)
    }

    /// Whether symbolic links are shown as what they lead to.
    #[must_use]
    pub fn follows_links(&self) -> bool {
        self.scope.follows_links
    }

    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    pub(super) fn domains(&self) -> &Domains {
        &self.domains
    }

    pub(super) fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// The source's path, if it is to be followed.
    pub(super) fn followed(&self) -> Option<&PathBuf> {
        self.followed.as_ref()
    }

    /// Whether what is in a mount is not shown.
    pub(super) fn is_hidden_mount(&self, id: u64) -> bool {
        self.scope.one_file_system && id != self.mounts.id(self.root.load().mount())
    }

    /// Whether inodes of other mounts can be reached by handles.
    pub(super) fn is_privileged(&self) -> bool {
        self.mounts.reach(MountIndex::ROOT) != Reach::Pin || may_open_by_handle()
    }

    /// The path of a directory from the source's root, empty for the root itself. `None` when it is not below the root.
    #[must_use]
    pub fn path_of(&self, dir: &Inode) -> Option<Vec<u8>> {
        if dir.node() == NodeId::ROOT {
            return Some(Vec::new());
        }
        let root = path(&*self.root.load().held()?).ok()?;
        let own = path(&*self.fd(dir).ok()?).ok()?;
        below(&root, &own).map(<[u8]>::to_vec)
    }

    /// The inode of a node id. ESTALE when the kernel was never told of it.
    pub fn inode(&self, node: NodeId) -> Result<Arc<Inode>, Errno> {
        self.table.get(node).ok_or(Errno::STALE)
    }

    /// Gives back look-ups: the inode, if they were the last.
    pub fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        let gone = self.table.forget(node, lookups)?;
        self.fds.remove(&gone);
        Some(gone)
    }

    /// Whether the source is itself stacked on another filesystem, which deepens the stack that passthrough makes.
    #[must_use]
    pub fn is_stacked(&self) -> bool {
        self.is_stacked
    }

    /// Lets go of what was not used for a while; to be called every second.
    pub fn sweep(&self) {
        self.fds.sweep();
        self.sweep_links();
        let known = self.table.len();
        let most = self.most_known.fetch_max(known, Ordering::Relaxed).max(known);
        // Inodes forgotten by the thousand leave the allocator with pages that the system could use.
        if most - known > known / 2 + 10_000 {
            sys::memory::trim();
            self.most_known.store(known, Ordering::Relaxed);
        }
    }

    /// Finds a name in a directory and counts one look-up.
    ///
    /// ENOENT when there is none, EINVAL for `.` and `..`, else the source's own error.
    pub fn lookup(&self, dir: &Inode, name: &OsStr) -> Result<Found, Errno> {
        let dir_fd = self.fd(dir)?;
        let c_name = component(name)?;
        if !self.takes_care()
            && let Some(found) = self.lookup_unopened(dir, &dir_fd, &c_name)?
        {
            return Ok(found);
        }
        let fd = self.step(&dir_fd, &c_name)?;
        if self.follows_links() && look(&fd)?.1 == FileType::Symlink {
            return match self.target_of(dir, &dir_fd, &fd)? {
                Some(target) => self.enter_target(dir, &dir_fd, name, target),
                None => Ok(Found { is_by_link: true, ..self.enter_open(dir, None, fd)? }),
            };
        }
        self.enter_open(dir, dir.via(), fd)
    }

    /// As [`Self::lookup`], but a symbolic link is what it is.
    pub fn lookup_itself(&self, dir: &Inode, name: &OsStr) -> Result<Found, Errno> {
        let fd = self.step(&*self.fd(dir)?, &component(name)?)?;
        Ok(Found { is_by_link: true, ..self.enter_open(dir, dir.via(), fd)? })
    }

    fn step(&self, dir_fd: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir_fd, name, flags, Mode::empty())
    }

    fn enter_target(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &OsStr,
        target: Target,
    ) -> Result<Found, Errno> {
        let via = match target.is_dir() {
            // One inode may have two node ids from now on.
            true => {
                self.has_siblings.store(true, Ordering::Relaxed);
                Some(self.enter_link(dir, dir_fd, name)?)
            }
            false => None,
        };
        let found = self.enter_open(dir, via.as_ref(), target.fd)?;
        Ok(Found { is_by_link: true, ..found })
    }

    /// A file was gone when it was to be opened. The kernel looks its name up once more and no oftener, so what the next
    /// look-ups find is kept open for a while: it can then be opened whatever becomes of its name.
    pub fn take_care(&self) {
        self.careful.store(64, Ordering::Relaxed);
    }

    fn takes_care(&self) -> bool {
        self.careful.load(Ordering::Relaxed) > 0
            && self
                .careful
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    /// The look-up without opening: the handle says which inode the name meant, the attributes are those of the inode
    /// that had this number afterwards. When the two are not of one life of the inode, the handle is the older one and
    /// opens nothing (ESTALE), so no attributes are ever believed of another file.
    ///
    /// `None` where it takes a descriptor to tell.
    fn lookup_unopened(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CString,
    ) -> Result<Option<Found>, Errno> {
        let Reach::HandleWithIno(field) = self.mounts.reach(dir.mount()) else {
            return Ok(None);
        };
        let (handle, mount_id) = match name_to_handle(dir_fd, name) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Err(Errno::NOENT),
            Err(_) => return Ok(None),
        };
        if mount_id as u64 != self.mounts.id(dir.mount()) {
            return Ok(None);
        }
        let stat = rustix::fs::statx(dir_fd, &**name, ITSELF, BASIC)?;
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        if self.follows_links() && kind == FileType::Symlink {
            return Ok(None);
        }
        let domain = self.domains.of(dir.mount(), &stat, number(dir.via()));
        // A btrfs subvolume has inode numbers of its own: the number alone does not tell which one was meant.
        if field.of(&handle) != Some(stat.stx_ino) || domain != dir.identity().domain {
            return Ok(None);
        }
        let via = if kind.is_dir() { dir.via().cloned() } else { None };
        let domain = if kind.is_dir() { domain } else { self.domains.without_link(domain) };
        let identity = Identity { domain, ino: stat.stx_ino, handle: Some(handle) };
        let new = Newcomer { identity, mount: dir.mount(), kind, pin: None, via };
        Ok(Some(Found { inode: self.table.enter(new), stat, is_by_link: false }))
    }

    /// Enters the inode behind a descriptor (O_PATH or real) found in a directory, and counts one look-up. EPERM when it
    /// is of our own mount. `via`: the link through which it was reached, if it is a directory.
    fn enter_open(&self, dir: &Inode, via: Option<&Arc<Via>>, fd: OwnedFd) -> Result<Found, Errno> {
        if !self.is_private && self.is_own(device(&look(&fd)?.0)) {
            return Err(Errno::PERM);
        }
        let near = dir.mount();
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, BASIC | StatxFlags::MNT_ID)?;
        let mount = if stat.stx_mnt_id == self.mounts.id(near) {
            near
        } else {
            if device(&stat) == self.domains.root_device() {
                self.has_siblings.store(true, Ordering::Relaxed);
            }
            self.mounts.find_or_add(stat.stx_mnt_id, || {
                SourceMount::probe(&fd, stat.stx_mnt_id, self.is_privileged())
            })
        };
        if self.is_hidden_mount(stat.stx_mnt_id) {
            return Err(Errno::NOENT);
        }
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let via = via.filter(|_| kind.is_dir());
        let domain = self.domains.of(mount, &stat, number(via));
        let handle = match self.mounts.reach(mount) {
            Reach::Pin => None,
            Reach::Handle | Reach::HandleWithIno(_) => match name_to_handle(&fd, c"") {
                Ok((handle, _)) => Some(handle),
                Err(Errno::NOTSUP) => None,
                Err(e) => return Err(e),
            },
        };
        let identity = Identity { domain, ino: stat.stx_ino, handle };
        let (pin, spare) = if handle.is_some() { (None, Some(fd)) } else { (Some(fd), None) };
        let via = via.cloned();
        let inode = self.table.enter(Newcomer { identity, mount, kind, pin, via });
        if let Some(fd) = spare
            && inode.held().is_none()
        {
            self.fds.put(&inode, Arc::new(fd));
        }
        Ok(Found { inode, stat, is_by_link: false })
    }

    /// Enters a file that was just created, keeping the descriptor with the caller.
    pub fn enter_created(&self, near: MountIndex, fd: &OwnedFd) -> Result<Found, Errno> {
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, BASIC)?;
        let domain = self.domains.of(near, &stat, 0);
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let handle = match self.mounts.reach(near) {
            Reach::Pin => None,
            Reach::Handle | Reach::HandleWithIno(_) => match name_to_handle(fd, c"") {
                Ok((handle, _)) => Some(handle),
                Err(Errno::NOTSUP) => None,
                Err(e) => return Err(e),
            },
        };
        let pin = match handle {
            Some(_) => None,
            None => Some(reopen(fd, OFlags::PATH)?),
        };
        let identity = Identity { domain, ino: stat.stx_ino, handle };
        let inode = self.table.enter(Newcomer { identity, mount: near, kind, pin, via: None });
        Ok(Found { inode, stat, is_by_link: false })
    }

    /// A descriptor of an inode: O_PATH, or that of a file open on it. ESTALE when the inode is gone.
    pub fn fd(&self, inode: &Inode) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = inode.held() {
            return Ok(fd);
        }
        if let Some(fd) = self.fds.get(inode) {
            return Ok(fd);
        }
        let fd = Arc::new(self.open_handle(inode, OFlags::PATH | OFlags::NOFOLLOW)?);
        self.fds.put(inode, Arc::clone(&fd));
        Ok(fd)
    }

    /// A descriptor of an inode that the kernel may have forgotten: it is not kept.
    pub fn passing_fd(&self, inode: &Inode) -> Result<Arc<OwnedFd>, Errno> {
        match inode.held() {
            Some(fd) => Ok(fd),
            None => Ok(Arc::new(self.open_handle(inode, OFlags::PATH | OFlags::NOFOLLOW)?)),
        }
    }

    /// Opens an inode by its handle. Where the process has no descriptor left, those that are only kept for speed go.
    fn open_handle(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        let handle = inode.handle().ok_or(Errno::STALE)?;
        match self.mounts.open(inode.mount(), handle, flags) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.fds.clear();
                self.mounts.open(inode.mount(), handle, flags)
            }
            result => result,
        }
    }

    /// Opens a regular file or directory for real. ESTALE when the inode is gone; EACCES for anything else, which is
    /// never opened.
    pub fn open(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !matches!(inode.kind(), FileType::RegularFile | FileType::Directory) {
            return Err(Errno::ACCESS);
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NOFOLLOW;
        match (inode.held(), inode.handle()) {
            (None, Some(_)) => self.open_handle(inode, flags),
            (Some(fd), _) => reopen(&fd, flags - OFlags::NOFOLLOW),
            (None, None) => Err(Errno::STALE),
        }
    }

    /// The attributes of an inode as they are now.
    pub fn stat(&self, inode: &Inode) -> Result<Statx, Errno> {
        let fd = self.fd(inode)?;
        rustix::fs::statx(&*fd, c"", AtFlags::EMPTY_PATH, BASIC)
    }

    /// Whether a directory has a name.
    #[must_use]
    pub fn has_name(&self, dir: &OwnedFd, name: &CString) -> bool {
        rustix::fs::statx(dir, &**name, UNASKED, StatxFlags::TYPE).is_ok()
    }

    /// Whether one inode may have two node ids, because its filesystem is mounted a second time below the source: what
    /// happens to the one happens to the other unseen.
    #[must_use]
    pub fn has_siblings(&self) -> bool {
        self.has_siblings.load(Ordering::Relaxed)
    }

    /// Whether fanotify(7) events can be told to be of this inode: it is on the root's own filesystem, whose handles
    /// name inode numbers.
    #[must_use]
    pub fn is_watchable(&self, inode: &Inode) -> bool {
        inode.identity().domain == Domain(0)
            && matches!(self.mounts.reach(MountIndex::ROOT), Reach::HandleWithIno(_))
    }

    /// The handle by which events name an inode.
    pub fn handle_of(&self, inode: &Inode) -> Result<FileHandle, Errno> {
        match inode.handle() {
            Some(handle) => Ok(*handle),
            None => Ok(name_to_handle(&*self.fd(inode)?, c"")?.0),
        }
    }

    /// The inode that an event names, if the kernel knows it.
    #[must_use]
    pub fn inode_of(&self, handle: &FileHandle) -> Option<Arc<Inode>> {
        let Reach::HandleWithIno(field) = self.mounts.reach(MountIndex::ROOT) else { return None };
        let ino = field.of(handle)?;
        let root = self.root.load();
        if (Domain(0), ino) == (root.identity().domain, root.identity().ino) {
            return Some(Arc::clone(&root));
        }
        self.table.find_life(Domain(0), ino, handle)
    }

    /// Whether the kernel, which has forgotten this inode, knows it again.
    #[must_use]
    pub fn knows_again(&self, inode: &Inode) -> bool {
        let identity = inode.identity();
        let lives = self.table.lives(identity.domain, identity.ino);
        lives.iter().any(|life| life.identity() == identity)
    }

    /// The node ids of all inodes that the kernel knows.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.table.nodes()
    }

    /// The inodes that a name, when it is their last, keeps reachable, and what will do so instead: the kernel may hold
    /// them open without our knowing (a working directory, an O_PATH descriptor), and their number must not be used
    /// again before the kernel has forgotten them. To be pinned once the name is gone.
    #[must_use]
    pub fn held_by_last_name(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> LastName {
        let Some(stat) = self.stat_name(dir_fd, name) else { return LastName::default() };
        let domain = self.domains.of(dir.mount(), &stat, 0);
        let below_link = self.domains.of(dir.mount(), &stat, number(dir.via()));
        self.held_by(
            &stat,
            if domain == below_link { vec![domain] } else { vec![domain, below_link] },
        )
    }

    /// As [`Self::held_by_last_name`], for what a link leads to.
    #[must_use]
    pub fn held_by_last_name_of(&self, target: &Target) -> LastName {
        let stat = target.stat();
        match self.mounts.find(stat.stx_mnt_id) {
            Some(mount) => self.held_by(stat, vec![self.domains.of(mount, stat, 0)]),
            None => LastName::default(),
        }
    }

    fn held_by(&self, stat: &Statx, domains: Vec<Domain>) -> LastName {
        let is_dir = FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir();
        if stat.stx_nlink > 1 && !is_dir {
            return LastName::default();
        }
        let known = domains.into_iter().flat_map(|domain| self.table.lives(domain, stat.stx_ino));
        LastName(known.filter_map(|inode| Some((self.fd(&inode).ok()?, inode))).collect())
    }

    /// The attributes of a name. `None` where there is none, or our own mount.
    fn stat_name(&self, dir_fd: &OwnedFd, name: &CStr) -> Option<Statx> {
        if !self.is_private {
            let known = rustix::fs::statx(dir_fd, name, UNASKED, BASIC).ok()?;
            if self.is_own(device(&known)) {
                return None;
            }
        }
        rustix::fs::statx(dir_fd, name, ITSELF, BASIC).ok()
    }

    /// Whether a name in a directory has a directory.
    #[must_use]
    pub fn is_dir(&self, dir_fd: &OwnedFd, name: &CStr) -> bool {
        let stat = rustix::fs::statx(dir_fd, name, UNASKED, StatxFlags::TYPE);
        stat.is_ok_and(|stat| FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir())
    }

    /// Whether a listing leaves a name out that a look-up does not find, since something is mounted there.
    #[must_use]
    pub fn hides(&self, dir_fd: &OwnedFd, name: &OsStr) -> bool {
        if self.is_private || !self.scope.one_file_system {
            return false;
        }
        let Ok(name) = component(name) else { return false };
        rustix::fs::statx(dir_fd, &*name, UNASKED, StatxFlags::MNT_ID)
            .is_ok_and(|stat| self.is_hidden_mount(stat.stx_mnt_id))
    }

    /// The inode number to show for an entry of a directory.
    #[must_use]
    pub fn shown_ino(&self, dir: &Inode, kind: FileType, ino: u64) -> u64 {
        let domain = dir.identity().domain;
        match kind {
            FileType::Directory => self.table.shown_ino(domain, ino),
            _ => self.table.shown_ino(self.domains.without_link(domain), ino),
        }
    }
}

/// Of a link: the number by which domains know it.
fn number(via: Option<&Arc<Via>>) -> u32 {
    via.map_or(0, |via| via.number)
}

/// Whether the process may open files by handle (CAP_DAC_READ_SEARCH).
fn may_open_by_handle() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|s| s.effective.contains(rustix::thread::CapabilitySet::DAC_READ_SEARCH))
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
pub fn proc_path(fd: &OwnedFd) -> DescriptorPath {
    DescriptorPath::of(fd)
}

/// Opens the inode behind a descriptor once more, with other flags.
pub fn reopen(fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = proc_path(fd);
    let (dir, name) = path.shortest();
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())
}
