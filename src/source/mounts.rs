//! The mounts that a source tree spans: the source's own, and what is mounted below it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, Stat, StatxFlags, fstat, memfd_create};
use rustix::io::{Errno, pwrite};

use super::fs_class::FsClass;
use super::identity::ext_handle;
use super::restrictions::Restrictions;
use crate::sys;
use crate::sys::handle::{FileHandle, name_to_handle, open_by_handle};

const EXT4: i64 = 0xEF53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683E;
const TMPFS: i64 = 0x0102_1994;
const FUSE: i64 = 0x6573_5546;

/// How inodes of a mount are found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReopenMethod {
    /// By handle, which names the inode number at a known place: name and attributes can be told to belong together
    /// without opening the file.
    HandleWithIno(InoField),
    /// By handle of unknown form.
    Handle,
    /// Only by a descriptor kept open: no handles, no privilege, or handles that cannot be trusted.
    HeldFd,
}

/// Where a filesystem puts the inode number in its handles (its `encode_fh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InoField {
    /// ext2, ext3, ext4: 32 bits first (FILEID_INO32_GEN).
    Ext,
    /// xfs: 32 bits first, or 64 bits first when the type says so.
    Xfs,
    /// btrfs: 64 bits first.
    Btrfs,
    /// tmpfs: the generation, then 64 bits.
    Tmpfs,
}

impl InoField {
    /// The inode number that a handle names; `None` when the handle has another form.
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

/// What statfs(2) tells of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFacts {
    /// What its file system is.
    pub class: FsClass,
    /// What its options forbid.
    pub restrictions: Restrictions,
}

impl MountFacts {
    /// Asks about the mount that a descriptor is in; `major` is that of its device (statx(2)). A FUSE or network server
    /// may be asked, as for the attributes.
    pub fn of(inside: impl AsFd, major: u32) -> Result<Self, Errno> {
        let fs = rustix::fs::fstatfs(inside)?;
        Ok(Self { class: FsClass::of(fs.f_type, major), restrictions: Restrictions::of(&fs) })
    }
}

/// One mount of the source tree.
#[derive(Debug)]
pub struct SourceMount {
    /// The kernel's id of the mount (statx(2), stx_mnt_id).
    pub id: u64,
    /// What was told of it when it was met. Without a descriptor in it its id may come to mean another mount.
    facts: MountFacts,
    /// What is forbidden in it that our own mount does not forbid.
    restrictions: Restrictions,
    /// A real descriptor in it, for open_by_handle_at(2); absent where only descriptors reach its inodes.
    root: Option<OwnedFd>,
    /// How its inodes are found again.
    pub reopen_method: ReopenMethod,
    /// Whether files that had an inode number one after the other are told apart by when they were born.
    pub(super) btime_identifies: bool,
    /// Whether each change of a file after a look at it gives it other times, within a tick of the clock as well (Linux
    /// Documentation/filesystems/multigrain-ts.rst).
    is_multigrain: bool,
}

impl SourceMount {
    /// Looks at the mount that a directory or file (any descriptor) is in. `privileged`: CAP_DAC_READ_SEARCH is there.
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
        // Of a pseudo-filesystem nothing is opened.
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
            // A FUSE server may forget a node id and use it again: its handles say too little.
            Ok(FUSE) | Err(_) => return held,
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

    /// The source's own mount: what it forbids, ours forbids, but for this.
    #[must_use]
    pub fn as_root(self, restrictions: Restrictions) -> Self {
        Self { restrictions, ..self }
    }

    /// Opens an inode of this mount by its handle. ESTALE when it is gone.
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
        // Mounted as ext2 or ext3 the same driver has none.
        Ok(EXT4) => rustix::fs::statx(&inside, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
            .and_then(|stat| {
                let device = (stat.stx_dev_major, stat.stx_dev_minor);
                sys::mount::fs_type_of(device).map_err(|_| Errno::NOENT)
            })
            .is_ok_and(|name| name.as_deref() == Some(b"ext4")),
        _ => false,
    }
}

