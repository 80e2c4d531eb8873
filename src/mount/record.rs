//! Which mounts of the kernel's engine are ours: a file for each in /run/shiftbind, which only root may read.
//!
//! Nothing in the mount table tells such a mount from a bind mount by mount(8), and no daemon knows of it.
//!
//! A record is named by the mount namespace and the mount. Each call that makes, lists or unmounts one removes those of mounts that
//! are proven to be gone, in any mount namespace: by ids that the kernel never uses again (statmount(2)), or, without these, where the
//! mount table has all mounts of this namespace. Any other record stays until the next boot.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Access, FlockOperation};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::brought::{Below, Brought};
use super::full_path;
use super::origin::Origin;
use super::table::MountIdentity;
use crate::config::Config;
use crate::describe::describe;
use crate::sys;
use crate::sys::mountinfo::{MountInfo, mounts_below};
use crate::sys::user_namespace::is_initial;

const DIRECTORY: &str = "/run/shiftbind";

/// How long a call waits for another that replaces a mount: as long as for a daemon's reload.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The source's path, absolute.
    pub(super) source: OsString,
    /// Where it was mounted.
    mountpoint: PathBuf,
    /// What `list` tells of its options and map, as JSON. Empty in the record of an older version.
    pub(super) description: Vec<u8>,
    /// The mounts below that were brought from below the source. None in the record of an older version.
    pub(super) brought: Vec<Brought>,
    /// What it was made with. `None` in the record of an older version.
    pub(super) origin: Option<Origin>,
}

/// A record, and the mount that it is of.
#[derive(Debug)]
pub(super) struct RecordOfMount {
    pub(super) identity: MountIdentity,
    pub(super) record: Record,
    /// When it was written.
    pub(super) since: Option<SystemTime>,
}

/// The records of this mount namespace, those of mounts that are gone included. None where this process may not read them, or
/// users other than root may write them.
pub(super) fn all() -> io::Result<Vec<RecordOfMount>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    if check_is_roots(Path::new(DIRECTORY)).is_err() {
        return Ok(Vec::new());
    }
    let own = Namespace::own();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let parts = parts_of(&entry.file_name()).filter(|(namespace, _)| *namespace == own);
        let Some((_, identity)) = parts else { continue };
        if let Some(record) = Record::read(identity)? {
            let since = entry.metadata().and_then(|meta| meta.modified()).ok();
            found.push(RecordOfMount { identity, record, since });
        }
    }
    Ok(found)
}

impl Record {
    /// The record of a mount that was made with this configuration and has brought these mounts from below the source.
    pub(super) fn of(
        config: &Config,
        mountpoint: &Path,
        brought: Vec<Brought>,
        origin: Origin,
    ) -> Self {
        let source = full_path(&config.source);
        let described = describe(&Config { source: source.clone().into(), ..config.clone() });
        let description = described.to_string().into_bytes();
        let mountpoint = mountpoint.to_owned();
        Self { source, mountpoint, description, brought, origin: Some(origin) }
    }

    /// The mounts below that were brought along and are still there, each forbidding what it must and `forbids`.
    pub(super) fn below(
        &self,
        mount: MountIdentity,
        point: &Path,
        forbids: MountAttrFlags,
    ) -> io::Result<Vec<Below>> {
        let lines = mounts_below(mount.id(), point.as_os_str().as_bytes())?;
        let below = |line: &MountInfo| {
            let found = MountIdentity::of_table(line);
            let brought = self.brought.iter().find(|one| one.identity.is_same_as(&found))?;
            Below::of(line, point, brought.forbids | forbids)
        };
        Ok(lines.iter().filter_map(below).collect())
    }

