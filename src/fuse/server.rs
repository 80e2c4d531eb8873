//! The FUSE server of one mount: answers FUSE_INIT, runs the workers, and ends with the connection.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Resource;

use super::backing_ids::BackingIds;
use super::data_path::DataMover;
use super::device::Device;
use super::eviction;
use super::growth::Outcome;
use super::kernel_cache::KernelCache;
use super::kernel_features::KernelFeatures;
use super::live_update::LiveUpdate;
use super::node_ids::NodeIds;
use super::operations::{Admission, BlockedWorkers, Operations};
use super::status::Reloads;
use super::status_report::StatusReport;
use super::ttl::Ttls;
use super::worker_pool::{RequestSource, WorkerPool};
use crate::config::{Access, CachePolicy, Config, TargetNamespace};
use crate::error::{Error, Result, errno_field};
use crate::fs::{self, Fs, PendingCloses, Shares, WriteThrough};
use crate::idmap::MountUid;
use crate::source::{Scope, SourceRoot, SourceTree};
use crate::watch::Watch;

/// What to do if no fanotify(7) group is left (EMFILE of fanotify_init(2)): each mount takes one of its user's.
const RAISE_LIMIT: &str = "raise fs.fanotify.max_user_groups by sysctl(8) and mount again";

/// What to do if the kernel does not offer FUSE_ALLOW_IDMAP.
const NOT_IDMAPPABLE: &str = "option 'idmappable': this kernel's FUSE has no idmapped mounts (Linux 6.12 and newer have); leave \
                              the option out, and give --idmap the whole map";

/// How often what was not used for a while is closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The most descriptors of recently used inodes.
const MAX_FDS: u64 = 4096;