/// Whether the kernel gives a file that was looked at since its last change a time of a finer grain at the next one (since
/// Linux 6.13, for the filesystems in [`is_multigrain`] together): tried on a file in memory, which is a tmpfs's. With
/// times of one tick, of 1 to 10 ms, two changes in a row rarely differ, and never so many times.
#[allow(clippy::disallowed_methods, reason = "the file is our own")]
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

/// Whether inodes have room for the time of their birth, as those of 128 bytes have not.
fn stores_btime(root: &OwnedFd) -> bool {
    rustix::fs::statx(root, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)
        .is_ok_and(|stat| StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME))
}

/// Whether a handle with generation 0 opens an inode whatever its generation is, as on the ext family.
fn opens_generation_zero(root: &OwnedFd, stat: &Stat) -> bool {
    ext_handle(stat.st_ino, 0).is_some_and(|any| open_by_handle(root, &any, OFlags::PATH).is_ok())
}

/// All mounts seen so far; they are only ever added.
#[derive(Debug)]
pub struct Mounts {
    root: SourceMount,
    below: RwLock<Vec<Arc<SourceMount>>>,
}

/// The place of a mount in [`Mounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountIndex(u32);

impl MountIndex {
    /// The source's own mount.
    pub const ROOT: Self = Self(0);
}

impl Mounts {
    /// Starts with the source's own mount.
    #[must_use]
    pub fn new(root: SourceMount) -> Self {
        Self { root, below: RwLock::new(Vec::new()) }
    }

    /// The kernel's id of a mount.
    #[must_use]
    pub fn id(&self, at: MountIndex) -> u64 {
        self.with(at, |mount| mount.id)
    }

    /// How inodes of a mount are found again.
    #[must_use]
    pub fn reopen_method(&self, at: MountIndex) -> ReopenMethod {
        self.with(at, |mount| mount.reopen_method)
    }

    /// Whether a mount is a pseudo-filesystem, of which nothing is shown.
    pub(super) fn is_pseudo(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.facts.class == FsClass::Pseudo)
    }

    /// Whether a mount's server may judge who asks by his ids.
    #[must_use]
    pub fn is_server_backed(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.facts.class == FsClass::ServerBacked)
    }

    /// What is forbidden in a mount that our own mount does not forbid.
    #[must_use]
    pub fn restrictions(&self, at: MountIndex) -> Restrictions {
        self.with(at, |mount| mount.restrictions)
    }

    /// Whether the lives of an inode number are told apart by births.
    pub(super) fn btime_identifies(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.btime_identifies)
    }

    /// Whether no change of a file of the mount leaves the times that it had when it was looked at, where it can store
    /// fractions of seconds.
    #[must_use]
    pub fn is_multigrain(&self, at: MountIndex) -> bool {
        self.with(at, |mount| mount.is_multigrain)
    }

    /// Opens an inode of a mount by its handle. ESTALE when it is gone.
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
                    let below = self.below.read().unwrap_or_else(PoisonError::into_inner);
                    Arc::clone(&below[at as usize])
                };
                read(&mount)
            }
        }
    }

    /// The place of the mount with this id, if it was seen.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<MountIndex> {
        if id == self.root.id {
            return Some(MountIndex::ROOT);
        }
        let below = self.below.read().unwrap_or_else(PoisonError::into_inner);
        // The last, where one id has meant several.
        below.iter().rposition(|mount| mount.id == id).map(|at| MountIndex(at as u32 + 1))
    }

    /// The place of the mount with this id, probed by `make` when it is new, or was another when it was met.
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
        let known = find(&self.below.read().unwrap_or_else(PoisonError::into_inner));
        let at = known.unwrap_or_else(|| {
            let made = make();
            let mut below = self.below.write().unwrap_or_else(PoisonError::into_inner);
            find(&below).unwrap_or_else(|| {
                below.push(Arc::new(made));
                below.len() - 1
            })
        });
        MountIndex(at as u32 + 1)
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
