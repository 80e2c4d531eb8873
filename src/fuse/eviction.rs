//! Has the kernel evict inodes before the daemon runs out of descriptors to hold them (`source/held.rs`).
//!
//! FUSE_NOTIFY_PRUNE (Linux 6.18) names the inodes, and the kernel evicts those that are not in use: no file is open on
//! them, they are no working directory, nothing is mounted on them, and the kernel has no names below them in its cache.
//! Older kernels drop all names that are not in use at a remount, and evict their inodes.
//!
//! A thread of its own does it, since a remount writes dirty pages to the workers.

use std::sync::Weak;
use std::time::Duration;

use rustix::io::Errno;

use super::kernel_cache::KernelCache;
use crate::error::errno_field;
use crate::fs::Fs;

/// How many inodes a notification names. Chosen: the kernel copies 512 at a time.
const BATCH: usize = 512;
/// How long the FORGETs of a notification may take to arrive before the next one is sent. Chosen.
const FORGET_TIME: Duration = Duration::from_millis(2);
/// How long to wait before all inodes are tried again, after too many of them were in use. Doubled while none can be
/// evicted: there may be half a million. Chosen.
const RETRY_TIME: Duration = Duration::from_millis(50);
/// The longest such time. Chosen.
const MAX_RETRY_TIME: Duration = Duration::from_secs(5);

/// How the kernel is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// By FUSE_NOTIFY_PRUNE.
    Notification,
    /// By a remount.
    Remount,
}

/// Has the kernel evict inodes whenever many are held, until the mount ends.
pub(super) fn run(fs: &Fs, kernel_cache: &Weak<KernelCache>) {
    let mut method = Method::Notification;
    let mut has_failed = false;
    let mut retry_time = RETRY_TIME;
    loop {
        fs.tree().wait_until_crowded();
        let before = fs.tree().forgotten_count();
        let Some(kernel_cache) = kernel_cache.upgrade() else { return };
        if let Err(e) = evict(&kernel_cache, &mut method) {
            if !has_failed {
                log::warn!(
                    "cannot have the kernel evict inodes, each of which takes a descriptor as the source has no file \
                     handles: raise the limit of open files (RLIMIT_NOFILE): {}",
                    errno_field(e)
                );
            }
            has_failed = true;
        }
        drop(kernel_cache);
        if !fs.tree().is_crowded() {
            retry_time = RETRY_TIME;
            continue;
        }
        std::thread::sleep(retry_time);
        if fs.tree().forgotten_count() != before {
            retry_time = RETRY_TIME;
            continue;
        }
        // The second time without one: the workers may not have come to the FORGETs.
        if retry_time > RETRY_TIME {
            fs.tree().note_all_held_used();
        }
        retry_time = (retry_time * 2).min(MAX_RETRY_TIME);
    }
}

/// Tries each inode once, the oldest first, until few enough are held.
fn evict(kernel_cache: &KernelCache, method: &mut Method) -> Result<(), Errno> {
    let tree = kernel_cache.fs().tree();
    let mut left = tree.held_count();
    while left > 0 && tree.is_crowded() {
        if *method == Method::Notification {
            let nodes = tree.oldest_held(BATCH.min(left));
            if nodes.is_empty() {
                return Ok(());
            }
            left -= nodes.len();
            match kernel_cache.evict(&nodes) {
                Err(Errno::INVAL) => *method = Method::Remount,
                result => result?,
            }
        }
        if *method == Method::Remount {
            left = 0;
            kernel_cache.prune()?;
        }
        tree.wait_for_evictions(FORGET_TIME);
    }
    Ok(())
}
