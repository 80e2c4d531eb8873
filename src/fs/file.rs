//! Open files: open, read, write, flush, release, fsync, fallocate, lseek, copy_file_range.
//!
//! With FUSE passthrough the kernel reads and writes the source's file directly, and an open file here has only an
//! O_PATH descriptor. The source's file is opened at the first request that needs it, or at once if it is opened for
//! writing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FileType, OFlags, Statx, StatxAttributes};
use rustix::io::{Errno, ReadWriteFlags};

use super::aligned_buffer::AlignedBuffer;
use super::file_state::FileState;
use super::killpriv::KillprivRights;
use super::mode_bits::{SETGID, SETUID};
use super::shares::Share;
use super::{Caller, Fs, Result, copy};
use crate::source::{ActingAs, Inode, NodeId, reopen};
use crate::sync::{Mutex, MutexGuard};
use crate::sys;

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// Keeps the inode reachable, even if its names are removed.
    anchor: Arc<OwnedFd>,
    /// The source's file, opened with the caller's flags. It also holds the caller's flock(2).
    file: OnceLock<Arc<OwnedFd>>,
    /// The source's file opened without O_DIRECT if `file` has it, and with O_DIRECT otherwise.
    ///
    /// With forward-odirect both are needed: reads and writes for the page cache go without O_DIRECT.
    other: OnceLock<Arc<OwnedFd>>,
    inode: Arc<Inode>,
    flags: OFlags,
    /// Its share of the user's open files.
    _share: Share,
    /// State of the file at the last lock granted through this open file, if it detects later changes.
    state_at_lock: Mutex<Option<FileState>>,
    /// Whether the client has closed it. A request for it may still be served.
    is_released: AtomicBool,
}

/// A file that was just opened.
#[derive(Debug)]
pub struct OpenedFile {
    /// The handle (`fh`) that later requests carry.
    pub handle: u64,
    /// The open file.
    pub file: Arc<OpenFile>,
    /// Whether the kernel may read and write the file directly (passthrough).
    ///
    /// Not if it has setuid or setgid bits, because whether they survive a write depends on the caller.
    pub may_pass_through: bool,
    /// Whether the kernel must discard cached attributes.
    pub stale_attributes: bool,
}

impl OpenFile {
    /// Returns a descriptor of the source's file, perhaps O_PATH.
    #[must_use]
    pub fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    /// Returns the inode.
    #[must_use]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// Returns whether it was opened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags.intersects(OFlags::WRONLY | OFlags::RDWR)
    }

    /// Returns whether it was opened for reading.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !self.flags.contains(OFlags::WRONLY)
    }

    /// Returns the source's file, and opens it if it is not open yet.
    ///
    /// EAGAIN if that must wait for the end of a lease (fcntl(2), F_SETLEASE).
    pub fn open(&self) -> Result<&OwnedFd> {
        self.open_with(OFlags::NOCTTY | OFlags::NONBLOCK)
    }

    /// See [`Fs::revalidation`].
    pub(super) fn state_at_lock(&self) -> MutexGuard<'_, Option<FileState>> {
        self.state_at_lock.lock()
    }

    /// Returns whether the client has closed it, so that a lock that is granted through it now is held by no client.
    ///
    /// To be called after the lock was recorded: [`Fs::release`] releases what is recorded after this became true.
    pub(super) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::SeqCst)
    }

    /// Returns whether the source's file is open.
    pub(super) fn is_open(&self) -> bool {
        self.file.get().is_some()
    }

    /// As [`Self::open`], but waits for the end of a lease. Not for workers.
    pub fn open_and_wait(&self) -> Result<&OwnedFd> {
        self.open_with(OFlags::NOCTTY)
    }

    fn open_with(&self, flags: OFlags) -> Result<&OwnedFd> {
        self.open_in(&self.file, self.flags | flags)
    }

    /// Returns the source's file for a request with or without O_DIRECT.
    fn open_for(&self, direct: bool) -> Result<&OwnedFd> {
        if direct == self.flags.contains(OFlags::DIRECT) {
            return self.open();
        }
        self.open_in(&self.other, (self.flags ^ OFlags::DIRECT) | OFlags::NOCTTY | OFlags::NONBLOCK)
    }

    fn open_in<'a>(&self, slot: &'a OnceLock<Arc<OwnedFd>>, flags: OFlags) -> Result<&'a OwnedFd> {
        if let Some(file) = slot.get() {
            return Ok(file);
        }
        let opened = reopen(&self.anchor, flags)?;
        Ok(slot.get_or_init(|| Arc::new(opened)))
    }
}

