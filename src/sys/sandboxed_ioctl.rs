//! Makes an ioctl(2) in a sandboxed child process, for requests whose memory accesses are not known.
//!
//! The number of an ioctl encodes how many bytes it transfers, but some requests transfer more: arrays behind the
//! structure, or memory at an address in it. Others name descriptors. Made by the daemon for a client, such a request
//! would read and write the daemon's memory and files at the client's choice. The child has nothing worth that:
//!
//! - one descriptor, that of the file;
//! - a copy of the daemon's memory that is discarded afterwards;
//! - the argument at the very end of a mapping, in front of an inaccessible page;
//! - a filter (seccomp(2)) that allows ioctls on that descriptor and exit_group(2) only, even if its memory is
//!   overwritten.
//!
//! Only the argument is shared with the daemon. Other code that maps shared memory must exclude it from children
//! (madvise(2), MADV_DONTFORK).

use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::creds::last_errno;
use super::seccomp::{self, ARCH_OFFSET, NR_OFFSET, argument_offset, end, load, skip};

/// AUDIT_ARCH_* of linux/audit.h. The filter checks it, because system call numbers differ between architectures.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: Option<u32> = Some(0xc000_00b7);
#[cfg(target_arch = "riscv64")]
const AUDIT_ARCH: Option<u32> = Some(0xc000_00f3);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const AUDIT_ARCH: Option<u32> = None;

/// The first word that the child leaves in the shared memory.
const NOT_CALLED: i32 = 0;
const CALLED: i32 = 1;

/// Memory shared with the child: a page for the result, the argument, and an inaccessible page directly behind it.
struct SharedArgument {
    start: *mut libc::c_void,
    len: usize,
    argument: *mut u8,
    argument_len: usize,
}

impl SharedArgument {
    fn with(bytes: &[u8]) -> Result<Self, Errno> {
        // SAFETY: takes an integer.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| Errno::NOSYS)?;
        let argument_pages = bytes.len().next_multiple_of(page);
        let len = page + argument_pages + page;
        // SAFETY: a new mapping at an address chosen by the kernel changes no existing memory.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(last_errno());
        }
        // SAFETY: both lie within the mapping, whose last page begins `page + argument_pages` bytes in.
        let (guard, argument) = unsafe {
            let guard = start.byte_add(page + argument_pages);
            (guard, guard.byte_sub(bytes.len()).cast::<u8>())
        };
        let shared = Self { start, len, argument, argument_len: bytes.len() };
        // SAFETY: the last page of the new mapping, which nothing uses.
        if unsafe { libc::mprotect(guard, page, libc::PROT_NONE) } == -1 {
            return Err(last_errno());
        }
        // SAFETY: `argument` has space for exactly these bytes, and no child shares it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), argument, bytes.len()) };
        Ok(shared)
    }

    /// Where the child reports whether it made the call, and what that returned.
    fn report(&self) -> *mut [i32; 2] {
        self.start.cast()
    }
}

impl Drop for SharedArgument {
    fn drop(&mut self) {
        // SAFETY: exactly this mapping; no reference into it is left, and the child has ended.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// The capabilities that a call is made with. Its filesystem ids are the calling thread's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoctlCaps {
    /// Those of the calling thread.
    Inherit,
    /// These, a subset of the calling thread's.
    Only(CapabilitySet),
}

/// Makes an ioctl with a buffer as argument, which is read and written in place. Returns what the ioctl returned.
///
/// # Errors
/// The errors of the ioctl; EFAULT if it transfers more than the buffer; EIO if the child was killed; ENOSYS without
/// seccomp(2) filters.
pub fn ioctl(
    fd: impl AsFd,
    request: u32,
    argument: &mut [u8],
    caps: IoctlCaps,
) -> Result<i32, Errno> {
    let native = AUDIT_ARCH.ok_or(Errno::NOSYS)?;
    let shared = SharedArgument::with(argument)?;
    let fd = fd.as_fd().as_raw_fd();
    let filter = filter(native, fd);
    // SAFETY: the child makes system calls only, on memory that existed before, and ends by exit_group(2): it takes no
    // lock that another thread could have held, and drops nothing.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(last_errno()),
        0 => {
            // SAFETY: as above; this is the child.
            unsafe { run_child(fd, request, &shared, &filter, caps) }
        }
        child => child,
    };
    let mut status = 0;
    // SAFETY: the status outlives the call. ECHILD also means that the child has ended.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } == -1 && last_errno() == Errno::INTR {
    }
    // SAFETY: the child has ended; the pointers lie within the mapping.
    let [called, returned] = unsafe { shared.report().read_volatile() };
    if called != CALLED {
        return Err(if libc::WIFSIGNALED(status) { Errno::IO } else { Errno::NOSYS });
    }
    if returned < 0 {
        return Err(Errno::from_raw_os_error(returned.wrapping_neg()));
    }
    // SAFETY: the mapping has exactly as many bytes there as the buffer.
    unsafe {
        let from = shared.argument;
        std::ptr::copy_nonoverlapping(from, argument.as_mut_ptr(), shared.argument_len);
    }
    Ok(returned)
}

