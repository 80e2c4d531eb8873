//! The system calls that the tests need and rustix does not wrap safely. The only unsafe code of the tests.

use std::ffi::CString;
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

/// A mount namespace of this thread's own.
pub(crate) fn unshare_mounts() {
    // SAFETY: neither flag touches file descriptors; the thread gets its own root, cwd and umask.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
        .expect("these tests run as root");
}

/// A working directory and umask of this thread's own.
pub(crate) fn unshare_fs() {
    // SAFETY: the flag does not touch file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.expect("unshare the working directory");
}

/// Kills the command when the thread that starts it ends, so that an aborted test leaves nothing behind.
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

/// Closes every descriptor from that one on: for children that have just been forked.
pub(crate) fn close_from(first: u32) {
    // SAFETY: the child uses none of them again and leaves by _exit, so that nothing closes them twice.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// A handler that does nothing, without SA_RESTART: a blocked system call ends with EINTR.
pub(crate) fn interrupt_on(signal: i32) {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: the handler does nothing; the structure is fully initialised.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0, "sigaction");
    }
}

/// fcntl(2) with a lock.
pub(crate) fn fcntl_lock(
    fd: BorrowedFd<'_>,
    command: i32,
    lock: &mut libc::flock,
) -> io::Result<()> {
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, ptr::from_mut(lock)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A file handle (name_to_handle_at(2)): `struct file_handle` with room for its bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

/// The handle of a path.
pub(crate) fn handle_of(path: &Path) -> io::Result<Handle> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut handle = Handle { len: 128, kind: 0, bytes: [0; 128] };
    let mut mount = 0;
    // SAFETY: the path is a C string, and the structure says how much room it has; both outlive the call.
    let result = unsafe {
        let handle = ptr::from_mut(&mut handle).cast();
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &mut mount, 0)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(handle) }
}

/// Opens what a handle names on the filesystem of `mount`, to read it.
pub(crate) fn open_handle(mount: &File, handle: &Handle) -> io::Result<File> {
    let mut handle = *handle;
    // SAFETY: the structure says how much room it has and outlives the call; nobody else owns the new descriptor.
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

/// FS_IOC_FSGETXATTR.
pub(crate) fn fs_get_xattr(file: &File) -> io::Result<FsXattr> {
    let mut value = FsXattr::default();
    // SAFETY: the structure has the request's layout and outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR as _, &mut value) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// FS_IOC_FSSETXATTR.
pub(crate) fn fs_set_xattr(file: &File, value: &FsXattr) -> io::Result<()> {
    // SAFETY: the structure has the request's layout and outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR as _, value) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Any ioctl(2) that moves a long at most: what it gives, with the word that it left.
pub(crate) fn raw_ioctl(file: &File, command: u32, word: u64) -> io::Result<u64> {
    let mut word = word;
    // SAFETY: the requests that the tests make read or write eight bytes at most, and the word outlives the call.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), u64::from(command) as _, ptr::from_mut(&mut word)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(word) }
}

/// An ioctl(2) on a buffer, which is larger than what the tests' requests move.
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

/// truncate(2) to nothing: by path, not through an open file.
pub(crate) fn empty(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    let result = unsafe { libc::truncate(path.as_ptr(), 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A read lease (fcntl(2), F_SETLEASE) until the file is closed. Who breaks it sends SIGIO: ignored from now on.
pub(crate) fn take_read_lease(file: &File) -> io::Result<()> {
    take_lease(file, libc::F_RDLCK)
}

/// The same against readers, too.
pub(crate) fn take_write_lease(file: &File) -> io::Result<()> {
    take_lease(file, libc::F_WRLCK)
}

fn take_lease(file: &File, kind: i32) -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code of ours; fcntl gets the integer that it wants.
    let result = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A mapping of a file's first bytes.
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

    /// What is there now.
    pub(crate) fn read(&self) -> Vec<u8> {
        // SAFETY: the mapping is `len` bytes long; nobody holds a reference into it.
        (0..self.len).map(|i| unsafe { self.at.add(i).read_volatile() }).collect()
    }

    /// Its first byte, read without allocation.
    pub(crate) fn first(&self) -> u8 {
        // SAFETY: the mapping has a byte; nobody holds a reference into it.
        unsafe { self.at.read_volatile() }
    }

    /// Writes from its start.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: within the mapping, by the assertion.
            unsafe { self.at.add(i).write_volatile(*byte) };
        }
    }

    /// Writes it back (msync(2)).
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the mapping.
        let result = unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, which nobody uses any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Makes a detached mount an idmapped one, with the map of that user namespace.
pub(crate) fn idmap_mount(mount: impl AsFd, userns: impl AsFd) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.as_fd().as_raw_fd() as u64,
    };
    // SAFETY: the path is a C string, the structure and its size belong together.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
