//! Changing what a mount shows while it is in use, with nothing of the former view left in the kernel's caches.
//!
//! The view is replaced first; then what the kernel remembers of the former one goes. That may be in its caches already,
//! or on its way there in an answer that was made before:
//!
//! - Attributes and ACLs of inodes that the kernel knows: invalidating an inode raises its version (`attr_version`), and
//!   the answer to a getattr or a look-up that was sent before leaves no trace; an ACL that is being fetched is not kept
//!   (`forget_all_cached_acls` takes its place away).
//! - Answers that are taken in whatever the version: of inodes that the kernel does not know yet (look-ups, listings with
//!   attributes), of what is created, linked or changed. The kernel takes each of them in under the lock of a directory,
//!   or of the changed inode. So every directory is settled, which waits for its lock, and all attributes are invalidated
//!   once more. What changes a file's attributes holds only that file's lock, for which no notice waits; its answer has a
//!   while from us to there, and after that while comes the last round. Where the kernel's notices do not wait for a
//!   directory's lock, inodes that it did not know are invalidated again until it does, for a second.
//! - Names, missing names and listings do not depend on ids and permissions. Where other names are hidden than before, the
//!   epoch rises: a dentry is of the epoch in which its look-up was sent, and one of a former epoch is asked for again.
//!   Otherwise names stay: a dentry that is asked for so is dropped first, and what is mounted on it goes with it.
//! - Targets of symbolic links and the data of files depend on no view. Open files go on: they are bound to inodes.

use std::collections::HashSet;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::data_path::DataMover;
use super::kernel_cache::KernelCache;
use super::status::Reloads;
use super::ttl::Ttls;
use crate::config::{CachePolicy, Config};
use crate::error::{Error, Result};
use crate::idmap::MountUid;
use crate::source::NodeId;
use crate::view::View;
use crate::watch::Notifier;

/// For how long a client may hold a directory before a change counts as made without him.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(2);

/// For how long an answer may be on its way into the kernel's caches.
const IN_FLIGHT: Duration = Duration::from_millis(20);

/// How often an inode that the kernel did not know is invalidated again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// What was on its way for longer, since its client's thread did not run.
const MAX_IN_FLIGHT: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug, Clone)]
pub struct LiveUpdate {
    kernel_cache: Weak<KernelCache>,
    ttls: Ttls,
    data: Arc<DataMover>,
    reloads: Arc<Reloads>,
}

impl LiveUpdate {
    pub(super) fn new(
        kernel_cache: Weak<KernelCache>,
        ttls: Ttls,
        data: Arc<DataMover>,
        reloads: Arc<Reloads>,
    ) -> Self {
        Self { kernel_cache, ttls, data, reloads }
    }

    /// How to prune the kernel's names where it has no notice for all at once (before Linux 6.16).
    pub fn set_pruner(&self, prune: impl Fn() -> std::io::Result<()> + Send + Sync + 'static) {
        if let Some(kernel_cache) = self.kernel_cache.upgrade() {
            kernel_cache.set_pruner(prune);
        }
    }

    /// The count of reloads, which the mount tells whoever asks.
    #[must_use]
    pub fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// The view of this moment. `None` when the mount is gone.
    #[must_use]
    pub fn view(&self) -> Option<Arc<View>> {
        Some(self.kernel_cache.upgrade()?.fs().view_snapshot())
    }

    /// Tells whom the mirror is for.
    pub fn set_mirrored(&self, users: HashSet<MountUid>) {
        if let Some(kernel_cache) = self.kernel_cache.upgrade() {
            kernel_cache.fs().set_mirrored(users);
        }
    }

