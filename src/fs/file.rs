//! Open files: open, read, write, flush, release, fsync, fallocate, lseek, copy_file_range.
//!
//! While the kernel reads the source's file by itself (FUSE passthrough), an open file holds no more than an O_PATH
//! descriptor here; it is opened for real when the first request needs that, or at once for writing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FileType, OFlags, Statx, StatxAttributes};
use rustix::io::{Errno, ReadWriteFlags};

use super::aligned_buffer::AlignedBuffer;
use super::killpriv::{KillprivRights, SETGID, SETUID};
use super::{Caller, Fs, Result, lock};
use crate::source::{ActingAs, Inode, NodeId, reopen};
use crate::sys;

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// Keeps the inode reachable, whatever becomes of its names.
    anchor: Arc<OwnedFd>,
    /// The source's file, opened as the caller asked. It also holds the caller's flock(2).
    file: OnceLock<Arc<OwnedFd>>,
    /// The same for requests of the other sort: with O_DIRECT where `file` is without, and without it for what comes
    /// from the page cache where `file` is with it.
    other: OnceLock<Arc<OwnedFd>>,
    inode: Arc<Inode>,
    flags: OFlags,
    /// What it was like when a lock was granted through this open file; where that tells later changes.
    state_at_lock: Mutex<Option<lock::FileState>>,
}

/// A file that was just opened.
#[derive(Debug)]
pub struct OpenedFile {
    /// The number that later requests carry.
    pub handle: u64,
    /// The file.
    pub file: Arc<OpenFile>,
    /// Whether the kernel may write to it past us. Not to a file with setuid or setgid bits: whether they survive
    /// depends on who writes.
    pub may_pass_through: bool,
    /// Whether each close of a descriptor is to be told, and not only the last: it releases its process's locks.
    pub needs_flush: bool,
    /// Whether the kernel is no longer to believe attributes that it was told.
    pub stale_attributes: bool,
}

impl OpenFile {
    /// A descriptor of the source's file, O_PATH perhaps.
    #[must_use]
    pub fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    /// The inode.
    #[must_use]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// Whether it was opened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags.intersects(OFlags::WRONLY | OFlags::RDWR)
    }

    /// The source's file, opened for real now if it was not. EAGAIN when that would have to wait for somebody's lease
    /// (fcntl(2), F_SETLEASE).
    pub fn open(&self) -> Result<&OwnedFd> {
        self.open_with(OFlags::NOCTTY | OFlags::NONBLOCK)
    }

    /// See [`Fs::revalidation`].
    pub(super) fn state_at_lock(&self) -> MutexGuard<'_, Option<lock::FileState>> {
        self.state_at_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is opened for real.
    pub(super) fn is_open(&self) -> bool {
        self.file.get().is_some()
    }

    /// As [`Self::open`], for a thread that may wait.
    pub fn open_and_wait(&self) -> Result<&OwnedFd> {
        self.open_with(OFlags::NOCTTY)
    }

    fn open_with(&self, flags: OFlags) -> Result<&OwnedFd> {
        self.open_in(&self.file, self.flags | flags)
    }

    /// The source's file for a request with or without O_DIRECT.
    fn open_for(&self, direct: bool) -> Result<&OwnedFd> {
        if direct == self.flags.contains(OFlags::DIRECT) {
            return self.open();
        }
        self.open_in(&self.other, (self.flags ^ OFlags::DIRECT) | OFlags::NOCTTY | OFlags::NONBLOCK)
    }

    fn open_in<'a>(&self, place: &'a OnceLock<Arc<OwnedFd>>, flags: OFlags) -> Result<&'a OwnedFd> {
        if let Some(file) = place.get() {
            return Ok(file);
        }
        let opened = reopen(&self.anchor, flags)?;
        Ok(place.get_or_init(|| Arc::new(opened)))
    }
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// The open file's number.
    pub handle: u64,
    /// The place in the file.
    pub offset: u64,
    /// For a client who has O_DIRECT set.
    pub direct: bool,
    /// For the page cache, and for a client only by way of it.
    pub for_cache: bool,
}

/// Where and how a buffer is written.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// The open file's number.
    pub handle: u64,
    /// The place in the file.
    pub offset: u64,
    /// For a client who has O_DIRECT set.
    pub direct: bool,
    /// At the end of the file instead, wherever that is by then (O_APPEND).
    pub appends: bool,
    /// The kernel says that the caller's writes take setuid and setgid bits.
    pub takes_privileges: bool,
}