/// The connection of a mount that is to be served.
#[derive(Debug)]
pub struct Connection {
    /// The open /dev/fuse. FUSE_INIT is queued and not answered yet.
    pub device: OwnedFd,
    /// The filesystem's device number: major, minor.
    pub own_device: (u32, u32),
    /// Whether a directory in the filesystem's root may be attached in place of the root.
    pub attach_by_name: bool,
    /// Which users are served. The mount's options decide it, so that the kernel and the server apply the same rule.
    pub access: Access,
    /// What the kernel does with notifications.
    pub kernel: KernelFeatures,
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Server {
    workers: Arc<WorkerPool>,
    live_update: LiveUpdate,
    node_ids: NodeIds,
    operations: Weak<Operations>,
    device: Weak<Device>,
}

impl Server {
    /// Answers FUSE_INIT, which the kernel queued when the filesystem was made, and starts the workers.
    ///
    /// `mirrored`: the users that the view's mirror applies to.
    ///
    /// # Errors
    /// Says why the source cannot be watched where the configuration requires that; the kernel's FUSE is too old; no
    /// thread can be started; /proc is not mounted.
    pub fn start(
        root: SourceRoot,
        config: &Config,
        mirrored: HashSet<MountUid>,
        connection: Connection,
    ) -> Result<Self> {
        let Connection { device, own_device, attach_by_name, access, kernel } = connection;
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(MAX_FDS);
        let fd_capacity = usize::try_from((limit / 4).clamp(16, MAX_FDS)).unwrap_or(16);
        crate::sys::descriptors::open_proc_self_fd()
            .map_err(|e| Error::system("/proc must be mounted", e))?;
        // Known before the mount was attached: the source's path may lead to the mount itself, which does not answer yet.
        let has_servers = root.mounts().have_servers();
        let tree = SourceTree::new(root, fd_capacity, scope(config));
        tree.set_own_device(own_device);
        let (cache, watch) = cache_of(config, &tree)?;
        let falls_back = cache != config.cache;
        // With follow-source the root may be replaced, and so has no fixed inode number.
        let attach_by_name = attach_by_name && !config.follow_source;
        let node_ids = NodeIds::new(tree.root_ino().filter(|_| attach_by_name));
        if let Some(part) = node_ids.attached_name() {
            tree.set_own_subdir(part);
        }
        let max_held = usize::try_from(limit / 2).unwrap_or(usize::MAX);
        tree.set_max_held(max_held);
        // Where inodes are held, next to none are in the LRU.
        let kept = if tree.holds_inodes() { max_held } else { fd_capacity };
        let open_shares = Shares::of_descriptors(limit, kept);
        let container = config.namespace.as_ref().and_then(TargetNamespace::container_ids);
        let fs = Fs::new(tree, config.view.clone(), watch, &config.data, open_shares);
        let fs = Arc::new(fs.in_container(container));
        fs.set_mirrored(mirrored);
        fs.set_write_through(WriteThrough::of(&config.flags));
        let backing_ids = Arc::new(BackingIds::new());
        let device = Arc::new(Device::new(device));
        let kernel_cache =
            Arc::new(KernelCache::new(Arc::clone(&device), Arc::clone(&fs), node_ids, kernel));
        let names_change_at_once = config.follow_source;
        let operations = Arc::new(Operations {
            ttls: Ttls::of(cache, fs.needs(), kernel, names_change_at_once),
            caches_readdir: Operations::caches_readdir(&fs, cache),
            fs: Arc::clone(&fs),
            backing_ids: Arc::clone(&backing_ids),
            kernel_cache: Arc::clone(&kernel_cache),
            data: Arc::new(DataMover::new(config, has_servers)),
            reloads: Arc::new(Reloads::new(falls_back)),
            report: Arc::new(StatusReport::new(cache)),
            node_ids,
            admission: Admission::new(access, container),
            blocked: Arc::new(BlockedWorkers::new(config.threads.get())),
            interrupts: Arc::default(),
            hides_callers: config.idmappable,
        });
        let live_update = live_update_of(&operations);
        operations.init(&device).map_err(|e| match e {
            Errno::OPNOTSUPP => Error::refused(NOT_IDMAPPABLE),
            e => Error::mount("cannot negotiate with the kernel's FUSE", e),
        })?;
        start_source_threads(&fs, &kernel_cache, &backing_ids)?;
        let weak = (Arc::downgrade(&operations), Arc::downgrade(&device));
        let workers = start_workers(&operations, device, config.threads.get())?;
        spawn(
            "sweeper",
            sweep_while_served(Arc::downgrade(&kernel_cache), Arc::downgrade(&backing_ids)),
        )?;
        let (operations, device) = weak;
        Ok(Self { workers, live_update, node_ids, operations, device })
    }

    /// Checks that the kernel's FUSE has what the options need. `idmappable`: the mount is to be idmappable.
    ///
    /// # Errors
    /// This kernel's FUSE does not offer FUSE_ALLOW_IDMAP.
    pub fn check_features(kernel: KernelFeatures, idmappable: bool) -> Result<()> {
        match idmappable && !kernel.allows_idmap {
            true => Err(Error::refused(NOT_IDMAPPABLE)),
            false => Ok(()),
        }
    }

    /// Checks that the source allows the cache policy that the configuration requires.
    ///
    /// # Errors
    /// Those of [`Self::start`] about the cache.
    pub fn check_cache(root: SourceRoot, config: &Config) -> Result<()> {
        let CachePolicy::Coherent { required: true } = config.cache else { return Ok(()) };
        cache_of(config, &SourceTree::new(root, 16, scope(config))).map(drop)
    }

    /// The directory to attach in place of the filesystem's root. `None`: the root.
    #[must_use]
    pub fn attached_name(&self) -> Option<&'static OsStr> {
        self.node_ids.attached_name()
    }

