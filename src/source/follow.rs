//! follow-source: reopens the source's path when it means another directory.
//!
//! When the source is removed, the mount shows the removed directory, which is empty and in which nothing can be
//! created (ENOENT), until the path exists again. Symbolic links in the path are followed only if root or the daemon's
//! user owns them: otherwise any user with write access to the directory of a link could make the mount show any other
//! directory. The old root stays open until it is replaced, so that the new one cannot get its inode number.

use std::sync::Arc;

use rustix::fs::{AtFlags, StatxFlags};

use super::descriptor::stat_dont_sync;
use super::fs_class::FsClass;
use super::identity::{Generation, InodeIdentity};
use super::inode::Inode;
use super::mounts::{MountFacts, SourceMount};
use super::node_id::{NodeId, dev_no};
use super::resolve::LinkTarget;
use super::tree::SourceTree;

impl SourceTree {
    /// Replaces the root if the source's path means another directory by now.
    ///
    /// Returns the old and the new root. To be called every second.
    pub fn follow(&self) -> Option<(Arc<Inode>, Arc<Inode>)> {
        let target = self.walk_trusted(self.followed.as_ref()?).ok().filter(LinkTarget::is_dir)?;
        let fd = target.fd;
        let (seen, _) = stat_dont_sync(&fd).ok()?;
        let old = self.root();
        let old_fd = old.held()?;
        let known = stat_dont_sync(&*old_fd).ok()?.0;
        let is_same = (dev_no(&seen), seen.stx_ino) == (dev_no(&known), known.stx_ino)
            && seen.stx_mnt_id == known.stx_mnt_id
            && self.comparer.is_same_inode(&old_fd, &fd);
        if is_same || self.is_own(dev_no(&seen)) {
            return None;
        }
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, mask).ok()?;
        let facts = MountFacts::of(&fd, stat.stx_dev_major).ok()?;
        if facts.class == FsClass::Pseudo {
            return None;
        }
        let mount = self.mounts.find_or_add(stat.stx_mnt_id, facts, || {
            SourceMount::probe(&fd, stat.stx_mnt_id, facts, self.is_privileged())
        });
        let domain = self.domains.of(mount, &stat, 0);
        let identity =
            InodeIdentity { domain, ino: stat.stx_ino, generation: Generation::Held(None) };
        let new = Inode::new(NodeId::ROOT, identity, mount, old.kind(), Some(fd), None);
        log::info!(
            "follow-source: the source's path means another directory now; showing that one: ino={} mount_id={}",
            stat.stx_ino,
            stat.stx_mnt_id
        );
        Some((old, self.replace_root(new)))
    }
}
