//! `auto_unmount` for root: a small process that outlives the daemon, however that ends, and takes the mount away.
//! (For a normal user fusermount3 does this.)

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{chdir, setsid};

use crate::error::{Error, Result};
use crate::mount::NewMount;
use crate::sys::process::{Fork, close_all_but, exit_now, fork, replace_stdio};

/// Starts it. It acts when the returned descriptor closes.
pub(super) fn start(mount: &NewMount) -> Result<OwnedFd> {
    let failed = |e: std::io::Error| Error::system("cannot start the guardian of auto_unmount", e);
    let identity = mount.identity().map_err(failed)?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let (daemon_ends, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    match fork().map_err(failed)? {
        Fork::Parent(_) => Ok(lifeline),
        Fork::Child => {
            // Nothing may be held here: not the terminal, not the device, not the mount.
            let settled = replace_stdio(&null).is_ok() && chdir("/").is_ok();
            close_all_but(&[daemon_ends.as_raw_fd()]);
            let _ = setsid();
            // The daemon writes nothing: this returns when it is gone.
            let _ = File::from(daemon_ends).read(&mut [0]);
            let unmounted = identity.unmount(true);
            exit_now(u8::from(!settled || unmounted.is_err()));
        }
    }
}