    /// Removes the record of a mount, if there is one.
    pub(super) fn remove(identity: MountIdentity) -> io::Result<()> {
        match fs::remove_file(file_of(identity)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Writes the record of a mount, and removes those of mounts that are gone.
    pub(super) fn write(&self, identity: MountIdentity) -> io::Result<()> {
        make_private_directory(Path::new(DIRECTORY))?;
        let file = file_of(identity);
        // No name of a record begins so: a reader never finds half of one.
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let new = file.with_file_name(format!(".new.{name}"));
        fs::write(&new, self.to_bytes())?;
        fs::rename(&new, &file)?;
        clean();
        Ok(())
    }

    /// The record of a mount. `None`: it is not ours, this process may not read the records, or users other than root may
    /// write them.
    pub(super) fn read(identity: MountIdentity) -> io::Result<Option<Self>> {
        if check_is_roots(Path::new(DIRECTORY)).is_err() {
            return Ok(None);
        }
        match fs::read(file_of(identity)) {
            Ok(bytes) => Ok(Self::from_bytes(&bytes)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// NUL ends a field: it is in none.
    fn to_bytes(&self) -> Vec<u8> {
        let brought: Vec<String> = self.brought.iter().map(|one| one.to_text()).collect();
        let brought = brought.join("\n");
        let origin = self.origin.as_ref().map_or_else(String::new, |it| it.to_json().to_string());
        let fields = [
            self.source.as_bytes(),
            self.mountpoint.as_os_str().as_bytes(),
            &self.description,
            brought.as_bytes(),
            origin.as_bytes(),
        ];
        fields.map(|field| [field, b"\0"].concat()).concat()
    }

    /// An older version wrote fewer fields.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0).collect();
        let [source, mountpoint, rest @ ..] = fields.as_slice() else { return None };
        let path = |field: &[u8]| OsString::from_vec(field.to_vec());
        let (brought, origin) = match rest {
            [] | [_] => (Vec::new(), None),
            [_, brought] => (brought_of(brought)?, None),
            [_, brought, []] => (brought_of(brought)?, None),
            [_, brought, origin] => {
                let told = serde_json::from_slice(origin).ok()?;
                (brought_of(brought)?, Some(Origin::from_json(&told)?))
            }
            _ => return None,
        };
        Some(Self {
            source: path(source),
            mountpoint: path(mountpoint).into(),
            description: rest.first().map_or(Vec::new(), |field| field.to_vec()),
            brought,
            origin,
        })
    }
}

fn brought_of(field: &[u8]) -> Option<Vec<Brought>> {
    std::str::from_utf8(field).ok()?.lines().map(Brought::from_text).collect()
}

/// Locks the records against other calls that replace a mount, until the file is dropped.
///
/// # Errors
/// Another call has held the lock for too long: it reads an options file that blocks.
pub(super) fn lock() -> io::Result<fs::File> {
    make_private_directory(Path::new(DIRECTORY))?;
    let mut options = OpenOptions::new();
    let at = Path::new(DIRECTORY).join(".lock");
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(at)?;
    let end = Instant::now() + LOCK_TIMEOUT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => sleep(Duration::from_millis(5)),
            Err(Errno::WOULDBLOCK) => {
                let text = format!(
                    "another reload has not ended within {} seconds",
                    LOCK_TIMEOUT.as_secs()
                );
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Makes the directory. An error where one is there that users other than root may use.
pub(super) fn make_private_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        result => return result,
    }
    check_is_roots(path).map_err(|e| named(path, &e))
}

fn named(at: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", at.display()))
}

/// Checks that a record could be written, and writes nothing.
///
/// # Errors
/// Users other than root may use the directory, or this process may not write there: in a user namespace of a normal user
/// /run belongs to another one.
pub(super) fn check_directory() -> io::Result<()> {
    let at = match check_is_roots(Path::new(DIRECTORY)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Path::new("/run"),
        Err(e) => return Err(named(Path::new(DIRECTORY), &e)),
        Ok(()) => Path::new(DIRECTORY),
    };
    rustix::fs::access(at, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| named(at, &e.into()))
}

/// Whether the records, and one directory of them, are root's alone: what other users could write is not believed.
pub(super) fn are_roots(path: &Path) -> bool {
    [Path::new(DIRECTORY), path].iter().all(|path| check_is_roots(path).is_ok())
}

fn check_is_roots(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    match meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o077 == 0 {
        true => Ok(()),
        false => Err(io::Error::other("it is not a directory of root's alone")),
    }
}

fn file_of(identity: MountIdentity) -> PathBuf {
    let name = format!("{}.{}", Namespace::own().to_text(), identity.to_text().replace(' ', "."));
    Path::new(DIRECTORY).join(name)
}

/// A mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Namespace {
    /// The inode number in /proc/PID/ns; 0 where /proc does not tell. The kernel uses it again.
    inode: u64,
    /// The id that is never used again, where the kernel tells (Linux 6.11).
    id: Option<u64>,
}

impl Namespace {
    /// That of this process.
    fn own() -> Self {
        let file = fs::File::open("/proc/self/ns/mnt");
        let inode = file.as_ref().ok().and_then(|file| file.metadata().ok());
        let id = file.ok().and_then(|file| sys::mount::namespace_id(file).ok());
        Self { inode: inode.map_or(0, |meta| meta.ino()), id }
    }

    /// Formats it as two numbers. The second is `-` if the kernel has no such id.
    fn to_text(self) -> String {
        let id = self.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("{}.{id}", self.inode)
    }

    /// Parses [`Self::to_text`].
    fn from_text(inode: &str, id: &str) -> Option<Self> {
        let id = if id == "-" { None } else { Some(id.parse().ok()?) };
        Some(Self { inode: inode.parse().ok()?, id })
    }
}

/// Removes the records of mounts that are gone.
pub(super) fn clean() {
    match remove_stale() {
        // Another process may be removing the same records, and users other than root may not.
        Err(e) if e.kind() != ErrorKind::NotFound && e.kind() != ErrorKind::PermissionDenied => {
            log::debug!("stale records in {DIRECTORY} stay: {e}");
        }
        _ => {}
    }
}

fn remove_stale() -> io::Result<()> {
    let own = Namespace::own();
    for entry in fs::read_dir(DIRECTORY)? {
        let entry = entry?;
        let parts = parts_of(&entry.file_name());
        if let Some((namespace, identity)) = parts
            && is_gone(own, namespace, identity)
            && let Err(e) = fs::remove_file(entry.path())
            && e.kind() != ErrorKind::NotFound
        {
            return Err(e);
        }
    }
    Ok(())
}

/// Whether a mount is proven to be gone.
fn is_gone(own: Namespace, namespace: Namespace, identity: MountIdentity) -> bool {
    let by_id = |unique| match namespace.id {
        // A process with fewer rights is told that mounts of other namespaces do not exist.
        Some(id) => {
            is_initial() && sys::mount::exists(Some(id), unique).is_ok_and(|exists| !exists)
        }
        // Two namespaces that have had one number: the mounts of the earlier one are gone with it.
        None => {
            namespace.inode == own.inode
                && sys::mount::exists(None, unique).is_ok_and(|exists| !exists)
        }
    };
    match identity.unique() {
        Some(unique) => by_id(unique),
        // The mount table has only the mounts below the process's root directory.
        None => {
            namespace == own
                && sees_all_mounts()
                && identity.mountpoint().is_ok_and(|at| at.is_none())
        }
    }
}

/// Whether this process has the mount namespace and the root directory of process 1, and so is in no chroot.
fn sees_all_mounts() -> bool {
    let same = |name: &str| {
        let [own, first] = ["self", "1"].map(|pid| fs::metadata(format!("/proc/{pid}/{name}")));
        matches!((own, first), (Ok(own), Ok(first)) if (own.dev(), own.ino()) == (first.dev(), first.ino()))
    };
    same("ns/mnt") && same("root/")
}

/// The namespace and the mount that a record is named by.
fn parts_of(file: &OsStr) -> Option<(Namespace, MountIdentity)> {
    let mut words = file.to_str()?.splitn(3, '.');
    let namespace = Namespace::from_text(words.next()?, words.next()?)?;
    Some((namespace, MountIdentity::from_text(&words.next()?.replace('.', " "))?))
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
            brought: ["5 6 0 7 1", "8 - 0 9 0"]
                .map(|text| Brought::from_text(text).unwrap())
                .to_vec(),
            origin: Some(Origin {
                argv: vec!["shiftbind".into()],
                directory: None,
                typed: "s\n".into(),
                source: "/s\n".into(),
                has_file: false,
                flags: Vec::new(),
                found: crate::config::Found::default(),
                forbids: None,
            }),
        };
        let older = Record { brought: Vec::new(), origin: None, ..record.clone() };
        assert_eq!(Record::from_bytes("/s\n\0/mnt/ü\0{}\0".as_bytes()), Some(older));
        let older =
            Record { description: Vec::new(), brought: Vec::new(), origin: None, ..record.clone() };
        assert_eq!(Record::from_bytes("/s\n\0/mnt/ü\0".as_bytes()), Some(older));
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
        for broken in [
            &b""[..],
            b"/s",
            b"/s\0",
            b"/s\0/m",
            b"/s\0/m\0x",
            b"/s\0/m\0{}\0x\0",
            b"/s\0/m\0{}\0\0{}\0",
        ] {
            assert_eq!(Record::from_bytes(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_mount_is_gone_when_the_kernel_says_so_for_its_namespace() {
        let own = Namespace::own();
        let root = MountIdentity::of_path(Path::new("/")).unwrap();
        assert!(!is_gone(own, own, root));
        let named = format!("{}.{}", own.to_text(), root.to_text().replace(' ', "."));
        assert_eq!(parts_of(OsStr::new(&named)), Some((own, root)));
        if root.unique().is_none() || !is_initial() {
            return;
        }
        // No mount has so large a number.
        let text = format!("1 {} 0 1", u64::MAX >> 1);
        let never = MountIdentity::from_text(&text).unwrap();
        assert!(is_gone(own, own, never));
        let ended = Namespace { id: own.id.map(|_| u64::MAX >> 1), inode: own.inode + 1 };
        assert_eq!(is_gone(own, ended, root), own.id.is_some(), "its namespace has ended");
        let unknown = Namespace { id: None, inode: own.inode + 1 };
        assert!(!is_gone(own, unknown, never), "nothing is proven of another namespace");
    }
}