    /// A function that makes the report of `shiftbind stat`, as JSON. It returns `None` when the mount is gone.
    pub fn reporter(&self) -> impl Fn() -> Option<String> + Send + 'static {
        let (operations, device) = (Weak::clone(&self.operations), Weak::clone(&self.device));
        move || Some(operations.upgrade()?.report_text(&*device.upgrade()?))
    }

    /// A handle to the settings that can change while the mount is served.
    #[must_use]
    pub fn live_update(&self) -> LiveUpdate {
        self.live_update.clone()
    }

    /// Waits until the filesystem is unmounted and the workers have ended, or 10 s longer for requests that do not end.
    pub fn wait(self) -> Result<()> {
        match self.workers.wait() {
            Outcome::Unmounted => Ok(()),
            // What read(2) may return when the connection is aborted at this moment.
            Outcome::Failed(Errno::CONNABORTED) => Ok(()),
            Outcome::Failed(e) => Err(Error::system("the connection to the kernel broke", e)),
            Outcome::Panicked => Err(Error::refused("a worker ended unexpectedly")),
        }
    }
}

fn live_update_of(operations: &Operations) -> LiveUpdate {
    LiveUpdate::new(
        Arc::downgrade(&operations.kernel_cache),
        operations.ttls.clone(),
        Arc::clone(&operations.data),
        Arc::clone(&operations.reloads),
        Arc::clone(&operations.report),
    )
}

/// Starts the worker threads. Each gets its own description of /dev/fuse, where the process may open it.
fn start_workers(
    operations: &Arc<Operations>,
    device: Arc<Device>,
    count: usize,
) -> Result<Arc<WorkerPool>> {
    let nonblocking = device.another(false).ok().map(Arc::new);
    let buffer_size = operations.data.max_request_size();
    let interrupts = Arc::clone(&operations.interrupts);
    let pool = Arc::new(WorkerPool::new(count, interrupts, operations.hides_callers));
    let closes: Weak<dyn PendingCloses> = Arc::<WorkerPool>::downgrade(&pool);
    operations.fs.set_pending_closes(closes);
    let (weak_pool, operations) = (Arc::downgrade(&pool), Arc::clone(operations));
    let first = AtomicBool::new(true);
    let start = move |index: usize| {
        let Some(pool) = weak_pool.upgrade() else { return Ok(()) };
        let (operations, nonblocking) = (Arc::clone(&operations), nonblocking.clone());
        let device = match first.swap(false, Ordering::Relaxed) {
            true => Arc::clone(&device),
            // It may not, perhaps, where fusermount3 has made the mount for a user.
            false => device.another(true).map_or_else(|_| Arc::clone(&device), Arc::new),
        };
        let work = move || {
            let ending = EndingWorker { pool: &pool, index, outcome: Outcome::Panicked };
            let nonblocking = nonblocking.as_ref();
            let source = RequestSource { index, device: &device, nonblocking, buffer_size };
            ending.with(pool.run(&source, &*operations));
        };
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(work).map(drop)
    };
    pool.start(start).map_err(|e| Error::system("cannot start a thread", e))?;
    Ok(pool)
}

/// Removes a worker from the pool when its thread ends, also by a panic.
struct EndingWorker<'a> {
    pool: &'a WorkerPool,
    index: usize,
    outcome: Outcome,
}

impl EndingWorker<'_> {
    fn with(mut self, result: fs::Result<()>) {
        self.outcome = result.map_or_else(Outcome::Failed, |()| Outcome::Unmounted);
    }
}

impl Drop for EndingWorker<'_> {
    fn drop(&mut self) {
        self.pool.remove(self.index, self.outcome);
    }
}

fn scope(config: &Config) -> Scope {
    Scope {
        one_file_system: config.one_file_system,
        follows_links: config.view.resolve_symlinks.is_some(),
    }
}

