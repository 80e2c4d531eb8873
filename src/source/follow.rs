//! A source that is deleted and made again: the path is looked at again and again, and what it means is shown.
//!
//! What is deleted stays what is shown until something else is there: an empty directory in which nothing can be made
//! (ENOENT). Symbolic links are followed if they are root's or our own user's: whoever may rename the source could make it
//! mean any directory otherwise. The old root is held open meanwhile, so that its inode number cannot come to mean the new one.

use std::sync::Arc;

use rustix::fs::{AtFlags, StatxFlags};

use super::domains::device;
use super::identity::{Identity, Life};
use super::inode::{Inode, NodeId};
use super::kinds::Kind;
use super::mounts::{MountFacts, SourceMount};
use super::resolve::{Target, look};
use super::tree::SourceTree;

impl SourceTree {
    /// Shows another root where the source's path means another directory by now: the old one and the new one. To be
    /// called every second.
    pub fn follow(&self) -> Option<(Arc<Inode>, Arc<Inode>)> {
        let target = self.walk_trusted(self.followed.as_ref()?).ok().filter(Target::is_dir)?;
        let fd = target.fd;
        let (seen, _) = look(&fd).ok()?;
        let old = self.root();
        let old_fd = old.held()?;
        let known = look(&*old_fd).ok()?.0;
        let is_same = (device(&seen), seen.stx_ino) == (device(&known), known.stx_ino)
            && seen.stx_mnt_id == known.stx_mnt_id
            && self.comparer.are_one(&old_fd, &fd);
        if is_same || self.is_own(device(&seen)) {
            return None;
        }
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, mask).ok()?;
        let facts = MountFacts::of(&fd, stat.stx_dev_major).ok()?;
        if facts.kind == Kind::Pseudo {
            return None;
        }
        let mount = self.mounts.find_or_add(stat.stx_mnt_id, facts, || {
            SourceMount::probe(&fd, stat.stx_mnt_id, facts, self.is_privileged())
        });
        let domain = self.domains.of(mount, &stat, 0);
        let identity = Identity { domain, ino: stat.stx_ino, life: Life::Held(None) };
        let new = Inode::new(NodeId::ROOT, identity, mount, old.kind(), Some(fd), None);
        Some((old, self.replace_root(new)))
    }
}
