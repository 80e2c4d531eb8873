//! Notices to the kernel: what it is to drop from its caches.

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
use crate::fs::{Fs, Result};
use crate::source::NodeId;
use crate::watch::Notifier;

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(super) struct KernelCache {
    device: Arc<Device>,
    /// Whether names can be doubted without being taken (FUSE_HAS_EXPIRE_ONLY, Linux 6.2).
    can_expire: AtomicBool,
    fs: Arc<Fs>,
    node_ids: NodeIds,
    features: KernelFeatures,
    /// Has the kernel let go of all names that are not in use.
    prune: OnceLock<Pruner>,
    quiet_periods: QuietPeriods,
}

/// Prunes the kernel's names of one mount.
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

    /// The kernel can look names up again without dropping them.
    pub(super) fn enable_expire_only(&self) {
        self.can_expire.store(true, Ordering::Relaxed);
    }

    /// The filesystem that the kernel caches.
    pub(super) fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Makes the kernel ask again for every name, whether it was there or not. EINVAL where it cannot (before Linux
    /// 6.16).
    pub(super) fn inc_epoch(&self) -> Result<()> {
        Notification::IncEpoch.send(&self.device)
    }

    /// How to prune the kernel's names where it has no notice for all; for once.
    pub(super) fn set_pruner(&self, prune: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        let _ = self.prune.set(Pruner(Box::new(prune)));
    }

    /// Makes the kernel ask again for every name that is not in use. ENOSYS before the mount is in service.
    fn prune(&self) -> Result<()> {
        let prune = self.prune.get().ok_or(Errno::NOSYS)?;
        (prune.0)().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        log::info!(
            "changes on the source were missed: all names are asked for again but those of open files and working \
             directories, which this kernel keeps for up to ten minutes"
        );
        Ok(())
    }

    /// Drops all names below these, and what directories list.
    pub(super) fn inval_moved(&self, entries: &[(NodeId, OsString)]) {
        for (dir, name) in entries {
            self.send_inval_entry(*dir, name, false);
        }
        for node in self.fs.tree().nodes() {
            self.inval_readdir(node);
        }
    }

    /// Sends a notice: whether the kernel knew what is to be dropped.
    fn send(&self, notification: Notification<'_>) -> bool {
        match notification.send(&self.device) {
            Ok(()) => true,
            Err(e) => {
                // The mount is gone, or what was to be dropped is.
                log::debug!("the kernel refused a notice: {e}");
                false
            }
        }
    }

    fn send_inval_entry(&self, dir: NodeId, name: &OsStr, expire_only: bool) -> bool {
        self.send(Notification::InvalEntry {
            parent: self.node_ids.to_wire(dir),
            name,
            expire_only,
        })
    }

    /// A lock on a file is about to be granted: the kernel asks for its attributes again, and is not disturbed while it
    /// does.
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
            log::warn!("no thread to send notices later: {e}");
            self.quiet_periods.end_all();
        }
    }

    /// A lock on a file is being given back: notices of its attributes need not wait much longer.
    pub(super) fn lock_released(&self, file: NodeId) {
        self.quiet_periods.release(file);
    }

    /// Drops the data of a file and what is known of it. Waits for pages that are being read.
    pub(super) fn inval_data(&self, file: NodeId) {
        self.inval_inode_from(file, 0);
    }

    /// Drops what is known of an inode, and its pages from an offset on; a negative offset spares them. Whether the kernel
    /// knew it.
    pub(super) fn inval_inode_from(&self, node: NodeId, offset: i64) -> bool {
        self.send(Notification::InvalInode { nodeid: self.node_ids.to_wire(node), offset })
    }
}

impl Notifier for KernelCache {
    fn inval_entry(&self, dir: NodeId, name: &OsStr) -> bool {
        // Taken away with it would be what is mounted on it, and the kernel may have looked it up since it changed.
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
        // The notice waits for the directory's lock, and with it for every look-up under way there. Whether there is
        // such a name matters little: it would be asked for once more.
        self.send_inval_entry(dir, OsStr::new(".shiftbind-settle"), false);
    }

    fn inval_inode(&self, node: NodeId) -> bool {
        self.quiet_periods.send(node, || self.inval_inode_from(node, -1))
    }

    fn inval_readdir(&self, dir: NodeId) {
        self.inval_inode_from(dir, 0);
    }

    fn inval_all(&self) {
        if let Err(e) = self.inc_epoch().or_else(|_| self.prune()) {
            log::error!(
                "changes on the source were missed, and old names may be seen for minutes: {e}"
            );
        }
        for node in self.fs.tree().nodes() {
            self.inval_readdir(node);
        }
    }
}
