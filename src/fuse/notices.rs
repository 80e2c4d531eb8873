//! Notices to the kernel: what it is to drop from its caches.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use super::device::Device;
use super::kernel::KernelTraits;
use super::lull::{Lulls, TICK};
use super::numbers::Numbers;
use super::protocol::Notice;
use crate::fs::{Fs, Result};
use crate::source::NodeId;
use crate::watch::Notices;

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(super) struct KernelCache {
    device: Arc<Device>,
    /// Whether names can be doubted without being taken (FUSE_HAS_EXPIRE_ONLY, Linux 6.2).
    can_expire: AtomicBool,
    fs: Arc<Fs>,
    numbers: Numbers,
    kernel: KernelTraits,
    /// Has the kernel let go of all names that are not in use.
    prune: OnceLock<Prune>,
    lulls: Lulls,
}

/// Prunes the kernel's names of one mount.
struct Prune(Box<dyn Fn() -> io::Result<()> + Send + Sync>);

impl std::fmt::Debug for Prune {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prune")
    }
}

impl KernelCache {
    pub(super) fn new(
        device: Arc<Device>,
        fs: Arc<Fs>,
        numbers: Numbers,
        kernel: KernelTraits,
    ) -> Self {
        let (can_expire, lulls) = (AtomicBool::new(false), Lulls::default());
        Self { device, can_expire, fs, numbers, kernel, prune: OnceLock::new(), lulls }
    }

    /// The kernel can look names up again without dropping them.
    pub(super) fn allow_expiry(&self) {
        self.can_expire.store(true, Ordering::Relaxed);
    }

    /// The filesystem that the kernel caches.
    pub(super) fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Makes the kernel ask again for every name, whether it was there or not. EINVAL where it cannot (before Linux
    /// 6.16).
    pub(super) fn names(&self) -> Result<()> {
        Notice::Epoch.send(&self.device)
    }

    /// How to prune the kernel's names where it has no notice for all; for once.
    pub(super) fn prune_by(&self, prune: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        let _ = self.prune.set(Prune(Box::new(prune)));
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
    pub(super) fn moved(&self, places: &[(NodeId, OsString)]) {
        for (dir, name) in places {
            self.send_name(*dir, name, false);
        }
        for node in self.fs.tree().nodes() {
            self.listing(node);
        }
    }

    /// Sends a notice: whether the kernel knew what is to be dropped.
    fn send(&self, notice: Notice<'_>) -> bool {
        match notice.send(&self.device) {
            Ok(()) => true,
            Err(e) => {
                // The mount is gone, or what was to be dropped is.
                log::debug!("the kernel refused a notice: {e}");
                false
            }
        }
    }

    fn send_name(&self, dir: NodeId, name: &OsStr, stays: bool) -> bool {
        self.send(Notice::Name { parent: self.numbers.number(dir), name, stays })
    }

    /// A lock on a file is about to be granted: the kernel asks for its attributes again, and is not disturbed while it
    /// does.
    pub(super) fn granted(self: &Arc<Self>, file: NodeId) {
        let notice = || {
            self.inode(file, -1);
        };
        if !self.lulls.begin(file, notice) {
            return;
        }
        let cache = Arc::downgrade(self);
        let keep = move || {
            let mut next = TICK;
            loop {
                std::thread::sleep(next);
                let Some(cache) = cache.upgrade() else { return };
                let Some((owed, until_next)) = cache.lulls.end() else { return };
                next = until_next;
                for file in owed {
                    cache.attributes(file);
                }
            }
        };
        let thread = std::thread::Builder::new().name("lulls".into()).stack_size(128 * 1024);
        if let Err(e) = thread.spawn(keep) {
            log::warn!("no thread to send notices later: {e}");
            self.lulls.abandon();
        }
    }

    /// A lock on a file is being given back: notices of its attributes need not wait much longer.
    pub(super) fn released(&self, file: NodeId) {
        self.lulls.release(file);
    }

    /// Drops the data of a file and what is known of it. Waits for pages that are being read.
    pub(super) fn data(&self, file: NodeId) {
        self.inode(file, 0);
    }

    /// Drops what is known of an inode, and its pages from an offset on; a negative offset spares them. Whether the kernel
    /// knew it.
    pub(super) fn inode(&self, node: NodeId, from: i64) -> bool {
        self.send(Notice::Inode { node: self.numbers.number(node), from })
    }
}

impl Notices for KernelCache {
    fn name(&self, dir: NodeId, name: &OsStr) -> bool {
        // Taken away with it would be what is mounted on it, and the kernel may have looked it up since it changed.
        let stays = self.can_expire.load(Ordering::Relaxed) && self.fs.is_there(dir, name);
        self.send_name(dir, name, stays)
    }

    fn look_up_again(&self, dir: NodeId, name: &OsStr) -> bool {
        !self.can_expire.load(Ordering::Relaxed) || self.send_name(dir, name, true)
    }

    fn wait_for_lookups(&self) -> bool {
        self.kernel.waits_for_lookups
    }

    fn settle(&self, dir: NodeId) {
        // The notice waits for the directory's lock, and with it for every look-up under way there. Whether there is
        // such a name matters little: it would be asked for once more.
        self.send_name(dir, OsStr::new(".shiftbind-settle"), false);
    }

    fn attributes(&self, node: NodeId) -> bool {
        self.lulls.send(node, || self.inode(node, -1))
    }

    fn listing(&self, dir: NodeId) {
        self.inode(dir, 0);
    }

    fn everything(&self) {
        if let Err(e) = self.names().or_else(|_| self.prune()) {
            log::error!(
                "changes on the source were missed, and old names may be seen for minutes: {e}"
            );
        }
        for node in self.fs.tree().nodes() {
            self.listing(node);
        }
    }
}
