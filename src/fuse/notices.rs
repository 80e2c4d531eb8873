//! Notices to the kernel: what it is to drop from its caches.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::device::Device;
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
}

impl KernelCache {
    pub(super) fn new(device: Arc<Device>, fs: Arc<Fs>, numbers: Numbers) -> Self {
        Self { device, can_expire: AtomicBool::new(false), fs, numbers }
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

    fn send_name(&self, dir: NodeId, name: &OsStr, stays: bool) {
        self.send(Notice::Name { parent: self.numbers.number(dir), name, stays });
    }

    /// Drops the data of a file and what is known of it. Waits for pages that are being read.
    pub(super) fn data(&self, file: NodeId) {
        self.inode(file, 0);
    }

    fn inode(&self, node: NodeId, from: i64) -> bool {
        self.send(Notice::Inode { node: self.numbers.number(node), from })
    }
}

impl Notices for KernelCache {
    fn name(&self, dir: NodeId, name: &OsStr) {
        // Taken away with it would be what is mounted on it, and the kernel may have looked it up since it changed.
        let stays = self.can_expire.load(Ordering::Relaxed) && self.fs.is_there(dir, name);
        self.send_name(dir, name, stays);
    }

    fn look_up_again(&self, dir: NodeId, name: &OsStr) {
        if self.can_expire.load(Ordering::Relaxed) {
            self.send_name(dir, name, true);
        }
    }

    fn settle(&self, dir: NodeId) {
        // The notice waits for the directory's lock, and with it for every look-up under way there. Whether there is
        // such a name matters little: it would be asked for once more.
        self.send_name(dir, OsStr::new(".shiftbind-settle"), false);
    }

    fn attributes(&self, node: NodeId) -> bool {
        self.inode(node, -1)
    }

    fn listing(&self, dir: NodeId) {
        self.inode(dir, 0);
    }

    fn everything(&self) {
        if let Err(e) = self.names() {
            log::error!(
                "changes on the source were missed, and old names may be seen for minutes: {e}"
            );
        }
        for node in self.fs.tree().nodes() {
            self.listing(node);
        }
    }
}
