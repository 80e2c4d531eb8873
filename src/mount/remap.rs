//! A reload of a mount that the kernel's engine made: the map and the options change without a moment in which nothing is
//! mounted, where the kernel can do that. What is open keeps the map that it was opened with.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::attributes::{RESTRICTIONS, attr_masks};
use super::brought::{
    Below, Brought, flags_of, has_option, refuse_covered, restrictions_of, set_options,
};
use super::detached;
use super::engine;
use super::flags::with_inherited;
use super::full_path;
use super::idmapped::{IdmappedMount, namespace_of, not_idmapped};
use super::origin::Origin;
use super::place::Place;
use super::point::MountPoint;
use super::record::{self, Record};
use super::table::MountIdentity;
use crate::config::{Config, EngineChoice, Found, MountFlags};
use crate::describe::ids_of;
use crate::error::{Error, Result, errno_field};
use crate::idmap::{IdView, Kind, Translation};
use crate::source::{Restrictions, SourceMounts};
use crate::sys::mount::{make_private, mount_setattr};
use crate::sys::mountinfo::{self, MountInfo, mounts_below};
use crate::sys::open_tree_attr::clone_with_idmap;

/// A mount of the kernel's engine, locked against other calls that would replace it.
#[derive(Debug)]
pub struct KernelMount {
    identity: MountIdentity,
    record: Record,
    point: MountPoint,
    line: MountInfo,
    // Holds the lock.
    _lock: File,
}

