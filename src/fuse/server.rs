//! One mount's server: answers the kernel's first request, runs the workers, ends with the connection.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Session, SessionACL};
use rustix::process::Resource;

use super::adapter::Adapter;
use super::backing::Backings;
use crate::config::{Access, Config};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::source::{SourceRoot, SourceTree};

/// How often what was not used for a while is let go.
const SWEEP: Duration = Duration::from_secs(1);

/// Descriptors of recently used inodes at most.
const MOST_FDS: u64 = 4096;

/// A mount that is being served.
#[derive(Debug)]
pub struct Server {
    session: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Answers FUSE_INIT on the device (the kernel has sent it when the filesystem was made) and starts the workers.
    pub fn start(root: SourceRoot, config: &Config, device: OwnedFd) -> Result<Self> {
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(MOST_FDS);
        let room = usize::try_from((limit / 4).clamp(16, MOST_FDS)).unwrap_or(16);
        let tree = SourceTree::new(root, room, config.one_file_system);
        let fs = Arc::new(Fs::new(tree, config.ids.clone()));
        let backings = Arc::new(Backings::new(config.passthrough));
        let adapter = Adapter::new(Arc::clone(&fs), config.cache, Arc::clone(&backings));
        let is_root = rustix::process::geteuid().is_root();
        let access =
            config.access.unwrap_or(if is_root { Access::Everyone } else { Access::Owner });
        let acl = match access {
            Access::Everyone => SessionACL::All,
            Access::OwnerAndRoot => SessionACL::RootAndOwner,
            Access::Owner => SessionACL::Owner,
        };
        let mut settings = fuser::Config::default();
        settings.acl = acl;
        settings.n_threads = Some(config.threads.get());
        // Cloning opens /dev/fuse again, which a user whose mount fusermount3 made may not.
        settings.clone_fd = is_root && config.threads.get() > 1;
        let failed = |e| Error::mount("cannot talk to the kernel's FUSE", e);
        let session = Session::from_fd(adapter, device, acl, settings).map_err(failed)?;
        let session = std::thread::Builder::new()
            .name("session".into())
            .spawn(move || session.run())
            .map_err(|e| Error::system("cannot start a thread", e))?;
        let sweeper = sweep_while_served(Arc::downgrade(&fs), Arc::downgrade(&backings));
        std::thread::Builder::new()
            .name("sweeper".into())
            .spawn(sweeper)
            .map_err(|e| Error::system("cannot start a thread", e))?;
        Ok(Self { session })
    }

    /// Waits until the filesystem is unmounted and the workers have ended.
    pub fn wait(self) -> Result<()> {
        match self.session.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Error::system("the connection to the kernel broke", e)),
            Err(_) => Err(Error::refused("a worker ended unexpectedly")),
        }
    }
}

fn sweep_while_served(fs: Weak<Fs>, backings: Weak<Backings>) -> impl FnOnce() {
    move || {
        while let (Some(fs), Some(backings)) = (fs.upgrade(), backings.upgrade()) {
            fs.tree().sweep();
            backings.sweep();
            drop((fs, backings));
            std::thread::sleep(SWEEP);
        }
    }
}
