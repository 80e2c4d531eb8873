//! Look-ups: from a name in a directory, or a descriptor, to an inode of the table.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::domains::device;
use super::identity::{Identity, Life, Likeness, Moment, Sighting};
use super::inode::Inode;
use super::mounts::{MountFacts, MountIndex, Reach, SourceMount};
use super::resolve::{Target, Via, look};
use super::table::Newcomer;
use super::tree::{BASIC, ITSELF, SourceTree, UNASKED, component, number, reopen};
use crate::sys::handle::name_to_handle;

const WITH_BIRTH: StatxFlags = BASIC.union(StatxFlags::BTIME);

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

/// What a name meant at one moment. It is not entered anywhere, and no look-up is counted.
#[derive(Debug, Clone)]
pub struct Seen {
    life: Life,
    sighting: Sighting,
    stat: Statx,
}

impl Seen {
    /// Its attributes.
    #[must_use]
    pub fn stat(&self) -> &Statx {
        &self.stat
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(u32::from(self.stat.stx_mode))
    }

    /// Whether it is something else than a directory, and has no second name.
    #[must_use]
    pub fn has_one_name(&self) -> bool {
        !self.kind().is_dir() && self.stat.stx_nlink == 1
    }
}

impl SourceTree {
    /// Finds a name in a directory and counts one look-up. `dir_fd`: any descriptor of the directory; the name is one
    /// component, neither `.` nor `..`; `kind` is what a listing has said of it, or unknown.
    ///
    /// ENOENT when there is none, else the source's own error.
    pub fn lookup(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
    ) -> Result<Found, Errno> {
        if !self.takes_care()
            && let Some(found) = self.lookup_unopened(dir, dir_fd, name, kind)?
        {
            return Ok(found);
        }
        let fd = self.step(dir_fd, name)?;
        if self.follows_links() && look(&fd)?.1 == FileType::Symlink {
            let name = OsStr::from_bytes(name.to_bytes());
            return match self.target_of(dir, dir_fd, &fd)? {
                Some(target) => self.enter_target(dir, dir_fd, name, target),
                None => Ok(Found { is_by_link: true, ..self.enter_open(dir, None, fd)? }),
            };
        }
        self.enter_open(dir, dir.via(), fd)
    }

    /// As [`Self::lookup`], without opening what the name means. `None` where it takes a descriptor to tell.
    fn lookup_unopened(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        mut kind: FileType,
    ) -> Result<Option<Found>, Errno> {
        loop {
            let Some(seen) = self.see(dir, dir_fd, name, kind)? else { return Ok(None) };
            let Some(newcomer) = self.newcomer(dir, &seen) else { return Ok(None) };
            match self.table.enter(newcomer) {
                Ok(inode) => return Ok(Some(Found { inode, stat: seen.stat, is_by_link: false })),
                // Not even the handle tells.
                Err(_) if kind == FileType::Unknown => return Ok(None),
                Err(_) => kind = FileType::Unknown,
            }
        }
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

    /// A file was gone when it was to be opened. The kernel looks its name up once more and no oftener, so what the
    /// next look-ups find is kept open for a while: it can then be opened whatever becomes of its name.
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

    /// Whether what the next look-ups find is kept open.
    #[must_use]
    pub fn is_careful(&self) -> bool {
        self.careful.load(Ordering::Relaxed) > 0
    }

    /// Looks at a name without opening what it means: the handle says which inode that is, the attributes are those of
    /// the inode that had this number afterwards. When the two are not of one life of the inode, the handle is the
    /// older one and opens nothing (ESTALE), so no attributes are ever believed of another file.
    ///
    /// What a listing shows as something else than a directory (`kind`) may need no handle.
    ///
    /// `None` where it takes a descriptor to tell.
    pub fn see(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
    ) -> Result<Option<Seen>, Errno> {
        let Reach::HandleWithIno(field) = self.mounts.reach(dir.mount()) else {
            return Ok(None);
        };
        let by_birth = self.mounts.tells_births(dir.mount());
        let has_handle_anyway = matches!(kind, FileType::Directory | FileType::Unknown);
        if by_birth
            && !has_handle_anyway
            && let Some(seen) = self.see_birth(dir, dir_fd, name)?
        {
            return Ok(Some(seen));
        }
        let asked = Moment::now();
        let (handle, mount_id) = match name_to_handle(dir_fd, name) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Err(Errno::NOENT),
            Err(_) => return Ok(None),
        };
        if mount_id as u64 != self.mounts.id(dir.mount()) {
            return Ok(None);
        }
        let stat = rustix::fs::statx(dir_fd, name, ITSELF, WITH_BIRTH)?;
        if field.of(&handle) != Some(stat.stx_ino) || !self.is_of_domain(dir, &stat) {
            return Ok(None);
        }
        let life = Life::with(&stat, handle, by_birth);
        let sighting = Sighting::of(&life, asked, Sighting::Young);
        Ok(Some(Seen { life, sighting, stat }))
    }

