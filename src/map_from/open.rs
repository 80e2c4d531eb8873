//! Opens what an option names, after the kernel has told what it is: open(2) of a FIFO waits for a writer, and that of a
//! device may act on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::Result;
use crate::error::strerror;

/// Opens a regular file.
pub(super) fn regular_file(path: &Path) -> Result<File> {
    let named = opened_as_path(path)?;
    let stat = fstat(&named).map_err(|e| why(&e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => to_read(&named),
        _ => Err("this is no regular file".to_owned()),
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
