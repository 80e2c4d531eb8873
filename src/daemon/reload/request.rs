//! `shiftbind --reload`: finds the daemon of a mount, asks it to reload, and says what became of it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};
use crate::fuse::{Status, pid_namespace};
use crate::mount;
use crate::sys::process::sigqueue;

/// A daemon that has not reloaded by now reads a file that does not come, or waits for a client.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the daemon is asked whether it is done.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Makes the daemon of a mount evaluate its options again, and returns when what they say holds, or why it does not.
/// Whoever may send the daemon a signal (kill(2)) may do so.
pub fn reload(mountpoint: &Path) -> Result<()> {
    let message = |text: String| format!("reload {}: {text}", mountpoint.display());
    let refused = |text: &str| Error::refused(message(text.to_owned()));
    let failed = |e: io::Error| Error::mount(message("cannot reach the daemon".to_owned()), e);
    let root = open(mountpoint)?;
    let before = Status::ask(&root).map_err(|e| match e {
        Errno::NOTTY | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL => {
            refused("this is not where shiftbind has mounted; name the mount point itself")
        }
        e => failed(e.into()),
    })?;
    if pid_namespace() != Some(before.pid_namespace) {
        return Err(refused(
            "its daemon is in another pid namespace: run this there, or send SIGHUP to it from there",
        ));
    }
    let daemon = open_daemon(&root, &before).map_err(failed)?;
    sigqueue(&daemon, libc::SIGHUP).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => Error::usage(message(format!(
            "not permitted; only root and whoever mounted may signal process {}",
            before.pid
        ))),
        _ => failed(e),
    })?;
    let end = Instant::now() + RELOAD_TIMEOUT;
    loop {
        let now = Status::ask(&root).map_err(|e| failed(e.into()))?;
        // One that was under way when we asked may have read the options as they were before.
        if now.ended > before.begun {
            return match now.refused {
                None => Ok(()),
                Some((exit, text)) => Err(Error::reported(exit, message(text))),
            };
        }
        if Instant::now() > end {
            return Err(refused(&format!(
                "process {} has not reloaded within {} seconds; see its log",
                before.pid,
                RELOAD_TIMEOUT.as_secs()
            )));
        }
        sleep(POLL_INTERVAL);
    }
}

fn open(mountpoint: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(CWD, mountpoint, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOTCONN | Errno::CONNABORTED => Error::refused(format!(
            "reload {}: its daemon died; umount it and mount again",
            mountpoint.display()
        )),
        Errno::ACCESS => Error::usage(format!(
            "reload {}: not permitted; run this as the user who mounted",
            mountpoint.display()
        )),
        e => Error::mount(format!("reload {}", mountpoint.display()), e),
    })
}

/// The daemon's process, which can be no other from now on. What serves a mount could name any process: only one of the
/// user who mounted is believed, whom the kernel knows.
fn open_daemon(root: &OwnedFd, status: &Status) -> io::Result<OwnedFd> {
    let other = |text: &str| io::Error::other(text.to_owned());
    let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| other("it names no process"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // It answers once more: so it lived, and its id was its own, when the process was opened.
    if Status::ask(root)?.pid != status.pid {
        return Err(other("it names another process each time"));
    }
    let mounter = mount::mounter(root.as_fd())?
        .ok_or_else(|| other("it is not in this mount namespace; run this where it is"))?;
    if effective_uid(pid)? != mounter {
        return Err(other("it names a process that is not of the user who mounted"));
    }
    Ok(process)
}

fn effective_uid(pid: Pid) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = line.and_then(|uids| uids.split_whitespace().nth(1)?.parse().ok());
    uid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}
