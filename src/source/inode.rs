//! One inode of the source that the kernel knows: what it is, and how it is reached.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use super::mounts::MountIndex;
use crate::sys::handle::FileHandle;

/// The number by which the kernel names an inode in requests, which is also the inode number that programs see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of every FUSE filesystem.
    pub const ROOT: Self = Self(1);
}

/// Which part of the tree an inode number belongs to: inode numbers are unique only within one device, and one device
/// may be seen through several mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Domain(pub(super) u16);

/// What makes two look-ups find the same inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) domain: Domain,
    pub(super) ino: u64,
    /// The handle, which tells apart two files that had the inode number one after the other. An inode that is held
    /// open needs none: its number cannot be used again.
    pub(super) handle: Option<FileHandle>,
}

/// An inode that the kernel has looked up and not yet forgotten.
#[derive(Debug)]
pub struct Inode {
    node: NodeId,
    identity: Identity,
    mount: MountIndex,
    kind: FileType,
    held: Mutex<Held>,
    watched: AtomicBool,
    /// Its directory is watched, and tells what is done to it.
    told: AtomicBool,
    /// Somebody is writing to it without being told of.
    busy: AtomicBool,
    /// Of a directory: counts what its watch told of files in it.
    stirred: AtomicU32,
    /// Tells it from any other inode that has or had the same node id.
    serial: u64,
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

const FOR_LIFE: u32 = u32::MAX;

impl Inode {
    /// An inode; `pin` keeps it reachable for life where no handle does.
    pub(super) fn new(
        node: NodeId,
        identity: Identity,
        mount: MountIndex,
        kind: FileType,
        pin: Option<OwnedFd>,
    ) -> Self {
        let opens = if pin.is_some() { FOR_LIFE } else { 0 };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let held = Mutex::new(Held { fd: pin.map(Arc::new), opens, writers: 0 });
        Self {
            node,
            identity,
            mount,
            kind,
            held,
            watched: AtomicBool::new(false),
            told: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            stirred: AtomicU32::new(0),
            serial,
        }
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

    /// The handle by which it is opened, where there is one.
    #[must_use]
    pub fn handle(&self) -> Option<&FileHandle> {
        self.identity.handle.as_ref()
    }

    /// Whether changes that others make to it are told to us.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Notes that it is no longer watched: whether it was.
    pub fn take_watched(&self) -> bool {
        self.watched.swap(false, Ordering::AcqRel)
    }

    /// Notes whether it is watched.
    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    /// Whether a watch on its directory tells what is done to it.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Notes whether a watch on its directory tells what is done to it.
    pub fn set_told(&self, told: bool) {
        self.told.store(told, Ordering::Release);
    }

    /// Whether somebody is writing to it, so that no answer about it stays true.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Notes whether somebody is writing to it.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }

    /// How often the watch on this directory has told of files in it.
    #[must_use]
    pub fn stirred(&self) -> u32 {
        self.stirred.load(Ordering::Acquire)
    }

    /// Notes that the watch on this directory tells of a file in it, which may not be known yet: whoever is looking it up
    /// must not believe for long what he saw.
    pub fn stir(&self) {
        self.stirred.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn identity(&self) -> &Identity {
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
        held.opens = FOR_LIFE;
        held.fd.get_or_insert(fd);
    }

    /// A file was opened on it: operations by inode go through its descriptor while any is open, so that they reach it
    /// even when its last name goes on the source.
    pub fn opened(&self, fd: &Arc<OwnedFd>, for_writing: bool) {
        let mut held = self.lock();
        held.writers += u32::from(for_writing);
        if held.opens != FOR_LIFE {
            held.opens += 1;
        }
        held.fd.get_or_insert_with(|| Arc::clone(fd));
    }

    /// A file on it was closed.
    pub fn closed(&self, for_writing: bool) {
        let mut held = self.lock();
        held.writers -= u32::from(for_writing);
        if held.opens != FOR_LIFE {
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
