//! The first request: verifies that the mount answers before it is attached and success is reported.
//!
//! A child process sends it. A thread that waits for a server that hangs could not be ended: the process would keep the
//! FUSE device open, and only closing that aborts the request.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::error::{Error, Result};
use crate::mount::{MountPoint, NewMount};
use crate::sys::descriptors::is_readable_within;
use crate::sys::process::{Fork, close_all_but, exit_now, fork};

/// How long the root may take to answer GETATTR. Chosen: well above any answer of a local source.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that has been sent.
pub(super) struct Probe {
    process: Pid,
    /// Whether the process ends when it has the reply.
    ends: bool,
    answer: OwnedFd,
}

/// Forks a process that requests the attributes of the mount's root. The server may be started afterwards.
pub(super) fn start(mount: &NewMount, point: &MountPoint) -> Result<Probe> {
    let failed = |e: std::io::Error| Error::system("cannot probe the mount", e);
    let (answer, to_parent) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    if let Some(process) = mount.probe_in_container(to_parent.as_fd()) {
        return Ok(Probe { process: process.map_err(failed)?, ends: false, answer });
    }
    let root = mount.root(point).map_err(failed)?;
    match fork().map_err(failed)? {
        Fork::Parent(process) => Ok(Probe { process, ends: true, answer }),
        Fork::Child => {
            // Most of all the FUSE device: while it is open here, the kernel does not abort the connection of a daemon
            // that dies.
            close_all_but(&[root.as_raw_fd(), to_parent.as_raw_fd()]);
            let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
            let code = match statx(&root, c"", flags, StatxFlags::BASIC_STATS) {
                Ok(_) => 0,
                Err(e) => u8::try_from(e.raw_os_error()).unwrap_or(u8::MAX),
            };
            // The write fails only if the daemon has died.
            let _ = File::from(to_parent).write_all(&[code]);
            exit_now(0);
        }
    }
}

impl Probe {
    /// Waits for the reply.
    pub(super) fn wait(self) -> Result<()> {
        if !is_readable_within(&self.answer, PROBE_TIMEOUT) {
            // The process may not die before the device is closed, so it is not waited for.
            let _ = kill_process(self.process, Signal::KILL);
            return Err(Error::refused(format!(
                "the mount did not answer within {} seconds: is the source (a network filesystem?) reachable?",
                PROBE_TIMEOUT.as_secs()
            )));
        }
        let mut code = [u8::MAX];
        let read = File::from(self.answer).read_exact(&mut code);
        // The process has ended or is about to; its exit status carries no information.
        if self.ends {
            let _ = waitpid(Some(self.process), WaitOptions::empty());
        }
        match (read, code[0]) {
            (Ok(()), 0) => Ok(()),
            (Ok(()), code) => Err(Error::mount(
                "the mount does not answer",
                std::io::Error::from_raw_os_error(i32::from(code)),
            )),
            (Err(e), _) => Err(Error::mount("the mount could not be probed", e)),
        }
    }
}
