//! Look-ups: from a name in a directory, or a descriptor, to an inode of the table.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::domains::device;
use super::inode::{Identity, Inode};
use super::mounts::{MountIndex, Reach, SourceMount};
use super::resolve::{Target, Via, look};
use super::table::Newcomer;
use super::tree::{BASIC, ITSELF, SourceTree, component, number, reopen};
use crate::sys::handle::{FileHandle, name_to_handle};

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
    handle: FileHandle,
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
    /// component, neither `.` nor `..`.
    ///
    /// ENOENT when there is none, else the source's own error.
    pub fn lookup(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> Result<Found, Errno> {
        if !self.takes_care()
            && let Some(seen) = self.see(dir, dir_fd, name)?
            && let Some(found) = self.enter_seen(dir, &seen)
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
    /// `None` where it takes a descriptor to tell.
    pub fn see(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> Result<Option<Seen>, Errno> {
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
        let stat = rustix::fs::statx(dir_fd, name, ITSELF, BASIC)?;
        // A btrfs subvolume has inode numbers of its own: the number alone does not tell which one was meant.
        let is_one = field.of(&handle) == Some(stat.stx_ino)
            && self.domains.of(dir.mount(), &stat, number(dir.via())) == dir.identity().domain;
        Ok(is_one.then_some(Seen { handle, stat }))
    }

    /// Enters what a name in a directory was seen to mean, and counts one look-up. `None` where it takes a descriptor
    /// to tell.
    fn enter_seen(&self, dir: &Inode, seen: &Seen) -> Option<Found> {
        let inode = self.table.enter(self.newcomer(dir, seen)?);
        Some(Found { inode, stat: seen.stat, is_by_link: false })
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
        let identity = Identity { domain, ino: seen.stat.stx_ino, handle: Some(seen.handle) };
        Some(Newcomer { identity, mount: dir.mount(), kind, pin: None, via })
    }

    /// Enters the inode behind a descriptor (O_PATH or real) found in a directory, and counts one look-up. EPERM when
    /// it is of our own mount. `via`: the link through which it was reached, if it is a directory.
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
}
