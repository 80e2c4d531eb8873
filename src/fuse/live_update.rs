//! Changes what a mount presents while it is in use.
//!
//! Nothing of the former view may stay in the kernel's caches. The view is replaced first. Then what the kernel has
//! cached of the former view is invalidated: what is in its caches already, and what is in flight to them in a reply
//! that was made before.
//!
//! - Attributes and ACLs of inodes that the kernel knows: an invalidation raises the inode's version (`attr_version`),
//!   and the kernel discards the reply to an earlier GETATTR or LOOKUP. An ACL that is being fetched is not cached
//!   (`forget_all_cached_acls` removes its slot).
//! - Replies that the kernel takes in whatever the version: for inodes that it does not know yet (LOOKUP, READDIRPLUS),
//!   and for what is created, linked or changed. The kernel takes each of them in under the lock of a directory, or of
//!   the changed inode. So a barrier waits for the lock of every directory, and all attributes are invalidated once
//!   more. SETATTR of a file holds only the lock of that file, for which no notification waits; its reply gets a while
//!   to arrive, and the last round comes after that. Where the kernel's notifications do not wait for a directory's
//!   lock, inodes that it did not know are invalidated again until it does, for a second.
//! - Names, negative dentries and listings do not depend on ids and permissions. Where other names are hidden than
//!   before, the epoch is raised: the kernel looks up again each dentry of a former epoch, and a dentry has the epoch
//!   in which its lookup was sent. Otherwise dentries stay: to invalidate one drops it, with what is mounted on it.
//! - Targets of symbolic links and the data of files depend on no view. Open files go on: they are bound to inodes.

use std::collections::HashSet;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::data_path::DataMover;
use super::kernel_cache::KernelCache;
use super::status::Reloads;
use super::status_report::StatusReport;
use super::ttl::Ttls;
use crate::config::{CachePolicy, Config};
use crate::error::{Error, Result, errno_field};
use crate::fs::WriteThrough;
use crate::idmap::MountUid;
use crate::source::NodeId;
use crate::view::View;
use crate::watch::Notifier;

/// How long a client may hold a directory's lock before [`LiveUpdate::apply`] returns without it.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a reply may be in flight to the kernel's caches. Chosen; see [`MAX_IN_FLIGHT`] for the exceptions.
const IN_FLIGHT: Duration = Duration::from_millis(20);

/// How often an inode that the kernel did not know is invalidated again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How long a reply may be in flight when the client's thread does not get a CPU.
const MAX_IN_FLIGHT: Duration = Duration::from_secs(1);

/// A handle to the settings of a mount that can change. See the module's head.
#[derive(Debug, Clone)]
pub struct LiveUpdate {
    kernel_cache: Weak<KernelCache>,
    ttls: Ttls,
    data: Arc<DataMover>,
    reloads: Arc<Reloads>,
    report: Arc<StatusReport>,
}

impl LiveUpdate {
    pub(super) fn new(
        kernel_cache: Weak<KernelCache>,
        ttls: Ttls,
        data: Arc<DataMover>,
        reloads: Arc<Reloads>,
        report: Arc<StatusReport>,
    ) -> Self {
        Self { kernel_cache, ttls, data, reloads, report }
    }

    /// Sets how to prune dentries where the kernel cannot invalidate all names at once (before Linux 6.16).
    pub fn set_pruner(&self, prune: impl Fn() -> std::io::Result<()> + Send + Sync + 'static) {
        if let Some(kernel_cache) = self.kernel_cache.upgrade() {
            kernel_cache.set_pruner(prune);
        }
    }

    /// The count of reloads, which the status ioctl reports.
    #[must_use]
    pub fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// Tells `shiftbind list` and `stat` this configuration from now on. Its source is absolute.
    pub fn describe(&self, config: &Config) {
        self.report.describe(config);
    }

    /// The view at this moment. `None` when the mount is gone.
    #[must_use]
    pub fn view(&self) -> Option<Arc<View>> {
        Some(self.kernel_cache.upgrade()?.fs().view_snapshot())
    }

