//! The credentials that a thread has, as the daemon has set them: no request asks the kernel for them.

#![allow(clippy::disallowed_methods)]

use std::cell::Cell;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::errno_field;
use crate::sys::creds::Verify;

thread_local! {
    static THREAD_CREDS: Cell<Option<ThreadCreds>> = const { Cell::new(None) };
}

/// The credentials of the calling thread.
#[derive(Clone, Copy)]
pub(super) struct ThreadCreds {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u32,
    pub(super) capabilities: CapabilitySets,
    /// Whether to check that setfsuid(2) has changed the id.
    pub(super) verify: Verify,
    /// Number of credential changes in this thread, by which a guard detects that it is outdated.
    pub(super) epoch: u32,
}

impl ThreadCreds {
    /// Returns those of the calling thread. `None` before its first use.
    pub(super) fn current() -> Option<Self> {
        THREAD_CREDS.get()
    }

    /// Records them as those of the calling thread.
    pub(super) fn record(self) {
        THREAD_CREDS.set(Some(self));
    }
}

/// Checks that the thread still has the credentials that a guard took at this epoch: EIO if not.
pub(super) fn check_epoch(taken: u32) -> Result<(), Errno> {
    if epoch() == taken {
        return Ok(());
    }
    debug_assert!(false, "the guard's credentials are outdated");
    log::error!(
        "refused to change the source: the worker's credentials have changed since it took them; this is a bug: \
         epoch={} taken={taken}",
        epoch()
    );
    Err(Errno::IO)
}

/// Returns the number of credential changes in this thread.
pub(super) fn epoch() -> u32 {
    ThreadCreds::current().map_or(0, |now| now.epoch)
}

/// Puts capabilities in force in this thread, whose credentials are `now`.
pub(super) fn set_effective(now: ThreadCreds, effective: CapabilitySet) {
    if now.capabilities.effective == effective {
        return;
    }
    let capabilities = CapabilitySets { effective, ..now.capabilities };
    rustix::thread::set_capabilities(None, capabilities).unwrap_or_else(|e| abort("capset", e));
    ThreadCreds { capabilities, epoch: now.epoch.wrapping_add(1), ..now }.record();
}

/// Gives the thread CAP_SYS_ADMIN, if the process has it, to close backing files.
///
/// It keeps the capability until [`drop_admin`], or until it lends capabilities the next time.
pub fn raise_for_backing_close() {
    const ADMIN: CapabilitySet = CapabilitySet::SYS_ADMIN;
    if let Some(now) = ThreadCreds::current() {
        let admin = ADMIN & now.capabilities.permitted;
        return set_effective(now, now.capabilities.effective | admin);
    }
    // A thread that was never prepared has the capabilities of the thread that made it.
    let Ok(mut sets) = rustix::thread::capabilities(None) else { return };
    if sets.permitted.contains(ADMIN) && !sets.effective.contains(ADMIN) {
        sets.effective |= ADMIN;
        if let Err(e) = rustix::thread::set_capabilities(None, sets) {
            log::debug!("cannot raise CAP_SYS_ADMIN to close a backing file: {}", errno_field(e));
        }
    }
}

/// Takes back CAP_SYS_ADMIN, if a backing file has left it in force in this thread.
pub fn drop_admin() {
    if let Some(now) = ThreadCreds::current()
        && now.capabilities.effective.contains(CapabilitySet::SYS_ADMIN)
    {
        set_effective(now, now.capabilities.effective - CapabilitySet::SYS_ADMIN);
    }
}

/// Aborts the process, because a thread with wrong credentials must never serve a request again.
pub(super) fn abort(what: &str, error: Errno) -> ! {
    let errno = errno_field(error);
    log::error!("cannot set a worker's credentials by {what}, so the daemon aborts: {errno}");
    std::process::abort()
}
