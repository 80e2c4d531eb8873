//! The life of the process that serves a mount: from the parsed command line to the last unmount.
//!
//! Forks happen while the process has a single thread, in this order: the daemon (unless it stays in the foreground),
//! the probe that sends the first request, the guardian of `auto_unmount`. The mount is attached, and success is
//! reported, only after the first request was answered.

mod background;
mod control;
mod guardian;
mod limits;
mod logging;
mod mirror;
mod notify;
mod pidfile;
mod probe;
mod reload;
mod signals;
mod syslog;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, Found};
use crate::error::{Error, Result};
use crate::fuse::{Connection, KernelFeatures, Server};
pub use crate::mount::Origin;
use crate::mount::{self, MountPlan, MountPoint, NewMount};
use crate::source::{Restrictions, SourceRoot};
use crate::sys::process::InheritedDescriptors;
use background::ReadyNotifier;
pub use control::reload_in;
use pidfile::PidFile;
pub use reload::reload;
use reload::{Baseline, Reloader};
use signals::Signals;

/// Evaluates the options of this process's mount again, given its current mount point and what it keeps.
///
/// The function may read files. It runs on a thread of its own, whose working directory is the one that the mount was
/// made in.
pub type Options = Box<dyn Fn(&Path, &Found) -> Result<Config> + Send>;

/// Makes the [`Options`] of a mount that another process made.
pub type OptionsAgain<'a> = &'a dyn Fn(&Origin) -> Options;

/// Mounts and serves. `options` evaluates the options again for a reload.
///
/// In the foreground it returns when the filesystem is unmounted. Otherwise it returns as soon as the mount answers,
/// while the daemon goes on in a child process. Must be called while the process has a single thread.
pub fn run(config: Config, options: Options) -> Result<()> {
    let inherited =
        InheritedDescriptors::list().map_err(|e| Error::system("/proc must be mounted", e))?;
    logging::install(config.process.verbosity, config.process.foreground);
    mount::check_privileges(&config)?;
    if mount::mount_by_kernel(&config)? {
        return Ok(());
    }
    let opened = Opened::open(&config)?;
    if config.process.called_by_mount8
        && mount::is_already_mounted(&config, &opened.point, opened.source.inode_number())?
    {
        return Ok(());
    }
    if config.view.resolve_symlinks.is_some() && opened.source.is_changed_by_users() {
        log::warn!(
            "option 'resolve-symlinks': users other than root may create symbolic links in {}, and through them show any file \
             that the daemon can reach",
            config.source.display()
        );
    }
    if config.process.foreground {
        // As in the background: descriptors inherited from a shell or service manager are not the daemon's.
        inherited.close();
        serve(&config, opened, options, &mut ReadyNotifier::Foreground)
    } else {
        background::run(inherited, |notifier| serve(&config, opened, options, notifier))
    }
}

/// Makes the checks of a mount, and mounts nothing: rights, paths, kernel, source.
///
/// # Errors
/// Those that [`run`] would return before the mount is in service.
pub fn check(config: &Config) -> Result<()> {
    mount::check_privileges(config)?;
    if mount::check_kernel(config)? {
        return Ok(());
    }
    let (source, place) = if config.mkdir && MountPoint::existing(config)?.is_none() {
        // The mount point would be made.
        (open_source(config)?, None)
    } else {
        let Opened { source, point, plan, .. } = Opened::open(config)?;
        (source, Some((plan, point)))
    };
    if let Some(pidfile) = pidfile_of(config)? {
        let parent = pidfile.parent().unwrap_or(Path::new("/"));
        rustix::fs::access(parent, rustix::fs::Access::WRITE_OK)
            .map_err(|e| Error::file(format!("--pidfile {}", pidfile.display()), e))?;
    }
    mirror::users(&config.view)?;
    if let Some(kernel) = kernel_traits() {
        Server::check_features(kernel, config.idmappable)?;
    }
    if let Some((plan, point)) = &place {
        NewMount::check(plan, point)?;
    }
    Server::check_cache(source, config)
}

/// Opens the source, and refuses one that the options do not fit.
fn open_source(config: &Config) -> Result<SourceRoot> {
    let source = SourceRoot::open(config)?;
    if config.idmappable && source.mounts().is_server_backed() {
        return Err(Error::refused(format!(
            "option 'idmappable': source {} is on a FUSE or network filesystem, whose server may check the caller's ids, \
             which the kernel does not tell with this option; leave the option out, and give --idmap the whole map",
            config.source.display()
        )));
    }
    Ok(source)
}

/// The absolute path of the pid file.
fn pidfile_of(config: &Config) -> Result<Option<PathBuf>> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|e| Error::file(format!("--pidfile {}", path.display()), e))
    };
    config.process.pidfile.as_ref().map(absolute).transpose()
}

/// The paths of the command line, opened.
///
/// Paths that depend on the working directory or on inherited descriptors (`/proc/self/fd/N`) are resolved here, before
/// the daemon leaves or closes these.
struct Opened {
    source: SourceRoot,
    point: MountPoint,
    plan: MountPlan,
    pidfile: Option<PathBuf>,
    baseline: Baseline,
}

