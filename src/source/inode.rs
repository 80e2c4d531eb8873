//! One inode of the source that the kernel knows: what it is, and how it is reached.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use super::identity::{Freshness, InodeIdentity, MatchResult};
use super::mounts::MountIndex;
use super::resolve::ViaLink;

/// The number by which the kernel names an inode in requests, which is also the inode number that programs see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of every FUSE filesystem.
    pub const ROOT: Self = Self(1);
}

/// Which part of the tree an inode number belongs to: inode numbers are unique only within one device, and one device
/// may be seen through several mounts, or directories through several symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Domain(pub(super) u32);

/// An inode that the kernel has looked up and not yet forgotten.
#[derive(Debug)]
pub struct Inode {
    node: NodeId,
    identity: InodeIdentity,
    mount: MountIndex,
    kind: FileType,
    /// The link through which a directory was reached.
    via: Option<Arc<ViaLink>>,
    held: Mutex<Held>,
    flags: Flags,
    /// How many look-ups the kernel has to give back; it changes under the lock of the table.
    lookups: AtomicU64,
    /// Tells it from any other inode that has or had the same node id.
    serial: u64,
}

/// What is known of the watch over an inode, in a byte: there are millions of them.
#[derive(Debug, Default)]
struct Flags(AtomicU8);

/// It is watched.
const WATCHED: u8 = 1;
/// Its directory is watched, and tells what is done to it.
const COVERED_BY_PARENT: u8 = 2;
/// Somebody is writing to it without being told of.
const BUSY: u8 = 4;
/// See [`Inode::has_unmapped_id`].
const HAS_UNMAPPED_ID: u8 = 8;
/// It was seen when it was old ([`Freshness::PastTick`]).
const SEEN_PAST_TICK: u8 = 16;
/// It was old when it was found first.
const ENTERED_PAST_TICK: u8 = 32;

impl Flags {
    fn has(&self, flag: u8) -> bool {
        self.0.load(Ordering::Acquire) & flag != 0
    }

    /// Sets or clears a flag: whether it was set.
    fn set(&self, flag: u8, on: bool) -> bool {
        let before = match on {
            true => self.0.fetch_or(flag, Ordering::AcqRel),
            false => self.0.fetch_and(!flag, Ordering::AcqRel),
        };
        before & flag != 0
    }
}

/// The descriptor that keeps an inode reachable beyond its handle.
#[derive(Debug, Default)]
struct Held {
    fd: Option<Arc<OwnedFd>>,
    /// How many files are open on it; `u32::MAX` where the descriptor stays until the inode is forgotten.
    opens: u32,
    /// How many of them are for writing.
    writers: u32,
}

const PINNED: u32 = u32::MAX;

impl Inode {
    /// An inode that was looked up once; `pin` keeps it reachable for life where no handle does.
    pub(super) fn new(
        node: NodeId,
        identity: InodeIdentity,
        mount: MountIndex,
        kind: FileType,
        pin: Option<OwnedFd>,
        via: Option<Arc<ViaLink>>,
    ) -> Self {
        let opens = if pin.is_some() { PINNED } else { 0 };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let held = Mutex::new(Held { fd: pin.map(Arc::new), opens, writers: 0 });
        let (flags, lookups) = (Flags::default(), AtomicU64::new(1));
        Self { node, identity, mount, kind, via, held, flags, lookups, serial }
    }

    /// An inode of no table.
    #[cfg(test)]
    pub(crate) fn alone(node: NodeId) -> Self {
        let identity = InodeIdentity {
            domain: Domain(0),
            ino: node.0,
            generation: super::identity::Generation::Held(None),
        };
        Self::new(node, identity, MountIndex::ROOT, FileType::RegularFile, None, None)
    }

    /// Where it is in the table.
    pub(super) fn key(&self) -> &NodeId {
        &self.node
    }

    /// Counts one look-up.
    pub(super) fn add_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes look-ups off the count: whether they were the last.
    pub(super) fn sub_lookups(&self, lookups: u64) -> bool {
        let before = self.lookups.load(Ordering::Relaxed);
        debug_assert!(before >= lookups, "the kernel forgets no more than it looked up");
        let left = before.saturating_sub(lookups);
        self.lookups.store(left, Ordering::Relaxed);
        left == 0
    }

    /// Its number in requests.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// A number that no other inode ever has in this process.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Its type, which never changes.
    #[must_use]
    pub fn kind(&self) -> FileType {
        self.kind
    }

    /// The mount of the source that it was found in.
    #[must_use]
    pub fn mount(&self) -> MountIndex {
        self.mount
    }

    /// Whether what was found is this inode.
    pub(super) fn compare(&self, found: &InodeIdentity, freshness: Freshness) -> MatchResult {
        let compare = self.identity.compare(self.flags.has(SEEN_PAST_TICK), found, freshness);
        if compare == MatchResult::Same
            && freshness == Freshness::PastTick
            && !self.flags.has(SEEN_PAST_TICK)
        {
            self.flags.set(SEEN_PAST_TICK, true);
        }
        compare
    }

