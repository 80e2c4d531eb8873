//! Which mounts of the kernel's engine are ours: a file for each in /run/shiftbind, which only root may read.
//!
//! Nothing in the mount table tells such a mount from a bind mount by mount(8), and no daemon knows of it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::full_path;
use super::point::MountPoint;
use super::table::MountIdentity;
use crate::config::Config;
use crate::describe::describe;

const DIRECTORY: &str = "/run/shiftbind";

/// What is known of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The source's path, absolute.
    pub(super) source: OsString,
    /// Where it was mounted.
    mountpoint: PathBuf,
    /// What `list` tells of its options and map, as JSON. Empty in the record of an older version.
    pub(super) description: Vec<u8>,
}

/// A record, and the mount that it is of.
#[derive(Debug)]
pub(super) struct RecordOfMount {
    pub(super) identity: MountIdentity,
    pub(super) record: Record,
    /// When it was written.
    pub(super) since: Option<SystemTime>,
}

/// The records of this mount namespace, those of mounts that are gone included. None where this process may not read them.
pub(super) fn all() -> io::Result<Vec<RecordOfMount>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let prefix = format!("{}.", namespace());
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(identity) = identity_of(&entry.file_name(), &prefix) else { continue };
        if let Some(record) = Record::read(identity)? {
            let since = entry.metadata().and_then(|meta| meta.modified()).ok();
            found.push(RecordOfMount { identity, record, since });
        }
    }
    Ok(found)
}

impl Record {
    pub(super) fn of(config: &Config, point: &MountPoint) -> Self {
        let source = full_path(&config.source);
        let described = describe(&Config { source: source.clone().into(), ..config.clone() });
        let description = described.to_string().into_bytes();
        Self { source, mountpoint: point.path().to_owned(), description }
    }

    /// Writes the record of a mount, and removes those of mounts that are gone.
    pub(super) fn write(&self, identity: MountIdentity) -> io::Result<()> {
        make_directory()?;
        fs::write(file_of(identity), self.to_bytes())?;
        // Another process may be removing the same records.
        remove_stale().unwrap_or_else(|e| log::debug!("stale records in {DIRECTORY} stay: {e}"));
        Ok(())
    }

    /// The record of a mount. `None`: it is not ours, or this process may not read the records.
    pub(super) fn read(identity: MountIdentity) -> io::Result<Option<Self>> {
        match fs::read(file_of(identity)) {
            Ok(bytes) => Ok(Self::from_bytes(&bytes)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// NUL ends a path: it is in none.
    fn to_bytes(&self) -> Vec<u8> {
        let fields =
            [self.source.as_bytes(), self.mountpoint.as_os_str().as_bytes(), &self.description];
        fields.map(|field| [field, b"\0"].concat()).concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.split(|byte| *byte == 0);
        let mut path = || fields.next().map(|field| OsString::from_vec(field.to_vec()));
        let (source, mountpoint) = (path()?, PathBuf::from(path()?));
        let (description, rest) = (fields.next()?.to_vec(), fields.next());
        let is_whole =
            rest.is_none_or(<[u8]>::is_empty) && (rest.is_some() || description.is_empty());
        is_whole.then_some(Self { source, mountpoint, description })
    }
}

/// Makes the directory. An error where one is there that users other than root may use.
fn make_directory() -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(DIRECTORY) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        result => return result,
    }
    let meta = fs::symlink_metadata(DIRECTORY)?;
    match meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o077 == 0 {
        true => Ok(()),
        false => Err(io::Error::other(format!("{DIRECTORY} is not a directory of root's alone"))),
    }
}

/// A mount namespace has its own mounts: only the records of this one's are looked at.
fn file_of(identity: MountIdentity) -> PathBuf {
    let name = format!("{}.{}", namespace(), identity.to_text().replace(' ', "."));
    Path::new(DIRECTORY).join(name)
}

/// The inode number of this process's mount namespace; 0 where /proc does not tell.
fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/mnt").map_or(0, |meta| meta.ino())
}

fn remove_stale() -> io::Result<()> {
    let prefix = format!("{}.", namespace());
    for entry in fs::read_dir(DIRECTORY)? {
        let entry = entry?;
        let identity = identity_of(&entry.file_name(), &prefix);
        if let Some(identity) = identity
            && identity.mountpoint()?.is_none()
            && let Err(e) = fs::remove_file(entry.path())
            && e.kind() != ErrorKind::NotFound
        {
            return Err(e);
        }
    }
    Ok(())
}

fn identity_of(file: &OsStr, prefix: &str) -> Option<MountIdentity> {
    MountIdentity::from_text(&file.to_str()?.strip_prefix(prefix)?.replace('.', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_writing_and_reading() {
        let record = Record {
            source: "/s\n".into(),
            mountpoint: "/mnt/ü".into(),
            description: b"{}".to_vec(),
        };
        let older = Record { description: Vec::new(), ..record.clone() };
        assert_eq!(Record::from_bytes("/s\n\0/mnt/ü\0".as_bytes()), Some(older));
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
        for broken in [&b""[..], b"/s", b"/s\0", b"/s\0/m", b"/s\0/m\0x"] {
            assert_eq!(Record::from_bytes(broken), None, "{broken:?}");
        }
    }
}
