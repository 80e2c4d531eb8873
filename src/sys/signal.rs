//! A signal that interrupts a thread which waits in a system call.

use rustix::io::Errno;

use super::creds::last_errno;

const WAKE: libc::c_int = libc::SIGUSR2;

extern "C" fn nothing(_: libc::c_int) {}

/// Installs a handler that does nothing for the wake-up signal, so that the interrupted call returns EINTR.
pub fn install_wake_handler() -> Result<(), Errno> {
    // SAFETY: the structure is zeroed, which is valid for sigaction, and then filled; the handler touches nothing.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(WAKE, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Interrupts the system call in which a thread of this process waits.
pub fn wake(thread: rustix::thread::Pid) {
    // SAFETY: takes integers only; for a thread that is gone it fails with ESRCH.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.as_raw_nonzero().get(), WAKE);
    }
}
