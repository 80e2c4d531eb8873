//! The mounts of a source tree: the source's own mount and those below it.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, Stat, StatxFlags, fstat, memfd_create};
use rustix::io::{Errno, pwrite};

use super::fs_class::{FUSE_MAGIC, FsClass};
use super::identity::ext_handle;
use super::restrictions::Restrictions;
use crate::sync::RwLock;
use crate::sys;
use crate::sys::handle::{FileHandle, LongHandle, name_to_handle, open_by_handle};

const EXT4: i64 = 0xEF53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683E;
const TMPFS: i64 = 0x0102_1994;

/// How the daemon opens an inode of a mount again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReopenMethod {
    /// By a handle that contains the inode number at a known offset.
    ///
    /// Handle and attributes of a name can be matched by the number, without opening the file.
    HandleWithIno(InoField),
    /// By a handle of unknown layout.
    Handle,
    /// By a descriptor that stays open.
    ///
    /// The filesystem has no handles, or unreliable ones, or the daemon lacks CAP_DAC_READ_SEARCH.
    HeldFd,
}

/// Layout of the inode number in a filesystem's handles (its `encode_fh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InoField {
    /// ext2, ext3, ext4: the first 32 bits (FILEID_INO32_GEN).
    Ext,
    /// xfs: the first 32 bits, or the first 64 bits with the types of 64-bit numbers.
    Xfs,
    /// btrfs: the first 64 bits.
    Btrfs,
    /// tmpfs: the generation, then 64 bits.
    Tmpfs,
}

impl InoField {
    /// Returns the inode number in a handle. `None` if the handle has another layout.
    #[must_use]
    pub fn of(self, handle: &FileHandle) -> Option<u64> {
        let bytes = handle.bytes();
        let at32 = |at: usize| {
            bytes.get(at..at + 4)?.try_into().ok().map(|b| u64::from(u32::from_ne_bytes(b)))
        };
        let at64 = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        match (self, handle.kind()) {
            (Self::Ext, 1) | (Self::Xfs, 1) => at32(0),
            (Self::Xfs, 0x81) => at64(0),
            (Self::Btrfs, 0x4d) => at64(0),
            (Self::Tmpfs, 1) => Some(at32(4)? | (at32(8)? << 32)),
            _ => None,
        }
    }
}

/// What statfs(2) reports of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFacts {
    /// The class of its filesystem.
    pub class: FsClass,
    /// What its mount options forbid.
    pub restrictions: Restrictions,
    /// Whether a file that is removed while a descriptor refers to it, O_PATH ones included, is renamed instead
    /// (`nfs_sillyrename`, `afs_sillyrename`), so that its directory is not empty.
    pub renames_removed: bool,
    /// Whether it may find a file by a name that it does not list, which differs from the listed one in more than case.
    pub finds_by_other_names: bool,
}

/// MSDOS_SUPER_MAGIC.
const FAT: i64 = 0x4d44;

/// Filesystems with short names beside long ones, or with several spellings of one name, and those of a host or server that
/// may have such names: FAT, exFAT, ntfs3, NTFS, SMB (CIFS, SMB2, smbfs), HFS+, HFS, HPFS, 9p, vboxsf, vmhgfs. From
/// linux/magic.h and the headers of each.
const ALIASING: [i64; 13] = [
    FAT,
    0x2011_bab0,
    0x7366_746e,
    0x5346_544e,
    0xff53_4d42,
    0xfe53_4d42,
    0x517b,
    0x482b,
    0x4244,
    0xf995_e849,
    0x0102_1997,
    0x786f_4256,
    0xbacb_acbc,
];
const NFS: i64 = 0x6969;
const AFS: [i64; 2] = [0x5346_414f, 0x6b41_4653];

impl MountFacts {
    /// Queries the mount that a descriptor is in.
    ///
    /// `major` is the major number of its device (statx(2)). The kernel may send a request to a FUSE or network server,
    /// as for attributes.
    pub fn of(inside: impl AsFd, major: u32) -> Result<Self, Errno> {
        let fs = rustix::fs::fstatfs(inside)?;
        Ok(Self {
            class: FsClass::of(fs.f_type, major),
            restrictions: Restrictions::of(&fs),
            renames_removed: fs.f_type == NFS || AFS.contains(&fs.f_type),
            // A FUSE server on a block device is mostly one for a filesystem of Windows (ntfs-3g, exfat-fuse).
            finds_by_other_names: ALIASING.contains(&fs.f_type)
                || (fs.f_type == FUSE_MAGIC && major != 0),
        })
    }
}

