//! Whom a worker thread acts as on the source.
//!
//! What is created belongs to the thread's filesystem ids from its first instant, so a worker takes the caller's source
//! ids before it creates. It keeps them until a request of another caller needs others: the next request of the same
//! caller costs no system call. Capabilities do not follow the ids (SECBIT_NO_SETUID_FIXUP, capabilities(7)), so
//! whatever does not create may run under whichever ids are in force: permissions were checked at the mount.

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::idmap::{SourceGid, SourceUid};
use crate::sys;

#[derive(Clone, Copy)]
struct Acting {
    uid: u32,
    gid: u32,
    umask: u32,
    fsetid: bool,
}

thread_local! {
    static ACTING: Cell<Option<Acting>> = const { Cell::new(None) };
}

/// What this process may do about its threads' ids.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    privileged: bool,
    uid: u32,
    gid: u32,
    /// What the process may do, as every worker starts.
    capabilities: CapabilitySets,
}

impl Credentials {
    /// Looks at the process's capabilities: it may act as others with CAP_SETUID, CAP_SETGID and CAP_SETPCAP.
    #[must_use]
    pub fn of_process() -> Self {
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP;
        let none = CapabilitySet::empty();
        let capabilities = rustix::thread::capabilities(None).unwrap_or(CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        });
        let privileged = capabilities.effective.contains(needed);
        Self { privileged, uid: geteuid().as_raw(), gid: getegid().as_raw(), capabilities }
    }

    /// The process's own ids, as those of files that it makes.
    #[must_use]
    pub fn own(&self) -> (Option<SourceUid>, Option<SourceGid>) {
        (SourceUid::new(self.uid), SourceGid::new(self.gid))
    }

    /// Whether the process may act as other users.
    #[must_use]
    pub fn are_privileged(&self) -> bool {
        self.privileged
    }

    /// Acts as these ids until told otherwise. EPERM when an unprivileged process is asked to act as somebody else.
    pub fn act_as(&self, uid: SourceUid, gid: SourceGid) -> Result<(), Errno> {
        self.act_as_raw(uid.raw(), gid.raw())
    }

    /// Acts as the process's own user until told otherwise.
    pub fn act_as_self(&self) -> Result<(), Errno> {
        self.act_as_raw(self.uid, self.gid)
    }

    /// Does something as the process's own user, and goes on as whoever it acted as before.
    pub fn as_self<T>(&self, run: impl FnOnce() -> T) -> Result<T, Errno> {
        if !self.privileged {
            return Ok(run());
        }
        let before = self.enter_thread();
        self.act_as_self()?;
        let result = run();
        self.act_as_raw(before.uid, before.gid)?;
        Ok(result)
    }

    /// As [`Self::act_as`], for ids that are not stored: those of a caller whose quota and reserved space count.
    pub fn act_as_raw(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        if !self.privileged {
            return if uid == self.uid && gid == self.gid { Ok(()) } else { Err(Errno::PERM) };
        }
        let now = self.enter_thread();
        // A call that fails leaves the id as it was: what is in force stays known. It fails for an id that means nothing in
        // the process's user namespace, and as such an id nobody can own anything.
        if now.uid != uid {
            sys::creds::set_fsuid(uid).map_err(|_| Errno::OVERFLOW)?;
            ACTING.set(Some(Acting { uid, ..now }));
        }
        if now.gid != gid {
            sys::creds::set_fsgid(gid).map_err(|_| Errno::OVERFLOW)?;
            ACTING.set(Some(Acting { uid, gid, ..now }));
        }
        Ok(())
    }

    /// Acts with or without CAP_FSETID: without it the source itself takes setuid and setgid bits off what is written
    /// to or truncated, as it does for a caller who lacks it (inode(7)).
    pub fn set_fsetid(&self, wanted: bool) {
        if !self.privileged {
            return;
        }
        let now = self.enter_thread();
        if now.fsetid == wanted {
            return;
        }
        let mut sets = self.capabilities;
        if !wanted {
            sets.effective -= CapabilitySet::FSETID;
        }
        rustix::thread::set_capabilities(None, sets).unwrap_or_else(|_| abort("capset"));
        ACTING.set(Some(Acting { fsetid: wanted, ..now }));
    }

    /// Sets the umask that the source applies to what this thread creates, where no default ACL says otherwise.
    pub fn set_umask(&self, umask: u32) {
        let now = self.enter_thread();
        if now.umask != umask {
            rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
            ACTING.set(Some(Acting { umask, ..now }));
        }
    }

    /// The first time in a thread: an umask of its own, and capabilities that stay when ids change.
    fn enter_thread(&self) -> Acting {
        if let Some(acting) = ACTING.get() {
            return acting;
        }
        sys::creds::unshare_fs().unwrap_or_else(|_| abort("unshare"));
        if self.privileged {
            rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
                .unwrap_or_else(|_| abort("prctl(PR_SET_SECUREBITS)"));
        }
        let umask = 0;
        rustix::process::umask(Mode::empty());
        let acting = Acting { uid: self.uid, gid: self.gid, umask, fsetid: true };
        ACTING.set(Some(acting));
        acting
    }
}

/// Ends the process: a thread whose ids are not what they should be must never serve again.
fn abort(what: &str) -> ! {
    log::error!("{what} failed: cannot set a worker's credentials");
    std::process::abort()
}
