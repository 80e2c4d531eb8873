//! `shiftbind --reload`: finds the daemon of a mount, requests a reload, and reports its result.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::OptionsAgain;
use super::kernel;
use crate::error::{Error, Result};
use crate::fuse::{Status, pid_namespace};
use crate::mount::{self, KernelMount};
use crate::sys::proc_status::{self, Ids};
use crate::sys::process::sigqueue;

/// How long a reload may take. A longer one reads a file that blocks, or waits for a client. Chosen.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which the daemon's status is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Evaluates the options of a mount again, and returns when they are in force or were refused. The daemon of the mount does
/// so; where the kernel made the mount, this process.
///
/// Any process that may send the daemon a signal (kill(2)) may ask it. A mount of the kernel's is root's.
pub fn reload(mountpoint: &Path, again: OptionsAgain) -> Result<()> {
    let message = |text: String| format!("reload {}: {text}", mountpoint.display());
    // First: the source of such a mount may be a mount of a daemon, which would answer in its place.
    if let Some(mount) = KernelMount::at(mountpoint)? {
        return kernel::reload(&mount, again)
            .map_err(|e| Error::reported(e.exit(), message(e.to_string())));
    }
    let refused = |text: &str| Error::refused(message(text.to_owned()));
    let failed = |e: io::Error| Error::mount(message("cannot reach the daemon".to_owned()), e);
    let root = open(mountpoint)?;
    let before = Status::ask(&root).map_err(|e| match e {
        Errno::NOTTY | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL => {
            refused("this is not the root of a shiftbind mount; name the mount point itself")
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
            "not permitted; only root and the user who mounted may signal process {}",
            before.pid
        ))),
        _ => failed(e),
    })?;
    let end = Instant::now() + RELOAD_TIMEOUT;
    loop {
        let now = Status::ask(&root).map_err(|e| failed(e.into()))?;
        // A reload that had begun before the signal may have read the previous options.
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

/// Opens the daemon's process. A pidfd cannot come to mean another process.
///
/// The server of a mount could name any process. Only one with the effective uid of the user who mounted, which the
/// kernel records (`user_id`), is accepted.
fn open_daemon(root: &OwnedFd, status: &Status) -> io::Result<OwnedFd> {
    let other = |text: &str| io::Error::other(text.to_owned());
    let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| other("it names no process"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // A second answer with this pid shows that the daemon still lived, and owned the pid, when the pidfd was opened.
    if Status::ask(root)?.pid != status.pid {
        return Err(other("it names another process each time"));
    }
    let mounter = mount::mounter(root.as_fd())?
        .ok_or_else(|| other("it is not in this mount namespace; run this where it is"))?;
    if effective_uid(pid)? != mounter {
        return Err(other("it names a process of another user than the one who mounted"));
    }
    Ok(process)
}

fn effective_uid(pid: Pid) -> io::Result<u32> {
    let status = proc_status::read(pid.as_raw_nonzero().get().unsigned_abs())?;
    let ids = proc_status::fields(&status).find(|(key, _)| *key == "Uid");
    let uid = ids.and_then(|(_, ids)| Ids::parse(ids).effective);
    uid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}
