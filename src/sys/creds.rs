//! The calling thread's filesystem ids and umask.
//!
//! These are raw system calls: glibc's `setresuid` family changes all threads of the process (nptl(7)).

use rustix::io::Errno;

/// `(uid_t) -1`, which is no id: setfsuid(2) changes nothing and returns the id in force.
const NO_ID: u32 = u32::MAX;

/// Whether to read the ids back after setting them, since setfsuid(2) and setfsgid(2) report no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Read them back.
    Yes,
    /// Do not: the thread has CAP_SETUID and CAP_SETGID, and every id is valid in its user namespace.
    No,
}

fn set(call: libc::c_long, id: u32, verify: Verify) -> Result<(), Errno> {
    // SAFETY: the call takes an integer and touches no memory.
    unsafe { libc::syscall(call, id) };
    if verify == Verify::No {
        return Ok(());
    }
    // SAFETY: as above. See `NO_ID`.
    let now = unsafe { libc::syscall(call, NO_ID) };
    if now as u32 == id { Ok(()) } else { Err(Errno::PERM) }
}

/// Sets the thread's filesystem uid (setfsuid(2)). EPERM if the kernel kept the previous one.
pub fn set_fsuid(uid: u32, verify: Verify) -> Result<(), Errno> {
    set(libc::SYS_setfsuid, uid, verify)
}

/// Sets the thread's filesystem gid (setfsgid(2)). EPERM if the kernel kept the previous one.
pub fn set_fsgid(gid: u32, verify: Verify) -> Result<(), Errno> {
    set(libc::SYS_setfsgid, gid, verify)
}

/// Gives the calling thread its own working directory, root directory and umask (unshare(2), CLONE_FS).
pub fn unshare_fs() -> Result<(), Errno> {
    // SAFETY: CLONE_FS changes no memory or descriptors; the thread only stops sharing cwd, root and umask.
    if unsafe { libc::unshare(libc::CLONE_FS) } == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The errno of the system call that has just failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Makes setfsuid(2) and setfsgid(2) fail with EPERM in the calling thread for every id but 0, as a security module
/// could.
#[cfg(test)]
pub(crate) fn refuse_other_ids() {
    use super::seccomp::{NR_OFFSET, argument_offset, end, install, load, skip};

    let filter = [
        load(NR_OFFSET),
        skip(libc::SYS_setfsuid as u32, 1, 0),
        skip(libc::SYS_setfsgid as u32, 0, 3),
        load(argument_offset(0)),
        skip(0, 1, 0),
        skip(NO_ID, 0, 1),
        end(libc::SECCOMP_RET_ALLOW),
        end(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    assert!(install(&filter), "the kernel takes a filter");
}
