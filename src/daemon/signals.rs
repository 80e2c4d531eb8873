//! Signals: the first that asks us to end unmounts, the second takes the mount out of sight though it is in use, the
//! third ends the process. SIGHUP asks for a reload; in front it also means that the terminal is gone. SIGUSR1 has the
//! mirror's users looked up again.

use std::io;
use std::sync::Arc;
use std::thread;

use super::mirror::RefreshHandle;
use super::pidfile::PidFile;
use super::reload::ReloadHandle;
use crate::mount::Mounted;
use crate::sys::process::SignalSet;

/// Blocked signals, waiting for somebody to take them.
pub(super) struct Signals(SignalSet);

impl Signals {
    /// Blocks them for this thread and all that it starts.
    pub(super) fn block() -> io::Result<Self> {
        // A write past a size limit then fails with EFBIG, and one to a closed pipe with EPIPE.
        SignalSet::block(&[libc::SIGXFSZ, libc::SIGPIPE])?;
        Ok(Self(SignalSet::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1])?))
    }

    /// Starts the thread that takes them. `sighup_terminates`: a SIGHUP that did not come from `shiftbind --reload` asks us
    /// to end.
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
                log::warn!("cannot unmount: {e}; a second signal detaches it though it is in use")
            }
        },
        2 => match mounted.unmount(true) {
            Ok(()) => warn_of_bind_mounts(mounted),
            Err(e) => log::error!("cannot detach the mount: {e}; a third signal ends the server"),
        },
        _ => {
            log::warn!("ending while the filesystem is in use");
            if let Some(pidfile) = pidfile {
                pidfile.remove();
            }
            std::process::exit(0);
        }
    }
}

fn warn_of_bind_mounts(mounted: &Mounted) {
    let mountpoints = mounted.remaining_mountpoints();
    if mountpoints.is_empty() {
        log::info!("unmounted; the server ends when nobody uses the filesystem any more");
    } else {
        log::warn!(
            "unmounted, but still served at {mountpoints:?} (bind mounts of it): unmount these too"
        );
    }
}