/// The cache policy that the source allows, with the watch that it takes.
fn cache_of(config: &Config, tree: &SourceTree) -> Result<(CachePolicy, Option<Watch>)> {
    let CachePolicy::Coherent { required } = config.cache else { return Ok((config.cache, None)) };
    match Watch::new(tree) {
        Ok(watch) => Ok((config.cache, Some(watch))),
        Err(e) if required => {
            let advice = if e == Errno::MFILE { RAISE_LIMIT } else { "use cache=timeout=1s" };
            let option = format!("option 'cache=coherent': the source cannot be watched; {advice}");
            Err(Error::mount(option, e))
        }
        Err(e) => {
            match e {
                // The source itself could be watched; the administrator can raise the limit.
                Errno::MFILE => log::warn!(
                    "the source cannot be watched: this user has no fanotify(7) group left; changes on the source are \
                     seen within a second (cache=timeout=1s); {RAISE_LIMIT}"
                ),
                e => {
                    log::info!("the source cannot be watched: cache=timeout=1s {}", errno_field(e))
                }
            }
            Ok((CachePolicy::DEFAULT_TIMEOUTS, None))
        }
    }
}

/// Which cache policy a mount would have and why, without mounting. `None` where there is no choice, or when the
/// source cannot be opened.
#[must_use]
pub fn cache_verdict(config: &Config) -> Option<String> {
    let CachePolicy::Coherent { .. } = config.cache else { return None };
    let root = SourceRoot::open(config).ok()?;
    let tree = SourceTree::new(root, 16, scope(config));
    Some(match Watch::new(&tree) {
        Ok(_) => {
            "coherent: changes that other processes make on the source can be watched".to_owned()
        }
        Err(e) => {
            let why = crate::error::strerror(e.raw_os_error());
            format!("timeout: everything 1s, because the source cannot be watched: {why}")
        }
    })
}

/// Starts the threads that have inodes evicted, watch the source, follow unmounts below it and prefetch directories, as far as
/// the mount does.
fn start_source_threads(
    fs: &Arc<Fs>,
    kernel_cache: &Arc<KernelCache>,
    backing_ids: &Arc<BackingIds>,
) -> Result<()> {
    let evictions = (Arc::clone(fs), Arc::downgrade(kernel_cache));
    spawn("evictions", move || eviction::run(&evictions.0, &evictions.1))?;
    if fs.follows_unmounts() {
        let (fs, cache, ids) = (Arc::clone(fs), Arc::clone(kernel_cache), Arc::clone(backing_ids));
        spawn("unmounts", move || fs.follow_unmounts(&cache, |node| ids.evict(node)))?;
    }
    if fs.is_watching() {
        let (watching, notified) = (Arc::clone(fs), Arc::clone(kernel_cache));
        spawn("watch", move || watching.watch(&notified))?;
        let (fs, kernel_cache) = (Arc::clone(fs), Arc::clone(kernel_cache));
        spawn("marks", move || fs.mark_files(&*kernel_cache))?;
    }
    if fs.prefetches() {
        let fs = Arc::clone(fs);
        spawn("prefetch", move || fs.run_prefetch())?;
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|e| Error::system("cannot start a thread", e))
}

fn sweep_while_served(
    kernel_cache: Weak<KernelCache>,
    backing_ids: Weak<BackingIds>,
) -> impl FnOnce() {
    move || {
        while let (Some(kernel_cache), Some(backing_ids)) =
            (kernel_cache.upgrade(), backing_ids.upgrade())
        {
            kernel_cache.fs().sweep(&*kernel_cache);
            backing_ids.sweep();
            drop((kernel_cache, backing_ids));
            std::thread::sleep(SWEEP_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_offer_idmapped_mounts_is_named_before_the_mount() {
        let kernel = KernelFeatures::UNKNOWN;
        let text = Server::check_features(kernel, true).unwrap_err().to_string();
        assert!(text.starts_with("option 'idmappable': this kernel's FUSE has no idmapped mounts"));
        assert!(text.ends_with("leave the option out, and give --idmap the whole map"), "{text}");
        assert!(Server::check_features(kernel, false).is_ok());
        let able = KernelFeatures { allows_idmap: true, ..kernel };
        assert!(Server::check_features(able, true).is_ok());
    }
}
