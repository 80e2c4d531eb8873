//! The mounts below that the kernel's engine has brought along from below the source, and the options of such a tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::MountAttrFlags;

use super::attributes::{RESTRICTIONS, attr_masks};
use super::table::MountIdentity;
use crate::config::{Atime, MountFlags};
use crate::source::Restrictions;
use crate::sys::mount::mount_setattr;
use crate::sys::mountinfo::{self, MountInfo, mounts_below};

/// A mount that came from below the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Brought {
    pub(super) identity: MountIdentity,
    /// What the mount below the source forbids. No remount permits it.
    pub(super) forbids: MountAttrFlags,
}

impl Brought {
    /// Those below a mount. Another process may have mounted something else there since the mount was attached.
    pub(super) fn below(
        mount: MountIdentity,
        point: &Path,
        source: &Path,
    ) -> io::Result<Vec<Self>> {
        let below = mounts_below(mount.id(), point.as_os_str().as_bytes())?;
        if below.is_empty() {
            return Ok(Vec::new());
        }
        let of_source = mounts_of_source(source)?;
        let brought = |line: &MountInfo| {
            let forbids = of_source.get(&(line.device, line.root.clone()))?;
            Some(Self { identity: MountIdentity::of_table(line), forbids: *forbids })
        };
        Ok(below.iter().filter_map(brought).collect())
    }

    /// Formats it as five numbers.
    pub(super) fn to_text(&self) -> String {
        format!("{} {}", self.identity.to_text(), self.forbids.bits())
    }

    /// Parses [`Self::to_text`]. An older version wrote four numbers.
    pub(super) fn from_text(words: &str) -> Option<Self> {
        let forbids = words.splitn(5, ' ').nth(4);
        let identity = forbids.map_or(words, |last| &words[..words.len() - last.len() - 1]);
        let bits = forbids.map_or(Some(0), |last| last.parse().ok())?;
        Some(Self {
            identity: MountIdentity::from_text(identity)?,
            forbids: MountAttrFlags::from_bits_retain(bits),
        })
    }
}

/// What mounts forbid, by device and root.
type ForbiddenByRoot = HashMap<((u32, u32), Vec<u8>), MountAttrFlags>;

/// What the mounts at and below the source forbid.
pub(super) fn mounts_of_source(source: &Path) -> io::Result<ForbiddenByRoot> {
    Ok(below_source(mountinfo::read()?, &std::fs::canonicalize(source)?))
}

fn below_source(table: Vec<MountInfo>, source: &Path) -> ForbiddenByRoot {
    table
        .into_iter()
        .filter(|line| path_of(line).starts_with(source))
        .map(|line| ((line.device, line.root), restrictions_of(&line.options)))
        .collect()
}

fn path_of(line: &MountInfo) -> &Path {
    Path::new(OsStr::from_bytes(&line.mountpoint))
}

/// A mount below the root of a tree.
#[derive(Debug, Clone)]
pub(super) struct Below {
    /// Where it is, from the root of the tree.
    pub(super) path: PathBuf,
    /// Which mount it has to be. `None`: the tree has just been made.
    pub(super) identity: Option<MountIdentity>,
    /// What it will forbid.
    pub(super) forbids: MountAttrFlags,
    /// Whether another mount covers it, so that no path leads to it and its options cannot change.
    is_covered: bool,
    /// What it forbids now.
    now: MountAttrFlags,
}

impl Below {
    /// The mount of a line of the table, below a mount point.
    pub(super) fn of(line: &MountInfo, point: &Path, forbids: MountAttrFlags) -> Option<Self> {
        let path = path_of(line).strip_prefix(point).ok()?.to_owned();
        let identity = Some(MountIdentity::of_table(line));
        let top = MountIdentity::of_path(path_of(line));
        let is_covered = top.map_or(true, |top| top.id() != line.id);
        let now = restrictions_of(&line.options);
        Some(Self { path, identity, forbids, is_covered, now })
    }

    /// The same in a clone of the tree.
    pub(super) fn in_a_clone(&self) -> Self {
        Self { identity: None, ..self.clone() }
    }
}

