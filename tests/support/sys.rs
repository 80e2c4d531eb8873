//! System calls that rustix does not wrap safely: the only unsafe code of the tests.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use rustix::thread::{UnshareFlags, unshare_unsafe};

#[path = "../../src/sys/idmapped.rs"]
mod idmapped;
pub(crate) use idmapped::idmap_mount;

/// Gives this thread a mount namespace of its own.
pub(crate) fn unshare_mounts() {
    // SAFETY: neither flag touches file descriptors; the thread gets its own root, working directory and umask.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
        .expect("these tests run as root");
}

/// Gives this thread a network namespace of its own, whose loopback device is down.
pub(crate) fn unshare_network() {
    // SAFETY: the flag does not touch file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("these tests run as root");
}

/// Gives this thread a working directory and umask of its own.
pub(crate) fn unshare_fs() {
    // SAFETY: the flag does not touch file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.expect("unshare the working directory");
}

/// Has the kernel kill the command when the thread that starts it ends, so that an aborted test leaves no process
/// behind.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and the closure does nothing else.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// Forks; the child runs the closure, which makes system calls only, and exits with its result.
pub(crate) fn fork(run: impl FnOnce() -> u8) -> i32 {
    // SAFETY: the child only makes system calls (the callers' promise) and leaves by _exit.
    unsafe {
        match libc::fork() {
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::_exit(i32::from(run()))
            }
            pid => pid,
        }
    }
}

/// Closes every descriptor from `first` on, in a child that has just been forked.
pub(crate) fn close_from(first: u32) {
    // SAFETY: the child uses none of them again and leaves by _exit, so that nothing closes them twice.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Gives the current thread a copy of its descriptor table, which threads that it starts later share.
pub(crate) fn unshare_files() {
    // SAFETY: callers use raw descriptor numbers only, each in the table to which it belongs.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.expect("unshare(CLONE_FILES)");
}

/// open(2). Returns a number in the thread's descriptor table.
pub(crate) fn open_raw(path: &CStr, flags: i32) -> io::Result<i32> {
    // SAFETY: the path is NUL-terminated.
    result(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o666) })
}

/// Copies a descriptor, as dup(2) does, but with FD_CLOEXEC.
pub(crate) fn dup_raw(fd: i32) -> io::Result<i32> {
    // SAFETY: takes integers only.
    result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })
}

/// close(2).
pub(crate) fn close_raw(fd: i32) -> io::Result<()> {
    // SAFETY: the number came from `open_raw` or `dup_raw`, so nothing else owns it.
    result(unsafe { libc::close(fd) }).map(drop)
}

/// fcntl(2) with a lock, on a number in the thread's descriptor table.
pub(crate) fn fcntl_lock_raw(fd: i32, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the structure outlives the call.
    result(unsafe { libc::fcntl(fd, command, ptr::from_mut(lock)) }).map(drop)
}

/// flock(2).
pub(crate) fn flock_raw(fd: i32, operation: i32) -> io::Result<()> {
    // SAFETY: takes integers only.
    result(unsafe { libc::flock(fd, operation) }).map(drop)
}

/// Sends a signal to a thread of this process.
pub(crate) fn signal_thread(thread: i32, signal: i32) {
    // SAFETY: takes integers only.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
}

fn result(result: i32) -> io::Result<i32> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Installs a handler that does nothing, without SA_RESTART: a blocked system call returns EINTR.
pub(crate) fn interrupt_on(signal: i32) {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: the handler does nothing; the structure is fully initialised.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0, "sigaction");
    }
}

/// Calls fcntl(2) with a lock.
pub(crate) fn fcntl_lock(
    fd: BorrowedFd<'_>,
    command: i32,
    lock: &mut libc::flock,
) -> io::Result<()> {
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, ptr::from_mut(lock)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A file handle (name_to_handle_at(2)): `struct file_handle` with the space for its bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

/// The file handle of a path.
pub(crate) fn handle_of(path: &Path) -> io::Result<Handle> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut handle = Handle { len: 128, kind: 0, bytes: [0; 128] };
    let mut mount = 0;
    // SAFETY: the path is a C string, and `len` is the capacity of the structure's bytes; both outlive the call.
    let result = unsafe {
        let handle = ptr::from_mut(&mut handle).cast();
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &mut mount, 0)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(handle) }
}

