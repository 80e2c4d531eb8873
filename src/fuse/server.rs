//! One mount's server: answers the kernel's first request, runs the workers, ends with the connection.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Resource;

use super::backing::Backings;
use super::crew::Crew;
use super::data::Data;
use super::device::Device;
use super::kernel::KernelTraits;
use super::live::Live;
use super::notices::KernelCache;
use super::numbers::Numbers;
use super::operations::{Admission, Operations, Waiting};
use super::times::Times;
use crate::config::{Access, CachePolicy, Config};
use crate::error::{Error, Result};
use crate::fs::{self, Fs};
use crate::idmap::MountUid;
use crate::source::{Scope, SourceRoot, SourceTree};
use crate::watch::Watch;

/// How often what was not used for a while is let go.
const SWEEP: Duration = Duration::from_secs(1);

/// Descriptors of recently used inodes at most.
const MOST_FDS: u64 = 4096;

/// The kernel's side of a mount that is to be served.
#[derive(Debug)]
pub struct Connection {
    /// The open /dev/fuse, whose FUSE_INIT is not answered yet.
    pub device: OwnedFd,
    /// The device number of the filesystem.
    pub own: (u32, u32),
    /// What is attached may be a directory in the filesystem's root.
    pub by_name: bool,
    /// What the kernel does with notices.
    pub kernel: KernelTraits,
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Server {
    workers: Vec<JoinHandle<fs::Result<()>>>,
    live: Live,
    numbers: Numbers,
}

impl Server {
    /// Answers FUSE_INIT on the device (the kernel has sent it when the filesystem was made) and starts the workers.
    /// `mirrored`: the users that the view's mirror is for.
    pub fn start(
        root: SourceRoot,
        config: &Config,
        mirrored: HashSet<MountUid>,
        connection: Connection,
    ) -> Result<Self> {
        let Connection { device, own, by_name, kernel } = connection;
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(MOST_FDS);
        let room = usize::try_from((limit / 4).clamp(16, MOST_FDS)).unwrap_or(16);
        crate::sys::descriptors::open_proc_self_fd()
            .map_err(|e| Error::system("/proc must be mounted", e))?;
        let tree = SourceTree::new(root, room, scope(config));
        tree.beware_of(own);
        let (cache, watch) = cache_of(config, &tree)?;
        // A root that is replaced one day has no number of its own.
        let by_name = by_name && !config.follow_source;
        let numbers = Numbers::new(tree.root_number().filter(|_| by_name));
        if let Some(part) = numbers.attached() {
            tree.shown_as(part);
        }
        let fs = Arc::new(Fs::new(tree, config.view.clone(), watch, &config.data));
        fs.set_mirrored(mirrored);
        let backings = Arc::new(Backings::new());
        let device = Arc::new(Device::new(device));
        let notices =
            Arc::new(KernelCache::new(Arc::clone(&device), Arc::clone(&fs), numbers, kernel));
        let is_root = rustix::process::geteuid().is_root();
        let access =
            config.access.unwrap_or(if is_root { Access::Everyone } else { Access::Owner });
        let names_change_at_once = config.follow_source;
        let operations = Arc::new(Operations {
            times: Times::of(cache, fs.needs(), kernel, names_change_at_once),
            keeps_listings: Operations::keeps_listings(&fs, cache),
            fs: Arc::clone(&fs),
            backings: Arc::clone(&backings),
            notices: Arc::clone(&notices),
            data: Arc::new(Data::new(config)),
            reloads: Arc::default(),
            numbers,
            admission: Admission::new(access),
            waiting: Arc::new(Waiting::new(config.threads.get())),
        });
        let live = Live::new(
            Arc::downgrade(&notices),
            operations.times.clone(),
            Arc::clone(&operations.data),
            Arc::clone(&operations.reloads),
        );
        operations
            .begin(&device)
            .map_err(|e| Error::mount("cannot talk to the kernel's FUSE", e))?;
        if fs.is_watching() {
            let (fs, notices) = (Arc::clone(&fs), Arc::clone(&notices));
            spawn("watch", move || fs.watch(&notices))?;
        }
        if fs.looks_ahead() {
            let fs = Arc::clone(&fs);
            spawn("ahead", move || fs.keep_looking_ahead())?;
        }
        let workers = start_workers(&operations, device, config.threads.get())?;
        spawn("sweeper", sweep_while_served(Arc::downgrade(&notices), Arc::downgrade(&backings)))?;
        Ok(Self { workers, live, numbers })
    }

