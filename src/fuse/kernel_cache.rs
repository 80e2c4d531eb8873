//! Invalidates what the kernel has cached of the mount: dentries, attributes, ACLs, pages and listings.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use super::device::Device;
use super::inval_hold::{QuietPeriods, TIMER_INTERVAL};
use super::kernel_features::KernelFeatures;
use super::node_ids::NodeIds;
use super::protocol::Notification;
use crate::error::errno_field;
use crate::fs::{Fs, Result};
use crate::source::NodeId;
use crate::watch::Notifier;

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(super) struct KernelCache {
    device: Arc<Device>,
    /// Whether a dentry can be expired without being dropped (FUSE_HAS_EXPIRE_ONLY, Linux 6.2).
    can_expire: AtomicBool,
    fs: Arc<Fs>,
    node_ids: NodeIds,
    features: KernelFeatures,
    /// Drops all dentries that are not in use, for kernels without FUSE_NOTIFY_INC_EPOCH or FUSE_NOTIFY_PRUNE.
    prune: OnceLock<Pruner>,
    quiet_periods: QuietPeriods,
}

/// A function that prunes the dentries of one mount.
struct Pruner(Box<dyn Fn() -> io::Result<()> + Send + Sync>);

impl std::fmt::Debug for Pruner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pruner")
    }
}

impl KernelCache {
    pub(super) fn new(
        device: Arc<Device>,
        fs: Arc<Fs>,
        node_ids: NodeIds,
        features: KernelFeatures,
    ) -> Self {
        let (can_expire, quiet_periods) = (AtomicBool::new(false), QuietPeriods::default());
        Self { device, can_expire, fs, node_ids, features, prune: OnceLock::new(), quiet_periods }
    }

    /// Records that the kernel supports FUSE_EXPIRE_ONLY.
    pub(super) fn enable_expire_only(&self) {
        self.can_expire.store(true, Ordering::Relaxed);
    }

    /// The filesystem that the kernel caches.
    pub(super) fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Expires every dentry, positive and negative (FUSE_NOTIFY_INC_EPOCH). EINVAL before Linux 6.16.
    pub(super) fn inc_epoch(&self) -> Result<()> {
        Notification::IncEpoch.send(&self.device)
    }

    /// Sets how dentries are pruned where the kernel cannot raise the epoch. Only the first call counts.
    pub(super) fn set_pruner(&self, prune: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        let _ = self.prune.set(Pruner(Box::new(prune)));
    }

    /// Drops every dentry that is not in use. ENOSYS before the mount is attached.
    pub(super) fn prune(&self) -> Result<()> {
        let prune = self.prune.get().ok_or(Errno::NOSYS)?;
        (prune.0)().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }

    /// Drops every dentry that is not in use, since names may be stale.
    fn prune_stale(&self) -> Result<()> {
        self.prune()?;
        log::info!(
            "events of the source were lost: all dentries were dropped but those of open files and working \
             directories, which this kernel keeps for up to ten minutes"
        );
        Ok(())
    }

    /// Invalidates these entries with all that is cached below them. Invalidates attributes, pages and listings of all
    /// inodes, too.
    pub(super) fn inval_moved(&self, entries: &[(NodeId, OsString)]) {
        for (dir, name) in entries {
            self.send_inval_entry(*dir, name, false);
        }
        for node in self.fs.tree().nodes() {
            self.inval_readdir(node);
        }
    }

    /// Has the kernel evict those of these inodes that are not in use. EINVAL before Linux 6.18.
    pub(super) fn evict(&self, nodes: &[NodeId]) -> Result<()> {
        let nodeids: Vec<u64> = nodes.iter().map(|node| self.node_ids.wire_id(*node)).collect();
        Notification::Prune { nodeids: &nodeids }.send(&self.device)
    }

    /// Sends a notification. Returns whether the kernel knew what it is about.
    fn send(&self, notification: Notification<'_>) -> bool {
        match notification.send(&self.device) {
            Ok(()) => true,
            Err(e) => {
                // The mount is gone, or the kernel does not have the inode or the dentry.
                log::debug!("the kernel refused {notification}: {}", errno_field(e));
                false
            }
        }
    }