impl KernelMount {
    /// The topmost mount at a path. `None`: it is none of the kernel's engine, or this process may not read the records.
    ///
    /// # Errors
    /// The path does not exist; /proc is not mounted; the records cannot be read.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        let failed = |e| Error::system("the records of mounts cannot be read", e);
        let real = std::fs::canonicalize(path);
        let found = real.and_then(|real| MountIdentity::of_path(&real)).and_then(Record::read);
        if !found.is_ok_and(|record| record.is_some()) {
            return Ok(None);
        }
        let lock = record::lock().map_err(|e| Error::system("the mount cannot be reloaded", e))?;
        let point = MountPoint::open(path)?;
        let identity = MountIdentity::of_descriptor(&point).map_err(failed)?;
        let table = mountinfo::read().map_err(|e| Error::system("/proc must be mounted", e))?;
        let is_it = |line: &MountInfo| {
            line.id == identity.id() && line.mountpoint == point.path().as_os_str().as_bytes()
        };
        let line = table.into_iter().find(is_it);
        // A name below the mount is no mount point.
        let (Some(record), Some(line)) = (Record::read(identity).map_err(failed)?, line) else {
            return Ok(None);
        };
        Ok(Some(Self { identity, record, point, line, _lock: lock }))
    }

    /// What it was made with. `None`: by an older version, which did not record it.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.record.origin.as_ref()
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        self.point.path()
    }

    /// Gives it the map and the options of a configuration.
    ///
    /// # Errors
    /// What keeps the kernel from making such a mount; that another source or engine is asked for; that another program has
    /// mounted something below. Then the mount stays as it was.
    pub fn reload(&self, config: &Config, origin: &Origin) -> Result<()> {
        let source = PathBuf::from(&self.record.source);
        if config.source != origin.typed && full_path(&config.source) != self.record.source {
            return fixed("SOURCE");
        }
        if config.engine == EngineChoice::Fuse {
            return fixed("engine");
        }
        if config.namespace.is_some() {
            return fixed("namespace");
        }
        let config = &Config { source, ..config.clone() };
        check_obstacles(config, None)?;
        let wanted = self.options(config, origin)?;
        let origin =
            Origin { flags: config.flags.words(), found: config.found.clone(), ..origin.clone() };
        match self.ids().is_some_and(|ids| shows_the_same(&ids, &config.view.ids)) {
            true => self.change_options(config, origin, &wanted),
            false => self.replace(config, origin, &wanted),
        }
    }

    /// The map that it has.
    fn ids(&self) -> Option<IdView> {
        serde_json::from_slice(&self.record.description).ok().as_ref().and_then(ids_of)
    }

    /// Refuses to change the map of a mount that has one from its source: the clone would lose it (open_tree_attr(2) clears
    /// what it replaces). Where this program gave the mount a map, the source had none: the kernel maps no mount twice
    /// (Linux `can_idmap_mount`).
    fn check_map_is_ours(&self) -> Result<()> {
        if self.ids().is_some_and(|ids| !shows_the_same(&ids, &IdView::identity())) {
            return Ok(());
        }
        let below = self.lines_below()?;
        let is_mapped = |line: &&MountInfo| has_option(&line.options, "idmapped");
        match [&self.line].into_iter().chain(&below).find(is_mapped) {
            None => Ok(()),
            Some(line) => Err(Error::refused(format!(
                "the source was idmapped already when it was mounted on {}: unmount and mount again",
                path_text(line)
            ))),
        }
    }

    fn change_options(&self, config: &Config, origin: Origin, wanted: &Options) -> Result<()> {
        set_options(&self.point, &wanted.flags, &wanted.below)
            .map_err(|e| Error::mount("the mount options cannot change", e))?;
        let brought = self.record.brought.clone();
        Record::of(config, self.mountpoint(), brought, origin)
            .write(self.identity)
            .map_err(recorded)
    }

    /// Puts a clone with the new map in the place of the mount.
    fn replace(&self, config: &Config, origin: Origin, wanted: &Options) -> Result<()> {
        if let Some(other) = self.other_below()? {
            return Err(Error::refused(format!(
                "another program has mounted something on {other}: umount that first"
            )));
        }
        refuse_covered(&wanted.below)
            .map_err(|e| Error::mount("the mount options cannot change", e))?;
        self.check_map_is_ours()?;
        self.check_linked()?;
        let tree = self.remapped(config)?;
        wanted.restrict(&tree).map_err(|e| Error::mount("the clone takes no mount options", e))?;
        let identity = MountIdentity::of_descriptor(&tree)
            .map_err(|e| Error::mount("cannot read the mount's id", e))?;
        let none = MountAttrFlags::empty();
        let old = self.record.below(self.identity, self.mountpoint(), none).map_err(recorded)?;
        self.put_in_place(&tree, wanted)?;
        let brought = self.brought_to(identity, &old).map_err(recorded)?;
        Record::of(config, self.mountpoint(), brought, origin).write(identity).map_err(recorded)?;
        Record::remove(self.identity).map_err(recorded)
    }

    /// The mounts below the new mount, each of which was cloned with it from the one at the same path.
    fn brought_to(&self, new: MountIdentity, old: &[Below]) -> io::Result<Vec<Brought>> {
        let lines = mounts_below(new.id(), self.mountpoint().as_os_str().as_bytes())?;
        // Of several at one path, the one that another covers comes first in both lists.
        let mut old: Vec<&Below> = old.iter().collect();
        let brought = |line: &MountInfo| {
            let found = Below::of(line, self.mountpoint(), MountAttrFlags::empty())?;
            let same = old.iter().position(|one| one.path == found.path)?;
            let forbids = old.remove(same).forbids;
            Some(Brought { identity: MountIdentity::of_table(line), forbids })
        };
        Ok(lines.iter().filter_map(brought).collect())
    }

    /// A detached clone of the mount with the new map; where the kernel cannot change a map, of the source.
    fn remapped(&self, config: &Config) -> Result<OwnedFd> {
        match clone_with_idmap(&self.point, namespace_of(config)?) {
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
                log::info!(
                    "no open_tree_attr(2): the source is cloned again: path={:?}",
                    config.source
                );
            }
            result => return result.map_err(not_idmapped),
        }
        // The source is cloned with what is mounted below it by now.
        check_obstacles(config, SourceMounts::of(config).as_ref())?;
        // Whether it is the same source is compared below; it may have another owner by now.
        let found = Found { owner: None, ..config.found.clone() };
        let made = IdmappedMount::make(&Config { found, ..config.clone() })?.into_tree();
        match is_same_inode(&made, &self.point)? {
            true => Ok(made),
            false => Err(Error::refused(format!(
                "another directory is at {} now: unmount and mount again",
                config.source.display()
            ))),
        }
    }

    /// Mounts the tree beneath the mount and detaches that. Before Linux 6.5, and where the kernel cannot do that here (EINVAL),
    /// the mount is detached first: for that moment the directory below it is seen.
    fn put_in_place(&self, tree: &OwnedFd, wanted: &Options) -> Result<()> {
        let failed = |e: io::Error| match e.raw_os_error() {
            Some(libc::ESTALE) => Error::refused("another mount has taken its place"),
            _ => Error::mount("the old mount cannot be detached", e),
        };
        let place = Place::open(self.mountpoint()).map_err(failed)?;
        if !place.topmost().map_err(failed)?.is_same_as(&self.identity) {
            return Err(failed(io::Error::from_raw_os_error(libc::ESTALE)));
        }
        let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
            | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
            | MoveMountFlags::MOVE_MOUNT_BENEATH;
        match move_mount(tree, "", &self.point, "", beneath) {
            Ok(()) => {
                wanted.complete(tree);
                return place.unmount(&self.identity, true).map_err(failed);
            }
            Err(Errno::INVAL) => {
                log::info!("cannot mount beneath: path={:?}", self.mountpoint());
                self.check_linked()?;
            }
            Err(Errno::NOENT) => return Err(self.unlinked()),
            Err(e) => return Err(Error::mount("cannot mount beneath the old mount", e)),
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let old = open_tree(&self.point, c"", flags).map_err(|e| failed(e.into()))?;
        place.unmount(&self.identity, true).map_err(failed)?;
        let point = MountPoint::open(self.mountpoint())?;
        let attached = detached::attach(tree, &point).inspect_err(|e| {
            if let Err(again) = detached::attach(&old, &point) {
                log::error!("not mounted any more: path={:?} {e}; {again}", point.path());
            }
        });
        wanted.complete(tree);
        attached
    }

    /// Refuses where the source's directory or file was removed or replaced: the kernel attaches no mount of it (Linux
    /// `get_mountpoint`).
    fn check_linked(&self) -> Result<()> {
        let table = mountinfo::read().map_err(|e| Error::system("/proc must be mounted", e))?;
        let line = table.iter().find(|line| line.id == self.identity.id());
        match line.is_some_and(|line| line.root.ends_with(b"//deleted")) {
            true => Err(self.unlinked()),
            false => Ok(()),
        }
    }

    fn unlinked(&self) -> Error {
        Error::refused(format!(
            "{} was removed or replaced since it was mounted: unmount and mount again",
            self.record.source.display()
        ))
    }

    /// The mount point of a mount below that the kernel's engine did not bring, also of one on top of such a mount.
    fn other_below(&self) -> Result<Option<String>> {
        let lines = self.lines_below()?;
        let is_other = |line: &&MountInfo| {
            let found = MountIdentity::of_table(line);
            !self.record.brought.iter().any(|one| one.identity.is_same_as(&found))
        };
        Ok(lines.iter().find(is_other).map(path_text))
    }

    fn lines_below(&self) -> Result<Vec<MountInfo>> {
        mounts_below(self.identity.id(), self.mountpoint().as_os_str().as_bytes())
            .map_err(|e| Error::system("/proc must be mounted", e))
    }

    /// The options that the mounts of the tree will have. What a remount changed stays for as long as the options stay.
    fn options(&self, config: &Config, origin: &Origin) -> Result<Options> {
        let now = flags_of(&self.line.options);
        let same = origin.flags == config.flags.words();
        let flags = if same { now } else { changed(config, origin, &now) };
        let forbids = attr_masks(&flags).0 & RESTRICTIONS;
        let failed = |e| Error::system("/proc must be mounted", e);
        let mut below =
            self.record.below(self.identity, self.mountpoint(), forbids).map_err(failed)?;
        if same {
            for line in self.lines_below()? {
                let forbids = restrictions_of(&line.options);
                let found = MountIdentity::of_table(&line);
                below
                    .iter_mut()
                    .filter(|one| one.identity.is_some_and(|it| it.is_same_as(&found)))
                    .for_each(|one| one.forbids = forbids);
            }
        }
        Ok(Options { flags, below })
    }
}

