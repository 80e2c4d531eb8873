//! resolve-symlinks: finds the targets of symbolic links, and gives directories reached through links their own inodes.
//!
//! The daemon walks a link's path itself, one component at a time, and checks each directory before it enters it: a
//! worker that sent a request to the daemon's own mount could wait for itself. Links may lead out of the source, which
//! is what the option is for.
//!
//! The kernel allows one dentry for each FUSE directory. A directory that is reached through a link is therefore
//! another inode than the same directory under its own name, and so is every directory below it; files are shared. A
//! link to a directory above itself, or above a link that led to it, is shown as a link, so that every walk over the
//! tree ends.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Statx};
use rustix::io::Errno;

use super::descriptor::{kind_of, stat_dont_sync};
use super::fs_class::FsClass;
use super::inode::Inode;
use super::mounts::MountFacts;
use super::node_id::dev_no;
use super::path::{fd_path, strip_dir};
use super::restrictions::Restrictions;
use super::tree::SourceTree;
use super::via_link::{SWEEP_THRESHOLD, ViaLink};

/// How many links one path may lead through (Linux MAXSYMLINKS).
const MAX_LINKS: u32 = 40;
/// Flags to open a path component without opening the file itself.
const STEP_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The target of a symbolic link.
#[derive(Debug)]
pub struct LinkTarget {
    pub(super) fd: OwnedFd,
    stat: Statx,
    /// The parent directory and the name in it; `None` if the path ends in `..`.
    dir_entry: Option<(OwnedFd, CString)>,
}

impl LinkTarget {
    /// Returns whether the target is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        kind_of(&self.stat).is_dir()
    }

    /// Returns the target's parent directory and its name there.
    ///
    /// `None` if the path ends in `..`: such a directory is never empty.
    #[must_use]
    pub fn dir_entry(&self) -> Option<(&OwnedFd, &CStr)> {
        self.dir_entry.as_ref().map(|(dir, name)| (dir, &**name))
    }

    pub(super) fn stat(&self) -> &Statx {
        &self.stat
    }
}

impl SourceTree {
    /// Returns the target of the symbolic link with this name.
    ///
    /// `None` if it is no symbolic link, or is shown as one.
    pub fn target(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &CStr,
    ) -> Result<Option<LinkTarget>, Errno> {
        if !self.follows_links() {
            return Ok(None);
        }
        let link = match rustix::fs::openat(dir_fd, name, STEP_FLAGS, Mode::empty()) {
            // The operation that follows gives the caller its errno.
            Err(Errno::NOENT) => return Ok(None),
            link => link?,
        };
        if stat_dont_sync(&link)?.1 != FileType::Symlink {
            return Ok(None);
        }
        self.resolve_open_link(dir, dir_fd, &link)
    }