/// One mount of the source tree.
#[derive(Debug)]
pub struct SourceMount {
    /// The mount id of the kernel (statx(2), stx_mnt_id).
    pub id: u64,
    /// What statfs(2) reported when the mount was found. Unless a descriptor holds the mount, the kernel may reuse its
    /// id.
    facts: MountFacts,
    /// What its options forbid and the daemon's own mount does not enforce.
    restrictions: Restrictions,
    /// A descriptor in it for open_by_handle_at(2), not O_PATH. `None` if only held descriptors reach its inodes.
    root: Option<OwnedFd>,
    /// How its inodes are opened again.
    pub reopen_method: ReopenMethod,
    /// Whether the btime distinguishes inodes that had the same number one after the other.
    pub(super) btime_identifies: bool,
    /// Whether each change of a file after a stat gives it another time, even within one clock tick.
    ///
    /// See Linux Documentation/filesystems/multigrain-ts.rst.
    is_multigrain: bool,
}

impl SourceMount {
    /// Probes the mount that a directory or file (any descriptor) is in.
    ///
    /// `privileged`: the daemon has CAP_DAC_READ_SEARCH.
    pub fn probe(inside: impl AsFd, id: u64, facts: MountFacts, privileged: bool) -> Self {
        let restrictions = facts.restrictions;
        let reopen_method = ReopenMethod::HeldFd;
        let mut held = Self {
            id,
            facts,
            restrictions,
            root: None,
            reopen_method,
            btime_identifies: false,
            is_multigrain: false,
        };
        // Opening files of a pseudo-filesystem may have effects.
        if facts.class == FsClass::Pseudo {
            return held;
        }
        held.is_multigrain = is_multigrain(&inside);
        if !privileged {
            return held;
        }
        let Ok(root) = rustix::fs::openat(
            &inside,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) else {
            return held;
        };
        let Ok((handle, _)) = name_to_handle(&root, c"") else {
            // The handles may be too long to be stored, but serve `open_long`.
            held.root = Some(root).filter(|_| facts.renames_removed);
            return held;
        };
        let Ok(again) = open_by_handle(&root, &handle, OFlags::PATH) else {
            return held;
        };
        let (Ok(one), Ok(other)) = (rustix::fs::fstat(&root), rustix::fs::fstat(&again)) else {
            return held;
        };
        if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino) {
            return held;
        }
        let field = match rustix::fs::fstatfs(&root).map(|fs| fs.f_type) {
            // A FUSE server may reuse a node id, so its handles do not identify an inode. FAT makes inode numbers as it
            // reads inodes, and opens a handle only while the inode is in memory (`fat_nfs_get_inode`).
            Ok(FUSE_MAGIC | FAT) | Err(_) => return held,
            Ok(EXT4) => Some(InoField::Ext),
            Ok(XFS) => Some(InoField::Xfs),
            Ok(BTRFS) => Some(InoField::Btrfs),
            Ok(TMPFS) => Some(InoField::Tmpfs),
            Ok(_) => None,
        };
        let reopen_method = match field {
            Some(field) if field.of(&handle) == Some(one.st_ino) => {
                ReopenMethod::HandleWithIno(field)
            }
            _ => ReopenMethod::Handle,
        };
        let btime_identifies = reopen_method == ReopenMethod::HandleWithIno(InoField::Ext)
            && stores_btime(&root)
            && opens_generation_zero(&root, &one);
        Self { root: Some(root), reopen_method, btime_identifies, ..held }
    }

    /// Replaces the restrictions. The source's own mount has only those that the daemon's mount cannot enforce.
    #[must_use]
    pub fn with_restrictions(self, restrictions: Restrictions) -> Self {
        Self { restrictions, ..self }
    }

    /// Opens an inode of this mount by its handle. ESTALE if it is gone.
    pub fn open(&self, handle: &FileHandle, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = self.root.as_ref().ok_or(Errno::STALE)?;
        open_by_handle(root, handle, flags)
    }
}