/// The options of the mounts of a tree.
#[derive(Debug)]
struct Options {
    flags: MountFlags,
    below: Vec<Below>,
}

impl Options {
    /// Gives them to a detached tree, as far as the kernel permits: it changes mounts below the root of a detached tree all
    /// at once only (Linux `do_mount_setattr`). So they get what all of them will forbid.
    fn restrict(&self, tree: &OwnedFd) -> io::Result<()> {
        let (set, clear) = attr_masks(&self.flags);
        let common = self.below.iter().fold(set & RESTRICTIONS, |all, one| all & one.forbids);
        make_private(tree, common, MountAttrFlags::empty())?;
        mount_setattr(tree, set, clear)
    }

    /// Gives them to the attached tree, whole.
    fn complete(&self, tree: &OwnedFd) {
        let below: Vec<Below> = self.below.iter().map(Below::in_a_clone).collect();
        if let Err(e) = set_options(tree, &self.flags, &below) {
            log::warn!("mounts below keep other options: below={:?} {}", below, errno_field(e));
        }
    }
}

/// The error for an option that a reload does not change.
pub(super) fn fixed(option: &str) -> Result<()> {
    Err(Error::usage(format!(
        "option '{option}' cannot change on a live mount: unmount and mount again"
    )))
}

/// Whether both descriptors are of one inode. No server is asked.
pub(super) fn is_same_inode(one: &dyn AsFd, other: &dyn AsFd) -> Result<bool> {
    let numbers = |fd: &dyn AsFd| {
        statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
            .map(|stat| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
            .map_err(|e| Error::mount("source", e))
    };
    Ok(numbers(one)? == numbers(other)?)
}

/// The new options. What is not given comes from the source's own mount as it was when it was mounted: it may be gone by now,
/// and the directory below it permit more. Access times stay as they are.
pub(super) fn changed(config: &Config, origin: &Origin, now: &MountFlags) -> MountFlags {
    let of_source =
        || SourceMounts::of(config).map_or(Restrictions::NONE, |it| it.own.restrictions);
    let flags = with_inherited(&config.flags, origin.forbids.unwrap_or_else(of_source));
    let (atime, nodiratime) = (flags.atime.or(now.atime), flags.nodiratime.or(now.nodiratime));
    MountFlags { atime, nodiratime, ..flags }
}

/// Refuses what the kernel's engine cannot make.
pub(super) fn check_obstacles(config: &Config, mounts: Option<&SourceMounts>) -> Result<()> {
    let obstacles = engine::obstacles(config, mounts);
    match obstacles.is_empty() {
        true => Ok(()),
        false => Err(Error::refused(format!(
            "the kernel made this mount, and cannot make the new one: {}; unmount and mount again",
            obstacles.join("; ")
        ))),
    }
}

/// Whether the kernel's engine, which denies unmapped ids, makes the same of both: a map of all ids to themselves is none.
pub(super) fn shows_the_same(one: &IdView, other: &IdView) -> bool {
    fn same<K: Kind>(one: &Translation<K>, other: &Translation<K>) -> bool {
        one.map() == other.map() || (one.map().is_identity() && other.map().is_identity())
    }
    same(&one.uids, &other.uids) && same(&one.gids, &other.gids)
}

pub(super) fn path_text(line: &MountInfo) -> String {
    String::from_utf8_lossy(&line.mountpoint).into_owned()
}

fn recorded(e: io::Error) -> Error {
    Error::system("reloaded, but the record of the mount cannot be written", e)
}
