//! System calls that rustix lacks or marks unsafe: fork, truncate by path, a write through a mapping.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

#[path = "../../src/sys/idmapped.rs"]
mod idmapped;
pub(crate) use idmapped::idmap_mount;

fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Runs `body` in a child process and returns without waiting for its end.
pub(crate) fn fork(body: impl FnOnce()) -> Pid {
    // SAFETY: the child is a copy of this thread alone. glibc makes malloc usable in it; `body` takes no other lock
    // that another thread could hold (it does not print), and the child leaves by _exit, so nothing runs twice.
    let raw = unsafe { libc::fork() };
    match raw {
        0 => {
            let quiet = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process at once; no destructor of the parent's values may run here.
            unsafe { libc::_exit(if quiet.is_ok() { 0 } else { 70 }) }
        }
        pid => Pid::from_raw(pid).expect("fork failed"),
    }
}

/// Waits for a child to end.
pub(crate) fn reap(child: Pid) {
    while matches!(waitpid(Some(child), WaitOptions::empty()), Err(Errno::INTR)) {}
}

/// Runs `body` in a child process and waits for its end; its panic fails the test.
pub(crate) fn run_in_child(body: impl FnOnce()) {
    let child = fork(body);
    let ended = loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            ended => break ended.expect("wait for the child"),
        }
    };
    let status = ended.and_then(|(_, status)| status.exit_status());
    assert_eq!(status, Some(0), "the child failed");
}

/// Moves this thread into a mount namespace of its own, from which no mount propagates.
pub(crate) fn enter_private_mount_namespace() {
    // SAFETY: NEWNS unshares no descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .expect("these tests mount: run them as root");
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .expect("make / private");
}

/// A user namespace with these maps (lines of `/proc/PID/uid_map`).
pub(crate) fn user_namespace(uid_map: &str, gid_map: &str) -> OwnedFd {
    let (mut here, mut there) = UnixStream::pair().expect("socketpair");
    let child = fork(|| {
        // SAFETY: NEWUSER unshares no descriptor table.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.expect("unshare user");
        there.write_all(b"r").expect("write");
        let _ = there.read(&mut [0]);
    });
    here.read_exact(&mut [0]).expect("the child made its namespace");
    let proc = format!("/proc/{}", child.as_raw_nonzero());
    std::fs::write(format!("{proc}/uid_map"), uid_map).expect("uid_map");
    std::fs::write(format!("{proc}/gid_map"), gid_map).expect("gid_map");
    let namespace = File::open(format!("{proc}/ns/user")).expect("ns/user").into();
    here.write_all(b"q").expect("write");
    reap(child);
    namespace
}

/// Calls truncate(2).
pub(crate) fn truncate(path: &Path, size: u64) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `path` ends with a zero.
    let ret = unsafe { libc::truncate(path.as_ptr(), size.cast_signed()) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Writes a byte through a shared mapping of the file's first page and syncs it.
pub(crate) fn write_mapped(fd: BorrowedFd<'_>, byte: u8) -> Result<(), Errno> {
    const PAGE: usize = 4096;
    if rustix::fs::fstat(fd.as_fd())?.st_size == 0 {
        return Err(Errno::NXIO); // touching the page would raise SIGBUS
    }
    // SAFETY: a new mapping; the file has a first byte, and no process truncates it while this child runs.
    unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), PAGE, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(last_errno());
        }
        at.cast::<u8>().write_volatile(byte);
        let synced = match libc::msync(at, PAGE, libc::MS_SYNC) {
            0 => Ok(()),
            _ => Err(last_errno()),
        };
        libc::munmap(at, PAGE);
        synced
    }
}