    /// Which cache policy a mount would keep and why, without mounting. `None` when the source cannot be opened.
    #[must_use]
    pub fn cache_verdict(config: &Config) -> Option<String> {
        let CachePolicy::Coherent { .. } = config.cache else { return None };
        let root = SourceRoot::open(config).ok()?;
        let tree = SourceTree::new(root, 16, scope(config));
        Some(match Watch::new(&tree) {
            Ok(_) => "coherent: what others change on the source can be watched for".to_owned(),
            Err(e) => {
                let why = crate::error::strerror(e.raw_os_error());
                format!("timeout: everything 1s, because the source cannot be watched: {why}")
            }
        })
    }

    /// The directory in the filesystem that is to be attached. `None`: its root.
    #[must_use]
    pub fn attached(&self) -> Option<&'static OsStr> {
        self.numbers.attached()
    }

    /// What can be changed while it is served.
    #[must_use]
    pub fn live(&self) -> Live {
        self.live.clone()
    }

    /// Waits until the filesystem is unmounted and the workers have ended.
    pub fn wait(self) -> Result<()> {
        let mut result = Ok(());
        for worker in self.workers {
            match worker.join() {
                Ok(Ok(())) => {}
                // What a worker may read when the filesystem is unmounted at this very moment.
                Ok(Err(Errno::CONNABORTED)) => {}
                Ok(Err(e)) => {
                    result = Err(Error::system("the connection to the kernel broke", e));
                }
                Err(_) => result = Err(Error::refused("a worker ended unexpectedly")),
            }
        }
        result
    }
}

/// Starts the threads that answer. Each has an open file of /dev/fuse of its own, where it may be opened.
fn start_workers(
    operations: &Arc<Operations>,
    device: Arc<Device>,
    count: usize,
) -> Result<Vec<JoinHandle<fs::Result<()>>>> {
    let mut devices = vec![device];
    while devices.len() < count {
        // A user whose mount fusermount3 made may not open it, perhaps.
        let another = devices[0].another(true).map_or_else(|_| Arc::clone(&devices[0]), Arc::new);
        devices.push(another);
    }
    let quick = devices[0].another(false).ok().map(Arc::new);
    let room = operations.data.request_room();
    let crew = Arc::new(Crew::new(devices));
    let start = |own: usize| {
        let (crew, operations, quick) = (Arc::clone(&crew), Arc::clone(operations), quick.clone());
        let work = move || {
            crew.work(own, quick.as_ref(), room, |bytes, device| operations.serve(bytes, device))
        };
        let thread = std::thread::Builder::new().name(format!("worker-{own}")).spawn(work);
        thread.map_err(|e| Error::system("cannot start a thread", e))
    };
    (0..count).map(start).collect()
}

fn scope(config: &Config) -> Scope {
    Scope {
        one_file_system: config.one_file_system,
        follows_links: config.view.resolve_symlinks.is_some(),
    }
}

/// The cache policy that can be kept, and the watch that it takes.
fn cache_of(config: &Config, tree: &SourceTree) -> Result<(CachePolicy, Option<Watch>)> {
    let CachePolicy::Coherent { required } = config.cache else { return Ok((config.cache, None)) };
    match Watch::new(tree) {
        Ok(watch) => Ok((config.cache, Some(watch))),
        Err(e) if required => {
            let option =
                "option 'cache=coherent': the source cannot be watched; use cache=timeout=1s";
            Err(Error::mount(option, e))
        }
        Err(e) => {
            log::info!("the source cannot be watched ({e}): cache=timeout=1s");
            Ok((CachePolicy::DEFAULT_TIMEOUTS, None))
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|e| Error::system("cannot start a thread", e))
}

fn sweep_while_served(notices: Weak<KernelCache>, backings: Weak<Backings>) -> impl FnOnce() {
    move || {
        while let (Some(notices), Some(backings)) = (notices.upgrade(), backings.upgrade()) {
            notices.fs().sweep(&*notices);
            backings.sweep();
            drop((notices, backings));
            std::thread::sleep(SWEEP);
        }
    }
}
