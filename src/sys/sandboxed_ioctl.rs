//! An ioctl(2) made by a process of its own, which has nothing that could be taken from it.
//!
//! The number of an ioctl tells how many bytes it moves, but some move more: arrays behind the structure, or memory that
//! an address in it names; others name descriptors. Made by us for somebody else, such a request would read and write
//! our memory and our files at his choice. So a child makes it that has one descriptor, copies of our memory that nobody
//! looks at again, the argument at the very end of a mapping, and a filter (seccomp(2)) under which even a child whose
//! memory was written over can do nothing but ioctls on that descriptor. What is shared with it is the argument alone:
//! whoever maps memory that is shared otherwise must keep it from children (madvise(2), MADV_DONTFORK).

use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::creds::last_errno;

/// What BPF programs of seccomp look at (`struct seccomp_data`).
const NR_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGS_OFFSET: u32 = 16;

/// AUDIT_ARCH_* of linux/audit.h: without it a number may mean another call.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: Option<u32> = Some(0xc000_00b7);
#[cfg(target_arch = "riscv64")]
const AUDIT_ARCH: Option<u32> = Some(0xc000_00f3);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const AUDIT_ARCH: Option<u32> = None;

/// What the child leaves at the beginning of the shared memory.
const NOT_CALLED: i32 = 0;
const CALLED: i32 = 1;

/// Memory that is shared with a child: a page for how the call ended, and the argument, behind which nothing is.
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
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(last_errno());
        }
        // SAFETY: both lie within the mapping, whose last page is `page + room` bytes in.
        let (guard, argument) = unsafe {
            let guard = start.byte_add(page + argument_pages);
            (guard, guard.byte_sub(bytes.len()).cast::<u8>())
        };
        let shared = Self { start, len, argument, argument_len: bytes.len() };
        // SAFETY: the last page of our own mapping, which nobody uses.
        if unsafe { libc::mprotect(guard, page, libc::PROT_NONE) } == -1 {
            return Err(last_errno());
        }
        // SAFETY: `argument` has room for exactly these bytes, and no child has it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), argument, bytes.len()) };
        Ok(shared)
    }

    /// Where the child tells whether it made the call, and what that returned.
    fn report(&self) -> *mut [i32; 2] {
        self.start.cast()
    }
}

impl Drop for SharedArgument {
    fn drop(&mut self) {
        // SAFETY: exactly our mapping; no reference into it is left, and the child has ended.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// With which capabilities a call is made; its filesystem ids are the calling thread's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoctlCaps {
    /// The calling thread's.
    Inherit,
    /// These, which the calling thread may have.
    Only(CapabilitySet),
}

/// Makes an ioctl whose argument is a buffer, read and written in place: what it returns. A request that moves more than
/// the buffer has fails with EFAULT.
///
/// ENOSYS where the kernel has no seccomp(2) filters.
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
    // SAFETY: the child makes system calls only, on memory that was there before, and ends by exit_group(2): it takes no
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
    // SAFETY: the status outlives the call. ECHILD means that the child has ended, too.
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

/// A filter that lets a process make ioctls on one descriptor and end. It is killed for anything else.
fn filter(native: u32, fd: RawFd) -> [libc::sock_filter; 9] {
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let jump_unless = |value, no| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, no);
    let jump_if = |value, yes| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, yes, 0);
    let ret = |action| op(libc::BPF_RET | libc::BPF_K, action, 0, 0);
    // The descriptor is in the lower half of its argument.
    let argument = ARGS_OFFSET + if cfg!(target_endian = "big") { 4 } else { 0 };
    [
        load(ARCH_OFFSET),
        jump_unless(native, 6),
        load(NR_OFFSET),
        jump_if(libc::SYS_exit_group as u32, 3),
        jump_unless(libc::SYS_ioctl as u32, 3),
        load(argument),
        jump_unless(fd as u32, 1),
        ret(libc::SECCOMP_RET_ALLOW),
        ret(libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Leaves the calling process the capabilities that it is to have (capset(2)): whether it has those.
fn set_capabilities(caps: IoctlCaps) -> bool {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
    const VERSION_3: u32 = 0x2008_0522;
    let IoctlCaps::Only(kept) = caps else { return true };
    let header: [u32; 2] = [VERSION_3, 0];
    let (low, high) = (kept.bits() as u32, (kept.bits() >> 32) as u32);
    // Effective, permitted and inheritable, of the lower and then of the higher numbers.
    let sets: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: both have the layout of the kernel's structures, and the kernel only reads them.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) == 0 }
}

/// Makes the call in a child that has just been forked, and ends it.
///
/// # Safety
///
/// To be called in a forked child only. Every descriptor but one is closed.
unsafe fn run_child(
    fd: RawFd,
    request: u32,
    shared: &SharedArgument,
    filter: &[libc::sock_filter],
    caps: IoctlCaps,
) -> ! {
    let none: libc::c_ulong = 0;
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the process is a copy that ends here; the pointers lead to memory of its own or to what is shared.
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
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
                &raw const program,
            ) == 0
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
        // FIONREAD: how many bytes are left in the file.
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
        // FICLONERANGE begins with the number of the file to clone from.
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
                    let program = libc::sock_fprog {
                        len: filter.len() as libc::c_ushort,
                        filter: filter.as_ptr().cast_mut(),
                    };
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
                    libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program);
                    // Not on the descriptor that it may use.
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