/// Gives a tree its options: `flags` to the topmost mount, and to each one below what it forbids.
///
/// All of them are opened first: an error of these changes nothing.
///
/// # Errors
/// That of [`refuse_covered`]; another mount is in the place of one below, or a symbolic link is on its path.
pub(super) fn set_options(root: impl AsFd, flags: &MountFlags, below: &[Below]) -> io::Result<()> {
    refuse_covered(below)?;
    let failed = |mount: &Below, e: io::Error| {
        io::Error::new(e.kind(), format!("{}: {e}", mount.path.display()))
    };
    let mut opened = Vec::new();
    for mount in below.iter().filter(|mount| !mount.is_covered) {
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let fd = openat2(root.as_fd(), &mount.path, how, Mode::empty(), resolve)
            .map_err(|e| failed(mount, e.into()))?;
        if let Some(expected) = &mount.identity
            && !MountIdentity::of_descriptor(&fd)?.is_same_as(expected)
        {
            return Err(failed(mount, io::Error::from_raw_os_error(libc::ESTALE)));
        }
        opened.push((mount, fd));
    }
    for (mount, fd) in opened {
        mount_setattr(&fd, mount.forbids, RESTRICTIONS.difference(mount.forbids))
            .map_err(|e| failed(mount, e))?;
    }
    let (set, clear) = attr_masks(flags);
    mount_setattr(root, set, clear)
}

/// Refuses to change the options of a mount that another one covers: no path leads to it.
pub(super) fn refuse_covered(below: &[Below]) -> io::Result<()> {
    match below.iter().find(|one| one.is_covered && one.forbids != one.now) {
        None => Ok(()),
        Some(one) => Err(io::Error::other(format!(
            "another mount covers the one on {}: umount that first, or unmount all and mount again",
            one.path.display()
        ))),
    }
}

/// What the options of a line of the mount table forbid.
pub(super) fn restrictions_of(options: &[u8]) -> MountAttrFlags {
    attr_masks(&only_restrictions(options)).0
}

fn only_restrictions(options: &[u8]) -> MountFlags {
    let found = Restrictions::of_options(options);
    MountFlags {
        read_only: Some(found.read_only),
        nosuid: Some(found.nosuid),
        nodev: Some(found.nodev),
        noexec: Some(found.noexec),
        nosymfollow: Some(found.nosymfollow),
        ..MountFlags::default()
    }
}

/// Whether the options of a line of the mount table have a word.
pub(super) fn has_option(options: &[u8], word: &str) -> bool {
    options.split(|byte| *byte == b',').any(|one| one == word.as_bytes())
}

/// The options of a line of the mount table, none left open (proc_pid_mountinfo(5)).
pub(super) fn flags_of(options: &[u8]) -> MountFlags {
    let has = |word: &str| has_option(options, word);
    let atime = match (has("noatime"), has("relatime")) {
        (true, _) => Atime::Never,
        (false, true) => Atime::Relative,
        // The table has no word for it.
        (false, false) => Atime::Strict,
    };
    MountFlags {
        atime: Some(atime),
        nodiratime: Some(has("nodiratime")),
        ..only_restrictions(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brought_mount_survives_printing_and_parsing() {
        let forbids = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        for text in ["5 6 0 7", "8 - 0 9"] {
            let identity = MountIdentity::from_text(text).unwrap();
            let one = Brought { identity, forbids };
            assert_eq!(Brought::from_text(&one.to_text()), Some(one));
            let older = Brought { identity, forbids: MountAttrFlags::empty() };
            assert_eq!(Brought::from_text(text), Some(older));
        }
        for broken in ["", "1 2 3", "1 2 0 3 x", "1 2 0 3 4 5"] {
            assert_eq!(Brought::from_text(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_directory_whose_name_begins_as_the_sources_is_not_below_it() {
        let table = ["/srv/data", "/srv/data/x", "/srv/data2", "/srv"].map(|path| {
            MountInfo::parse(format!("36 35 0:98 {path} {path} ro - ext4 /dev/x rw").as_bytes())
                .unwrap()
        });
        let found = below_source(table.to_vec(), Path::new("/srv/data"));
        let mut roots: Vec<&[u8]> = found.keys().map(|(_, root)| &root[..]).collect();
        roots.sort();
        assert_eq!(roots, [&b"/srv/data"[..], b"/srv/data/x"]);
    }

    #[test]
    fn the_options_of_the_mount_table_are_read_whole() {
        let flags = flags_of(b"ro,nosuid,nodiratime,relatime,idmapped");
        assert_eq!(
            (flags.read_only, flags.nosuid, flags.nodev),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!((flags.atime, flags.nodiratime), (Some(Atime::Relative), Some(true)));
        assert_eq!(flags_of(b"rw").atime, Some(Atime::Strict));
        let forbids = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
        assert_eq!(restrictions_of(b"ro,nosuid,relatime"), forbids);
    }
}