/// A read request.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// The handle of the open file.
    pub handle: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// The client's file has O_DIRECT set.
    pub direct: bool,
    /// The kernel reads into its page cache: FUSE_READ_LOCKOWNER is not set.
    pub for_cache: bool,
}

/// A write request.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// The handle of the open file.
    pub handle: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// The client's file has O_DIRECT set.
    pub direct: bool,
    /// Write at the end of the file (O_APPEND) instead of the offset.
    pub appends: bool,
    /// The kernel asks to clear setuid and setgid bits (FUSE_WRITE_KILL_SUIDGID).
    pub takes_privileges: bool,
}

/// Checks the inode flags at an open for writing, as the source would.
///
/// The kernel does not check them when it opens the source's file directly. EPERM for an immutable file, or for an
/// append-only file without O_APPEND (ioctl_iflags(2)).
fn check_attributes(stat: &Statx, flags: OFlags) -> Result<()> {
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    let is = |attribute| stat.stx_attributes.contains(attribute);
    let refused = is(StatxAttributes::IMMUTABLE)
        || (is(StatxAttributes::APPEND) && !flags.contains(OFlags::APPEND));
    if writes && refused { Err(Errno::PERM) } else { Ok(()) }
}

impl Fs {
    /// Returns the flags with which the source is opened, without those that the kernel has dealt with.
    ///
    /// O_APPEND is removed, because data that was written through a mapping goes to its own offset; each append sets it
    /// for itself (see [`Fs::write`]). O_DIRECT is removed unless forward-odirect is set.
    pub(super) fn source_flags(&self, flags: OFlags) -> OFlags {
        let mut kept = OFlags::ACCMODE | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME;
        if self.direct_align.is_some() {
            kept |= OFlags::DIRECT;
        }
        let flags = flags & kept;
        if self.writes_all_through() { flags | OFlags::SYNC } else { flags }
    }

    /// Opens a regular file, or a block device that is shown as one.
    ///
    /// The source's file itself is opened by the kernel or by [`OpenFile::open`]. ESTALE if the inode is gone: the
    /// kernel then looks the name up again. EISDIR for a directory, which the kernel opens as a file only for an
    /// ioctl(2). EMFILE if the caller's user has its full share of open files.
    pub fn open(&self, caller: &Caller, node: NodeId, asked: OFlags) -> Result<OpenedFile> {
        let inode = self.tree.inode(node)?;
        match inode.kind() {
            FileType::RegularFile => {}
            FileType::BlockDevice if self.view().attr_overrides.block_devices_as_files => {}
            FileType::Directory => return Err(Errno::ISDIR),
            // The source's file of any other type is never opened.
            _ => return Err(Errno::ACCESS),
        }
        let share = self.take_open_share(caller)?;
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
        Ok(OpenedFile { may_pass_through, ..self.keep_open(inode, anchor, None, flags, share) })
    }

    /// See [`OpenedFile::may_pass_through`].
    pub(super) fn may_pass_through(&self, inode: &Inode, stat: &Statx) -> bool {
        let mode = u32::from(stat.stx_mode);
        let is_plain = inode.kind().is_file() && mode & (SETUID | SETGID) == 0;
        // A server would get the ids with which the backing file was registered, not the caller's.
        self.uses_passthrough() && is_plain && !self.tree.is_server_backed(inode)
    }

    pub(super) fn keep_open(
        &self,
        inode: Arc<Inode>,
        anchor: Arc<OwnedFd>,
        file: Option<Arc<OwnedFd>>,
        flags: OFlags,
        share: Share,
    ) -> OpenedFile {
        let for_writing = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        inode.opened(&anchor, for_writing);
        // A shared mapping needs a file open for reading and writing. A store to it changes times without an event
        // (`is_changing`).
        let stale_attributes = self.watch.is_some()
            && self.uses_passthrough()
            && flags & OFlags::ACCMODE == OFlags::RDWR
            && inode.kind().is_file();
        let spread = inode.node().0;
        let file = file.map_or_else(OnceLock::new, OnceLock::from);
        let file = Arc::new(OpenFile {
            anchor,
            file,
            other: OnceLock::new(),
            inode,
            flags,
            _share: share,
            state_at_lock: Mutex::default(),
            is_released: AtomicBool::new(false),
        });
        let handle = self.files.insert(Arc::clone(&file), spread);
        OpenedFile { handle, file, may_pass_through: false, stale_attributes }
    }

    /// Acts with the credentials with which the kernel is to write to a backing file.
    ///
    /// The kernel uses the credentials at the time when the backing file is registered, for all writers. They must not
    /// keep setuid and setgid bits or use reserved blocks.
    pub fn act_for_backing_open(&self) -> Result<()> {
        self.credentials.act_for_backing_open()
    }

