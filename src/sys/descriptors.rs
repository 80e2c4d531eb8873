//! Descriptors of this process: paths that lead to their inodes, for system calls that take paths only (proc_pid_fd(5)), and
//! waiting for them.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// `/proc/self/fd`, held open: the kernel resolves a path of one component in half the time.
static PROC_SELF_FD: OnceLock<OwnedFd> = OnceLock::new();

const PREFIX: &[u8] = b"/proc/self/fd/";
/// A descriptor's number has at most ten digits.
const MAX_LEN: usize = PREFIX.len() + 10 + 1;

/// Opens `/proc/self/fd`. Must be called in the process that serves: after a fork it still leads to the parent's
/// descriptors.
pub fn open_proc_self_fd() -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    // A second call finds the same directory open.
    let _ = PROC_SELF_FD.set(own);
    Ok(())
}

/// Waits until a descriptor can be read, or its other end is closed. `false`: neither has happened within that time.
#[must_use]
pub fn is_readable_within(fd: impl AsFd, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// A path to the inode behind a descriptor, independent of the inode's name.
///
/// System calls follow it, also to a symbolic link itself. It borrows the descriptor, since a closed descriptor's
/// number can come to mean another inode.
#[derive(Debug, Clone, Copy)]
pub struct DescriptorPath<'fd> {
    path: [u8; MAX_LEN],
    fd: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> DescriptorPath<'fd> {
    /// Formats the path of a descriptor.
    #[must_use]
    pub fn of(fd: &'fd impl AsFd) -> Self {
        let mut path = [0; MAX_LEN];
        path[..PREFIX.len()].copy_from_slice(PREFIX);
        let mut digits = [0; 10];
        let mut number = fd.as_fd().as_raw_fd().unsigned_abs();
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let digits = &digits[at..];
        path[PREFIX.len()..PREFIX.len() + digits.len()].copy_from_slice(digits);
        Self { path, fd: PhantomData }
    }

    /// The absolute path.
    #[must_use]
    pub fn absolute(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.path).unwrap_or(c"")
    }

    /// A directory descriptor and the path relative to it, which the kernel resolves fastest.
    #[must_use]
    pub fn relative(&self) -> (BorrowedFd<'_>, &CStr) {
        match PROC_SELF_FD.get() {
            Some(own) => {
                (own.as_fd(), CStr::from_bytes_until_nul(&self.path[PREFIX.len()..]).unwrap_or(c""))
            }
            None => (CWD, self.absolute()),
        }
    }
}

impl std::ops::Deref for DescriptorPath<'_> {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        self.absolute()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_descriptor_path_leads_to_its_inode() {
        let file = File::open("/dev/null").unwrap();
        let path = DescriptorPath::of(&file);
        assert_eq!(
            path.absolute().to_str().unwrap(),
            format!("/proc/self/fd/{}", file.as_raw_fd())
        );
        open_proc_self_fd().unwrap();
        let (dir, name) = path.relative();
        let again = rustix::fs::openat(dir, name, OFlags::RDONLY, Mode::empty()).unwrap();
        let rdev = |stat: rustix::fs::Stat| stat.st_rdev;
        assert_eq!(
            rdev(rustix::fs::fstat(&again).unwrap()),
            rdev(rustix::fs::fstat(&file).unwrap())
        );
    }
}
