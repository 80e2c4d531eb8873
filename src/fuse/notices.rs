//! Notices to the kernel: what it is to drop from its caches.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};

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
}

impl KernelCache {
    pub(super) fn new(device: OwnedFd, fs: Arc<Fs>) -> Self {
        Self { notifier: OnceLock::new(), device: device.into(), fs }
    }

    /// The filesystem that the kernel caches.
    pub(super) fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Notices can go out from now on.
    pub(super) fn connect(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
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
        self.send(|notifier| notifier.inval_entry(INodeNo(dir.0), name));
    }

    fn settle(&self, dir: NodeId) {
        // The notice waits for the directory's lock, and with it for every look-up under way there. Whether there is
        // such a name matters little: it would be asked for once more.
        self.send(|notifier| notifier.inval_entry(INodeNo(dir.0), OsStr::new(".shiftbind-settle")));
    }

    fn attributes(&self, node: NodeId) -> bool {
        self.send(|notifier| notifier.inval_inode(INodeNo(node.0), -1, 0))
    }

    fn listing(&self, dir: NodeId) {
        self.send(|notifier| notifier.inval_inode(INodeNo(dir.0), 0, 0));
    }

    fn everything(&self) {
        if let Err(e) = (&self.device).write_all(&INC_EPOCH) {
            log::error!(
                "changes on the source were missed, and old names may be seen for minutes: {e}"
            );
        }
        for node in self.fs.tree().nodes() {
            self.listing(node);
        }
    }
}
