//! Opens what an option names, after the kernel has told what it is: open(2) of a FIFO waits for a writer, and that of a
//! device may act on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, fstatfs, open};

use super::Result;
use crate::error::strerror;

/// The type of the filesystem that namespaces are files of (`NSFS_MAGIC` of linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Opens a regular file.
pub(super) fn regular_file(path: &Path) -> Result<File> {
    let named = opened_as_path(path)?;
    let stat = fstat(&named).map_err(|e| why(&e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => to_read(&named),
        _ => Err("this is no regular file".to_owned()),
    }
}

/// Opens a file of a namespace, of whatever kind. `None`: the path names something else.
pub(super) fn namespace(path: &Path) -> Result<Option<File>> {
    let named = opened_as_path(path)?;
    let stat = fstatfs(&named).map_err(|e| why(&e.into()))?;
    match u64::try_from(stat.f_type) == Ok(NSFS_MAGIC) {
        true => to_read(&named).map(Some),
        false => Ok(None),
    }
}

/// An error of the system, in words.
pub(super) fn why(e: &io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), strerror)
}

/// A descriptor that names the file and opens nothing (O_PATH).
fn opened_as_path(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| why(&e.into()))
}

/// Opens what a descriptor of O_PATH names.
fn to_read(named: &OwnedFd) -> Result<File> {
    let path = format!("/proc/self/fd/{}", named.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map(File::from).map_err(|e| why(&e.into()))
}
