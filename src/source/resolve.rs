//! Symbolic links shown as what they lead to: the walk to it, and the names that stand for directories reached so.
//!
//! The walk is our own, one component at a time, and looks at each directory before it steps in: a worker must never
//! ask the mount that it serves. It follows links out of the source, which is what it is for.
//!
//! The FUSE kernel has one name for each directory. A directory that a link leads to is therefore another inode than the
//! same directory under its own name, and so is every directory below it; files are shared. A link that leads to a
//! directory above it, or above a link that led here, stays a link: who walks the tree comes to an end.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::domains::dev_no;
use super::fs_class::FsClass;
use super::inode::{Inode, NodeId};
use super::mounts::MountFacts;
use super::restrictions::Restrictions;
use super::tree::{SourceTree, proc_path};

/// Links that one path may lead through (Linux MAXSYMLINKS).
const MAX_LINKS: u32 = 40;
/// So many links are remembered before those that nobody uses are looked for.
const SWEEP_THRESHOLD: usize = 1024;
/// A path to step along, without opening anything for real.
const STEP_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a link leads to.
#[derive(Debug)]
pub struct LinkTarget {
    pub(super) fd: OwnedFd,
    stat: Statx,
    /// The directory and the name in it; none where the path ends in `..`.
    dir_entry: Option<(OwnedFd, CString)>,
}

impl LinkTarget {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(u32::from(self.stat.stx_mode)).is_dir()
    }

    /// The directory that it is in and its name there. None of a directory that has others in it for sure.
    #[must_use]
    pub fn dir_entry(&self) -> Option<(&OwnedFd, &CStr)> {
        self.dir_entry.as_ref().map(|(dir, name)| (dir, &**name))
    }

    pub(super) fn stat(&self) -> &Statx {
        &self.stat
    }
}

/// A link through which directories were reached.
#[derive(Debug)]
pub(super) struct ViaLink {
    /// Never used again.
    pub(super) id: u32,
    /// Where the link was: the path of its directory.
    dir_path: Vec<u8>,
    /// The link through which that directory was reached.
    above: Option<Arc<ViaLink>>,
}

/// The directory of a link, and its name.
type LinkKey = (NodeId, OsString);

/// The links that lead to directories, by where they are.
#[derive(Debug, Default)]
pub(super) struct ViaLinks {
    known: Mutex<HashMap<LinkKey, Arc<ViaLink>>>,
    last: AtomicU32,
}

impl ViaLinks {
    fn lock(&self) -> MutexGuard<'_, HashMap<LinkKey, Arc<ViaLink>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link of this name, which leads to a directory.
    fn enter(&self, dir: &Inode, name: &OsStr, dir_path: Vec<u8>) -> Arc<ViaLink> {
        let new = || {
            let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
            Arc::new(ViaLink { id, dir_path, above: dir.via().cloned() })
        };
        Arc::clone(self.lock().entry(dir_entry(dir, name)).or_insert_with(new))
    }

    /// Forgets the links below which the kernel knows nothing, if there are many: the numbers of the others. `are_many`:
    /// there are, counting those that were retired.
    fn sweep(&self, are_many: bool) -> Option<HashSet<u32>> {
        let mut known = self.lock();
        if known.len() < SWEEP_THRESHOLD && !are_many {
            return None;
        }
        known.retain(|_, via| Arc::strong_count(via) > 1);
        Some(known.values().map(|via| via.id).collect())
    }
}

fn dir_entry(dir: &Inode, name: &OsStr) -> LinkKey {
    (dir.node(), name.to_owned())
}

