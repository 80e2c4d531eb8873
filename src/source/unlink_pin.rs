//! Pins inodes that lose their last name while the kernel knows them; on NFS, lets go of them instead.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, Statx};
use rustix::io::Errno;

use super::descriptor::{NOFOLLOW, NOFOLLOW_DONT_SYNC, kind_of};
use super::inode::Inode;
use super::node_id::{Domain, NodeId, dev_no};
use super::resolve::LinkTarget;
use super::tree::{BASIC, SourceTree};
use super::via_link::via_id;
use crate::error::errno_field;
use crate::sys::handle::LongHandle;

/// The most entries of a directory that are looked at for files which were removed while open. Chosen.
const MAX_REMOVED: usize = 1024;

/// Inodes about to lose a name.
#[derive(Debug, Default)]
pub struct UnlinkPin {
    /// Those that lose their last name, each with an open descriptor.
    pinned: Vec<(Arc<OwnedFd>, Arc<Inode>)>,
    /// Those whose descriptors were closed, with their handles.
    released: Vec<(LongHandle, Arc<Inode>)>,
    /// Whether the name that is removed is the last one.
    is_last_name: bool,
    /// Those that the kernel knows.
    nodes: Vec<NodeId>,
}

impl UnlinkPin {
    /// Pins the inodes until the kernel forgets them, now that the name is removed. Returns all that have lost a name and
    /// that the kernel knows.
    pub fn commit(&mut self) -> Vec<NodeId> {
        for (fd, inode) in self.pinned.drain(..) {
            inode.pin(fd);
        }
        if self.is_last_name {
            for (_, inode) in self.released.drain(..) {
                inode.abandon();
            }
        }
        std::mem::take(&mut self.nodes)
    }
}

