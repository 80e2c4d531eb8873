//! The kernel's engine: a private clone of the source's mounts with the map of a user namespace, and no daemon.

use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, statx};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::brought::Brought;
use super::detached;
use super::elsewhere::Attacher;
use super::flags::set_on_clone;
use super::full_path;
use super::origin::Origin;
use super::point::MountPoint;
use super::record::Record;
use super::registry::{self, KernelMade, Server};
use super::table::MountIdentity;
use crate::config::{Config, SourceOwner, TargetNamespace};
use crate::error::{Error, Result, errno_field};
use crate::idmap::{Extent, Group, IdMap, IdRange, Kind, User};
use crate::source::Restrictions;
use crate::sys;

/// A mount that is made and attached nowhere yet. Dropping it takes it away.
#[derive(Debug)]
pub(super) struct IdmappedMount {
    tree: OwnedFd,
    is_dir: bool,
    source_inode: u64,
    owner: SourceOwner,
    /// What the source's mount forbids.
    forbids: Restrictions,
}

impl IdmappedMount {
    /// Makes it: a clone of the source with all that is mounted below it, the map, the mount options.
    ///
    /// Its propagation is private: what is mounted below the source later would arrive in a shared clone without the map.
    pub(super) fn make(config: &Config) -> Result<Self> {
        let name = config.source.display();
        let failed = |e: rustix::io::Errno| Error::mount(format!("source {name}"), e);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let source = rustix::fs::open(&config.source, flags, Mode::empty()).map_err(failed)?;
        let wanted = StatxFlags::TYPE | StatxFlags::INO;
        let stat = statx(&source, c"", AtFlags::EMPTY_PATH, wanted).map_err(failed)?;
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Err(Error::refused(format!(
                "source {name} is neither a directory nor a regular file"
            )));
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(&source, c"", flags).map_err(failed)?;
        let owner = config.found.check_owner(&tree)?;
        // The clone still has the options of the source's mount.
        let forbids = Restrictions::of(&rustix::fs::fstatfs(&tree).map_err(failed)?);
        set_map(&tree, config)?;
        set_on_clone(&tree, &config.flags)
            .map_err(|e| Error::mount("the clone of the source takes no mount options", e))?;
        Ok(Self {
            tree,
            is_dir: kind == FileType::Directory,
            source_inode: stat.stx_ino,
            owner,
            forbids,
        })
    }

    /// Whether the source is a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// Its root.
    pub(super) fn into_tree(self) -> OwnedFd {
        self.tree
    }

    /// The inode number of the source's root.
    pub(super) fn source_inode(&self) -> u64 {
        self.source_inode
    }

    /// Attaches it, and records that it is ours.
    pub(super) fn attach(self, config: &Config, point: &MountPoint) -> Result<()> {
        if let Some(namespace) = point.namespace() {
            let attacher = Attacher::start(namespace, point.as_fd(), self.is_dir, true)?;
            let identity = attacher.attach(&self.tree)?;
            let made = kernel_made(config, Origin::of(config, self.owner, self.forbids))?;
            let (server, source) = (Server::Kernel(Box::new(made)), Some(self.source_inode));
            registry::register(config, point.path(), identity, &server, source);
            return Ok(());
        }
        detached::attach(&self.tree, point)?;
        let record = MountIdentity::of_descriptor(&self.tree).and_then(|identity| {
            let brought = Brought::below(identity, point.path(), &config.source)?;
            let origin = Origin::of(config, self.owner, self.forbids);
            Record::of(config, point.path(), brought, origin).write(identity)
        });
        // The mount serves without it: only another call of ours does not know it again.
        record.unwrap_or_else(|e| {
            log::warn!("mount not recorded as ours: path={:?} {}", point.path(), errno_field(e));
        });
        Ok(())
    }
}

/// Whether the topmost mount at the mount point is one of ours of the same source: mount(8) asks for it again. `source` is the
/// inode number of the source's root. A directory of a mount of ours is none.
pub(super) fn is_already_mounted(config: &Config, point: &MountPoint, source: u64) -> Result<bool> {
    let failed = |e| Error::system("the records of mounts cannot be read", e);
    let found = MountIdentity::of_descriptor(point).and_then(Record::read).map_err(failed)?;
    Ok(found.is_some_and(|record| record.source == full_path(&config.source))
        && point.is_root_of_mount().map_err(failed)?
        && point.inode_number().map_err(failed)? == source)
}