impl SourceTree {
    /// What the symbolic link of this name is shown as. `None` where it is none, or stays a link.
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
            // Whoever asked for it gets the errno from what he does.
            Err(Errno::NOENT) => return Ok(None),
            link => link?,
        };
        if stat_dont_sync(&link)?.1 != FileType::Symlink {
            return Ok(None);
        }
        self.resolve_open_link(dir, dir_fd, &link)
    }

    /// As [`Self::target`], for a link that was opened. EPERM when it leads to our own mount.
    pub(super) fn resolve_open_link(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        link: &OwnedFd,
    ) -> Result<Option<LinkTarget>, Errno> {
        let target = match self.walk(dir_fd, link) {
            Ok(target) => target,
            // It leads nowhere, or round in circles.
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

    /// The link by whose name the directories below it are told from the same directories elsewhere.
    pub(super) fn via_link(
        &self,
        dir: &Inode,
        dir_fd: &OwnedFd,
        name: &OsStr,
    ) -> Result<Arc<ViaLink>, Errno> {
        Ok(self.via_links.enter(dir, name, fd_path(dir_fd)?))
    }

    /// A name was removed or moved: if it was a link's, the kernel takes the directory that it showed for dead, and the
    /// next link of this name must show another.
    pub fn retire_link(&self, dir: &Inode, name: &OsStr) {
        if self.follows_links() {
            self.via_links.lock().remove(&dir_entry(dir, name));
        }
    }

    /// Forgets what no inode needs any more.
    pub(super) fn sweep_links(&self) {
        if let Some(used) = self.via_links.sweep(self.domains.link_count() >= 2 * SWEEP_THRESHOLD) {
            self.domains.keep_links(&used);
        }
    }

    /// Walks to what a link leads to.
    fn walk(&self, dir: &OwnedFd, link: &OwnedFd) -> Result<LinkTarget, Errno> {
        let mut at = dir.try_clone().map_err(|_| Errno::MFILE)?;
        let mut remaining = Vec::new();
        if enter_mount(&mut None, link, &stat_dont_sync(link)?.0)?.nosymfollow {
            return Err(Errno::LOOP);
        }
        self.push_link(link, &mut at, &mut remaining)?;
        self.walk_components(at, remaining, |_| true)
    }

    /// Walks an absolute path along symbolic links of root's and of our own user's. EACCES for others: what we may read,
    /// whoever makes a link may not.
    pub(super) fn walk_trusted(&self, path: &Path) -> Result<LinkTarget, Errno> {
        let own = rustix::process::geteuid().as_raw();
        let root = rustix::fs::open(c"/", STEP_FLAGS, Mode::empty())?;
        let remaining = components(path.as_os_str().as_bytes())?;
        self.walk_components(root, remaining, |link| link.stx_uid == 0 || link.stx_uid == own)
    }

    /// Walks from a directory along components, the next one last, and along the links that `may_follow`.
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

    /// Goes on with where a link leads.
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

    /// Looks at what a descriptor stands for before anything is asked of it. EPERM for our own mount.
    fn stat_not_own(&self, fd: &OwnedFd) -> Result<(Statx, FileType), Errno> {
        let (stat, kind) = stat_dont_sync(fd)?;
        if self.is_own(dev_no(&stat)) { Err(Errno::PERM) } else { Ok((stat, kind)) }
    }
}

/// What the mount forbids that a walk has come to; `known` is the one that it came from. EACCES where that is a
/// pseudo-filesystem.
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

/// The components of a path, the first one last.
fn components(path: &[u8]) -> Result<Vec<CString>, Errno> {
    let parts = path.split(|byte| *byte == b'/').rev();
    parts.map(|part| CString::new(part).map_err(|_| Errno::NOENT)).collect()
}

/// The attributes that the kernel has without asking anybody, a FUSE server least of all.
pub(super) fn stat_dont_sync(fd: impl AsFd) -> Result<(Statx, FileType), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    Ok((stat, FileType::from_raw_mode(u32::from(stat.stx_mode))))
}

/// The path of what a descriptor stands for, within the mounts that it belongs to.
pub(super) fn fd_path(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let path = proc_path(fd);
    let (dir, name) = path.relative();
    let path = rustix::fs::readlinkat(dir, name, Vec::with_capacity(256))?;
    Ok(path.into_bytes())
}

/// Whether a directory is at or above that of the link, or above one of the links that led there.
fn is_loop(dir: &Inode, from: &[u8], target: &[u8]) -> bool {
    let mut above = dir.via();
    if is_at_or_above(target, from) {
        return true;
    }
    while let Some(via) = above {
        if is_at_or_above(target, &via.dir_path) {
            return true;
        }
        above = via.above.as_ref();
    }
    false
}

fn is_at_or_above(upper: &[u8], lower: &[u8]) -> bool {
    strip_dir(upper, lower).is_some()
}

/// What is left of a path below another; empty for the same.
pub(super) fn strip_dir<'a>(upper: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let upper = upper.strip_suffix(b"/").unwrap_or(upper);
    match path.strip_prefix(upper)? {
        [] => Some(&[]),
        [b'/', remaining @ ..] => Some(remaining),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_another_by_whole_components() {
        assert_eq!(strip_dir(b"/a", b"/a/b/c"), Some(&b"b/c"[..]));
        assert_eq!(strip_dir(b"/a", b"/a"), Some(&b""[..]));
        assert_eq!(strip_dir(b"/", b"/a"), Some(&b"a"[..]));
        assert_eq!(strip_dir(b"/", b"/"), Some(&b""[..]));
        assert_eq!(strip_dir(b"/a", b"/ab"), None);
        assert_eq!(strip_dir(b"/a/b", b"/a"), None);
    }
}
