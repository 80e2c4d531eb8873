//! Signal handling.
//!
//! | signal | effect |
//! |---|---|
//! | SIGTERM, SIGINT | the first unmounts, the second detaches the mount while it is in use, the third ends the process; the second does so where a mount in another namespace cannot be detached |
//! | SIGHUP | reloads; in the foreground without `config=FILE`, unless `--reload` sent it, as SIGTERM |
//! | SIGUSR1 | looks up the mirror's users again |

use std::io;
use std::sync::Arc;
use std::thread;

use super::mirror::RefreshHandle;
use super::pidfile::PidFile;
use super::reload::ReloadHandle;
use crate::error::errno_field;
use crate::mount::Mounted;
use crate::sys::process::SignalSet;

/// Blocked signals, to be received by the signal thread.
pub(super) struct Signals(SignalSet);

impl Signals {
    /// Blocks them for this thread and the threads that it starts.
    pub(super) fn block() -> io::Result<Self> {
        // With these blocked, a write beyond a size limit fails with EFBIG, and one to a closed pipe with EPIPE.
        SignalSet::block(&[libc::SIGXFSZ, libc::SIGPIPE])?;
        Ok(Self(SignalSet::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1])?))
    }

    /// Starts the thread that receives them.
    ///
    /// `sighup_terminates`: a SIGHUP that `shiftbind --reload` did not send counts as SIGTERM.
    pub(super) fn spawn(
        self,
        refresh: RefreshHandle,
        mounted: Mounted,
        pidfile: Arc<Option<PidFile>>,
        reload: ReloadHandle,
        sighup_terminates: bool,
    ) -> io::Result<()> {
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut count = 0;
            while let Ok(signal) = self.0.wait() {
                if signal.number == libc::SIGUSR1 {
                    refresh.request();
                    continue;
                }
                if signal.number == libc::SIGHUP && (signal.queued || !sighup_terminates) {
                    reload.request();
                    continue;
                }
                count += 1;
                shut_down(count, &mounted, pidfile.as_ref().as_ref());
            }
        })?;
        Ok(())
    }
}

fn shut_down(count: u32, mounted: &Mounted, pidfile: Option<&PidFile>) {
    match count {
        1 => match mounted.unmount(false) {
            Ok(()) => warn_of_bind_mounts(mounted),
            Err(e) => {
                log::warn!(
                    "cannot unmount; a second signal detaches the mount while it is in use: {} {}",
                    mounted.field(),
                    errno_field(e)
                )
            }
        },
        2 => match mounted.unmount(true) {
            Ok(()) => warn_of_bind_mounts(mounted),
            // Root of a container may cover the mount, or keep a copy of it, as long as it likes.
            Err(e) if mounted.is_elsewhere() => {
                log::warn!("cannot detach the mount: {} {}", mounted.field(), errno_field(e));
                end(mounted, pidfile)
            }
            Err(e) => log::error!(
                "cannot detach the mount; a third signal ends the daemon: {} {}",
                mounted.field(),
                errno_field(e)
            ),
        },
        _ => end(mounted, pidfile),
    }
}

/// Ends the process. The kernel ends the connection when the device is closed.
fn end(mounted: &Mounted, pidfile: Option<&PidFile>) -> ! {
    log::warn!("exiting while the filesystem is in use: {}", mounted.field());
    if let Some(pidfile) = pidfile {
        pidfile.remove();
    }
    std::process::exit(0)
}

fn warn_of_bind_mounts(mounted: &Mounted) {
    let mountpoints = mounted.remaining_mountpoints();
    if mountpoints.is_empty() {
        log::info!(
            "unmounted; the daemon exits when the filesystem is no longer in use: {}",
            mounted.field()
        );
    } else {
        log::warn!(
            "unmounted, but still served at {mountpoints:?} (bind mounts of it): unmount these too"
        );
    }
}