impl Opened {
    fn open(config: &Config) -> Result<Self> {
        let source = open_source(config)?;
        let point = MountPoint::of(config, source.is_dir())?;
        point.check_kind(&config.source, source.is_dir())?;
        if let Some(followed) = source.followed() {
            point.check_disjoint(followed)?;
        }
        let inherited = inherited(&source, config);
        let plan = MountPlan::new(config, source.mode(), inherited);
        let pidfile = pidfile_of(config)?;
        let owner = config.found.check_owner(&source)?;
        let baseline = Baseline::of(config, point.path(), inherited, owner);
        Ok(Self { source, point, plan, pidfile, baseline })
    }
}

/// Probes how this kernel's FUSE handles notifications. A failed probe is logged and gives the most cautious traits.
///
/// `None` without CAP_SYS_ADMIN: the probe needs a mount, and the source cannot be watched either.
#[must_use]
pub fn kernel_traits() -> Option<KernelFeatures> {
    if !mount::may_mount() {
        return None;
    }
    let tried = mount::probe_mount().and_then(|(root, device)| {
        KernelFeatures::probe(device, root)
            .map_err(|e| Error::system("cannot probe the kernel's FUSE notifications", e))
    });
    Some(tried.unwrap_or_else(|e| {
        log::warn!("{e}: caching is limited as on the least capable kernel");
        KernelFeatures::UNKNOWN
    }))
}

/// The mount options inherited from the source's own mount.
///
/// Restrictions of a submount apply to its own files only, except `noexec`, which the whole mount inherits.
fn inherited(source: &SourceRoot, config: &Config) -> Restrictions {
    let mounts = source.mounts();
    for mount in mounts.hidden() {
        let place = mount.display_path();
        log::info!("{place} is a pseudo-filesystem ({}): shown empty", mount.name);
    }
    let noexec = mounts.noexec_below();
    if let Some(mount) = noexec {
        let place = mount.display_path();
        match config.flags.noexec {
            None => log::warn!(
                "no program can be executed from this mount, since {place} is noexec (see option exec)"
            ),
            Some(false) => log::warn!(
                "{place} is noexec: with option exec its programs cannot be executed, but other programs can map them"
            ),
            Some(true) => {}
        }
    }
    let own = mounts.own.restrictions;
    Restrictions { noexec: own.noexec || noexec.is_some(), ..own }
}

fn serve(
    config: &Config,
    opened: Opened,
    options: Options,
    notifier: &mut ReadyNotifier,
) -> Result<()> {
    let Opened { source, point, plan, pidfile, baseline } = opened;
    let signals = Signals::block().map_err(|e| Error::system("cannot block signals", e))?;
    limits::apply();
    let mirrored = mirror::users(&config.view)?;
    let pidfile = Arc::new(pidfile.map(PidFile::create).transpose()?);
    let (mut new, device) =
        NewMount::make(&plan, &point).map_err(|e| mount::with_obstacle(e, config))?;
    let kernel = kernel_traits().unwrap_or(KernelFeatures::UNKNOWN);
    let probe = probe::start(&new, &point)?;
    let lifeline = config.process.auto_unmount.then(|| guardian::start(&new)).transpose()?;
    let source_inode = source.inode_number();
    let connection = Connection {
        device,
        own_device: new.device(&point)?,
        attach_by_name: new.can_attach_subdir(),
        access: plan.access(),
        kernel,
    };
    let server = Server::start(source, config, mirrored, connection)?;
    probe.wait()?;
    if let Some(subdir) = server.attached_name() {
        new.restrict_to_subdir(subdir)?;
    }
    if let Some(lifeline) = &lifeline {
        let sent = new.mounted().and_then(|mounted| lifeline.set_mount(&mounted));
        sent.map_err(|e| Error::system("cannot tell the guardian of auto_unmount", e))?;
    }
    server.live_update().describe(baseline.config());
    let mounted = new.attach(&point)?;
    let registration = mounted.register(baseline.config(), point.path(), source_inode);
    drop(point);
    server.live_update().set_pruner(mounted.pruner());
    // With `config=FILE` a SIGHUP in the foreground means a reload; without, the terminal has hung up.
    let sighup_terminates = config.process.foreground && config.options_file.is_none();
    let live = server.live_update();
    let reloader = Reloader { baseline, options, mounted: mounted.clone(), live };
    mirror::spawn_refresher(server.live_update(), &config.view)
        .and_then(|refresh| Ok((refresh, reloader.spawn()?)))
        .and_then(|(refresh, reload)| {
            control::spawn(registration.as_ref(), &reload, &server)?;
            signals.spawn(refresh, mounted.clone(), Arc::clone(&pidfile), reload, sighup_terminates)
        })
        .and_then(|()| notifier.ready())
        .map_err(|e| {
            // The parent that waited for the mount is gone, so the mount is not wanted any more.
            let undone = mounted.unmount(true);
            let more =
                undone.err().map_or(String::new(), |e| format!(" (and cannot unmount again: {e})"));
            Error::system(format!("cannot go into service{more}"), e)
        })?;
    notify::ready();
    log::info!("{} is mounted on {}", config.source.display(), config.mountpoint.display());
    let ended = server.wait();
    drop(registration);
    notify::stopping();
    if let Some(pidfile) = &*pidfile {
        pidfile.remove();
    }
    log::info!("{} is no longer mounted", config.mountpoint.display());
    ended
}