/// What the source would refuse at open, and the kernel does not look at when it opens the source's file by itself:
/// EPERM for writing to an immutable file, or to an append-only one but at its end (ioctl_iflags(2)).
fn check_attributes(stat: &Statx, flags: OFlags) -> Result<()> {
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    let is = |attribute| stat.stx_attributes.contains(attribute);
    let refused = is(StatxAttributes::IMMUTABLE)
        || (is(StatxAttributes::APPEND) && !flags.contains(OFlags::APPEND));
    if writes && refused { Err(Errno::PERM) } else { Ok(()) }
}

impl Fs {
    /// The flags with which the source is opened for a caller's flags: what the kernel has dealt with is left out.
    ///
    /// So is O_APPEND, since what was written through a mapping goes to its own place (each append is one by itself,
    /// see [`Fs::write`]), and O_DIRECT, unless the buffers are to keep its alignment.
    pub(super) fn source_flags(&self, flags: OFlags) -> OFlags {
        let mut kept = OFlags::ACCMODE | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME;
        if self.direct_align.is_some() {
            kept |= OFlags::DIRECT;
        }
        flags & kept
    }

    /// Starts to open a regular file, or a block device that is shown as one: the kernel or [`OpenFile::open`] does the
    /// rest. ESTALE when it is gone: the kernel looks the name up
    /// again. EISDIR for a directory, which the kernel opens as a file only for an ioctl on it.
    pub fn open(&self, caller: &Caller, node: NodeId, asked: OFlags) -> Result<OpenedFile> {
        let inode = self.tree.inode(node)?;
        match inode.kind() {
            FileType::RegularFile => {}
            FileType::BlockDevice if self.view().attr_overrides.block_devices_as_files => {}
            FileType::Directory => return Err(Errno::ISDIR),
            // Never opened for real.
            _ => return Err(Errno::ACCESS),
        }
        self.read_as(caller, &inode)?;
        let mut flags = self.source_flags(asked);
        let anchor = match self.tree.fd(&inode) {
            Err(Errno::STALE) => {
                self.tree.keep_lookups_open();
                return Err(Errno::STALE);
            }
            anchor => anchor?,
        };
        self.may_open(caller, &inode, asked)?;
        self.may_run(&inode, asked)?;
        let stat = self.tree.stat(&inode)?;
        check_attributes(&stat, asked)?;
        if stat.stx_attributes.contains(StatxAttributes::APPEND) {
            flags |= asked & OFlags::APPEND;
        }
        let may_pass_through = self.may_pass_through(&inode, &stat);
        let gained_links = self.gained_links(&inode, &stat);
        let mut opened = self.keep_open(inode, anchor, None, flags);
        opened.stale_attributes |= gained_links;
        Ok(OpenedFile { may_pass_through, ..opened })
    }

    /// See [`OpenedFile::may_pass_through`].
    pub(super) fn may_pass_through(&self, inode: &Inode, stat: &Statx) -> bool {
        let mode = u32::from(stat.stx_mode);
        let is_plain = inode.kind().is_file() && mode & (SETUID | SETGID) == 0;
        // A server would be told of the ids with which the file was handed over.
        self.uses_passthrough() && is_plain && !self.tree.is_server_backed(inode)
    }

    pub(super) fn keep_open(
        &self,
        inode: Arc<Inode>,
        anchor: Arc<OwnedFd>,
        file: Option<Arc<OwnedFd>>,
        flags: OFlags,
    ) -> OpenedFile {
        let for_writing = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        inode.opened(&anchor, for_writing);
        // What is stored to a shared mapping, which takes a file opened for both, changes its times and tells nobody
        // (`is_changing`).
        let stale_attributes = self.watch.is_some()
            && self.uses_passthrough()
            && flags & OFlags::ACCMODE == OFlags::RDWR
            && inode.kind().is_file();
        let spread = inode.node().0;
        let file = file.map_or_else(OnceLock::new, OnceLock::from);
        let (other, state_at_lock) = (OnceLock::new(), Mutex::default());
        let file = Arc::new(OpenFile { anchor, file, other, inode, flags, state_at_lock });
        let handle = self.files.insert(Arc::clone(&file), spread);
        let needs_flush = for_writing || self.locks.are_held_on(file.inode.node());
        OpenedFile { handle, file, may_pass_through: false, needs_flush, stale_attributes }
    }