    /// Sets the users that the mirror applies to.
    pub fn set_mirrored(&self, users: HashSet<MountUid>) {
        if let Some(kernel_cache) = self.kernel_cache.upgrade() {
            kernel_cache.fs().set_mirrored(users);
        }
    }

    /// Presents what `config` says from now on: its view, with the mirror for the users `mirrored`, its rates, and its
    /// timeouts where the policy has any. When this returns, no client is shown the former view any more, unless one
    /// held a directory's lock for two seconds.
    ///
    /// The view's needs must be those that the mount was made with.
    ///
    /// # Errors
    /// Refused, with nothing changed, where other names are to be hidden and the kernel cannot expire those that it
    /// knows.
    pub fn apply(&self, config: &Config, mirrored: HashSet<MountUid>) -> Result<()> {
        let Some(kernel_cache) = self.kernel_cache.upgrade() else { return Ok(()) };
        let fs = kernel_cache.fs();
        let names_change = fs.excludes_other_names_than(&config.view);
        if names_change {
            // Once now, to learn whether the kernel can; and again when the view has changed, for what was looked up in
            // between.
            kernel_cache.inc_epoch().map_err(|e| {
                Error::refused(format!(
                    "option 'exclude' cannot change on a live mount with this kernel ({e}): unmount and mount again"
                ))
            })?;
        }
        fs.set_view(config.view.clone());
        fs.set_mirrored(mirrored);
        fs.set_write_through(WriteThrough::of(&config.flags));
        self.data.set_rates(&config.data);
        if let CachePolicy::Timeouts { .. } | CachePolicy::None = config.cache {
            self.ttls.set(config.cache, fs.needs());
        }
        if names_change && let Err(e) = kernel_cache.inc_epoch() {
            let errno = errno_field(e);
            log::warn!("clients may see names as before the reload for a while: {errno}");
        }
        // What the kernel knows already can be invalidated without waiting.
        inval_cached_inodes(&kernel_cache);
        drain_in_flight(&kernel_cache, DIRECTORY_TIMEOUT);
        Ok(())
    }
}

/// Waits until what is in flight to the kernel's caches has arrived, and invalidates it. The wait goes on in a thread
/// of its own when a client holds a directory's lock for longer than `timeout`.
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
        // The receiver is gone when this took too long.
        let _ = done.send(());
        std::thread::sleep(MAX_IN_FLIGHT);
        if let Some(kernel_cache) = weak.upgrade() {
            inval_cached_inodes(&kernel_cache);
        }
    };
    let thread = std::thread::Builder::new().name("inval-barrier".into()).stack_size(256 * 1024);
    if let Err(e) = thread.spawn(work) {
        log::warn!(
            "cannot start a thread to invalidate replies in flight; clients may see former owners for a while: {}",
            errno_field(e)
        );
        return;
    }
    if let Err(RecvTimeoutError::Timeout) = drained.recv_timeout(timeout) {
        inval_cached_inodes(kernel_cache);
        log::warn!(
            "a client holds the lock of a directory: former owners may be seen there until it releases the lock"
        );
    }
}

/// Invalidates the attributes of all inodes that the daemon knows, and the listings of directories. Returns the inodes
/// that the kernel did not know.
fn inval_cached_inodes(kernel_cache: &KernelCache) -> Vec<NodeId> {
    let is_unknown = |(node, is_dir): &(NodeId, bool)| match is_dir {
        true => !kernel_cache.inval_inode_from(*node, 0),
        false => !kernel_cache.inval_inode(*node),
    };
    cached_inodes(kernel_cache).filter(is_unknown).map(|(node, _)| node).collect()
}

/// Invalidates inodes again until the kernel knows them, for one second at most. For kernels with notifications that do
/// not wait for the lookups that may bring these inodes; many of them are brought by none.
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

/// The inodes that the kernel may have cached, and whether each is a directory.
fn cached_inodes(kernel_cache: &KernelCache) -> impl Iterator<Item = (NodeId, bool)> {
    let tree = kernel_cache.fs().tree();
    tree.nodes().into_iter().filter_map(|node| {
        // An inode that was forgotten meanwhile is left out.
        let inode = tree.inode(node).ok()?;
        Some((node, inode.kind().is_dir()))
    })
}
