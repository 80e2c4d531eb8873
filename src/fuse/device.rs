//! /dev/fuse: requests are read from it; replies and notifications are written to it.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::request_counts::CountsHandle;
use crate::error::errno_field;
use crate::source::raise_for_backing_close;
use crate::sys;

/// One open file description of /dev/fuse, connected to one mount. A reply must go through the one that its request was
/// read from.
#[derive(Debug)]
pub(super) struct Device {
    fd: OwnedFd,
    /// Counts what goes through this description, apart from the others: a counter that is shared by workers would move
    /// between their processors at each request.
    counts: CountsHandle,
}

impl Device {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, counts: CountsHandle::default() }
    }

    /// Counts the requests and errors of this description.
    pub(super) fn counts(&self) -> &CountsHandle {
        &self.counts
    }

    /// Opens another description of the same connection. `blocking`: whether [`Self::receive`] waits for a request.
    ///
    /// # Errors
    /// EACCES where the process may not open /dev/fuse. fusermount3 may, for its user.
    pub(super) fn another(&self, blocking: bool) -> Result<Self, Errno> {
        let mode = if blocking { OFlags::empty() } else { OFlags::NONBLOCK };
        let flags = OFlags::RDWR | OFlags::CLOEXEC | mode;
        let fresh = rustix::fs::open(c"/dev/fuse", flags, Mode::empty())?;
        sys::fuse::clone_device(&fresh, &self.fd)?;
        Ok(Self { fd: fresh, counts: self.counts.another() })
    }

    /// Reads a request; returns its length in bytes.
    ///
    /// # Errors
    /// ENODEV when the filesystem is unmounted; EAGAIN when no request is queued and the device is nonblocking; EINTR
    /// and ENOENT when the read is to be repeated.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(&self.fd, buffer)
    }

    /// Whether a request is queued.
    pub(super) fn has_request(&self) -> bool {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Writes a reply or a notification. ENOENT when no client waits for the reply any more.
    pub(super) fn send(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        rustix::io::writev(&self.fd, parts).map(drop)
    }

    /// Registers a file as a backing file, see [`sys::fuse::open_backing`].
    pub(super) fn open_backing(self: &Arc<Self>, file: BorrowedFd<'_>) -> Result<Backing, Errno> {
        let id = sys::fuse::open_backing(&self.fd, file)?;
        Ok(Backing { device: Arc::downgrade(self), id })
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A file that the kernel reads and writes by itself. The kernel closes it once this is dropped and no file is open on
/// it.
#[derive(Debug)]
pub(super) struct Backing {
    /// Weak: when the connection ends, the kernel drops all backing files.
    device: Weak<Device>,
    id: i32,
}

impl Backing {
    /// The backing id.
    pub(super) fn id(&self) -> i32 {
        self.id
    }
}

#[cfg(test)]
impl Backing {
    /// A backing file of a mount that is gone.
    pub(super) fn of_no_mount() -> Self {
        Self { device: Weak::new(), id: 1 }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let Some(device) = self.device.upgrade() else { return };
        raise_for_backing_close();
        if let Err(e) = sys::fuse::close_backing(&*device, self.id) {
            let (id, errno) = (self.id, errno_field(e));
            log::warn!("the kernel cannot close a backing file: backing_id={id} {errno}");
        }
    }
}
