//! The mounts of this program in this mount namespace, for `shiftbind list`, and the one at a path.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::brought::Brought;
use super::place::Place;
use super::record::{self, RecordOfMount};
use super::table::{self, MountIdentity};
use crate::error::{Error, Result};
use crate::sys::descriptors::DescriptorPath;
use crate::sys::mountinfo::{self, MountInfo};

/// What made a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MadeBy {
    /// A FUSE daemon, of this program or of another.
    Fuse {
        /// The user who mounted (`user_id`).
        mounter: Option<u32>,
    },
    /// The kernel's engine of this program.
    Kernel {
        /// The source as recorded.
        source: OsString,
        /// What is recorded of the options and the map, in JSON.
        description: Vec<u8>,
        /// When it was recorded.
        since: Option<SystemTime>,
    },
}

/// A mount that this program may have made.
#[derive(Debug, Clone)]
pub struct FoundMount {
    pub(super) identity: MountIdentity,
    /// The mounts below that the kernel's engine has brought.
    pub(super) brought: Vec<Brought>,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The type in the mount table.
    pub fs_type: String,
    /// The source column of the mount table.
    pub source: OsString,
    /// The options of the mount, of mount(8).
    pub options: Vec<String>,
    /// What made it.
    pub made_by: MadeBy,
}

impl FoundMount {
    /// The device number of the filesystem: several mounts of one daemon have the same.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.identity.device()
    }

    /// Whether both are the same mount, at two moments.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.identity.is_same_as(&other.identity)
    }

    /// Opens the root for an ioctl.
    ///
    /// # Errors
    /// ENOTCONN if the daemon died, EACCES for a user that it does not serve, EBUSY if another mount covers this one.
    pub fn open_root(&self) -> std::result::Result<OwnedFd, Errno> {
        // The topmost mount is looked at before anything of it is opened: it may be that of another server, which does
        // not answer.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(CWD, &self.mountpoint, flags, Mode::empty())?;
        let found = MountIdentity::of_descriptor(&place).map_err(errno)?;
        if !found.has_number_of(&self.identity) {
            return Err(Errno::BUSY);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat(CWD, DescriptorPath::of(&place).absolute(), flags, Mode::empty())
    }
}

fn errno(e: io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

/// The mounts that this program may have made, in the order of the mount table. A user other than root gets those that
/// this user made.
///
/// # Errors
/// /proc is not mounted, or the records cannot be read.
pub fn inventory() -> Result<Vec<FoundMount>> {
    record::clean();
    let table = mountinfo::read().map_err(|e| Error::system("/proc must be mounted", e))?;
    let records =
        record::all().map_err(|e| Error::system("the records of mounts cannot be read", e))?;
    let own = geteuid().as_raw();
    let visible = |mount: &FoundMount| match &mount.made_by {
        MadeBy::Fuse { mounter } => own == 0 || *mounter == Some(own),
        MadeBy::Kernel { .. } => true,
    };
    Ok(table.iter().filter_map(|line| found(line, &records)).filter(visible).collect())
}

fn found(line: &MountInfo, records: &[RecordOfMount]) -> Option<FoundMount> {
    let identity = MountIdentity::of_line(line);
    // A mount of the kernel's engine has the type of its source, which may be FUSE.
    let record = records
        .iter()
        .find(|one| one.identity.id() == line.id)
        .filter(|one| one.identity.is_same_as(&MountIdentity::of_table(line)));
    let (made_by, brought) = match record {
        Some(found) => {
            let made_by = MadeBy::Kernel {
                source: found.record.source.clone(),
                description: found.record.description.clone(),
                since: found.since,
            };
            (made_by, found.record.brought.clone())
        }
        None if table::is_fuse(line) => {
            (MadeBy::Fuse { mounter: table::mounter(line) }, Vec::new())
        }
        None => return None,
    };
    Some(FoundMount {
        identity,
        brought,
        mountpoint: OsStr::from_bytes(&line.mountpoint).into(),
        fs_type: String::from_utf8_lossy(&line.fs_type).into_owned(),
        source: OsStr::from_bytes(&line.source).to_owned(),
        options: String::from_utf8_lossy(&line.options).split(',').map(str::to_owned).collect(),
        made_by,
    })
}

/// The topmost mount at a path, if this program may have made it. Its identity is that of the path itself: the mount table
/// is in the order of mount ids, and says not what lies on top.
///
/// # Errors
/// The path does not exist, or no such mount is there.
pub fn mount_at(path: &Path) -> Result<FoundMount> {
    let failed = |e| Error::mount(path.display().to_string(), e);
    // Components leave out a slash at the end, for which the kernel would ask the server.
    let plain: PathBuf = path.components().collect();
    let real = std::fs::canonicalize(plain).map_err(failed)?;
    let top = Place::open(&real).and_then(|place| place.topmost()).map_err(failed)?;
    let is_top = |mount: &FoundMount| mount.identity.id() == top.id() && mount.mountpoint == real;
    let mount = inventory()?.into_iter().find(is_top).ok_or_else(|| not_ours(path))?;
    Ok(FoundMount { identity: top, ..mount })
}

/// The error where no mount of this program is at a path.
#[must_use]
pub fn not_ours(path: &Path) -> Error {
    let whose = if geteuid().is_root() { "" } else { " that this user made" };
    Error::refused(format!("{}: no mount of shiftbind{whose} is there", path.display()))
}
