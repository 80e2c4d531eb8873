//! Paths of open directories, whatever their length.
//!
//! The kernel returns a path of up to 4,095 bytes (`d_path` fills one buffer of PATH_MAX). The path of a deeper directory
//! is that of an ancestor whose path is short enough, and the names of the directories in between.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, RawDirEntry, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::descriptor::{NOFOLLOW_DONT_SYNC, proc_path, stat_dont_sync};

/// Maximum number of entries that are read for one path, so that a client that fills directories keeps a worker busy for
/// a few milliseconds at most (chosen; 1 µs for each entry was measured). Beyond it the path is unknown, so that the name
/// is hidden.
const MAX_ENTRIES: usize = 1 << 11;
/// Maximum number of entries among which one name is searched. Beyond it the name is hidden. Chosen: 20 ms.
const MAX_LISTED: usize = 1 << 16;
/// Bytes of directory entries that are read at a time.
const BUFFER: usize = 32 << 10;
/// The longest path in bytes that is opened at a time (PATH_MAX without the NUL).
const MAX_PART: usize = 4095;
/// Opens a directory on the way, without opening it for reading.
pub(super) const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory by its path below another, whatever the length of the path. No symbolic link is followed.
pub(super) fn walk(top: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let open = |from: &OwnedFd, path: &[u8]| {
        rustix::fs::openat2(from, path, STEP | OFlags::NOFOLLOW, Mode::empty(), resolve)
    };
    let (mut at, mut rest) = (open(top, b".")?, path);
    while !rest.is_empty() {
        let part = match rest.len() <= MAX_PART {
            true => rest.len(),
            false => rest[..MAX_PART].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NOENT)?,
        };
        at = open(&at, &rest[..part])?;
        rest = rest[part..].strip_prefix(b"/").unwrap_or_default();
    }
    Ok(at)
}

/// Returns the path of a descriptor, as seen from its mount namespace.
///
/// ENAMETOOLONG if a long path is that of a file, or needs more than `MAX_ENTRIES` entries to be read. ENOENT if a
/// directory on it is renamed at the same time.
pub(super) fn fd_path(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    match short_path(fd) {
        Err(Errno::NAMETOOLONG) if stat_dont_sync(fd)?.1.is_dir() => long_path(fd),
        path => path,
    }
}

/// Returns a path of less than 4,096 bytes. ENAMETOOLONG for a longer one.
fn short_path(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let path = proc_path(fd);
    let (dir, name) = path.relative();
    let path = rustix::fs::readlinkat(dir, name, Vec::with_capacity(256))?;
    Ok(path.into_bytes())
}

/// Returns the path of a directory whose path is too long for the kernel.
fn long_path(dir: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut names = Vec::new();
    let mut left = MAX_ENTRIES;
    let mut at = None;
    let mut path = loop {
        let child = at.as_ref().unwrap_or(dir);
        let parent = rustix::fs::openat(child, c"..", STEP, Mode::empty())?;
        names.push(name_in(&parent, &stat_dont_sync(child)?.0, &mut left)?);
        match short_path(&parent) {
            Err(Errno::NAMETOOLONG) => at = Some(parent),
            path => break path?,
        }
    };
    for name in names.iter().rev() {
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
    }
    Ok(path)
}

/// Returns the name of a directory in its parent. `left`: how many more entries may be read.
fn name_in(parent: &OwnedFd, child: &Statx, left: &mut usize) -> Result<CString, Errno> {
    // The root of a mount has another inode number than the entry that it covers, and so have directories of some
    // overlayfs mounts.
    match find_entry(parent, child, left, |ino| ino == child.stx_ino)? {
        Some(name) => Ok(name),
        None => find_entry(parent, child, left, |_| true)?.ok_or(Errno::NOENT),
    }
}

/// Returns whether a directory has an entry of exactly this name.
pub(super) fn has_entry(dir: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    any_entry(dir, |entry| entry.file_name() == name)
}

/// Returns whether `is_right` for an entry of a directory.
pub(super) fn any_entry(
    dir: &OwnedFd,
    is_right: impl Fn(&RawDirEntry<'_>) -> bool,
) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
    let mut left = MAX_LISTED;
    while let Some(entry) = entries.next() {
        left = left.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        if is_right(&entry?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the entry that is the directory `child`, of those whose inode number `may_be` it.
fn find_entry(
    parent: &OwnedFd,
    child: &Statx,
    left: &mut usize,
    may_be: impl Fn(u64) -> bool,
) -> Result<Option<CString>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, c".", flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        *left = left.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        let is_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        let name = entry.file_name();
        if !is_dir || matches!(name.to_bytes(), b"." | b"..") || !may_be(entry.ino()) {
            continue;
        }
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(&dir, name, NOFOLLOW_DONT_SYNC, mask);
        if found.is_ok_and(|found| key(&found) == key(child)) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Returns what is left of a path below a directory; empty if they are the same.
pub(super) fn strip_dir<'a>(upper: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let upper = upper.strip_suffix(b"/").unwrap_or(upper);
    match path.strip_prefix(upper)? {
        [] => Some(&[]),
        [b'/', remaining @ ..] => Some(remaining),
        _ => None,
    }
}

/// What identifies an inode in a mount.
pub(super) fn key(stat: &Statx) -> (u64, u32, u32, u64) {
    (stat.stx_mnt_id, stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_another_by_whole_components() {
        assert_eq!(strip_dir(b"/a", b"/a/b/c"), Some(&b"b/c"[..]));
        assert_eq!(strip_dir(b"/a", b"/a"), Some(&b""[..]));
        assert_eq!(strip_dir(b"/", b"/a"), Some(&b"a"[..]));
        assert_eq!(strip_dir(b"/", b"/"), Some(&b""[..]));
        assert_eq!(strip_dir(b"/a", b"/ab"), None);
        assert_eq!(strip_dir(b"/a/b", b"/a"), None);
    }

    #[test]
    fn a_directory_has_a_path_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        let open = |dir: &OwnedFd, name: &str| rustix::fs::openat(dir, name, STEP, Mode::empty());
        let top = rustix::fs::open(folder.path(), STEP, Mode::empty()).unwrap();
        let mut expected = short_path(&top).unwrap();
        let mut at = top;
        for depth in 0..40 {
            let name = format!("{depth:0>200}");
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "beside it", Mode::RWXU).unwrap();
            at = open(&at, &name).unwrap();
            expected.push(b'/');
            expected.extend_from_slice(name.as_bytes());
            assert!(fd_path(&at).unwrap() == expected, "{depth} directories below");
        }
        let root = rustix::fs::open("/", STEP, Mode::empty()).unwrap();
        let found = walk(&root, &expected[1..]).unwrap();
        assert_eq!(key(&stat_dont_sync(found).unwrap().0), key(&stat_dont_sync(&at).unwrap().0));
        assert_eq!(short_path(&at), Err(Errno::NAMETOOLONG), "else this tests nothing");
    }

    #[test]
    fn a_path_that_takes_too_long_to_find_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let top = rustix::fs::open(folder.path(), STEP, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&top, "d", Mode::RWXU).unwrap();
        let child =
            stat_dont_sync(rustix::fs::openat(&top, "d", STEP, Mode::empty()).unwrap()).unwrap().0;
        assert_eq!(name_in(&top, &child, &mut 0), Err(Errno::NAMETOOLONG));
        assert_eq!(name_in(&top, &child, &mut 3).unwrap().as_c_str(), c"d");
    }
}
