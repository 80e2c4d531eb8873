//! A reload of a mount that the kernel's engine made in another mount namespace.
//!
//! As [`super::remap`], with two differences. The container's root may change what is mounted there, so the mount is held by a
//! descriptor and a child process works in the namespace. And the mount's attributes are locked against that root: a clone of
//! the mount keeps the locks, so options that change take a new clone of the source, locked as the first one was.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::brought::{flags_of, has_option};
use super::elsewhere::locked;
use super::found_elsewhere::MountElsewhere;
use super::full_path;
use super::idmapped::{IdmappedMount, kernel_made, namespace_of, not_idmapped};
use super::origin::Origin;
use super::record;
use super::registry::{self, KernelMade, Registered, Server};
use super::remap::{changed, check_obstacles, fixed, is_same_inode, path_text, shows_the_same};
use super::replacer::Replacer;
use super::table::MountIdentity;
use crate::config::{Config, EngineChoice, Found, MountFlags, TargetNamespace};
use crate::describe::ids_of;
use crate::error::{Error, Result};
use crate::idmap::IdView;
use crate::namespace::error;
use crate::source::SourceMounts;
use crate::sys::mountinfo::{MountInfo, find_mounts_below};

/// A mount of the kernel's engine in another namespace, locked against other calls that would replace it.
#[derive(Debug)]
pub struct KernelMountElsewhere {
    found: MountElsewhere,
    entry: Registered,
    made: KernelMade,
    origin: Origin,
    // Holds the lock.
    _lock: File,
}

impl KernelMountElsewhere {
    /// The mount that was found, if the kernel's engine made it.
    ///
    /// # Errors
    /// An older version made it; another call that replaces a mount does not end.
    pub fn of(found: MountElsewhere, entry: Registered) -> Result<Self> {
        let lock = record::lock().map_err(|e| Error::system("the mount cannot be reloaded", e))?;
        let Some(made) = entry.kernel.clone() else {
            return Err(Error::refused(
                "an older version made this mount and did not record how: unmount and mount again",
            ));
        };
        let described = found.described().map_err(|e| Error::system("the namespace", e))?;
        let target = TargetNamespace {
            value: entry.value.clone().into(),
            is_container: entry.is_container(),
            ..described
        };
        let kept = Found { target: Some(target), ..made.origin.found.clone() };
        let origin = Origin { found: kept, ..made.origin.clone() };
        Ok(Self { found, entry, made, origin, _lock: lock })
    }