    fn send_inval_entry(&self, dir: NodeId, name: &OsStr, expire_only: bool) -> bool {
        self.send(Notification::InvalEntry {
            parent: self.node_ids.wire_id(dir),
            name,
            expire_only,
        })
    }

    /// Invalidates a file's attributes before a lock on it is granted, and starts a quiet period.
    ///
    /// The client asks for the attributes when it has the lock; an invalidation in between would make the kernel
    /// discard the reply ([`QuietPeriods`]).
    pub(super) fn lock_granted(self: &Arc<Self>, file: NodeId) {
        let notification = || {
            self.inval_inode_from(file, -1);
        };
        if !self.quiet_periods.begin(file, notification) {
            return;
        }
        let cache = Arc::downgrade(self);
        let run_timer = move || {
            let mut next = TIMER_INTERVAL;
            loop {
                std::thread::sleep(next);
                let Some(cache) = cache.upgrade() else { return };
                let Some((pending, until_next)) = cache.quiet_periods.expire() else { return };
                next = until_next;
                for file in pending {
                    cache.inval_inode(file);
                }
            }
        };
        let thread = std::thread::Builder::new().name("inval-timer".into()).stack_size(128 * 1024);
        if let Err(e) = thread.spawn(run_timer) {
            log::warn!("cannot start a thread for held-back invalidations: {}", errno_field(e));
            self.quiet_periods.end_all();
        }
    }

    /// Lets the quiet period of a file end soon: a client releases a lock.
    pub(super) fn lock_released(&self, file: NodeId) {
        self.quiet_periods.release(file);
    }

    /// Invalidates a file's pages and attributes. Waits for pages that are being read.
    pub(super) fn inval_data(&self, file: NodeId) {
        self.inval_inode_from(file, 0);
    }

    /// Invalidates an inode's attributes and ACLs, and its pages from `offset` on; none if that is negative.
    ///
    /// Returns whether the kernel knew the inode.
    pub(super) fn inval_inode_from(&self, node: NodeId, offset: i64) -> bool {
        if let Ok(inode) = self.fs.tree().inode(node) {
            inode.note_change();
        }
        self.send(Notification::InvalInode { nodeid: self.node_ids.wire_id(node), offset })
    }
}

impl Notifier for KernelCache {
    fn inval_entry(&self, dir: NodeId, name: &OsStr) -> bool {
        // Dropping a dentry would unmount what is mounted on it (`d_invalidate`), and the kernel may have looked the
        // name up again since it changed.
        let expire_only = self.can_expire.load(Ordering::Relaxed) && self.fs.is_there(dir, name);
        self.send_inval_entry(dir, name, expire_only)
    }

    fn expire_entry(&self, dir: NodeId, name: &OsStr) -> bool {
        !self.can_expire.load(Ordering::Relaxed) || self.send_inval_entry(dir, name, true)
    }

    fn waits_for_lookups(&self) -> bool {
        self.features.waits_for_lookups
    }

    fn barrier(&self, dir: NodeId) {
        // The notification takes the lock of the directory, and so waits for every lookup under way there. Whether
        // there is such a name matters little: it would be looked up once more.
        self.send_inval_entry(dir, OsStr::new(".shiftbind-barrier"), false);
    }

    fn inval_inode(&self, node: NodeId) -> bool {
        self.quiet_periods.send(node, || self.inval_inode_from(node, -1))
    }

    fn is_looked_up(&self, node: NodeId) -> bool {
        self.fs.tree().inode(node).is_ok()
    }

    fn inval_readdir(&self, dir: NodeId) {
        self.inval_inode_from(dir, 0);
    }

    fn directory_moved(&self) {
        if self.fs.hides_by_path() {
            for node in self.fs.tree().nodes() {
                self.inval_readdir(node);
            }
        }
    }

    fn inval_all(&self) {
        if let Err(e) = self.inc_epoch().or_else(|_| self.prune_stale()) {
            log::error!(
                "events of the source were lost, and stale names may be seen for up to ten minutes: {}",
                errno_field(e)
            );
        }
        for node in self.fs.tree().nodes() {
            self.inval_readdir(node);
        }
    }
}
