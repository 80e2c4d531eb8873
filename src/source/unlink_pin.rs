//! Pins inodes that lose their last name while the kernel knows them.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Statx;

use super::descriptor::{NOFOLLOW, NOFOLLOW_DONT_SYNC, kind_of};
use super::inode::Inode;
use super::node_id::{Domain, dev_no};
use super::resolve::LinkTarget;
use super::tree::{BASIC, SourceTree};
use super::via_link::via_id;

/// Inodes about to lose their last name, each with an open descriptor.
#[derive(Debug, Default)]
pub struct UnlinkPin(Vec<(Arc<OwnedFd>, Arc<Inode>)>);

impl UnlinkPin {
    /// Pins the inodes until the kernel forgets them, now that the name is removed.
    pub fn commit(self) {
        for (fd, inode) in self.0 {
            inode.pin(fd);
        }
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
        let is_dir = kind_of(stat).is_dir();
        if stat.stx_nlink > 1 && !is_dir {
            return UnlinkPin::default();
        }
        let known =
            domains.into_iter().flat_map(|domain| self.table.all_generations(domain, stat.stx_ino));
        UnlinkPin(known.filter_map(|inode| Some((self.fd(&inode).ok()?, inode))).collect())
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
