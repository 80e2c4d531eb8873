//! Look-ups: from a name in a directory, or a descriptor, to an inode of the table.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
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
use crate::sys::handle::name_to_handle;

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

impl SourceTree {
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
        let (via, domain) = match dir.via() {
            Some(via) if kind.is_dir() => (Some(Arc::clone(via)), domain),
            Some(_) => (None, self.domains.without_link(domain)),
            None => (None, domain),
        };
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
}