/// See [`SourceMount::is_multigrain`].
fn is_multigrain(inside: impl AsFd) -> bool {
    static KERNEL: OnceLock<bool> = OnceLock::new();
    if !KERNEL.get_or_init(|| kernel_is_multigrain().unwrap_or(false)) {
        return false;
    }
    match rustix::fs::fstatfs(&inside).map(|fs| fs.f_type) {
        Ok(XFS | BTRFS | TMPFS) => true,
        // The same driver mounted as ext2 or ext3 has no multigrain times.
        Ok(EXT4) => rustix::fs::statx(&inside, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
            .and_then(|stat| {
                let device = (stat.stx_dev_major, stat.stx_dev_minor);
                sys::mountinfo::fs_type_of(device).map_err(|_| Errno::NOENT)
            })
            .is_ok_and(|name| name.as_deref() == Some(b"ext4")),
        _ => false,
    }
}

/// Probes whether the kernel has multigrain times (since Linux 6.13, for all filesystems in [`is_multigrain`] at once).
///
/// It writes to a memfd, which is on a tmpfs, and compares the times of 17 writes. With times of the coarse clock,
/// whose tick is 1 to 10 ms, two writes in a row rarely get different times, and 17 never do.
#[allow(clippy::disallowed_methods, reason = "the file is the daemon's own memfd")]
fn kernel_is_multigrain() -> Result<bool, Errno> {
    let file = memfd_create(c"shiftbind-times", MemfdFlags::CLOEXEC)?;
    let modified_after_a_write = || {
        pwrite(&file, b"x", 0)?;
        let stat = fstat(&file)?;
        Ok::<_, Errno>((stat.st_mtime, stat.st_mtime_nsec))
    };
    let mut last = modified_after_a_write()?;
    for _ in 0..16 {
        let now = modified_after_a_write()?;
        if now == last {
            return Ok(false);
        }
        last = now;
    }
    Ok(true)
}

/// Returns whether inodes store a btime. Those of 128 bytes have no room for it.
fn stores_btime(root: &OwnedFd) -> bool {
    rustix::fs::statx(root, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)
        .is_ok_and(|stat| StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME))
}

/// Returns whether a handle with generation 0 opens an inode of any generation, as on the ext family.
fn opens_generation_zero(root: &OwnedFd, stat: &Stat) -> bool {
    ext_handle(stat.st_ino, 0).is_some_and(|any| open_by_handle(root, &any, OFlags::PATH).is_ok())
}

/// All mounts that were found. An index stays that of its mount, also after the mount was closed.
#[derive(Debug)]
pub struct Mounts {
    root: SourceMount,
    below: RwLock<Vec<Arc<SourceMount>>>,
    /// The ids of mounts that were detached from a private tree, to which no mount is added.
    closed: RwLock<HashSet<u64>>,
}

/// Index of a mount in [`Mounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountIndex(u32);

impl MountIndex {
    /// The source's own mount.
    pub const ROOT: Self = Self(0);
}

impl Mounts {
    /// Creates the list with the source's own mount.
    #[must_use]
    pub fn new(root: SourceMount) -> Self {
        Self { root, below: RwLock::new(Vec::new()), closed: RwLock::new(HashSet::new()) }
    }

    /// Returns the mount id of the kernel.
    #[must_use]
    pub fn id(&self, at: MountIndex) -> u64 {
        self.with(at, |mount| mount.id)
    }

    /// Returns how inodes of a mount are opened again.
    #[must_use]
    pub fn reopen_method(&self, at: MountIndex) -> ReopenMethod {
        self.with(at, |mount| mount.reopen_method)
    }

