//! The source tree: inodes found by name under a directory, one name at a time, and reached again by handle.
//!
//! No operation leads outside: a name is one component, never `.` or `..`, symbolic links are never followed, and only
//! regular files and directories are ever opened for real.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::fds::FdCache;
use super::inode::{Domain, Identity, Inode, NodeId};
use super::mounts::{MountIndex, Mounts, Reach, SourceMount};
use super::root::SourceRoot;
use super::table::{InodeTable, MAX_DOMAINS, Newcomer};
use crate::sys;
use crate::sys::descriptors::DescriptorPath;
use crate::sys::handle::{FileHandle, name_to_handle};

const BASIC: StatxFlags = StatxFlags::BASIC_STATS;

/// An inode with its attributes as they were when it was found.
#[derive(Debug)]
pub struct Found {
    /// The inode, with one look-up counted.
    pub inode: Arc<Inode>,
    /// Its attributes.
    pub stat: Statx,
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
    root: Arc<Inode>,
    one_file_system: bool,
    is_stacked: bool,
    /// Whether part of the root's filesystem was met a second time, through another mount.
    has_siblings: AtomicBool,
    /// How many look-ups are still to keep what they find open.
    careful: AtomicU32,
    /// The most inodes known since memory was last given back.
    most_known: AtomicUsize,
}

/// The device of a file, as one number.
type Device = (u32, u32);

fn device(stat: &Statx) -> Device {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

/// Numbers given to the pairs of mount and device that were met; the root's is 0.
#[derive(Debug)]
struct Domains {
    root: (MountIndex, Device),
    others: RwLock<HashMap<(MountIndex, Device), Domain>>,
}

impl Domains {
    fn of(&self, mount: MountIndex, stat: &Statx) -> Result<Domain, Errno> {
        let key = (mount, device(stat));
        if key == self.root {
            return Ok(Domain(0));
        }
        let known = self.others.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(domain) = known {
            return Ok(domain);
        }
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let next = others.len() + 1;
        if next > MAX_DOMAINS {
            return Err(Errno::NFILE);
        }
        Ok(*others.entry(key).or_insert(Domain(next as u16)))
    }
}

impl SourceTree {
    /// The tree below a root. `fd_room`: how many recently used descriptors may be kept; `one_file_system`: hide what
    /// is mounted below, where the root could not be cloned without it.
    #[must_use]
    pub fn new(root: SourceRoot, fd_room: usize, one_file_system: bool) -> Self {
        let stat = *root.stat();
        let kind = root.kind();
        let privileged = rustix::thread::capabilities(None)
            .is_ok_and(|s| s.effective.contains(rustix::thread::CapabilitySet::DAC_READ_SEARCH));
        let mount = SourceMount::probe(&root, stat.stx_mnt_id, privileged && root.is_dir());
        let table = InodeTable::default();
        let identity = Identity { domain: Domain(0), ino: stat.stx_ino, handle: None };
        let pin = Some(root.into_fd());
        let root =
            table.enter_root(Inode::new(NodeId::ROOT, identity, MountIndex::ROOT, kind, pin));
        let others = RwLock::default();
        let domains = Domains { root: (MountIndex::ROOT, device(&stat)), others };
        let fds = FdCache::new(fd_room);
        let is_stacked = is_stacked(&root);
        Self {
            mounts: Mounts::new(mount),
            domains,
            table,
            fds,
            root,
            one_file_system,
            is_stacked,
            has_siblings: AtomicBool::new(false),
            careful: AtomicU32::new(0),
            most_known: AtomicUsize::new(0),
        }
    }

    /// The root's inode.
    #[must_use]
    pub fn root(&self) -> &Arc<Inode> {
        &self.root
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
        let name = component(name)?;
        if !self.takes_care()
            && let Some(found) = self.lookup_unopened(dir, &dir_fd, &name)?
        {
            return Ok(found);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*dir_fd, &*name, flags, Mode::empty())?;
        self.enter_open(dir.mount(), fd)
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
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(dir_fd, &**name, flags, BASIC)?;
        let domain = self.domains.of(dir.mount(), &stat)?;
        // A btrfs subvolume has inode numbers of its own: the number alone does not tell which one was meant.
        if field.of(&handle) != Some(stat.stx_ino) || domain != dir.identity().domain {
            return Ok(None);
        }
        let identity = Identity { domain, ino: stat.stx_ino, handle: Some(handle) };
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let new = Newcomer { identity, mount: dir.mount(), kind, pin: None };
        Ok(Some(Found { inode: self.table.enter(new), stat }))
    }

    /// Enters the inode behind a descriptor (O_PATH or real) found in a directory of `near`, and counts one look-up.
    pub fn enter_open(&self, near: MountIndex, fd: OwnedFd) -> Result<Found, Errno> {
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, BASIC | StatxFlags::MNT_ID)?;
        let mount = if stat.stx_mnt_id == self.mounts.id(near) {
            near
        } else {
            let privileged = self.mounts.reach(MountIndex::ROOT) != Reach::Pin
                || rustix::thread::capabilities(None).is_ok_and(|s| {
                    s.effective.contains(rustix::thread::CapabilitySet::DAC_READ_SEARCH)
                });
            if device(&stat) == self.domains.root.1 {
                self.has_siblings.store(true, Ordering::Relaxed);
            }
            self.mounts.find_or_add(stat.stx_mnt_id, || {
                SourceMount::probe(&fd, stat.stx_mnt_id, privileged)
            })
        };
        if self.one_file_system && mount != MountIndex::ROOT {
            return Err(Errno::NOENT);
        }
        let domain = self.domains.of(mount, &stat)?;
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
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
        let inode = self.table.enter(Newcomer { identity, mount, kind, pin });
        if let Some(fd) = spare
            && inode.held().is_none()
        {
            self.fds.put(&inode, Arc::new(fd));
        }
        Ok(Found { inode, stat })
    }

    /// Enters what was just opened or created, keeping the descriptor with the caller.
    pub fn enter_created(&self, near: MountIndex, fd: &OwnedFd) -> Result<Found, Errno> {
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, BASIC)?;
        let domain = self.domains.of(near, &stat)?;
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
        let inode = self.table.enter(Newcomer { identity, mount: near, kind, pin });
        Ok(Found { inode, stat })
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
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        rustix::fs::statx(dir, &**name, flags, StatxFlags::TYPE).is_ok()
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
        if ino == self.root.identity().ino {
            return Some(Arc::clone(&self.root));
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
    pub fn held_by_last_name(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CString) -> LastName {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let Ok(stat) = rustix::fs::statx(dir_fd, &**name, flags, BASIC) else {
            return LastName::default();
        };
        let is_dir = FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir();
        if stat.stx_nlink > 1 && !is_dir {
            return LastName::default();
        }
        let Ok(domain) = self.domains.of(dir.mount(), &stat) else { return LastName::default() };
        let known = self.table.lives(domain, stat.stx_ino).into_iter();
        LastName(known.filter_map(|inode| Some((self.fd(&inode).ok()?, inode))).collect())
    }

    /// The inode number to show for an entry of a directory.
    #[must_use]
    pub fn shown_ino(&self, dir: &Inode, ino: u64) -> u64 {
        self.table.shown_ino(dir.identity().domain, ino)
    }
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
