//! Inodes that lose their last name while the kernel knows them.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Statx};

use super::domains::device;
use super::inode::{Domain, Inode};
use super::resolve::Target;
use super::tree::{BASIC, ITSELF, SourceTree, UNASKED, number};

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

impl SourceTree {
    /// The inodes that a name, when it is their last, keeps reachable, and what will do so instead: the kernel may hold
    /// them open without our knowing (a working directory, an O_PATH descriptor), and their number must not be used
    /// again before the kernel has forgotten them. To be pinned once the name is gone.
    #[must_use]
    pub fn held_by_last_name(&self, dir: &Inode, dir_fd: &OwnedFd, name: &CStr) -> LastName {
        let Some(stat) = self.stat_name(dir_fd, name) else { return LastName::default() };
        let domain = self.domains.of(dir.mount(), &stat, 0);
        let below_link = self.domains.of(dir.mount(), &stat, number(dir.via()));
        self.held_by(
            &stat,
            if domain == below_link { vec![domain] } else { vec![domain, below_link] },
        )
    }

    /// As [`Self::held_by_last_name`], for what a link leads to.
    #[must_use]
    pub fn held_by_last_name_of(&self, target: &Target) -> LastName {
        let stat = target.stat();
        match self.mounts.find(stat.stx_mnt_id) {
            Some(mount) => self.held_by(stat, vec![self.domains.of(mount, stat, 0)]),
            None => LastName::default(),
        }
    }

    fn held_by(&self, stat: &Statx, domains: Vec<Domain>) -> LastName {
        let is_dir = FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir();
        if stat.stx_nlink > 1 && !is_dir {
            return LastName::default();
        }
        let known = domains.into_iter().flat_map(|domain| self.table.lives(domain, stat.stx_ino));
        LastName(known.filter_map(|inode| Some((self.fd(&inode).ok()?, inode))).collect())
    }

    /// The attributes of a name. `None` where there is none, or our own mount.
    fn stat_name(&self, dir_fd: &OwnedFd, name: &CStr) -> Option<Statx> {
        if !self.is_private {
            let known = rustix::fs::statx(dir_fd, name, UNASKED, BASIC).ok()?;
            if self.is_own(device(&known)) {
                return None;
            }
        }
        rustix::fs::statx(dir_fd, name, ITSELF, BASIC).ok()
    }
}