    /// Returns whether a mount is a pseudo-filesystem, whose contents are hidden.
    pub(super) fn is_pseudo(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.facts.class == FsClass::Pseudo)
    }

    /// Returns whether a server of the mount's filesystem may check the ids of the caller.
    #[must_use]
    pub fn is_server_backed(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.facts.class == FsClass::ServerBacked)
    }

    /// Returns [`MountFacts::renames_removed`].
    pub(super) fn renames_removed(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.facts.renames_removed)
    }

    /// Returns [`MountFacts::finds_by_other_names`].
    pub(super) fn finds_by_other_names(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.facts.finds_by_other_names)
    }

    /// Opens an inode of a mount by a handle of any length. ESTALE if it is gone or handles cannot be opened.
    pub(super) fn open_long(&self, at: MountIndex, handle: &LongHandle) -> Result<OwnedFd, Errno> {
        self.with(at, |mount| {
            let root = mount.root.as_ref().ok_or(Errno::STALE)?;
            handle.open(root, OFlags::PATH | OFlags::NOFOLLOW)
        })
    }

    /// Returns whether inodes of a mount can be opened by a handle of any length.
    pub(super) fn opens_long(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.root.is_some())
    }

    /// Returns what the options of a mount forbid and the daemon's own mount does not enforce.
    #[must_use]
    pub fn restrictions(&self, at: MountIndex) -> Restrictions {
        self.with(at, |mount| mount.restrictions)
    }

    /// Writes the filesystem of a mount to disk (syncfs(2)). EBADF if no descriptor of it is held.
    pub(super) fn sync(&self, at: MountIndex) -> Result<(), Errno> {
        // Without the lock, since it takes long.
        let root = self.with(at, |mount| mount.root.as_ref().map(OwnedFd::try_clone));
        let root = root.ok_or(Errno::BADF)?.map_err(|_| Errno::MFILE)?;
        rustix::fs::syncfs(root)
    }

    /// Returns whether the btime distinguishes the inodes that had one number.
    pub(super) fn btime_identifies(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.btime_identifies)
    }

    /// Returns whether every change of a file after a stat gives it another time.
    ///
    /// It holds for files whose filesystem stores fractions of seconds.
    #[must_use]
    pub fn is_multigrain(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.is_multigrain)
    }

    /// Opens an inode of a mount by its handle. ESTALE if it is gone.
    pub fn open(
        &self,
        at: MountIndex,
        handle: &FileHandle,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        self.with(at, |mount| mount.open(handle, flags))
    }

    fn with<T>(&self, at: MountIndex, read: impl FnOnce(&SourceMount) -> T) -> T {
        match at.0.checked_sub(1) {
            None => read(&self.root),
            Some(at) => {
                let mount = {
                    let below = self.below.read();
                    Arc::clone(&below[at as usize])
                };
                read(&mount)
            }
        }
    }

    /// Returns the index of the mount with this id, if it was found before.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<MountIndex> {
        if id == self.root.id {
            return Some(MountIndex::ROOT);
        }
        let below = self.below.read();
        // The newest, if the kernel has reused the id.
        below.iter().rposition(|mount| mount.id == id).map(|at| MountIndex(at as u32 + 1))
    }

    /// Returns the index of the mount with this id.
    ///
    /// `make` probes the mount if it is new, or if the id meant another mount before.
    pub fn find_or_add(
        &self,
        id: u64,
        facts: MountFacts,
        make: impl FnOnce() -> SourceMount,
    ) -> MountIndex {
        let is = |mount: &SourceMount| (mount.id, mount.facts) == (id, facts);
        if is(&self.root) {
            return MountIndex::ROOT;
        }
        let find = |list: &[Arc<SourceMount>]| list.iter().rposition(|mount| is(mount));
        let known = find(&self.below.read());
        let at = known.unwrap_or_else(|| {
            let made = make();
            let mut below = self.below.write();
            find(&below).unwrap_or_else(|| {
                below.push(Arc::new(made));
                below.len() - 1
            })
        });
        MountIndex(at as u32 + 1)
    }

    /// Closes the descriptor of a mount that was detached. Returns its index if it was ever looked at.
    ///
    /// From then on no handle opens an inode of it (ESTALE). Only for private trees.
    pub(super) fn close(&self, id: u64) -> Option<MountIndex> {
        let mut below = self.below.write();
        self.closed.write().insert(id);
        let at = below.iter().rposition(|mount| mount.id == id)?;
        let &SourceMount { facts, restrictions, reopen_method, .. } = &*below[at];
        let (root, btime_identifies, is_multigrain) = (None, false, false);
        let closed = SourceMount {
            id,
            facts,
            restrictions,
            root,
            reopen_method,
            btime_identifies,
            is_multigrain,
        };
        let open = std::mem::replace(&mut below[at], Arc::new(closed));
        // Closed after the lock is released, because close(2) is a system call.
        drop(below);
        drop(open);
        Some(MountIndex(at as u32 + 1))
    }

    /// Returns whether a mount was detached from the tree ([`Self::close`]).
    pub(super) fn is_closed(&self, at: MountIndex) -> bool {
        at != MountIndex::ROOT && self.is_closed_id(self.id(at))
    }

    /// Returns whether the mount with this id was detached from the tree.
    pub(super) fn is_closed_id(&self, id: u64) -> bool {
        self.closed.read().contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multigrain_probe_gives_the_same_answer_each_time() {
        let first = kernel_is_multigrain().unwrap();
        for _ in 0..100 {
            assert_eq!(kernel_is_multigrain().unwrap(), first);
        }
    }
}