    /// What it was made with, and in which namespace.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where it was mounted, as a path in the namespace.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.entry.mount.mountpoint
    }

    /// Gives it the map and the options of a configuration.
    ///
    /// # Errors
    /// What keeps the kernel from making such a mount; that another source, engine or namespace is asked for; that a process of
    /// the container has mounted something on it or below it. Then the mount stays as it was.
    pub fn reload(self, config: &Config) -> Result<()> {
        let source = PathBuf::from(&self.entry.mount.source);
        if config.source != self.origin.typed && full_path(&config.source) != source {
            return fixed("SOURCE");
        }
        if config.engine == EngineChoice::Fuse {
            return fixed("engine");
        }
        self.check_namespace(config)?;
        let config = &Config { source, ..config.clone() };
        check_obstacles(config, None)?;
        let point = self.found.point();
        let child = Replacer::start(self.found.namespace(), point, self.found.is_dir())?;
        let lines = Lines::find(child.table()?, self.found.identity())?;
        let keeps_flags = self.origin.flags == config.flags.words();
        let keeps_map = self.ids().is_some_and(|ids| shows_the_same(&ids, &config.view.ids));
        if keeps_flags && keeps_map {
            let identity = *self.found.identity();
            return self.register(config, &lines, identity);
        }
        lines.check_below(config)?;
        self.check_map_is_ours(&lines)?;
        let tree = match keeps_flags {
            true => self.remapped(config, &child, &lines)?,
            false => self.new_clone(config, &lines, false)?,
        };
        let identity = MountIdentity::of_descriptor(&tree)
            .map_err(|e| Error::mount("cannot read the mount's id", e))?;
        child.replace(&tree, &lines.path())?;
        self.register(config, &lines, identity)
    }

    /// Refuses another namespace than the mount's, and another mode.
    fn check_namespace(&self, config: &Config) -> Result<()> {
        match &config.namespace {
            Some(one) if one.mounts != self.entry.namespace => fixed("namespace"),
            Some(one) if one.is_container != self.entry.is_container() => fixed("ids"),
            Some(_) => Ok(()),
            None => fixed("namespace"),
        }
    }

    /// The map that it has.
    fn ids(&self) -> Option<IdView> {
        self.entry.description().as_ref().and_then(ids_of)
    }

    /// Refuses to change the map of a mount that has one from its source: the clone would lose it.
    fn check_map_is_ours(&self, lines: &Lines) -> Result<()> {
        let is_mapped = |line: &&MountInfo| has_option(&line.options, "idmapped");
        let mut all = std::iter::once(&lines.own).chain(&lines.below);
        match all.find(is_mapped).filter(|_| !self.made.has_map) {
            None => Ok(()),
            Some(line) => Err(Error::refused(format!(
                "the source was idmapped already when it was mounted on {}: unmount and mount again",
                path_text(line)
            ))),
        }
    }

    /// A detached clone of the mount with the new map; where the kernel cannot change a map, of the source.
    fn remapped(&self, config: &Config, child: &Replacer, lines: &Lines) -> Result<OwnedFd> {
        match child.clone_with_idmap(namespace_of(config)?.as_ref()) {
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
                log::info!(
                    "no open_tree_attr(2): the source is cloned again: path={:?}",
                    config.source
                );
                self.new_clone(config, lines, true)
            }
            result => result.map_err(not_idmapped),
        }
    }

    /// A detached clone of the source, with what is mounted below it by now, locked as the container's root requires.
    fn new_clone(&self, config: &Config, lines: &Lines, keeps_flags: bool) -> Result<OwnedFd> {
        check_obstacles(config, SourceMounts::of(config).as_ref())?;
        let now = flags_of(&lines.own.options);
        let flags: MountFlags = if keeps_flags { now } else { changed(config, &self.origin, &now) };
        // Whether it is the same source is compared below; it may have another owner by now.
        let found = Found { owner: None, ..config.found.clone() };
        let made = IdmappedMount::make(&Config { found, flags, ..config.clone() })?.into_tree();
        if !is_same_inode(&made, &self.found.point())? {
            return Err(Error::refused(format!(
                "another directory is at {} now: unmount and mount again",
                config.source.display()
            )));
        }
        let namespace = self.found.namespace();
        match &namespace.users {
            None => Ok(made),
            Some(users) => locked(&made, namespace, users, self.found.is_dir()).map_err(error),
        }
    }

    /// Registers the mount as it is now.
    fn register(self, config: &Config, lines: &Lines, identity: MountIdentity) -> Result<()> {
        let found = Found { target: None, ..config.found.clone() };
        let origin = Origin { flags: config.flags.words(), found, ..self.origin };
        let server = Server::Kernel(Box::new(kernel_made(config, origin)?));
        let source = self.entry.source_inode;
        registry::register(config, &lines.path(), identity, &server, source);
        if !identity.is_same_as(self.found.identity()) {
            self.entry.remove();
        }
        Ok(())
    }
}

/// The lines of the namespace's mount table that are about the mount.
struct Lines {
    own: MountInfo,
    /// Those of the mounts below it, and on it.
    below: Vec<MountInfo>,
}

impl Lines {
    fn find(table: Vec<MountInfo>, identity: &MountIdentity) -> Result<Self> {
        let own = table.iter().find(|line| line.id == identity.id()).cloned();
        let own =
            own.ok_or_else(|| Error::refused("it is not mounted in the namespace any more"))?;
        if own.root.ends_with(b"//deleted") {
            return Err(Error::refused(
                "the source was removed or replaced since it was mounted: unmount and mount again",
            ));
        }
        if let Some(cover) =
            table.iter().find(|line| line.parent == own.id && line.mountpoint == own.mountpoint)
        {
            return Err(Error::refused(format!(
                "another mount covers it in the namespace, at {}: umount that first",
                path_text(cover)
            )));
        }
        let below = find_mounts_below(table, own.id, &own.mountpoint);
        Ok(Self { own, below })
    }

    /// Where it is mounted now, from the namespace's root.
    fn path(&self) -> PathBuf {
        std::ffi::OsStr::from_bytes(&self.own.mountpoint).into()
    }

    /// Refuses where a mount is below that does not come from below the source: it would be lost, or get the map.
    fn check_below(&self, config: &Config) -> Result<()> {
        if self.below.is_empty() {
            return Ok(());
        }
        let failed = |e| Error::system("/proc must be mounted", e);
        let source = super::brought::mounts_of_source(&config.source).map_err(failed)?;
        match self.below.iter().find(|line| !source.contains_key(&(line.device, line.root.clone())))
        {
            None => Ok(()),
            Some(line) => Err(Error::refused(format!(
                "{} is mounted below it in the namespace, and not below the source: umount that first",
                path_text(line)
            ))),
        }
    }
}