    /// Acts as somebody for whom the source clears setuid and setgid bits, and who has no reserved space: what the
    /// kernel writes to a file past us is written with the rights of the moment when the file was handed to it, whoever
    /// writes.
    pub fn act_for_backing_open(&self) -> Result<()> {
        self.credentials.act_for_backing_open()
    }

    /// An open file by its number. EBADF when it was closed.
    pub fn file(&self, handle: u64) -> Result<Arc<OpenFile>> {
        self.files.get(handle)
    }

    /// Reads into a buffer until it is full or the file ends: how many bytes there are.
    pub fn read(&self, read: &Read, buffer: &mut [u8]) -> Result<usize> {
        let file = self.files.get(read.handle)?;
        match self.direct_align.filter(|_| read.direct) {
            Some(align) => {
                let mut aligned = AlignedBuffer::new(buffer.len(), align.get())?;
                let count = read_at(file.open_for(true)?, read.offset, aligned.bytes_mut())?;
                buffer[..count].copy_from_slice(&aligned.bytes()[..count]);
                Ok(count)
            }
            None => read_at(file.open_for(false)?, read.offset, buffer),
        }
    }

    /// Writes a buffer: how many bytes were taken.
    pub fn write(&self, caller: &Caller, data: &[u8], how: &Write) -> Result<usize> {
        let file = self.files.get(how.handle)?;
        let align = self.direct_align.filter(|_| how.direct);
        let fd = file.open_for(align.is_some())?;
        let rights = match how.takes_privileges {
            true => self.rights_without_fsetid(caller, &file.inode)?,
            false => KillprivRights::ALL,
        };
        let acting = self.write_as(caller, &file.inode, rights)?;
        match align {
            Some(align) => {
                write_at(&acting, fd, AlignedBuffer::holding(data, align.get())?.bytes(), how)
            }
            None => write_at(&acting, fd, data, how),
        }
    }

    /// A descriptor of the file was closed: the owner's locks on it go (fcntl(2)).
    pub fn flush(&self, handle: u64, owner: u64) -> Result<()> {
        let file = self.files.get(handle)?;
        self.locks.release(file.inode.node(), owner);
        Ok(())
    }

    /// The last descriptor was closed.
    pub fn release(&self, handle: u64) -> Result<Arc<OpenFile>> {
        let file = self.files.remove(handle)?;
        self.locks.release_through(file.inode.node(), handle);
        file.inode.closed(file.is_writable());
        Ok(file)
    }

    /// Writes the file to disk; with `data_only` without what is not needed to read it again.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let file = self.files.get(handle)?;
        sync(file.open()?, data_only)
    }

    /// fallocate(2) with any mode that the source knows.
    pub fn fallocate(
        &self,
        caller: &Caller,
        handle: u64,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let file = self.files.get(handle)?;
        let fd = file.open()?;
        let rights = self.rights_to_write(caller, &file.inode)?;
        let acting = self.write_as(caller, &file.inode, rights)?;
        acting.fallocate(fd, mode, offset, len)
    }

    /// SEEK_DATA and SEEK_HOLE, and whatever else the kernel leaves to us.
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let file = self.files.get(handle)?;
        sys::file::lseek(file.open()?, offset, whence)
    }

    /// Copies within the source, by reference where it can (copy_file_range(2)).
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
    ) -> Result<usize> {
        let (source, target) = (self.files.get(from.0)?, self.files.get(to.0)?);
        if !(source.inode.kind().is_file() && target.inode.kind().is_file()) {
            // A device that is shown as a file: the kernel then reads and writes.
            return Err(Errno::XDEV);
        }
        let (source_fd, target_fd) = (source.open()?, target.open()?);
        let rights = self.rights_to_write(caller, &target.inode)?;
        let acting = self.write_as(caller, &target.inode, rights)?;
        // The reply has 32 bits for the count.
        let len = usize::try_from(len.min(0x7fff_f000)).unwrap_or(0x7fff_f000);
        acting.copy_range((source_fd, from.1), (target_fd, to.1), len)
    }
}

fn read_at(fd: &OwnedFd, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(e) if filled == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(filled)
}

fn write_at(acting: &ActingAs<'_>, fd: &OwnedFd, data: &[u8], how: &Write) -> Result<usize> {
    let flags = if how.appends { ReadWriteFlags::APPEND } else { ReadWriteFlags::empty() };
    let mut written = 0;
    while written < data.len() {
        match acting.write(fd, &data[written..], how.offset + written as u64, flags) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(e) if written == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(written)
}

pub(super) fn sync(fd: &OwnedFd, data_only: bool) -> Result<()> {
    if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) }
}