    /// Reads into a buffer until it is full or the file ends. Returns the number of bytes.
    pub fn read(&self, caller: &Caller, read: &Read, buffer: &mut [u8]) -> Result<usize> {
        let file = self.files.get(read.handle)?;
        self.read_as(caller, &file.inode)?;
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

    /// Writes a buffer. Returns the number of bytes written.
    pub fn write(&self, caller: &Caller, data: &[u8], how: &Write) -> Result<usize> {
        let file = self.files.get(how.handle)?;
        let align = self.direct_align.filter(|_| how.direct);
        self.read_as(caller, &file.inode)?;
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

    /// Sends what was written to the file's server, if it has one, and returns the server's errors.
    ///
    /// Called before close(2) returns to the client. Without it the data would be sent when the daemon closes the file,
    /// which is later: another client that opens the file after the close(2) would not see the data, and an error, such
    /// as EDQUOT, would be lost.
    pub fn flush_to_server(&self, caller: &Caller, handle: u64) -> Result<()> {
        // What was opened for an ioctl(2) alone is no open file, and has no data.
        let Ok(file) = self.files.get(handle) else { return Ok(()) };
        if !file.is_writable() || !self.tree.is_server_backed(&file.inode) {
            return Ok(());
        }
        self.read_as(caller, &file.inode)?;
        // Both, whatever the first returns.
        let flush =
            |slot: &OnceLock<Arc<OwnedFd>>| slot.get().map_or(Ok(()), |file| self.tree.flush(file));
        let [first, second] = [flush(&file.file), flush(&file.other)];
        first.and(second)
    }

    /// Releases an owner's POSIX locks on the file, because it has closed a descriptor (fcntl(2)).
    pub fn flush(&self, node: NodeId, owner: u64) {
        self.locks.release(node, owner);
    }

    /// Closes the open file, because the client has closed its last descriptor.
    pub fn release(&self, handle: u64) -> Result<Arc<OpenFile>> {
        let file = self.files.remove(handle)?;
        // First: a lock that is granted from now on is not recorded, or released here.
        file.is_released.store(true, Ordering::SeqCst);
        self.locks.release_through(file.inode.node(), handle);
        file.inode.closed(file.is_writable());
        Ok(file)
    }

    /// Syncs the file; with `data_only`, without metadata that is not needed to read it (fdatasync(2)).
    pub fn fsync(&self, caller: &Caller, handle: u64, data_only: bool) -> Result<()> {
        let file = self.files.get(handle)?;
        self.read_as(caller, &file.inode)?;
        sync(file.open()?, data_only)
    }

    /// fallocate(2), with any mode that the source supports.
    pub fn fallocate(
        &self,
        caller: &Caller,
        handle: u64,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let file = self.files.get(handle)?;
        self.read_as(caller, &file.inode)?;
        let fd = file.open()?;
        let rights = self.rights_to_write(caller, &file.inode)?;
        let acting = self.write_as(caller, &file.inode, rights)?;
        acting.fallocate(fd, mode, offset, len)?;
        self.data_changed(fd)
    }

    /// SEEK_DATA, SEEK_HOLE and whatever else the kernel sends.
    pub fn lseek(&self, caller: &Caller, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let file = self.files.get(handle)?;
        self.read_as(caller, &file.inode)?;
        sys::file::lseek(file.open()?, offset, whence)
    }

    /// Copies a range within the source, by reflink where the source can (copy_file_range(2)).
    ///
    /// Returns the number of bytes copied, also when `is_interrupted` has ended the copy early.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
        is_interrupted: impl Fn() -> bool,
    ) -> Result<usize> {
        let (source, target) = (self.files.get(from.0)?, self.files.get(to.0)?);
        if !(source.inode.kind().is_file() && target.inode.kind().is_file()) {
            // For a block device shown as a file, the kernel falls back to reading and writing.
            return Err(Errno::XDEV);
        }
        self.read_as(caller, &source.inode)?;
        let source_fd = source.open()?;
        self.read_as(caller, &target.inode)?;
        let target_fd = target.open()?;
        let rights = self.rights_to_write(caller, &target.inode)?;
        let acting = self.write_as(caller, &target.inode, rights)?;
        // The reply has 32 bits for the count.
        let len = usize::try_from(len.min(0x7fff_f000)).unwrap_or(0x7fff_f000);
        let copied = copy::in_chunks(len, is_interrupted, |done, len| {
            let (from, to) = (from.1 + done as u64, to.1 + done as u64);
            acting.copy_range((source_fd, from), (target_fd, to), len)
        })?;
        self.data_changed(target_fd)?;
        Ok(copied)
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