    /// As [`Self::target`], for a link that is open. EPERM if it leads to the daemon's own mount.
    pub(super) fn resolve_open_link(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        link: &OwnedFd,
    ) -> Result<Option<LinkTarget>, Errno> {
        let target = match self.walk(dir_fd, link) {
            Ok(target) => target,
            // The link is dangling, or loops.
            Err(
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ACCESS,
            ) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let leaves = self.is_hidden_mount(target.stat.stx_mnt_id);
        if leaves || (target.is_dir() && is_loop(dir, &fd_path(dir_fd)?, &fd_path(&target.fd)?)) {
            return Ok(None);
        }
        Ok(Some(target))
    }

    /// Returns the link by which directories below it are distinguished from the same directories elsewhere.
    pub(super) fn via_link(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &OsStr,
    ) -> Result<Arc<ViaLink>, Errno> {
        Ok(self.via_links.enter((dir.node(), name), fd_path(dir_fd)?, dir.via().cloned()))
    }

    /// Forgets a link whose name was removed or renamed.
    ///
    /// The kernel then takes the directory that it showed for removed, so the next link of this name must show another
    /// inode.
    pub fn retire_link(&self, dir: &Inode, name: &OsStr) {
        if self.follows_links() {
            self.via_links.remove(dir.node(), name);
        }
    }

    /// Forgets the links that no inode needs.
    pub(super) fn sweep_links(&self) {
        if let Some(used) = self.via_links.sweep(self.domains.link_count() >= 2 * SWEEP_THRESHOLD) {
            self.domains.keep_links(&used);
        }
    }

    /// Walks to the target of a link.
    fn walk(&self, dir: &OwnedFd, link: &OwnedFd) -> Result<LinkTarget, Errno> {
        let mut at = dir.try_clone().map_err(|_| Errno::MFILE)?;
        let mut remaining = Vec::new();
        if enter_mount(&mut None, link, &stat_dont_sync(link)?.0)?.nosymfollow {
            return Err(Errno::LOOP);
        }
        self.push_link(link, &mut at, &mut remaining)?;
        self.walk_components(at, remaining, |_| true)
    }

    /// Walks an absolute path. Follows only symbolic links of root or of the daemon's user: EACCES for others.
    ///
    /// The daemon may read more than the owner of such a link.
    pub(super) fn walk_trusted(&self, path: &Path) -> Result<LinkTarget, Errno> {
        let own = rustix::process::geteuid().as_raw();
        let root = rustix::fs::open(c"/", STEP_FLAGS, Mode::empty())?;
        let remaining = components(path.as_os_str().as_bytes())?;
        self.walk_components(root, remaining, |link| link.stx_uid == 0 || link.stx_uid == own)
    }

    /// Walks from a directory along components, of which the last is the next one. Follows links that `may_follow`
    /// accepts.
    fn walk_components(
        &self,
        mut at: OwnedFd,
        mut remaining: Vec<CString>,
        may_follow: impl Fn(&Statx) -> bool,
    ) -> Result<LinkTarget, Errno> {
        let mut dir_entry = None;
        let mut links = 0;
        let mut mount = None;
        while let Some(name) = remaining.pop() {
            match name.to_bytes() {
                b"" | b"." => continue,
                _ => {}
            }
            let (stat, kind) = self.stat_not_own(&at)?;
            if kind != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            enter_mount(&mut mount, &at, &stat)?;
            let next = rustix::fs::openat(&at, &*name, STEP_FLAGS, Mode::empty())?;
            let (stat, kind) = stat_dont_sync(&next)?;
            if kind == FileType::Symlink {
                let forbids = enter_mount(&mut mount, &next, &stat)?;
                if forbids.nosymfollow {
                    return Err(Errno::LOOP);
                }
                if !may_follow(&stat) {
                    return Err(Errno::ACCESS);
                }
                links += 1;
                if links >= MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                self.push_link(&next, &mut at, &mut remaining)?;
                continue;
            }
            let from = std::mem::replace(&mut at, next);
            dir_entry = (name.to_bytes() != b"..").then_some((from, name));
        }
        let (stat, _) = self.stat_not_own(&at)?;
        enter_mount(&mut mount, &at, &stat)?;
        Ok(LinkTarget { fd: at, stat, dir_entry })
    }

    /// Continues the walk with the target of a link.
    fn push_link(
        &self,
        link: &OwnedFd,
        at: &mut OwnedFd,
        remaining: &mut Vec<CString>,
    ) -> Result<(), Errno> {
        let target = rustix::fs::readlinkat(link, c"", Vec::with_capacity(256))?.into_bytes();
        if target.first() == Some(&b'/') {
            *at = rustix::fs::open(c"/", STEP_FLAGS, Mode::empty())?;
        }
        remaining.extend(components(&target)?);
        Ok(())
    }

    /// Returns the attributes of a component before the walk enters it. EPERM for the daemon's own mount.
    fn stat_not_own(&self, fd: &OwnedFd) -> Result<(Statx, FileType), Errno> {
        let (stat, kind) = stat_dont_sync(fd)?;
        if self.is_own(dev_no(&stat)) { Err(Errno::PERM) } else { Ok((stat, kind)) }
    }
}

/// Returns the restrictions of the mount that the walk has reached. EACCES if it is a pseudo-filesystem.
///
/// `known` is the mount before.
fn enter_mount(
    known: &mut Option<(u64, Restrictions)>,
    at: &OwnedFd,
    stat: &Statx,
) -> Result<Restrictions, Errno> {
    if let Some((_, restrictions)) = known.filter(|(id, _)| *id == stat.stx_mnt_id) {
        return Ok(restrictions);
    }
    let facts = MountFacts::of(at, stat.stx_dev_major)?;
    if facts.class == FsClass::Pseudo {
        return Err(Errno::ACCESS);
    }
    *known = Some((stat.stx_mnt_id, facts.restrictions));
    Ok(facts.restrictions)
}

/// Splits a path into its components, in reverse order.
fn components(path: &[u8]) -> Result<Vec<CString>, Errno> {
    let parts = path.split(|byte| *byte == b'/').rev();
    parts.map(|part| CString::new(part).map_err(|_| Errno::NOENT)).collect()
}

/// Returns whether a target is at or above the directory of a link that led to it.
fn is_loop(dir: &Inode, from: &[u8], target: &[u8]) -> bool {
    strip_dir(target, from).is_some() || dir.via().is_some_and(|via| via.is_below(target))
}
