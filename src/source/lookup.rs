//! Lookups: from a name in a directory, or a descriptor, to an inode of the table.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::candidate::InodeCandidate;
use super::descriptor::{NOFOLLOW, NOFOLLOW_DONT_SYNC, kind_of, reopen, stat_dont_sync};
use super::identity::{CoarseTime, Freshness, Generation, InodeIdentity, MatchResult};
use super::inode::Inode;
use super::mounts::{MountFacts, MountIndex, ReopenMethod, SourceMount};
use super::node_id::dev_no;
use super::resolve::LinkTarget;
use super::tree::{BASIC, SourceTree, component};
use super::via_link::{ViaLink, via_id};
use crate::sys::handle::name_to_handle;

const WITH_BTIME: StatxFlags = BASIC.union(StatxFlags::BTIME);

/// An inode with its attributes as of the lookup.
#[derive(Debug)]
pub struct FoundInode {
    /// The inode, whose lookup count was incremented.
    pub inode: Arc<Inode>,
    /// The attributes.
    pub stat: Statx,
    /// Whether it is, or was reached through, a symbolic link whose target is shown in its place.
    ///
    /// The target may change without an event in the directory of the link.
    pub is_by_link: bool,
}

/// Whether a lookup may call the server of another filesystem than its directory's (FUSE, network), which may never
/// answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherServers {
    /// It may: the caller asks for this very name.
    Asked,
    /// It may not, and fails with EXDEV instead.
    NotAsked,
}

/// What a name was at one moment.
///
/// It is not in the inode table, and no lookup is counted.
#[derive(Debug, Clone)]
pub struct PeekedInode {
    generation: Generation,
    freshness: Freshness,
    stat: Statx,
}

impl PeekedInode {
    /// Returns the attributes.
    #[must_use]
    pub fn stat(&self) -> &Statx {
        &self.stat
    }

    fn kind(&self) -> FileType {
        kind_of(&self.stat)
    }

    /// Returns whether it is not a directory and has one hard link.
    #[must_use]
    pub fn has_one_name(&self) -> bool {
        !self.kind().is_dir() && self.stat.stx_nlink == 1
    }
}

impl SourceTree {
    /// Looks up a name in a directory and increments the inode's lookup count.
    ///
    /// `dir_fd` is any descriptor of the directory; the name is one component other than `.` and `..`; `kind` is the
    /// type in a listing, or unknown.
    ///
    /// ENOENT if there is no such name, EXDEV if `servers` forbids the lookup, otherwise the source's own error.
    pub fn lookup(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
        servers: OtherServers,
    ) -> Result<FoundInode, Errno> {
        if !self.consume_keep_open()
            && let Some(found) = self.lookup_unopened(dir, dir_fd, name, kind)?
        {
            return Ok(found);
        }
        if self.mounts.reopen_method(dir.mount()) == ReopenMethod::HeldFd {
            self.table.held.wait_for_room();
        }
        let fd = self.open_path(dir_fd, name)?;
        if servers == OtherServers::NotAsked && self.is_of_other_server(dir, &fd) {
            return Err(Errno::XDEV);
        }
        if self.follows_links() && stat_dont_sync(&fd)?.1 == FileType::Symlink {
            let name = OsStr::from_bytes(name.to_bytes());
            return match self.resolve_open_link(dir, dir_fd, &fd)? {
                Some(target) => self.insert_target(dir, dir_fd, name, target),
                None => Ok(FoundInode { is_by_link: true, ..self.insert_open(dir, None, fd)? }),
            };
        }
        self.insert_open(dir, dir.via(), fd)
    }

    /// As [`Self::lookup`], without opening the inode. `None` if it takes a descriptor to decide.
    fn lookup_unopened(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        mut kind: FileType,
    ) -> Result<Option<FoundInode>, Errno> {
        loop {
            let Some(peeked) = self.peek(dir, dir_fd, name, kind)? else { return Ok(None) };
            let Some(candidate) = self.candidate(dir, &peeked) else { return Ok(None) };
            match self.table.find_or_insert(candidate) {
                Ok(inode) => {
                    return Ok(Some(FoundInode { inode, stat: peeked.stat, is_by_link: false }));
                }
                // The handle leaves it ambiguous as well.
                Err(_) if kind == FileType::Unknown => return Ok(None),
                Err(_) => kind = FileType::Unknown,
            }
        }
    }

    /// As [`Self::lookup`], but shows a symbolic link as itself.
    pub fn lookup_itself(&self, dir: &Inode, name: &OsStr) -> Result<FoundInode, Errno> {
        let fd = self.open_path(&*self.fd(dir)?, &component(name)?)?;
        Ok(FoundInode { is_by_link: true, ..self.insert_open(dir, dir.via(), fd)? })
    }

