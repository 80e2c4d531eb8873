//! The calling thread's filesystem ids and umask.
//!
//! Raw system calls: glibc's `setresuid` family changes every thread of the process (nptl(7)).

use rustix::io::Errno;

use crate::idmap::NO_ID;

fn set_and_check(call: libc::c_long, id: u32) -> Result<(), Errno> {
    // setfsuid(2) and setfsgid(2) report no error: a second call with an invalid id tells what is in force.
    // SAFETY: both calls take an integer and touch no memory.
    let now = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, NO_ID)
    };
    if now as u32 == id { Ok(()) } else { Err(Errno::PERM) }
}

/// Sets the thread's filesystem uid (setfsuid(2)). EPERM when the kernel kept another.
pub fn set_fsuid(uid: u32) -> Result<(), Errno> {
    set_and_check(libc::SYS_setfsuid, uid)
}

/// Sets the thread's filesystem gid (setfsgid(2)). EPERM when the kernel kept another.
pub fn set_fsgid(gid: u32) -> Result<(), Errno> {
    set_and_check(libc::SYS_setfsgid, gid)
}

/// Gives the calling thread a working directory and umask of its own (unshare(2), CLONE_FS).
pub fn unshare_fs() -> Result<(), Errno> {
    // SAFETY: CLONE_FS changes no memory or descriptors; the thread only stops sharing cwd, root and umask.
    if unsafe { libc::unshare(libc::CLONE_FS) } == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The error of the system call that has just failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
