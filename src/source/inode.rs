//! One inode of the source that the kernel knows, and how the daemon reaches it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::fs::FileType;

use super::identity::{Freshness, Generation, InodeIdentity, MatchResult};
use super::mounts::MountIndex;
use super::node_id::NodeId;
use super::via_link::ViaLink;
use crate::sync::{Mutex, MutexGuard};

/// An inode that the kernel has looked up and not yet forgotten.
#[derive(Debug)]
pub struct Inode {
    node: NodeId,
    identity: InodeIdentity,
    mount: MountIndex,
    kind: FileType,
    /// The symbolic link through which a directory was reached.
    via: Option<Arc<ViaLink>>,
    held: Mutex<Held>,
    flags: Flags,
    /// Lookup count: how many lookups the kernel has to forget. It changes under the lock of the table's shard.
    lookups: AtomicU64,
    /// Distinguishes the inode from any other that has or had the same node id.
    serial: u64,
}

/// State of the watch on an inode, and what is known of its btime.
///
/// One byte, because there may be millions of inodes.
#[derive(Debug, Default)]
struct Flags(AtomicU8);

/// The inode has a mark of its own.
const WATCHED: u8 = 1;
/// The file is queued to get a mark of its own within a second.
const DEFERRED: u8 = 2;
/// A process on the source has just written to it, and its write events are suppressed.
const BUSY: u8 = 4;
/// See [`Inode::has_unmapped_id`].
const HAS_UNMAPPED_ID: u8 = 8;
/// The attributes were read past the tick of the btime at least once ([`Freshness::PastTick`]).
const SEEN_PAST_TICK: u8 = 16;
/// The attributes were read past the tick of the btime when the inode was found first.
const ENTERED_PAST_TICK: u8 = 32;
/// See [`Inode::is_released`].
const RELEASED: u8 = 64;
/// See [`Inode::has_changed`].
const CHANGED: u8 = 128;

impl Flags {
    fn has(&self, flag: u8) -> bool {
        self.0.load(Ordering::Acquire) & flag != 0
    }

    /// Sets or clears a flag. Returns whether it was set.
    fn set(&self, flag: u8, on: bool) -> bool {
        let before = match on {
            true => self.0.fetch_or(flag, Ordering::AcqRel),
            false => self.0.fetch_and(!flag, Ordering::AcqRel),
        };
        before & flag != 0
    }
}

/// The descriptor that keeps an inode reachable other than by handle.
#[derive(Debug, Default)]
struct Held {
    fd: Option<Arc<OwnedFd>>,
    /// Number of open files, and [`PINNED`] if the descriptor stays until the kernel forgets the inode.
    opens: u32,
    /// Number of files open for writing.
    writers: u32,
}

const PINNED: u32 = 1 << 31;

impl Inode {
    /// Creates an inode with a lookup count of 1.
    ///
    /// `pin` keeps it reachable until it is forgotten, if no handle does.
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

    /// Creates an inode that is in no table.
    #[cfg(test)]
    pub(crate) fn alone(node: NodeId) -> Self {
        let identity = InodeIdentity {
            domain: super::node_id::Domain(0),
            ino: node.0,
            generation: super::identity::Generation::Held(None),
        };
        Self::new(node, identity, MountIndex::ROOT, FileType::RegularFile, None, None)
    }

    /// Returns the key of the inode in the table.
    pub(super) fn key(&self) -> &NodeId {
        &self.node
    }

    /// Increments the lookup count.
    pub(super) fn add_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// Decrements the lookup count. Returns whether it reached 0.
    pub(super) fn sub_lookups(&self, lookups: u64) -> bool {
        let before = self.lookups.load(Ordering::Relaxed);
        debug_assert!(before >= lookups, "the kernel forgets no more than it looked up");
        let left = before.saturating_sub(lookups);
        self.lookups.store(left, Ordering::Relaxed);
        left == 0
    }

    /// Returns the node id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Returns a number that no other inode ever has in this process.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Returns the file type, which never changes.
    #[must_use]
    pub fn kind(&self) -> FileType {
        self.kind
    }

    /// Returns the mount of the source in which the inode was found.
    #[must_use]
    pub fn mount(&self) -> MountIndex {
        self.mount
    }

    /// Compares a found inode with this one.
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

    /// Records how fresh the attributes were when the inode was found first.
    pub(super) fn set_first_freshness(&self, freshness: Freshness) {
        let is_old = freshness == Freshness::PastTick;
        self.flags.set(SEEN_PAST_TICK, is_old);
        self.flags.set(ENTERED_PAST_TICK, is_old);
    }

    /// Returns the generation number for `fuse_entry_out`.
    ///
    /// It distinguishes the inode from others that have its number before or after it, as long as the kernel knows it:
    /// an old file handle of NFS then does not open a new inode (Linux `fuse_get_dentry`).
    #[must_use]
    pub fn generation(&self) -> u32 {
        match self.node {
            // The kernel never looks up the root, so it never gets the root's generation.
            NodeId::ROOT => 0,
            _ => self
                .identity
                .fuse_generation(self.flags.has(ENTERED_PAST_TICK))
                .unwrap_or(self.serial as u32),
        }
    }