    /// Whether a descriptor is in another mount than its directory, and that mount has a server or is unknown.
    fn is_of_other_server(&self, dir: &Inode, fd: &OwnedFd) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let Ok(stat) = rustix::fs::statx(fd, c"", flags, StatxFlags::MNT_ID) else { return false };
        // A mount that is not in the table yet would have to be asked for its type (statfs(2)).
        let has_server =
            |id| self.mounts.find(id).is_none_or(|at| self.mounts.is_server_backed(at));
        stat.stx_mnt_id != self.mounts.id(dir.mount()) && has_server(stat.stx_mnt_id)
    }

    /// Opens a name with O_PATH.
    ///
    /// If the process is out of descriptors (EMFILE, ENFILE), the cached ones are closed first.
    pub(super) fn open_path(&self, dir_fd: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(dir_fd, name, flags, Mode::empty()) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.fd_cache.clear();
                rustix::fs::openat(dir_fd, name, flags, Mode::empty())
            }
            result => result,
        }
    }

    fn insert_target(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &OsStr,
        target: LinkTarget,
    ) -> Result<FoundInode, Errno> {
        let via = match target.is_dir() {
            // From now on, one inode may have two node ids.
            true => {
                self.has_aliases.store(true, Ordering::Relaxed);
                Some(self.via_link(dir, dir_fd, name)?)
            }
            false => None,
        };
        let found = self.insert_open(dir, via.as_ref(), target.fd)?;
        Ok(FoundInode { is_by_link: true, ..found })
    }

    /// Makes the next 64 lookups keep a descriptor of what they find.
    ///
    /// Called when an inode was gone before it could be opened. The kernel looks the name up once more and then gives
    /// up (`do_filp_open` with LOOKUP_REVAL); with a descriptor, the second open succeeds whatever happens to the name.
    pub fn keep_lookups_open(&self) {
        self.keep_open_left.store(64, Ordering::Relaxed);
    }

    fn consume_keep_open(&self) -> bool {
        self.keep_open_left.load(Ordering::Relaxed) > 0
            && self
                .keep_open_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    /// Returns whether the next lookups keep a descriptor.
    #[must_use]
    pub fn keeps_lookups_open(&self) -> bool {
        self.keep_open_left.load(Ordering::Relaxed) > 0
    }

    /// Reads handle and attributes of a name without opening it.
    ///
    /// The handle identifies the inode; the attributes are read after it and are those of the inode that has the number
    /// by then. If the name was replaced in between, the handle is the older one and opens nothing (ESTALE), so the
    /// attributes are never used for another file.
    ///
    /// For an entry that a listing shows as something other than a directory (`kind`), the btime may suffice, without a
    /// handle.
    ///
    /// `None` if it takes a descriptor to decide.
    pub fn peek(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
    ) -> Result<Option<PeekedInode>, Errno> {
        let ReopenMethod::HandleWithIno(field) = self.mounts.reopen_method(dir.mount()) else {
            return Ok(None);
        };
        let by_btime = self.mounts.btime_identifies(dir.mount());
        let has_handle_anyway = matches!(kind, FileType::Directory | FileType::Unknown);
        if by_btime
            && !has_handle_anyway
            && let Some(peeked) = self.peek_btime(dir, dir_fd, name)?
        {
            return Ok(Some(peeked));
        }
        let asked = CoarseTime::now();
        let (handle, mount_id) = match name_to_handle(dir_fd, name) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Err(Errno::NOENT),
            Err(_) => return Ok(None),
        };
        if mount_id as u64 != self.mounts.id(dir.mount()) {
            return Ok(None);
        }
        let stat = rustix::fs::statx(dir_fd, name, NOFOLLOW, WITH_BTIME)?;
        if field.of(&handle) != Some(stat.stx_ino) || !self.is_in_domain(dir, &stat) {
            return Ok(None);
        }
        let generation = Generation::with(&stat, handle, by_btime);
        let freshness = Freshness::of(&generation, asked, Freshness::WithinTick);
        Ok(Some(PeekedInode { generation, freshness, stat }))
    }

    /// As [`Self::peek`], by the attributes alone. `None` if they do not suffice.
    fn peek_btime(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
    ) -> Result<Option<PeekedInode>, Errno> {
        let asked = CoarseTime::now();
        // The daemon's own mount may be mounted there, so no request may be sent to it. The ext family caches its
        // attributes.
        let stat =
            rustix::fs::statx(dir_fd, name, NOFOLLOW_DONT_SYNC, WITH_BTIME | StatxFlags::MNT_ID)?;
        let tells_mount = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
        if !tells_mount
            || stat.stx_mnt_id != self.mounts.id(dir.mount())
            || !self.is_in_domain(dir, &stat)
        {
            return Ok(None);
        }
        let old = |generation| match Freshness::of(&generation, asked, Freshness::WithinTick) {
            Freshness::PastTick => {
                Some(PeekedInode { generation, freshness: Freshness::PastTick, stat })
            }
            _ => None,
        };
        Ok(Generation::of(&stat).and_then(old))
    }

    /// Returns whether a found inode is in the domain of its directory.
    ///
    /// A btrfs subvolume has inode numbers of its own, so the number alone does not identify the inode.
    fn is_in_domain(&self, dir: &Inode, stat: &Statx) -> bool {
        self.domains.of(dir.mount(), stat, via_id(dir.via())) == dir.identity().domain
    }

    /// Inserts a peeked inode, if the kernel knows neither it nor another inode that had its number.
    #[must_use]
    pub fn insert_unknown(&self, dir: &Inode, peeked: &PeekedInode) -> Option<Arc<Inode>> {
        self.table.insert_unknown(self.candidate(dir, peeked)?)
    }

    fn candidate(&self, dir: &Inode, peeked: &PeekedInode) -> Option<InodeCandidate> {
        let kind = peeked.kind();
        if self.follows_links() && kind == FileType::Symlink {
            return None;
        }
        let (via, domain) = match dir.via() {
            Some(via) if kind.is_dir() => (Some(Arc::clone(via)), dir.identity().domain),
            Some(_) => (None, self.domains.without_link(dir.identity().domain)),
            None => (None, dir.identity().domain),
        };
        let identity =
            InodeIdentity { domain, ino: peeked.stat.stx_ino, generation: peeked.generation };
        let freshness = peeked.freshness;
        let (mount, compared) = (dir.mount(), Vec::new());
        Some(InodeCandidate { identity, freshness, mount, kind, pin: None, via, compared })
    }

    /// Finds or inserts the inode behind a descriptor, and increments its lookup count.
    ///
    /// EPERM if it is on the daemon's own mount. `via`: the symbolic link through which a directory was reached.
    fn insert_open(
        &self,
        dir: &Inode,
        via: Option<&Arc<ViaLink>>,
        fd: OwnedFd,
    ) -> Result<FoundInode, Errno> {
        if !self.is_private && self.is_own(dev_no(&stat_dont_sync(&fd)?.0)) {
            return Err(Errno::PERM);
        }
        let near = dir.mount();
        let asked = CoarseTime::now();
        let mask = WITH_BTIME | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, mask)?;
        if self.is_hidden_mount(stat.stx_mnt_id) {
            return Err(Errno::NOENT);
        }
        let mount = match stat.stx_mnt_id == self.mounts.id(near) {
            // A client has the directory open: what is found in it now could not be let go of again.
            true if self.mounts.is_closed(near) => return Err(Errno::STALE),
            true => near,
            false => self.submount_index(&fd, &stat)?,
        };
        if self.mounts.is_pseudo(mount) {
            return self.insert_placeholder(via, mount, &stat);
        }
        let via = via.filter(|_| kind_of(&stat).is_dir());
        let generation = self.generation_of(mount, &fd, &stat)?;
        let (pin, spare) = match generation {
            Generation::Held(_) => (Some(fd), None),
            Generation::Handle(_) | Generation::Btime(..) => (None, Some(fd)),
        };
        let freshness = Freshness::of(&generation, asked, Freshness::HeldOpen);
        let found = self.insert_stat(mount, via, stat, (generation, freshness), pin)?;
        if let Some(fd) = spare
            && found.inode.held().is_none()
        {
            self.fd_cache.put(&found.inode, Arc::new(fd));
        }
        Ok(found)
    }

    /// Finds or inserts the inode with these attributes, and increments its lookup count.
    ///
    /// `via`: the symbolic link through which a directory was reached. `pin` keeps an inode without a handle reachable.
    fn insert_stat(
        &self,
        mount: MountIndex,
        via: Option<&Arc<ViaLink>>,
        stat: Statx,
        (generation, freshness): (Generation, Freshness),
        pin: Option<OwnedFd>,
    ) -> Result<FoundInode, Errno> {
        let domain = self.domains.of(mount, &stat, via_id(via));
        let inode = self.insert_comparing(InodeCandidate {
            identity: InodeIdentity { domain, ino: stat.stx_ino, generation },
            freshness,
            mount,
            kind: kind_of(&stat),
            pin,
            via: via.cloned(),
            compared: Vec::new(),
        })?;
        Ok(FoundInode { inode, stat, is_by_link: false })
    }

    /// Returns the mount of an inode that is not on its directory's mount.
    pub(super) fn submount_index(&self, fd: &OwnedFd, stat: &Statx) -> Result<MountIndex, Errno> {
        if dev_no(stat) == self.domains.root_dev_no() {
            self.has_aliases.store(true, Ordering::Relaxed);
        }
        let id = stat.stx_mnt_id;
        // A private tree holds its mounts, and no process can change their options. In the shared tree an id may mean
        // another mount by now, or the same with other options.
        if self.is_private
            && let Some(known) = self.mounts.find(id).filter(|known| !self.mounts.is_closed(*known))
        {
            return Ok(known);
        }
        if self.mounts.is_closed_id(id) {
            return Err(Errno::STALE);
        }
        let facts = MountFacts::of(fd, stat.stx_dev_major)?;
        let probe = || SourceMount::probe(fd, id, facts, self.is_privileged());
        Ok(self.mounts.find_or_add(id, facts, probe))
    }

    /// Inserts an empty directory or file in the place of a pseudo-filesystem's root.
    ///
    /// EACCES if there is no placeholder.
    fn insert_placeholder(
        &self,
        via: Option<&Arc<ViaLink>>,
        mount: MountIndex,
        at: &Statx,
    ) -> Result<FoundInode, Errno> {
        let is_dir = kind_of(at).is_dir();
        let fd = self.placeholder.as_ref().ok_or(Errno::ACCESS)?.fd(is_dir)?;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, WITH_BTIME)?;
        let kind = if is_dir { FileType::Directory } else { FileType::RegularFile };
        let via = via.filter(|_| is_dir).cloned();
        // Each placeholder gets its own number: the kernel allows one dentry for each directory inode
        // (`d_splice_alias`).
        let domain = self.domains.of(mount, at, via_id(via.as_ref()));
        let identity =
            InodeIdentity { domain, ino: at.stx_ino, generation: Generation::Held(None) };
        let (freshness, pin, compared) = (Freshness::HeldOpen, Some(fd), Vec::new());
        let inode = self.insert_comparing(InodeCandidate {
            identity,
            freshness,
            mount,
            kind,
            pin,
            via,
            compared,
        })?;
        Ok(FoundInode { inode, stat, is_by_link: false })
    }

    /// Inserts a file that was just created. The caller keeps the descriptor.
    pub fn insert_created(&self, near: MountIndex, fd: &OwnedFd) -> Result<FoundInode, Errno> {
        let asked = CoarseTime::now();
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WITH_BTIME)?;
        let generation = self.generation_of(near, fd, &stat)?;
        let pin = match generation {
            Generation::Held(_) => Some(reopen(fd, OFlags::PATH)?),
            Generation::Handle(_) | Generation::Btime(..) => None,
        };
        let freshness = Freshness::of(&generation, asked, Freshness::HeldOpen);
        self.insert_stat(near, None, stat, (generation, freshness), pin)
    }

    /// Finds or inserts an inode that is open.
    ///
    /// If two inodes have the same number and no handles, it compares their descriptors.
    fn insert_comparing(&self, mut found: InodeCandidate) -> Result<Arc<Inode>, Errno> {
        loop {
            let ambiguous = match self.table.find_or_insert(found) {
                Ok(inode) => return Ok(inode),
                Err(ambiguous) => ambiguous,
            };
            let Some(pin) = &ambiguous.found.pin else { return Err(ambiguous.into()) };
            let result = match ambiguous.known.held() {
                Some(known) if self.comparer.is_same_inode(&known, pin) => MatchResult::Same,
                // A name of it is being removed (`release_for_unlink`). ESTALE makes the kernel look it up again.
                None if ambiguous.known.is_released() => return Err(ambiguous.into()),
                // Without a descriptor it has lost its last name (`UnlinkPin`), and the server has reused the number.
                Some(_) | None => MatchResult::Different,
            };
            let serial = ambiguous.known.serial();
            found = ambiguous.found;
            found.compared.push((serial, result));
        }
    }

    /// Returns the generation of an open inode with these attributes.
    fn generation_of(
        &self,
        mount: MountIndex,
        fd: &OwnedFd,
        stat: &Statx,
    ) -> Result<Generation, Errno> {
        let must_be_held = self.mounts.reopen_method(mount) == ReopenMethod::HeldFd;
        match name_to_handle(fd, c"") {
            Ok((handle, _)) if must_be_held => Ok(Generation::Held(Some(handle))),
            Ok((handle, _)) => {
                Ok(Generation::with(stat, handle, self.mounts.btime_identifies(mount)))
            }
            Err(Errno::NOTSUP) => Ok(Generation::Held(None)),
            Err(_) if must_be_held => Ok(Generation::Held(None)),
            Err(e) => Err(e),
        }
    }
}
