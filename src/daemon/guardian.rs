//! `auto_unmount`: a small process that outlives the daemon, however that ends, and takes the mount away.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{chdir, setsid};
use rustix::thread::set_name;

use crate::error::{Error, Result};
use crate::mount::{Mounted, NewMount};
use crate::sys::process::{Fork, close_all_but, exit_now, fork, replace_stdio};

/// What keeps the guardian waiting: it acts when this is dropped, however that happens.
pub(super) struct Lifeline(OwnedFd);

impl Lifeline {
    /// Tells it which mount it is that has been put into service.
    pub(super) fn set_mount(&self, mounted: &Mounted) -> io::Result<()> {
        File::from(self.0.try_clone()?).write_all(mounted.to_line().as_bytes())
    }
}

/// Starts it.
pub(super) fn start(mount: &NewMount) -> Result<Lifeline> {
    let failed = |e: std::io::Error| Error::system("cannot start the guardian of auto_unmount", e);
    let mounted = mount.mounted().map_err(failed)?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let (daemon_ends, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    match fork().map_err(failed)? {
        Fork::Parent(_) => Ok(Lifeline(lifeline)),
        Fork::Child => {
            // Nothing may be held here: not the terminal, not the device, not the mount.
            let detached = replace_stdio(&null).is_ok() && chdir("/").is_ok();
            close_all_but(&[daemon_ends.as_raw_fd()]);
            let _ = setsid();
            // So that nobody takes it for a second daemon.
            let _ = set_name(c"shiftbind-guard");
            // This returns when the daemon is gone. What was written by then says which mount is in service.
            let mut line = String::new();
            let _ = File::from(daemon_ends).read_to_string(&mut line);
            let unmounted = Mounted::from_line(&line).unwrap_or(mounted).unmount(true);
            exit_now(u8::from(!detached || unmounted.is_err()));
        }
    }
}
