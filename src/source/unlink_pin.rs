//! Pins inodes that lose their last name while the kernel knows them.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Statx};

use super::domains::dev_no;
use super::inode::{Domain, Inode, NodeId};
use super::resolve::LinkTarget;
use super::tree::{BASIC, NOFOLLOW, NOFOLLOW_DONT_SYNC, SourceTree, via_id};

/// Inodes about to lose a name.
#[derive(Debug, Default)]
pub struct UnlinkPin {
    /// Those that lose their last one, each with an open descriptor.
    pinned: Vec<(Arc<OwnedFd>, Arc<Inode>)>,
    /// Those that the kernel knows.
    nodes: Vec<NodeId>,
}

impl UnlinkPin {
    /// Pins the inodes until the kernel forgets them, now that the name is removed. Returns all that have lost a name and
    /// that the kernel knows.
    pub fn commit(self) -> Vec<NodeId> {
        for (fd, inode) in self.pinned {
            inode.pin(fd);
        }
        self.nodes
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

    /// As [`Self::pin_for_unlink`], for the target of a symbolic link.
    #[must_use]
    pub fn pin_target_for_unlink(&self, target: &LinkTarget) -> UnlinkPin {
        let stat = target.stat();
        match self.mounts.find(stat.stx_mnt_id) {
            Some(mount) => self.pin_if_last_name(stat, vec![self.domains.of(mount, stat, 0)]),
            None => UnlinkPin::default(),
        }
    }

    fn pin_if_last_name(&self, stat: &Statx, domains: Vec<Domain>) -> UnlinkPin {
        let is_dir = FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir();
        let is_last = stat.stx_nlink <= 1 || is_dir;
        let all_generations = |domain| self.table.all_generations(domain, stat.stx_ino);
        let known: Vec<_> = domains.into_iter().flat_map(all_generations).collect();
        let nodes = known.iter().map(|inode| inode.node()).collect();
        let pin = |inode: Arc<Inode>| Some((self.fd(&inode).ok()?, inode));
        UnlinkPin { pinned: known.into_iter().filter(|_| is_last).filter_map(pin).collect(), nodes }
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
