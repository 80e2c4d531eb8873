//! Notices to the kernel: what it is to drop from its caches.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use fuser::Notifier;

use super::wire::Wire;
use crate::fs::Fs;
use crate::source::NodeId;
use crate::watch::Notices;

/// FUSE_NOTIFY_INC_EPOCH (linux/fuse.h, 7.44): every name is asked for again. fuser does not know it.
const INC_EPOCH: [u8; 16] = {
    let mut message = [0; 16];
    message[0] = 16;
    message[4] = 8;
    message
};

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(super) struct KernelCache {
    /// There once the kernel's first request was answered.
    notifier: OnceLock<Notifier>,
    device: File,
    fs: Arc<Fs>,
    wire: Wire,
}

impl KernelCache {
    pub(super) fn new(device: OwnedFd, fs: Arc<Fs>, wire: Wire) -> Self {
        Self { notifier: OnceLock::new(), device: device.into(), fs, wire }
    }

    /// The filesystem that the kernel caches.
    pub(super) fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Makes the kernel ask again for every name, whether it was there or not. EINVAL where it cannot (before Linux 6.16).
    pub(super) fn names(&self) -> std::io::Result<()> {
        (&self.device).write_all(&INC_EPOCH)
    }

    /// Notices can go out from now on.
    pub(super) fn connect(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Drops all names below these, and what directories list.
    pub(super) fn moved(&self, places: &[(NodeId, OsString)]) {
        for (dir, name) in places {
            self.name(*dir, name);
        }
        for node in self.fs.tree().nodes() {
            self.listing(node);
        }
    }

    /// Sends a notice: whether the kernel knew what is to be dropped.
    fn send(&self, send: impl FnOnce(&Notifier) -> std::io::Result<()>) -> bool {
        let Some(notifier) = self.notifier.get() else { return false };
        match send(notifier) {
            Ok(()) => true,
            Err(e) => {
                // The mount is gone, or what was to be dropped is.
                log::debug!("the kernel refused a notice: {e}");
                false
            }
        }
    }
}

impl Notices for KernelCache {
    fn name(&self, dir: NodeId, name: &OsStr) {
        self.send(|notifier| notifier.inval_entry(self.wire.number(dir), name));
    }

    fn settle(&self, dir: NodeId) {
        // The notice waits for the directory's lock, and with it for every look-up under way there. Whether there is
        // such a name matters little: it would be asked for once more.
        self.send(|notifier| {
            notifier.inval_entry(self.wire.number(dir), OsStr::new(".shiftbind-settle"))
        });
    }

    fn attributes(&self, node: NodeId) -> bool {
        self.send(|notifier| notifier.inval_inode(self.wire.number(node), -1, 0))
    }

    fn listing(&self, dir: NodeId) {
        self.send(|notifier| notifier.inval_inode(self.wire.number(dir), 0, 0));
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