    /// As [`Self::see`], by the attributes alone. `None` where they do not tell.
    fn see_birth(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> Result<Option<Seen>, Errno> {
        let asked = Moment::now();
        // What is mounted there may be our own mount. The ext family knows its attributes without being asked for them.
        let stat = rustix::fs::statx(dir_fd, name, UNASKED, WITH_BIRTH | StatxFlags::MNT_ID)?;
        let tells_mount = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
        if !tells_mount
            || stat.stx_mnt_id != self.mounts.id(dir.mount())
            || !self.is_of_domain(dir, &stat)
        {
            return Ok(None);
        }
        let old = |life| match Sighting::of(&life, asked, Sighting::Young) {
            Sighting::Old => Some(Seen { life, sighting: Sighting::Old, stat }),
            _ => None,
        };
        Ok(Life::of(&stat).and_then(old))
    }

    /// Whether what was found in a directory is of its domain: a btrfs subvolume has inode numbers of its own, so that
    /// the number alone does not tell which one was meant.
    fn is_of_domain(&self, dir: &Inode, stat: &Statx) -> bool {
        self.domains.of(dir.mount(), stat, number(dir.via())) == dir.identity().domain
    }

    /// As the look-up of what was seen a moment ago, but only if neither it nor another inode that had its number is
    /// known to the kernel.
    #[must_use]
    pub fn enter_unknown(&self, dir: &Inode, seen: &Seen) -> Option<Arc<Inode>> {
        self.table.enter_unknown(self.newcomer(dir, seen)?)
    }

    fn newcomer(&self, dir: &Inode, seen: &Seen) -> Option<Newcomer> {
        let kind = seen.kind();
        if self.follows_links() && kind == FileType::Symlink {
            return None;
        }
        let (via, domain) = match dir.via() {
            Some(via) if kind.is_dir() => (Some(Arc::clone(via)), dir.identity().domain),
            Some(_) => (None, self.domains.without_link(dir.identity().domain)),
            None => (None, dir.identity().domain),
        };
        let identity = Identity { domain, ino: seen.stat.stx_ino, life: seen.life };
        let seen = seen.sighting;
        let (mount, judged) = (dir.mount(), Vec::new());
        Some(Newcomer { identity, seen, mount, kind, pin: None, via, judged })
    }

    /// Enters the inode behind a descriptor (O_PATH or real) found in a directory, and counts one look-up. EPERM when
    /// it is of our own mount. `via`: the link through which it was reached, if it is a directory.
    fn enter_open(&self, dir: &Inode, via: Option<&Arc<Via>>, fd: OwnedFd) -> Result<Found, Errno> {
        if !self.is_private && self.is_own(device(&look(&fd)?.0)) {
            return Err(Errno::PERM);
        }
        let near = dir.mount();
        let asked = Moment::now();
        let mask = WITH_BIRTH | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, mask)?;
        if self.is_hidden_mount(stat.stx_mnt_id) {
            return Err(Errno::NOENT);
        }
        let mount = match stat.stx_mnt_id == self.mounts.id(near) {
            true => near,
            false => self.mount_below(&fd, &stat)?,
        };
        if self.mounts.is_pseudo(mount) {
            return self.enter_hidden(via, mount, &stat);
        }
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let via = via.filter(|_| kind.is_dir());
        let domain = self.domains.of(mount, &stat, number(via));
        let life = self.life_of(mount, &fd, &stat)?;
        let identity = Identity { domain, ino: stat.stx_ino, life };
        let seen = Sighting::of(&life, asked, Sighting::Open);
        let (pin, spare) = match life {
            Life::Held(_) => (Some(fd), None),
            Life::Handle(_) | Life::Born(..) => (None, Some(fd)),
        };
        let (via, judged) = (via.cloned(), Vec::new());
        let inode =
            self.enter_open_one(Newcomer { identity, seen, mount, kind, pin, via, judged })?;
        if let Some(fd) = spare
            && inode.held().is_none()
        {
            self.fds.put(&inode, Arc::new(fd));
        }
        Ok(Found { inode, stat, is_by_link: false })
    }