fn set_map(tree: &OwnedFd, config: &Config) -> Result<()> {
    match namespace_of(config)? {
        None => Ok(()),
        Some(namespace) => sys::idmapped::idmap_mount(tree, namespace).map_err(not_idmapped),
    }
}

/// The maps, with mount ids as this program's user namespace numbers them. `None`: nothing is mapped.
fn outer_maps(config: &Config) -> Result<Option<(IdMap<User>, IdMap<Group>)>> {
    let (uids, gids) = (config.view.ids.uids.map(), config.view.ids.gids.map());
    let container = config.namespace.as_ref().and_then(TargetNamespace::container_ids);
    let (uids, gids) = match container {
        None => (uids.clone(), gids.clone()),
        Some(ids) => (numbered_outside(uids, &ids.uids)?, numbered_outside(gids, &ids.gids)?),
    };
    Ok((!uids.is_identity() || !gids.is_identity()).then_some((uids, gids)))
}

/// What is registered of a mount of this configuration in another namespace.
///
/// # Errors
/// The map does not fit the container's ids.
pub(super) fn kernel_made(config: &Config, origin: Origin) -> Result<KernelMade> {
    let is_container = config.namespace.as_ref().is_some_and(|namespace| namespace.is_container);
    Ok(KernelMade { origin, has_map: outer_maps(config)?.is_some(), is_container })
}

/// A user namespace with the map. `None`: nothing is mapped.
pub(super) fn namespace_of(config: &Config) -> Result<Option<OwnedFd>> {
    let Some((uids, gids)) = outer_maps(config)? else { return Ok(None) };
    sys::user_namespace::create_user_namespace(&map_text(&uids), &map_text(&gids))
        .map(Some)
        .map_err(|e| Error::mount("cannot make a user namespace with the map", e))
}

/// The error where a map cannot be given to the source's mounts.
pub(super) fn not_idmapped(e: std::io::Error) -> Error {
    let what = match e.raw_os_error() {
        Some(libc::EINVAL) => {
            "the source's filesystem, or one that is mounted below it, has no idmapped mounts"
        }
        Some(libc::EPERM) => {
            "the source, or a mount below it, is idmapped already or belongs to another user namespace"
        }
        _ => "cannot idmap the source's mounts",
    };
    Error::mount(what, e)
}

/// A map to the numbers that a container's ids have outside. Ids that the container does not have are left out.
fn numbered_outside<K: Kind>(map: &IdMap<K>, ranges: &[IdRange]) -> Result<IdMap<K>> {
    let mut extents = Vec::new();
    for extent in map.extents() {
        let (source, mount) = (u64::from(extent.source().raw()), u64::from(extent.mount().raw()));
        let end = mount + u64::from(extent.count());
        for range in ranges {
            let first = u64::from(range.inside);
            let (from, to) = (mount.max(first), end.min(first + u64::from(range.count)));
            if from >= to {
                continue;
            }
            let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let (source, outside) =
                (source + (from - mount), u64::from(range.outside) + (from - first));
            let part = Extent::new(number(source), number(outside), number(to - from));
            extents.push(part.map_err(|e| Error::refused(format!("option 'namespace': {e}")))?);
        }
    }
    IdMap::new(extents).map_err(|e| Error::refused(format!("option 'namespace': {e}")))
}

/// As in `/proc/PID/uid_map`, where the namespace's own ids are those of the source.
fn map_text<K: Kind>(map: &IdMap<K>) -> String {
    map.extents().iter().fold(String::new(), |mut text, extent| {
        let (source, mount) = (extent.source().raw(), extent.mount().raw());
        // Writing to a String does not fail.
        let _ = writeln!(text, "{source} {mount} {}", extent.count());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_a_container_is_cut_to_its_ids_and_numbered_as_outside() {
        let extents = [(1000, 0, 10), (0, 65_530, 10)];
        let extents = extents.map(|(s, m, n)| Extent::<User>::new(s, m, n).unwrap());
        let ranges = [
            IdRange { inside: 0, outside: 200_000, count: 5 },
            IdRange { inside: 5, outside: 7, count: 65_531 },
        ];
        let map = numbered_outside(&IdMap::new(extents.to_vec()).unwrap(), &ranges).unwrap();
        assert_eq!(map_text(&map), "1000 200000 5\n1005 7 5\n0 65532 6\n");
    }
}