/// A filter that allows ioctls on one descriptor and exit_group(2). Any other call kills the process.
fn filter(native: u32, fd: RawFd) -> [libc::sock_filter; 9] {
    [
        load(ARCH_OFFSET),
        skip(native, 0, 6),
        load(NR_OFFSET),
        skip(libc::SYS_exit_group as u32, 3, 0),
        skip(libc::SYS_ioctl as u32, 0, 3),
        load(argument_offset(0)),
        skip(fd as u32, 0, 1),
        end(libc::SECCOMP_RET_ALLOW),
        end(libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

/// Restricts the calling process to the given capabilities (capset(2)). Returns whether that succeeded.
fn set_capabilities(caps: IoctlCaps) -> bool {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
    const VERSION_3: u32 = 0x2008_0522;
    let IoctlCaps::Only(kept) = caps else { return true };
    let header: [u32; 2] = [VERSION_3, 0];
    let (low, high) = (kept.bits() as u32, (kept.bits() >> 32) as u32);
    // Effective, permitted and inheritable sets of the lower 32 capabilities, then of the higher ones.
    let sets: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: both have the layout of the kernel's structures, and the kernel only reads them.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) == 0 }
}

/// Makes the ioctl in a child that has just been forked, and ends the child.
///
/// # Safety
///
/// Must be called in a forked child only. It closes every descriptor but one.
unsafe fn run_child(
    fd: RawFd,
    request: u32,
    shared: &SharedArgument,
    filter: &[libc::sock_filter],
    caps: IoctlCaps,
) -> ! {
    let none: libc::c_ulong = 0;
    // SAFETY: the process is a copy that ends here; the pointers lead to its own memory or to the shared mapping.
    unsafe {
        let report = shared.report();
        report.write_volatile([NOT_CALLED, 0]);
        if fd > 0 {
            libc::syscall(libc::SYS_close_range, 0, fd - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, fd + 1, u32::MAX, 0);
        let one: libc::c_ulong = 1;
        if set_capabilities(caps)
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, none, none, none) == 0
            && seccomp::install(filter)
        {
            let request = libc::c_ulong::from(request);
            let returned = libc::syscall(libc::SYS_ioctl, fd, request, shared.argument);
            let returned = match returned {
                -1 => -*libc::__errno_location(),
                returned => returned as i32,
            };
            report.write_volatile([CALLED, returned]);
        }
        loop {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn own_source() -> File {
        File::open(file!()).expect("tests run where the source is")
    }

    #[test]
    fn an_ioctl_reads_and_writes_its_argument_and_returns_its_errno() {
        let file = own_source();
        // FIONREAD returns the number of bytes left in the file.
        let mut argument = [0; 4];
        assert_eq!(ioctl(&file, 0x541b, &mut argument, IoctlCaps::Inherit), Ok(0));
        let len = file.metadata().expect("stat").len();
        assert_eq!(u64::from(u32::from_ne_bytes(argument)), len);
        assert_eq!(
            ioctl(&file, 0x5401, &mut [0; 64], IoctlCaps::Only(CapabilitySet::empty())),
            Err(Errno::NOTTY)
        );
    }

    #[test]
    fn an_ioctl_that_writes_beyond_its_argument_fails_with_efault() {
        // FIONREAD writes four bytes.
        for len in [0, 1, 3] {
            assert_eq!(
                ioctl(own_source(), 0x541b, &mut [0; 3][..len], IoctlCaps::Inherit),
                Err(Errno::FAULT),
                "{len}"
            );
        }
    }

    #[test]
    fn an_ioctl_that_names_another_descriptor_fails_with_ebadf() {
        let (file, other) = (own_source(), own_source());
        // FICLONERANGE begins with the number of the source file's descriptor.
        let mut range = [0; 32];
        range[..8].copy_from_slice(&i64::from(other.as_raw_fd()).to_ne_bytes());
        assert_eq!(ioctl(&file, 0x4020_940d, &mut range, IoctlCaps::Inherit), Err(Errno::BADF));
    }

    #[test]
    fn the_filter_kills_the_process_for_any_other_call() {
        let filter = filter(AUDIT_ARCH.expect("tests run where there is a filter"), 0);
        // SAFETY: the child makes system calls only, and ends by one.
        let child = unsafe {
            match libc::fork() {
                0 => {
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                    seccomp::install(&filter);
                    // Descriptor 1 is not the one that the filter allows.
                    libc::syscall(libc::SYS_ioctl, 1, 0x5401, 0);
                    libc::syscall(libc::SYS_exit_group, 0);
                    unreachable!()
                }
                child => child,
            }
        };
        let mut status = 0;
        // SAFETY: the status outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status:x}");
    }
}