/// Opens a file handle on the filesystem of `mount`, read-only.
pub(crate) fn open_handle(mount: &File, handle: &Handle) -> io::Result<File> {
    let mut handle = *handle;
    // SAFETY: `len` is the capacity of the structure's bytes, which outlive the call; the new descriptor has no other
    // owner.
    unsafe {
        let fd = libc::open_by_handle_at(
            mount.as_raw_fd(),
            ptr::from_mut(&mut handle).cast(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        );
        if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd)) }
    }
}

/// `struct fsxattr` (ioctl_xfs_fsgetxattr(2)).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FsXattr {
    pub(crate) xflags: u32,
    pub(crate) extsize: u32,
    pub(crate) nextents: u32,
    pub(crate) projid: u32,
    pub(crate) cowextsize: u32,
    pad: [u8; 8],
}

const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;

/// Calls FS_IOC_FSGETXATTR.
pub(crate) fn fs_get_xattr(file: &File) -> io::Result<FsXattr> {
    let mut value = FsXattr::default();
    // SAFETY: the structure has the request's layout and outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR as _, &mut value) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Calls FS_IOC_FSSETXATTR.
pub(crate) fn fs_set_xattr(file: &File, value: &FsXattr) -> io::Result<()> {
    // SAFETY: the structure has the request's layout and outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR as _, value) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Calls an ioctl(2) that transfers at most eight bytes; returns the word as the call left it.
pub(crate) fn raw_ioctl(file: &File, command: u32, word: u64) -> io::Result<u64> {
    let mut word = word;
    // SAFETY: the requests that the tests make read or write eight bytes at most, and the word outlives the call.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), u64::from(command) as _, ptr::from_mut(&mut word)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(word) }
}

/// Calls an ioctl(2) on a buffer of 1 MiB, more than any request of the tests transfers.
pub(crate) fn buffer_ioctl(file: &File, command: u32, argument: &mut [u8]) -> io::Result<()> {
    let mut padded = argument.to_vec();
    padded.resize(1 << 20, 0);
    // SAFETY: the requests that the tests make read or write less than a mebibyte, and the buffer outlives the call.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), u64::from(command) as _, padded.as_mut_ptr()) };
    let len = argument.len();
    argument.copy_from_slice(&padded[..len]);
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Truncates a file to 0 bytes by path (truncate(2)), not through an open file.
pub(crate) fn empty(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    let result = unsafe { libc::truncate(path.as_ptr(), 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes a read lease (fcntl(2), F_SETLEASE) until the file is closed. Ignores SIGIO, which the kernel sends when an
/// open breaks the lease.
pub(crate) fn take_read_lease(file: &File) -> io::Result<()> {
    take_lease(file, libc::F_RDLCK)
}

/// Takes a write lease, which an open for reading breaks as well.
pub(crate) fn take_write_lease(file: &File) -> io::Result<()> {
    take_lease(file, libc::F_WRLCK)
}

fn take_lease(file: &File, kind: i32) -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code of ours; fcntl takes an integer argument.
    let result = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A mapping of the first bytes of a file.
pub(crate) struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes, readable and writable.
    pub(crate) fn new(file: &File, len: usize, shared: bool) -> io::Result<Self> {
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { at: at.cast(), len })
        }
    }

    /// A copy of the mapped bytes.
    pub(crate) fn read(&self) -> Vec<u8> {
        // SAFETY: the mapping is `len` bytes long; no reference into it exists.
        (0..self.len).map(|i| unsafe { self.at.add(i).read_volatile() }).collect()
    }

    /// The first byte, read without allocation.
    pub(crate) fn first(&self) -> u8 {
        // SAFETY: the mapping has at least one byte; no reference into it exists.
        unsafe { self.at.read_volatile() }
    }

    /// Writes bytes at the start.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: within the mapping, by the assertion.
            unsafe { self.at.add(i).write_volatile(*byte) };
        }
    }

    /// Reads directory entries into the mapping (getdents64(2)), which makes the kernel fault in its pages; returns the
    /// number of bytes.
    pub(crate) fn list(&mut self, dir: impl AsFd) -> io::Result<usize> {
        let dir = dir.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `len` bytes, which the mapping has.
        let listed = unsafe { libc::syscall(libc::SYS_getdents64, dir, self.at, self.len) };
        usize::try_from(listed).map_err(|_| io::Error::last_os_error())
    }

    /// Writes the mapping back (msync(2)).
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the mapping.
        let result = unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, which is not used any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