    /// Shows what `config` says from now on: its view, whose mirror is for the users `mirrored`, its rates, and how long
    /// answers are kept, where that is by time. When this returns, nobody is shown the former view any more. The view's needs must be those that the mount was made with.
    ///
    /// Refused where other names are to be hidden and the kernel cannot forget those it knows; nothing is changed then.
    pub fn apply(&self, config: &Config, mirrored: HashSet<MountUid>) -> Result<()> {
        let Some(kernel_cache) = self.kernel_cache.upgrade() else { return Ok(()) };
        let fs = kernel_cache.fs();
        let names_change = fs.excludes_other_names_than(&config.view);
        if names_change {
            // Now, to see whether it can; and when the view has changed, for what was looked up in between.
            kernel_cache.inc_epoch().map_err(|e| {
                Error::refused(format!(
                    "option 'exclude' cannot change on a live mount with this kernel ({e}): unmount and mount again"
                ))
            })?;
        }
        fs.set_view(config.view.clone());
        fs.set_mirrored(mirrored);
        self.data.set_rates(&config.data);
        if let CachePolicy::Timeouts { .. } | CachePolicy::None = config.cache {
            self.ttls.set(config.cache, fs.needs());
        }
        if names_change && let Err(e) = kernel_cache.inc_epoch() {
            log::warn!("names that were hidden or shown until now may be seen so for a while: {e}");
        }
        // What is known already needs not wait for anybody.
        inval_cached_inodes(&kernel_cache);
        drain_in_flight(&kernel_cache, DIRECTORY_TIMEOUT);
        Ok(())
    }
}

/// Waits until what is on its way into the kernel's caches has arrived, and takes it out. The wait goes on in its own
/// thread when a client holds a directory for longer than `timeout`.
fn drain_in_flight(kernel_cache: &Arc<KernelCache>, timeout: Duration) {
    let (done, drained) = channel();
    let weak = Arc::downgrade(kernel_cache);
    let work = move || {
        let Some(kernel_cache) = weak.upgrade() else { return };
        std::thread::sleep(IN_FLIGHT);
        if kernel_cache.waits_for_lookups() {
            wait_for_directories(&kernel_cache);
            inval_cached_inodes(&kernel_cache);
        } else {
            retry_unknown(&kernel_cache, inval_cached_inodes(&kernel_cache));
        }
        drop(kernel_cache);
        // Nobody waits any more when it took too long.
        let _ = done.send(());
        std::thread::sleep(MAX_IN_FLIGHT);
        if let Some(kernel_cache) = weak.upgrade() {
            inval_cached_inodes(&kernel_cache);
        }
    };
    let thread = std::thread::Builder::new().name("inval-barrier".into()).stack_size(256 * 1024);
    if let Err(e) = thread.spawn(work) {
        log::warn!("no thread to settle in, and former owners may be seen for a while: {e}");
        return;
    }
    if let Err(RecvTimeoutError::Timeout) = drained.recv_timeout(timeout) {
        inval_cached_inodes(kernel_cache);
        log::warn!("a client holds a directory: former owners may be seen in it until he lets go");
    }
}

/// Invalidates what the kernel knows of all inodes, and the listings of directories: the inodes that it does not know.
fn inval_cached_inodes(kernel_cache: &KernelCache) -> Vec<NodeId> {
    let is_unknown = |(node, is_dir): &(NodeId, bool)| match is_dir {
        true => !kernel_cache.inval_inode_from(*node, 0),
        false => !kernel_cache.inval_inode(*node),
    };
    cached_inodes(kernel_cache).filter(is_unknown).map(|(node, _)| node).collect()
}

/// Invalidates inodes again and again until the kernel knows them, where no notice waits for the look-ups that may be
/// about to tell it: for a second at most, since many of them are told by no look-up.
fn retry_unknown(kernel_cache: &KernelCache, mut unknown: Vec<NodeId>) {
    let begin = Instant::now();
    while !unknown.is_empty() && begin.elapsed() < MAX_IN_FLIGHT {
        std::thread::sleep(RETRY_INTERVAL);
        unknown.retain(|node| !kernel_cache.inval_inode(*node));
    }
}

fn wait_for_directories(kernel_cache: &KernelCache) {
    for (node, _) in cached_inodes(kernel_cache).filter(|(_, is_dir)| *is_dir) {
        kernel_cache.barrier(node);
    }
}

/// What the kernel knows, and whether it is a directory.
fn cached_inodes(kernel_cache: &KernelCache) -> impl Iterator<Item = (NodeId, bool)> {
    let tree = kernel_cache.fs().tree();
    tree.nodes().into_iter().filter_map(|node| {
        // Forgotten meanwhile.
        let inode = tree.inode(node).ok()?;
        Some((node, inode.kind().is_dir()))
    })
}