    /// Notes how it was seen when it was found first.
    pub(super) fn set_first_freshness(&self, freshness: Freshness) {
        let is_old = freshness == Freshness::PastTick;
        self.flags.set(SEEN_PAST_TICK, is_old);
        self.flags.set(ENTERED_PAST_TICK, is_old);
    }

    /// What tells it from others that have its number before or after it, for as long as the kernel knows it: who has
    /// kept a handle of one does not get another by it (Linux `fuse_get_dentry`).
    #[must_use]
    pub fn generation(&self) -> u32 {
        match self.node {
            // Never looked up, so that the kernel is not told of it.
            NodeId::ROOT => 0,
            _ => self
                .identity
                .fuse_generation(self.flags.has(ENTERED_PAST_TICK))
                .unwrap_or(self.serial as u32),
        }
    }

    /// Whether changes that others make to it are told to us.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.flags.has(WATCHED)
    }

    /// Notes that it is no longer watched: whether it was.
    pub fn take_watched(&self) -> bool {
        self.flags.set(WATCHED, false)
    }

    /// Notes whether it is watched.
    pub fn set_watched(&self, watched: bool) {
        self.flags.set(WATCHED, watched);
    }

    /// Whether a watch on its directory tells what is done to it.
    #[must_use]
    pub fn is_covered_by_parent(&self) -> bool {
        self.flags.has(COVERED_BY_PARENT)
    }

    /// Notes whether a watch on its directory tells what is done to it.
    pub fn set_covered_by_parent(&self, covered: bool) {
        self.flags.set(COVERED_BY_PARENT, covered);
    }

    /// Whether somebody is writing to it, so that no answer about it stays true.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.flags.has(BUSY)
    }

    /// Notes whether somebody is writing to it.
    pub fn set_busy(&self, busy: bool) {
        self.flags.set(BUSY, busy);
    }

    /// Whether the kernel was told last that its owner or group is unmapped. It then refuses to write it without asking
    /// whether that is still so (Linux `HAS_UNMAPPED_ID` in `inode_permission`).
    #[must_use]
    pub fn has_unmapped_id(&self) -> bool {
        self.flags.has(HAS_UNMAPPED_ID)
    }

    /// Takes in what the kernel is being told of its owner.
    pub fn set_has_unmapped_id(&self, has_unmapped: bool) {
        if has_unmapped != self.has_unmapped_id() {
            self.flags.set(HAS_UNMAPPED_ID, has_unmapped);
        }
    }

    /// The link through which a directory was reached.
    pub(super) fn via(&self) -> Option<&Arc<ViaLink>> {
        self.via.as_ref()
    }

    pub(super) fn identity(&self) -> &InodeIdentity {
        &self.identity
    }

    /// The descriptor that is held, if any.
    #[must_use]
    pub fn held(&self) -> Option<Arc<OwnedFd>> {
        self.lock().fd.clone()
    }

    /// Keeps the inode reachable until it is forgotten: it loses its last name.
    pub fn pin(&self, fd: Arc<OwnedFd>) {
        let mut held = self.lock();
        held.opens = PINNED;
        held.fd.get_or_insert(fd);
    }

    /// A file was opened on it: operations by inode go through its descriptor while any is open, so that they reach it
    /// even when its last name goes on the source.
    pub fn opened(&self, fd: &Arc<OwnedFd>, for_writing: bool) {
        let mut held = self.lock();
        held.writers += u32::from(for_writing);
        if held.opens != PINNED {
            held.opens += 1;
        }
        held.fd.get_or_insert_with(|| Arc::clone(fd));
    }

    /// A file on it was closed.
    pub fn closed(&self, for_writing: bool) {
        let mut held = self.lock();
        held.writers -= u32::from(for_writing);
        if held.opens != PINNED {
            held.opens -= 1;
            if held.opens == 0 {
                held.fd = None;
            }
        }
    }

    /// Whether a file is open on it for writing.
    #[must_use]
    pub fn has_writers(&self) -> bool {
        self.lock().writers > 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_stays_small() {
        // With the two counts of an Arc it fills a chunk of 128 bytes of the allocator.
        assert!(size_of::<Inode>() <= 104, "{}", size_of::<Inode>());
    }

    #[test]
    fn flags_are_set_and_cleared_one_by_one() {
        let flags = Flags::default();
        flags.set(WATCHED, true);
        flags.set(BUSY, true);
        assert!(flags.has(WATCHED) && flags.has(BUSY) && !flags.has(COVERED_BY_PARENT));
        assert!(flags.set(WATCHED, false), "as it was before");
        assert!(!flags.has(WATCHED) && flags.has(BUSY));
    }
}
