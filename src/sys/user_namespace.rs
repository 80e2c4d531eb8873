//! User namespaces that nothing lives in: they only carry a map (user_namespaces(7)).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::process::{Fork, close_all_but, exit_now, forbid_tracing, fork, fork_for_system_calls};

/// Makes a user namespace with these maps, in the format of `/proc/PID/uid_map`, and returns a descriptor of it. A child
/// process, gone when this returns, makes it. To be called by a process that has a single thread.
///
/// # Errors
/// EBUSY with more than one thread; EPERM where the maps are more than the process may write (user_namespaces(7)), or user
/// namespaces are turned off; EINVAL for a map that the kernel does not take; ENOSPC when there are too many namespaces.
pub fn create_user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (ready, tell_ready) = pipe_with(PipeFlags::CLOEXEC)?;
    let (hold, release) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = match fork()? {
        Fork::Child => {
            close_all_but(&[tell_ready.as_raw_fd(), hold.as_raw_fd()]);
            run_child(&tell_ready, &hold)
        }
        Fork::Parent(child) => child,
    };
    drop((tell_ready, hold));
    let namespace = map_namespace(child, ready, uid_map, gid_map);
    // The child ends when nothing holds its pipe's other end.
    drop(release);
    let _ = waitpid(Some(child), WaitOptions::empty());
    namespace
}

/// Whether this process is in the initial user namespace.
#[must_use]
pub fn is_initial() -> bool {
    // PROC_USER_INIT_INO, which is USER_NS_INIT_INO of linux/nsfs.h.
    const INITIAL: u64 = 0xEFFF_FFFD;
    rustix::fs::stat(c"/proc/self/ns/user").is_ok_and(|ns| ns.st_ino == INITIAL)
}

/// The uid_map and gid_map of a user namespace, as this process sees them. A child process, gone when this returns, enters
/// it, since only the map of a process can be read. The daemon calls this at a reload, beside its other threads.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN in the namespace.
pub fn maps_of_namespace(namespace: impl AsFd) -> io::Result<(String, String)> {
    let (ready, tell_ready) = pipe_with(PipeFlags::CLOEXEC)?;
    let (hold, release) = pipe_with(PipeFlags::CLOEXEC)?;
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: the child makes system calls only: close_range(2), prctl(2), setns(2), write(2), read(2) and exit_group(2).
    let child = match unsafe { fork_for_system_calls() }? {
        Fork::Child => {
            close_all_but(&[tell_ready.as_raw_fd(), hold.as_raw_fd(), fd]);
            let result = match forbid_tracing() {
                // SAFETY: takes integers only; the descriptor is the caller's and is open.
                Ok(()) => unsafe { libc::setns(fd, libc::CLONE_NEWUSER) },
                Err(_) => -1,
            };
            report_and_wait(result, &tell_ready, &hold)
        }
        Fork::Parent(child) => child,
    };
    drop((tell_ready, hold));
    let maps = wait_ready(ready).and_then(|()| {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.as_raw_nonzero()));
        Ok((read("uid_map")?, read("gid_map")?))
    });
    // The child ends when nothing holds its pipe's other end.
    drop(release);
    let _ = waitpid(Some(child), WaitOptions::empty());
    maps
}

/// The child: makes the namespace.
fn run_child(tell_ready: &OwnedFd, hold: &OwnedFd) -> ! {
    // SAFETY: CLONE_NEWUSER changes the credentials of this process alone, which has a single thread.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    report_and_wait(result, tell_ready, hold)
}

/// Writes the errno of a call (0 for success) and waits until the parent closes its pipe.
fn report_and_wait(result: libc::c_int, tell_ready: &OwnedFd, hold: &OwnedFd) -> ! {
    let code = match result {
        0 => 0,
        _ => io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    };
    let _ = rustix::io::write(tell_ready, &code.to_ne_bytes());
    let _ = rustix::io::read(hold, &mut [0; 1]);
    exit_now(0)
}

/// Waits for the child's report.
fn wait_ready(ready: OwnedFd) -> io::Result<()> {
    let mut code = [0; 4];
    File::from(ready).read_exact(&mut code)?;
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn map_namespace(child: Pid, ready: OwnedFd, uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    wait_ready(ready)?;
    let proc = format!("/proc/{}", child.as_raw_nonzero());
    // One write(2) each: the kernel takes a map as a whole and once.
    fs::write(format!("{proc}/uid_map"), uid_map)?;
    fs::write(format!("{proc}/gid_map"), gid_map)?;
    File::open(format!("{proc}/ns/user"))?.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn with_several_threads_it_is_refused() {
        // The test runner has more than one.
        let error = super::create_user_namespace("0 0 1\n", "0 0 1\n").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    }
}
