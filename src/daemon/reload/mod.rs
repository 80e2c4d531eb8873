//! Reloads the options of a live mount, on SIGHUP (`shiftbind --reload` sends it).
//!
//! All options are evaluated again and compared with those in force. A change that needs a new mount (`compare`)
//! refuses the whole reload; other changes are applied at once. This runs on a thread of its own, so that no worker
//! waits for the files that it reads: they may lie on the mount itself.

mod compare;
mod kernel;
mod request;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rustix::process::chdir;

use super::{Options, mirror};
use crate::config::{Config, MountFlags, SourceOwner};
use crate::error::{Error, Result};
use crate::fuse::LiveUpdate;
use crate::mount::{self, Mounted, with_inherited};
use crate::source::Restrictions;
use crate::sys::creds::unshare_fs;
pub(super) use kernel::reload_elsewhere;
pub use request::reload;

/// The options in force, with absolute paths and with the defaults that the process chose.
#[derive(Debug)]
pub(super) struct Baseline {
    config: Config,
    /// The source as typed. Given again, it means the same source, even if it named a closed descriptor in
    /// `/proc/self/fd`.
    source_typed: PathBuf,
    /// The working directory that relative paths refer to.
    directory: io::Result<PathBuf>,
    inherited: Restrictions,
}

impl Baseline {
    /// The baseline of a new mount. Must be called while the working directory is still the user's.
    ///
    /// `owner` is that of the opened source. A reload takes it from here: another inode may have the source's name by then.
    pub(super) fn of(
        config: &Config,
        point: &Path,
        inherited: Restrictions,
        owner: SourceOwner,
    ) -> Self {
        let mut own = resolved(config.clone());
        own.found.owner = Some(owner);
        own.mountpoint = point.to_owned();
        own.flags = with_inherited(&config.flags, inherited);
        let directory = std::env::current_dir();
        Self { config: own, source_typed: config.source.clone(), directory, inherited }
    }

    /// The options in force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Brings newly evaluated options into the same form.
    fn resolve(&self, config: Config) -> Config {
        let same_source = config.source == self.source_typed;
        let mut new = resolved(config);
        if same_source {
            new.source = self.config.source.clone();
        }
        new.flags = with_inherited(&new.flags, self.inherited);
        new
    }
}

fn resolved(mut config: Config) -> Config {
    let absolute = |path: &Path| {
        let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        path.unwrap_or_default()
    };
    config.source = absolute(&config.source);
    config.mountpoint = absolute(&config.mountpoint);
    let pidfile = config.process.pidfile.take();
    config.process.pidfile = pidfile.map(|path| std::path::absolute(&path).unwrap_or(path));
    config.access = Some(mount::access(&config));
    config
}

/// What a reload needs.
pub(super) struct Reloader {
    pub(super) baseline: Baseline,
    pub(super) options: Options,
    pub(super) mounted: Mounted,
    pub(super) live: LiveUpdate,
}

/// Requests a reload.
#[derive(Debug, Clone)]
pub(super) struct ReloadHandle(SyncSender<()>);

impl ReloadHandle {
    /// Requests a reload. A pending request that has not begun covers this one.
    pub(super) fn request(&self) {
        let _ = self.0.try_send(());
    }
}

impl Reloader {
    /// Starts the thread that reloads.
    pub(super) fn spawn(self) -> io::Result<ReloadHandle> {
        let (sender, requests) = sync_channel(1);
        thread::Builder::new().name("reload".to_owned()).spawn(move || self.serve(&requests))?;
        Ok(ReloadHandle(sender))
    }

    fn serve(mut self, requests: &Receiver<()>) {
        while let Ok(()) = requests.recv() {
            self.live.reloads().begin();
            let result = self.reload();
            match &result {
                Ok(()) => log::info!("{}: reloaded", self.baseline.config.mountpoint.display()),
                Err(e) => {
                    log::error!("{}: not reloaded: {e}", self.baseline.config.mountpoint.display());
                }
            }
            self.live.reloads().end(&result);
        }
    }

    fn reload(&mut self) -> Result<()> {
        let place = self.mountpoint();
        let mut new = self.evaluate(&place)?;
        for warning in &new.warnings {
            log::warn!("{warning}");
        }
        new.mountpoint.clone_from(&self.baseline.config.mountpoint);
        compare::check(&self.baseline.config, &new)?;
        // The steps that can fail come first.
        let mirrored = mirror::users(&new.view)?;
        let flags_before = self.change_flags(&new.flags)?;
        if let Err(e) = self.live.apply(&new, mirrored) {
            if let Some(before) = flags_before {
                self.mounted.change_flags(&before)?;
            }
            return Err(e);
        }
        self.live.describe(&new);
        self.baseline.config = new;
        Ok(())
    }

    /// The current mount point, or the original one if the mount is no longer in this mount namespace.
    fn mountpoint(&self) -> PathBuf {
        let now = self.mounted.mountpoint().ok().flatten();
        now.unwrap_or_else(|| self.baseline.config.mountpoint.clone())
    }

    /// Evaluates the options again, with relative paths resolved in the original working directory.
    fn evaluate(&self, place: &Path) -> Result<Config> {
        let home = self.baseline.directory.as_ref();
        let home = home.map_err(|e| io::Error::from(e.kind())).and_then(|directory| {
            unshare_fs()?;
            Ok(chdir(directory)?)
        });
        // Without that directory relative paths must not resolve: /proc/self/fdinfo holds numbers only.
        if home.is_err() {
            chdir("/proc/self/fdinfo").map_err(|e| Error::system("/proc must be mounted", e))?;
        }
        let config = (self.options)(place, &self.baseline.config.found).and_then(|config| {
            mount::check_privileges(&config)?;
            Ok(self.baseline.resolve(config))
        });
        // A working directory would keep its filesystem from being unmounted.
        chdir("/").map_err(|e| Error::system("/", e))?;
        config
    }

    /// Changes the mount's flags if the options did, and returns the previous ones.
    fn change_flags(&self, new: &MountFlags) -> Result<Option<MountFlags>> {
        let now = &self.baseline.config.flags;
        // Flags that mount(8) changed meanwhile stay, as long as the options stay the same.
        if now == new {
            return Ok(None);
        }
        if let Err(e) = self.mounted.change_flags(new) {
            // The change may have been applied in part.
            let _ = self.mounted.change_flags(now);
            return Err(e);
        }
        Ok(Some(now.clone()))
    }
}
