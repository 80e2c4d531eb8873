//! Changing the options of a mount in use: `shiftbind --reload` or SIGHUP.
//!
//! The options are evaluated again as a whole and compared with those that the mount has. What would take another mount
//! (`compare`) refuses the reload, and nothing changes; the rest changes at once. This happens in a thread of its own,
//! which no request waits for: the files that it reads may lie on the mount itself.

mod compare;
mod request;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rustix::process::chdir;

use super::{Options, mirror};
use crate::config::{Config, MountFlags};
use crate::error::{Error, Result};
use crate::fuse::LiveUpdate;
use crate::mount::{self, Inherited, Mounted, with_inherited};
use crate::sys::creds::unshare_fs;
pub use request::reload;

/// The options that a mount has, paths made absolute, and defaults that the process decided filled in.
#[derive(Debug)]
pub(super) struct Baseline {
    config: Config,
    /// The source as typed: typed again it means the same, though the descriptor in `/proc/self/fd/N` has gone.
    source_typed: PathBuf,
    /// Where relative paths began.
    directory: io::Result<PathBuf>,
    inherited: Inherited,
}

impl Baseline {
    /// Those of a mount that is being made. To be called while the working directory is the user's.
    pub(super) fn of(config: &Config, point: &Path, inherited: Inherited) -> Self {
        let mut own = resolved(config.clone());
        own.mountpoint = point.to_owned();
        own.flags = with_inherited(&config.flags, inherited);
        let directory = std::env::current_dir();
        Self { config: own, source_typed: config.source.clone(), directory, inherited }
    }

    /// The same form of options that were evaluated again.
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

/// What it takes to reload.
pub(super) struct Reloader {
    pub(super) baseline: Baseline,
    pub(super) options: Options,
    pub(super) mounted: Mounted,
    pub(super) live: LiveUpdate,
}

/// Asks for a reload.
#[derive(Debug)]
pub(super) struct ReloadHandle(SyncSender<()>);

impl ReloadHandle {
    /// Where one is asked for already that has not begun, it serves this request, too.
    pub(super) fn request(&self) {
        let _ = self.0.try_send(());
    }
}

impl Reloader {
    /// Starts the thread.
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
        // First what can fail.
        let mirrored = mirror::users(&new.view)?;
        let flags_before = self.change_flags(&new.flags)?;
        if let Err(e) = self.live.apply(&new, mirrored) {
            if let Some(before) = flags_before {
                self.mounted.change_flags(&before)?;
            }
            return Err(e);
        }
        self.baseline.config = new;
        Ok(())
    }

    /// Where the mount is now; where it was made, if it has left this mount namespace.
    fn mountpoint(&self) -> PathBuf {
        let now = self.mounted.mountpoint().ok().flatten();
        now.unwrap_or_else(|| self.baseline.config.mountpoint.clone())
    }

    /// The options anew, with relative paths as the user meant them.
    fn evaluate(&self, place: &Path) -> Result<Config> {
        let home = self.baseline.directory.as_ref();
        let home = home.map_err(|e| io::Error::from(e.kind())).and_then(|directory| {
            unshare_fs()?;
            Ok(chdir(directory)?)
        });
        // Where it is gone there are no relative paths either.
        if home.is_err() {
            chdir("/proc/self/fdinfo").map_err(|e| Error::system("/proc must be mounted", e))?;
        }
        let config = (self.options)(place).and_then(|config| {
            mount::check_privileges(&config)?;
            Ok(self.baseline.resolve(config))
        });
        // It would keep the directory's filesystem from being unmounted.
        chdir("/").map_err(|e| Error::system("/", e))?;
        config
    }

    /// Changes the mount's flags where they differ, and returns what they were.
    fn change_flags(&self, new: &MountFlags) -> Result<Option<MountFlags>> {
        let now = &self.baseline.config.flags;
        // What others have changed since with mount(8) stays when the options say what they said.
        if now == new {
            return Ok(None);
        }
        if let Err(e) = self.mounted.change_flags(new) {
            // It may have been done by half.
            let _ = self.mounted.change_flags(now);
            return Err(e);
        }
        Ok(Some(now.clone()))
    }
}
