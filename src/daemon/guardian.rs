//! `auto_unmount`: a small process that waits for the daemon's end, for whatever reason, and then unmounts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{chdir, setsid};
use rustix::thread::set_name;

use crate::error::{Error, Result};
use crate::mount::{Mounted, NewMount};
use crate::sys::process::{Fork, close_all_but, exit_now, fork, replace_stdio};

/// The write end of the guardian's pipe. The guardian unmounts when the kernel closes it, at the latest on exit.
pub(super) struct Lifeline(OwnedFd);

impl Lifeline {
    /// Sends the identity of the mount that is attached now.
    pub(super) fn set_mount(&self, mounted: &Mounted) -> io::Result<()> {
        File::from(self.0.try_clone()?).write_all(mounted.to_line().as_bytes())
    }
}

/// Forks the guardian.
pub(super) fn start(mount: &NewMount) -> Result<Lifeline> {
    let failed = |e: std::io::Error| Error::system("cannot start the guardian of auto_unmount", e);
    let mounted = mount.mounted().map_err(failed)?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let (daemon_ends, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    match fork().map_err(failed)? {
        Fork::Parent(_) => Ok(Lifeline(lifeline)),
        Fork::Child => {
            // The guardian must not keep the terminal, the FUSE device or the mount open.
            let detached = replace_stdio(&null).is_ok() && chdir("/").is_ok();
            close_all_but(&[daemon_ends.as_raw_fd()]);
            let _ = setsid();
            // pgrep(1) and administrators must not take it for a second daemon.
            let _ = set_name(c"shiftbind-guard");
            // The read ends when the daemon is gone. The line names the attached mount, if one was attached by then.
            let mut line = String::new();
            let _ = File::from(daemon_ends).read_to_string(&mut line);
            let unmounted = Mounted::from_line(&line).unwrap_or(mounted).unmount(true);
            exit_now(u8::from(!detached || unmounted.is_err()));
        }
    }
}