    /// The mount that something was found in which is not in its directory's mount.
    pub(super) fn mount_below(&self, fd: &OwnedFd, stat: &Statx) -> Result<MountIndex, Errno> {
        if device(stat) == self.domains.root_device() {
            self.has_siblings.store(true, Ordering::Relaxed);
        }
        let id = stat.stx_mnt_id;
        // A private tree holds its mounts, and nobody changes their options. In the real one an id may mean another mount
        // by now, or the same with other options.
        if self.is_private
            && let Some(known) = self.mounts.find(id)
        {
            return Ok(known);
        }
        let facts = MountFacts::of(fd, stat.stx_dev_major)?;
        let probe = || SourceMount::probe(fd, id, facts, self.is_privileged());
        Ok(self.mounts.find_or_add(id, facts, probe))
    }

    /// Enters an empty directory, or an empty file, in the place of what is mounted from a pseudo-filesystem. EACCES
    /// where there is none.
    fn enter_hidden(
        &self,
        via: Option<&Arc<Via>>,
        mount: MountIndex,
        at: &Statx,
    ) -> Result<Found, Errno> {
        let is_dir = FileType::from_raw_mode(u32::from(at.stx_mode)).is_dir();
        let fd = self.empty.as_ref().ok_or(Errno::ACCESS)?.instead_of(is_dir)?;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, WITH_BIRTH)?;
        let kind = if is_dir { FileType::Directory } else { FileType::RegularFile };
        let via = via.filter(|_| is_dir).cloned();
        // Each by a number of its own: the kernel knows one name of a directory.
        let domain = self.domains.of(mount, at, number(via.as_ref()));
        let identity = Identity { domain, ino: at.stx_ino, life: Life::Held(None) };
        let (seen, pin, judged) = (Sighting::Open, Some(fd), Vec::new());
        let inode =
            self.enter_open_one(Newcomer { identity, seen, mount, kind, pin, via, judged })?;
        Ok(Found { inode, stat, is_by_link: false })
    }

    /// Enters a file that was just created, keeping the descriptor with the caller.
    pub fn enter_created(&self, near: MountIndex, fd: &OwnedFd) -> Result<Found, Errno> {
        let asked = Moment::now();
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WITH_BIRTH)?;
        let domain = self.domains.of(near, &stat, 0);
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let life = self.life_of(near, fd, &stat)?;
        let pin = match life {
            Life::Held(_) => Some(reopen(fd, OFlags::PATH)?),
            Life::Handle(_) | Life::Born(..) => None,
        };
        let identity = Identity { domain, ino: stat.stx_ino, life };
        let seen = Sighting::of(&life, asked, Sighting::Open);
        let (mount, via, judged) = (near, None, Vec::new());
        let inode =
            self.enter_open_one(Newcomer { identity, seen, mount, kind, pin, via, judged })?;
        Ok(Found { inode, stat, is_by_link: false })
    }

    /// Finds or enters an inode that is open. Where the numbers of two are the same and there are no handles, their
    /// descriptors are compared.
    fn enter_open_one(&self, mut found: Newcomer) -> Result<Arc<Inode>, Errno> {
        loop {
            let unsure = match self.table.enter(found) {
                Ok(inode) => return Ok(inode),
                Err(unsure) => unsure,
            };
            let (Some(known), Some(pin)) = (unsure.known.held(), &unsure.found.pin) else {
                return Err(unsure.into());
            };
            let likeness = match self.comparer.are_one(&known, pin) {
                true => Likeness::Same,
                false => Likeness::Different,
            };
            let serial = unsure.known.serial();
            found = unsure.found;
            found.judged.push((serial, likeness));
        }
    }

    /// The life of an inode that is open, with these attributes.
    fn life_of(&self, mount: MountIndex, fd: &OwnedFd, stat: &Statx) -> Result<Life, Errno> {
        let must_be_held = self.mounts.reach(mount) == Reach::Pin;
        match name_to_handle(fd, c"") {
            Ok((handle, _)) if must_be_held => Ok(Life::Held(Some(handle))),
            Ok((handle, _)) => Ok(Life::with(stat, handle, self.mounts.tells_births(mount))),
            Err(Errno::NOTSUP) => Ok(Life::Held(None)),
            Err(_) if must_be_held => Ok(Life::Held(None)),
            Err(e) => Err(e),
        }
    }
}