impl SourceTree {
    /// Opens the inodes that are reachable only through this name, before it is removed.
    ///
    /// The kernel may hold them open without the daemon knowing (as a working directory or an O_PATH descriptor), and
    /// the source must not reuse their inode numbers before the kernel has forgotten them. The caller calls
    /// [`UnlinkPin::commit`] once the name is removed.
    #[must_use]
    pub fn pin_for_unlink(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> UnlinkPin {
        let Some(stat) = self.stat_name(dir_fd, name) else { return UnlinkPin::default() };
        let domain = self.domains.of(dir.mount(), &stat, 0);
        let below_link = self.domains.of(dir.mount(), &stat, via_id(dir.via()));
        self.pin_if_last_name(
            &stat,
            if domain == below_link { vec![domain] } else { vec![domain, below_link] },
        )
    }

    /// As [`Self::pin_for_unlink`], for unlink(2).
    ///
    /// NFS renames a removed file to `.nfs` and a number while a descriptor refers to it, and its directory cannot be removed
    /// before the last one is closed. Of files that no client has open, only the daemon holds descriptors: they are
    /// closed here. To be followed by [`Self::hold_again`].
    #[must_use]
    pub fn release_for_unlink(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> UnlinkPin {
        let mount = dir.mount();
        if !self.mounts.renames_removed(mount) {
            return self.pin_for_unlink(dir, dir_fd, name);
        }
        let Some(stat) = self.stat_name(dir_fd, name) else { return UnlinkPin::default() };
        let is_last_name = stat.stx_nlink <= 1;
        let known = self.table.all_generations(self.domains.of(mount, &stat, 0), stat.stx_ino);
        let nodes = nodes_of(&known);
        let released = known.into_iter().filter_map(|inode| {
            let handle = LongHandle::of(&*inode.held()?).ok()?;
            // Only by handle can the inode be reached by its other names.
            let may_release = is_last_name || self.mounts.opens_long(mount);
            (may_release && inode.release_unless_open()).then_some((handle, inode))
        });
        let released = released.collect();
        UnlinkPin { pinned: Vec::new(), released, is_last_name, nodes }
    }

    /// Opens released inodes again that still exist: the name was not removed, or they have other names.
    pub fn hold_again(&self, pin: UnlinkPin, dir_fd: &OwnedFd, name: &CStr) {
        for (handle, inode) in pin.released {
            // Without the right to open by handle, by the name, if it is still that of the same file.
            let by_name = || {
                let fd = self.open_path(dir_fd, name)?;
                let is_same = LongHandle::of(&fd)? == handle;
                is_same.then_some(fd).ok_or(Errno::STALE)
            };
            match self.mounts.open_long(inode.mount(), &handle).or_else(|_| by_name()) {
                Ok(fd) => inode.pin(Arc::new(fd)),
                Err(e) => {
                    inode.abandon();
                    let (node, errno) = (inode.node(), errno_field(e));
                    log::debug!(
                        "cannot open a file again that was to be removed: nodeid={node} {errno}"
                    );
                }
            }
        }
    }

    /// As [`Self::pin_for_unlink`], for the target of a symbolic link.
    #[must_use]
    pub fn pin_target_for_unlink(&self, target: &LinkTarget) -> UnlinkPin {
        let stat = target.stat();
        match self.mounts.find(stat.stx_mnt_id) {
            Some(mount) => self.pin_if_last_name(stat, vec![self.domains.of(mount, stat, 0)]),
            None => UnlinkPin::default(),
        }
    }

    /// Returns whether all that is left in a directory on NFS are files that were removed while they were open.
    ///
    /// The daemon may not have closed them yet: the kernel sends RELEASE and FORGET after close(2) and unlink(2) have
    /// returned to the client, which may remove the directory at once, as on NFS itself.
    #[must_use]
    pub fn has_removed_files_only(&self, parent: &Inode, dir_fd: &OwnedFd, name: &CStr) -> bool {
        if !self.mounts.renames_removed(parent.mount()) {
            return false;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir =
            rustix::fs::openat(dir_fd, name, flags, Mode::empty()).and_then(rustix::fs::Dir::new);
        let is_removed = |name: &[u8]| {
            [&b"."[..], b".."].contains(&name)
                || name.starts_with(b".nfs")
                || name.starts_with(b".__afs")
        };
        // Most directories that are not empty are known by their first entries.
        let mut entries = 0;
        dir.is_ok_and(|mut dir| {
            dir.by_ref().all(|entry| {
                entries += 1;
                entries <= MAX_REMOVED
                    && entry.is_ok_and(|entry| is_removed(entry.file_name().to_bytes()))
            })
        })
    }

    fn pin_if_last_name(&self, stat: &Statx, domains: Vec<Domain>) -> UnlinkPin {
        let is_dir = kind_of(stat).is_dir();
        let is_last = stat.stx_nlink <= 1 || is_dir;
        let all_generations = |domain| self.table.all_generations(domain, stat.stx_ino);
        let known: Vec<_> = domains.into_iter().flat_map(all_generations).collect();
        let nodes = nodes_of(&known);
        let pin = |inode: Arc<Inode>| Some((self.fd(&inode).ok()?, inode));
        let pinned = known.into_iter().filter(|_| is_last).filter_map(pin).collect();
        UnlinkPin { pinned, nodes, ..UnlinkPin::default() }
    }

    /// Returns the attributes of a name.
    ///
    /// `None` if the name does not exist or is the daemon's own mount.
    fn stat_name(&self, dir_fd: &OwnedFd, name: &CStr) -> Option<Statx> {
        if !self.is_private {
            let known = rustix::fs::statx(dir_fd, name, NOFOLLOW_DONT_SYNC, BASIC).ok()?;
            if self.is_own(dev_no(&known)) {
                return None;
            }
        }
        rustix::fs::statx(dir_fd, name, NOFOLLOW, BASIC).ok()
    }
}

/// Returns the node ids of inodes that lose a name, and records the change of their link count.
fn nodes_of(inodes: &[Arc<Inode>]) -> Vec<NodeId> {
    inodes.iter().for_each(|inode| inode.note_change());
    inodes.iter().map(|inode| inode.node()).collect()
}
