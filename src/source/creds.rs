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
use crate::sys::creds::Verify;

#[derive(Clone, Copy)]
struct Acting {
    uid: u32,
    gid: u32,
    umask: u32,
    fsetid: bool,
    /// Whether setting an id may fail.
    verify: Verify,
}

/// An id to see whether ids can be set: not one that a thread starts with.
const SOMEBODY: u32 = 65533;

thread_local! {
    static ACTING: Cell<Option<Acting>> = const { Cell::new(None) };
}

/// What this process may do about its threads' ids.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    privileged: bool,
    uid: u32,
    gid: u32,
    /// Whether setting an id may fail, as far as capabilities and the user namespace go.
    verify: Verify,
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
        let verify = match privileged && maps_every_id("uid_map") && maps_every_id("gid_map") {
            true => Verify::No,
            false => Verify::Yes,
        };
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        Self { privileged, uid, gid, verify, capabilities }
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
            sys::creds::set_fsuid(uid, now.verify).map_err(|_| Errno::OVERFLOW)?;
            ACTING.set(Some(Acting { uid, ..now }));
        }
        if now.gid != gid {
            sys::creds::set_fsgid(gid, now.verify).map_err(|_| Errno::OVERFLOW)?;
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

    /// The first time in a thread: an umask of its own, and capabilities that stay when ids change. It starts with the ids
    /// and capabilities of the thread that made it, which may have been acting as somebody.
    fn enter_thread(&self) -> Acting {
        if let Some(acting) = ACTING.get() {
            return acting;
        }
        sys::creds::unshare_fs().unwrap_or_else(|_| abort("unshare"));
        let mut verify = self.verify;
        if self.privileged {
            rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
                .unwrap_or_else(|_| abort("prctl(PR_SET_SECUREBITS)"));
            // Whatever else there is may refuse (a security module, a filter of system calls), and says so to all alike.
            let takes = sys::creds::set_fsuid(SOMEBODY, Verify::Yes)
                .and_then(|()| sys::creds::set_fsgid(SOMEBODY, Verify::Yes));
            if takes.is_err() {
                verify = Verify::Yes;
            }
            sys::creds::set_fsuid(self.uid, Verify::Yes).unwrap_or_else(|_| abort("setfsuid"));
            sys::creds::set_fsgid(self.gid, Verify::Yes).unwrap_or_else(|_| abort("setfsgid"));
            rustix::thread::set_capabilities(None, self.capabilities)
                .unwrap_or_else(|_| abort("capset"));
        }
        let umask = 0;
        rustix::process::umask(Mode::empty());
        let acting = Acting { uid: self.uid, gid: self.gid, umask, fsetid: true, verify };
        ACTING.set(Some(acting));
        acting
    }
}

/// Whether the process's user namespace is one in which every id means itself (user_namespaces(7)).
fn maps_every_id(map: &str) -> bool {
    std::fs::read_to_string(format!("/proc/self/{map}"))
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Ends the process: a thread whose ids are not what they should be must never serve again.
fn abort(what: &str) -> ! {
    log::error!("{what} failed: cannot set a worker's credentials");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filesystem ids and effective capabilities of the calling thread (proc_pid_status(5)).
    fn in_force() -> (String, String, String) {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc is mounted");
        let last = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).expect("it has the line");
            line.split_whitespace().last().expect("the line has a value").to_owned()
        };
        (last("Uid:"), last("Gid:"), last("CapEff:"))
    }

    #[test]
    fn an_id_that_something_else_than_a_capability_refuses_is_not_taken_for_set() {
        let ours = Credentials::of_process();
        assert!(ours.are_privileged(), "these tests run as root");
        std::thread::spawn(move || {
            sys::creds::refuse_other_ids();
            assert_eq!(ours.act_as_raw(1234, 5678), Err(Errno::OVERFLOW));
            assert_eq!(in_force().0, "0");
            assert_eq!(ours.act_as_self(), Ok(()));
        })
        .join()
        .expect("the thread ends");
    }

    #[test]
    fn a_thread_made_by_one_that_acts_as_somebody_starts_as_ourselves() {
        let ours = Credentials::of_process();
        assert!(ours.are_privileged(), "these tests run as root");
        let before = in_force();
        std::thread::spawn(move || {
            ours.act_as_raw(1234, 5678).expect("act as somebody");
            ours.set_fsetid(false);
            assert_eq!(in_force().0, "1234");
            let made = std::thread::spawn(move || {
                ours.act_as_self().expect("act as ourselves");
                in_force()
            });
            assert_eq!(made.join().expect("the thread ends"), before);
        })
        .join()
        .expect("the thread ends");
    }
}
