//! Reads files that options name: of options (`config`), of accounts (`map-passwd` and its kin), and fstab(5) at a reload.
//!
//! The daemon reads them again at a reload, and no file may make it wait for ever, act on a device, or fill its memory. So
//! the kernel tells first what the path names (O_PATH), and the same file is opened then. A pipe without a name is read, since
//! only the calling process can have given it (`/dev/fd/N`, `<(command)`). At a reload such a path names a file of another
//! process, or one of the daemon's own (standard input is /dev/null there, an empty file), so the kernel is told to follow no
//! link of /proc to an open file (RESOLVE_NO_MAGICLINKS, openat2(2)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, major, minor, open, openat2,
};
use rustix::io::Errno;

use crate::sys::descriptors::DescriptorPath;

/// The longest file that is read, in bytes. Chosen: 100,000 extents, or accounts, take less than a tenth.
const MAX_LEN: u64 = 64 << 20;

/// PIPEFS_MAGIC of linux/magic.h: the type of the filesystem that pipe(2) makes pipes in.
const PIPEFS_MAGIC: i64 = 0x5049_5045;

/// A file that an option names.
#[derive(Debug, Clone, Copy)]
pub(super) struct InputFile<'a> {
    /// The path.
    pub(super) path: &'a Path,
    /// Whether a mount is being reloaded.
    pub(super) is_reload: bool,
}

impl InputFile<'_> {
    /// Reads the file whole.
    ///
    /// # Errors
    /// The errors of open(2) and read(2); for a FIFO, a device other than /dev/null, a socket, a file of more than 64 MiB, and
    /// at a reload an open file of a process, a text that says so.
    pub(super) fn read(self) -> io::Result<Vec<u8>> {
        let path = self.path;
        match self.is_reload {
            true => read(named_again(path)?),
            false => read(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?),
        }
    }
}

/// Opens a path (O_PATH) that must not lead through an open file of a process.
fn named_again(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // The kernel has the same errno for a loop of symbolic links.
        Err(Errno::LOOP) if open(path, flags, Mode::empty()).is_ok() => Err(io::Error::other(
            "this is a file that a process had open, which cannot be read again; give a regular file by its own path",
        )),
        named => Ok(named?),
    }
}

fn read(named: OwnedFd) -> io::Result<Vec<u8>> {
    let stat = fstat(&named)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let nonblocking = match kind {
        FileType::RegularFile => OFlags::NONBLOCK,
        FileType::CharacterDevice if is_null(&stat) => OFlags::NONBLOCK,
        FileType::Directory => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
        FileType::Fifo if fstatfs(&named)?.f_type == PIPEFS_MAGIC => OFlags::empty(),
        FileType::Fifo => {
            return Err(io::Error::other("this is a FIFO; give a regular file, or <(command)"));
        }
        _ => return Err(io::Error::other("this is no regular file")),
    };
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC | nonblocking;
    let file = File::from(open(DescriptorPath::of(&named).absolute(), flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_LEN >> 20)));
    }
    Ok(bytes)
}

/// Whether a device is /dev/null, which scripts give as an empty file.
fn is_null(stat: &Stat) -> bool {
    (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};
    use std::os::fd::AsRawFd;
    use std::thread;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    fn read(path: &Path) -> io::Result<Vec<u8>> {
        InputFile { path, is_reload: false }.read()
    }

    fn why(path: &Path) -> String {
        read(path).unwrap_err().to_string()
    }

    #[test]
    fn a_reload_reads_no_open_file_of_a_process() {
        let again = |path: &str| InputFile { path: Path::new(path), is_reload: true }.read();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        for fd in [reader.as_raw_fd(), null.as_raw_fd()] {
            for path in [format!("/dev/fd/{fd}"), format!("/proc/{}/fd/{fd}", std::process::id())] {
                let error = again(&path).unwrap_err().to_string();
                assert!(error.contains("cannot be read again"), "{path}: {error}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("file"), "ro").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        assert_eq!(again(&path("link")).unwrap(), b"ro");
        assert_eq!(again("/dev/null").unwrap(), b"");
        assert_eq!(again(&path("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn regular_files_and_the_null_device_are_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"ro\n").unwrap();
        assert_eq!(read(file.path()).unwrap(), b"ro\n");
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        assert_eq!(read(Path::new("/no/such")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_fifo_and_a_device_are_refused_and_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(why(&fifo).starts_with("this is a FIFO; "));
        assert_eq!(why(Path::new("/dev/zero")), "this is no regular file");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_whether_or_not_its_writer_has_closed_it() {
        for closes_first in [true, false] {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let path = format!("/dev/fd/{}", reader.as_raw_fd());
            let write = move || File::from(writer).write_all(b"noexec\n").unwrap();
            let writing = thread::spawn(move || {
                if !closes_first {
                    thread::sleep(std::time::Duration::from_millis(50));
                }
                write();
            });
            let writing =
                if closes_first { writing.join().map(|()| None).unwrap() } else { Some(writing) };
            assert_eq!(read(Path::new(&path)).unwrap(), b"noexec\n");
            writing.into_iter().for_each(|writing| writing.join().unwrap());
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.seek(SeekFrom::Start(MAX_LEN)).unwrap();
        file.write_all(b"x").unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(why(Path::new(&path)), "larger than 64 MiB");
    }
}