    /// Returns whether the inode has a mark, so that fanotify(7) reports changes by processes on the source.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.flags.has(WATCHED)
    }

    /// Records that the inode has no mark any more. Returns whether it had one.
    pub fn take_watched(&self) -> bool {
        self.flags.set(WATCHED, false)
    }

    /// Records whether the inode has a mark.
    pub fn set_watched(&self, watched: bool) {
        self.flags.set(WATCHED, watched);
    }

    /// Returns whether the file is queued to get a mark of its own.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.flags.has(DEFERRED)
    }

    /// Records whether the file is queued to get a mark of its own. Returns whether it was queued before.
    pub fn set_deferred(&self, deferred: bool) -> bool {
        self.flags.set(DEFERRED, deferred)
    }

    /// Returns whether write events are suppressed.
    ///
    /// That is so shortly after a process on the source has written to the inode; the kernel must then not cache its
    /// attributes.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.flags.has(BUSY)
    }

    /// Records whether write events are suppressed.
    pub fn set_busy(&self, busy: bool) {
        self.flags.set(BUSY, busy);
    }

    /// Returns whether the kernel has last been told that the owner or group is unmapped.
    ///
    /// The kernel then refuses to write to the inode without asking the daemon again (Linux `HAS_UNMAPPED_ID` in
    /// `inode_permission`).
    #[must_use]
    pub fn has_unmapped_id(&self) -> bool {
        self.flags.has(HAS_UNMAPPED_ID)
    }

    /// Records whether the attributes sent to the kernel have an unmapped owner or group.
    pub fn set_has_unmapped_id(&self, has_unmapped: bool) {
        if has_unmapped != self.has_unmapped_id() {
            self.flags.set(HAS_UNMAPPED_ID, has_unmapped);
        }
    }

    /// Records that the attributes have changed or are being changed.
    pub fn note_change(&self) {
        if !self.has_changed() {
            self.flags.set(CHANGED, true);
        }
    }

    /// Returns whether the attributes have changed since the kernel looked the inode up first.
    ///
    /// An answer that is still in flight may then bring attributes from before the change.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.flags.has(CHANGED)
    }

    /// Returns the symbolic link through which a directory was reached.
    pub(super) fn via(&self) -> Option<&Arc<ViaLink>> {
        self.via.as_ref()
    }

    pub(super) fn identity(&self) -> &InodeIdentity {
        &self.identity
    }

    /// Returns whether a descriptor holds the inode for as long as the kernel knows it, since it has no handle.
    pub(super) fn is_always_held(&self) -> bool {
        matches!(self.identity.generation, Generation::Held(_))
    }

    /// Returns the descriptor that is held, if any.
    #[must_use]
    pub fn held(&self) -> Option<Arc<OwnedFd>> {
        self.lock().fd.clone()
    }

    /// Keeps the inode reachable until the kernel forgets it, because it loses its last name.
    pub fn pin(&self, fd: Arc<OwnedFd>) {
        let mut held = self.lock();
        held.opens |= PINNED;
        self.flags.set(RELEASED, false);
        held.fd.get_or_insert(fd);
    }

    /// Records that a file was opened.
    ///
    /// Operations by inode use its descriptor while any file is open, so that they reach the inode even when its last
    /// name is removed on the source.
    pub fn opened(&self, fd: &Arc<OwnedFd>, for_writing: bool) {
        if for_writing {
            self.note_change();
        }
        let mut held = self.lock();
        held.writers += u32::from(for_writing);
        held.opens += 1;
        held.fd.get_or_insert_with(|| Arc::clone(fd));
    }

    /// Records that a file was closed.
    pub fn closed(&self, for_writing: bool) {
        let mut held = self.lock();
        held.writers -= u32::from(for_writing);
        held.opens -= 1;
        if held.opens == 0 {
            held.fd = None;
        }
    }

    /// Closes the descriptor that keeps the inode reachable, at once or when the last open file is closed: the mount that
    /// the inode is on was detached.
    pub(super) fn unpin(&self) {
        let _closed = {
            let mut held = self.lock();
            held.opens &= !PINNED;
            if held.opens == 0 { held.fd.take() } else { None }
        };
    }

    /// Closes the descriptor that keeps the inode reachable, unless a file is open. Returns whether it did.
    ///
    /// Only [`Self::pin`] makes the inode reachable again. [`Self::is_released`] until then, or until [`Self::abandon`].
    pub(super) fn release_unless_open(&self) -> bool {
        let released = {
            let mut held = self.lock();
            if held.opens != PINNED {
                return false;
            }
            held.opens = 0;
            self.flags.set(RELEASED, true);
            held.fd.take()
        };
        released.is_some()
    }

    /// Returns whether its descriptor is closed for the time that the source takes to remove one of its names.
    pub(super) fn is_released(&self) -> bool {
        self.flags.has(RELEASED)
    }

    /// Records that no descriptor can be had again, because the inode has lost its last name.
    pub(super) fn abandon(&self) {
        self.flags.set(RELEASED, false);
    }

    /// Returns whether a file is open for writing.
    #[must_use]
    pub fn has_writers(&self) -> bool {
        self.lock().writers > 0
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_stays_small() {
        // With the two counts of an Arc the inode fills an allocator chunk of 128 bytes.
        assert!(size_of::<Inode>() <= 104, "{}", size_of::<Inode>());
    }

    #[test]
    fn flags_are_set_and_cleared_one_by_one() {
        let flags = Flags::default();
        flags.set(WATCHED, true);
        flags.set(BUSY, true);
        assert!(flags.has(WATCHED) && flags.has(BUSY) && !flags.has(DEFERRED));
        assert!(flags.set(WATCHED, false), "as it was before");
        assert!(!flags.has(WATCHED) && flags.has(BUSY));
    }
}
