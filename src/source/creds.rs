//! The credentials of a worker thread on the source.
//!
//! The kernel gives a new inode the filesystem ids of the thread that creates it, so a worker takes the caller's source
//! ids before it creates. It keeps them until a request of another caller needs other ids; a series of requests of one
//! caller costs one change. Capabilities do not follow the ids (SECBIT_NO_SETUID_FIXUP, capabilities(7)): a worker
//! always has those that stand for checks which the kernel has made at the mount, and lends any other to a single call.
//!
//! Every call that changes the source is a method of [`ActingAs`] or [`Lent`] (`changes.rs`). Only the methods here
//! return these guards, so that a call without a change of credentials does not compile. Calls that only read may run
//! with any ids, because the kernel has checked permissions at the mount.

#![allow(clippy::disallowed_methods)]

use std::marker::PhantomData;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::namespace_ids::NamespaceIds;
use super::thread_creds::{ThreadCreds, abort, check_epoch, epoch, set_effective};
use crate::error::errno_field;
use crate::idmap::{SourceGid, SourceUid};
use crate::sys;
use crate::sys::creds::Verify;

/// The capabilities that every worker has.
///
/// The kernel checks permissions at the mount before it sends a request, so the source must not check them again;
/// CAP_SYS_PTRACE is for reading callers in /proc.
const WORKER_CAPS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_PTRACE);

/// An id with which [`Credentials::init_thread`] probes setfsuid(2). It must not be an id with which a thread starts.
const PROBE_ID: u32 = 65533;

/// What this process may change about the credentials of its threads.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    privileged: bool,
    uid: u32,
    gid: u32,
    /// Ids that probably own no files: the highest ones in the process's user namespace.
    ///
    /// `None` if the namespace has no id other than the process's own.
    ownerless: Option<(u32, u32)>,
    /// Whether capabilities and the user namespace leave it possible that setfsuid(2) fails.
    verify: Verify,
    /// The capabilities of the process.
    capabilities: CapabilitySets,
    /// The capabilities that workers have permanently.
    worker: CapabilitySet,
}

/// Guard of a thread that acts with certain ids: the calls that change the source are its methods.
#[must_use]
#[derive(Debug)]
pub struct ActingAs<'a> {
    credentials: &'a Credentials,
    epoch: u32,
    /// Credentials belong to a thread, so the guard cannot be sent to another one.
    _thread: PhantomData<*const ()>,
}

/// Guard of a thread that has the additional capabilities which one call needs. They are dropped with the guard.
#[must_use]
#[derive(Debug)]
pub struct Lent<'a> {
    acting: &'a ActingAs<'a>,
    lent: CapabilitySet,
    epoch: u32,
}

impl ActingAs<'_> {
    /// Checks that the thread still has the credentials of this guard: EIO if not.
    ///
    /// To be called by each method that changes the source.
    pub(super) fn check_current(&self) -> Result<(), Errno> {
        check_epoch(self.epoch)
    }

    /// Returns whether the process cannot change credentials and always acts as itself.
    pub(super) fn is_unprivileged(&self) -> bool {
        !self.credentials.privileged
    }

    /// Returns those of the capabilities that the process has.
    pub(super) fn limit_to_permitted(&self, capabilities: CapabilitySet) -> CapabilitySet {
        capabilities & self.credentials.capabilities.permitted
    }

    /// Adds or removes CAP_FSETID.
    ///
    /// Without it the source clears setuid and setgid bits when a file is written or truncated, as it does for a caller
    /// that lacks the capability (inode(7)).
    pub fn set_fsetid(&mut self, wanted: bool) {
        if self.check_current().is_ok() && self.credentials.privileged {
            self.credentials.switch_fsetid(wanted);
            self.epoch = epoch();
        }
    }

    /// Lends capabilities until the result is dropped. The thread then has only these and those of every worker.
    pub fn lend(&self, lent: CapabilitySet) -> Result<Lent<'_>, Errno> {
        self.check_current()?;
        let credentials = self.credentials;
        let now = credentials.init_thread();
        let lent = self.limit_to_permitted(lent);
        set_effective(now, (now.capabilities.effective & credentials.worker) | lent);
        Ok(Lent { acting: self, lent, epoch: epoch() })
    }
}

impl Lent<'_> {
    /// See [`ActingAs::check_current`].
    pub(super) fn check_current(&self) -> Result<(), Errno> {
        check_epoch(self.epoch)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(now) = ThreadCreds::current() else { return };
        if !self.lent.is_empty() {
            set_effective(now, now.capabilities.effective & self.acting.credentials.worker);
        }
        if let Some(after) = ThreadCreds::current()
            && now.epoch == self.epoch
        {
            // The outer guard is current again.
            ThreadCreds { epoch: self.acting.epoch, ..after }.record();
        }
    }
}

impl Credentials {
    /// Reads the capabilities of the process.
    ///
    /// It can change ids if it has CAP_SETUID, CAP_SETGID and CAP_SETPCAP.
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
        let maps = [NamespaceIds::of_namespace("uid_map"), NamespaceIds::of_namespace("gid_map")];
        let verify = match privileged && maps.iter().all(NamespaceIds::cover_all) {
            true => Verify::No,
            false => Verify::Yes,
        };
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let ownerless = match maps.map(|ids| ids.last) {
            [Some(last_uid), Some(last_gid)] if last_uid != uid && last_gid != gid => {
                Some((last_uid, last_gid))
            }
            _ => None,
        };
        let worker = capabilities.effective & WORKER_CAPS;
        Self { privileged, uid, gid, ownerless, verify, capabilities, worker }
    }

    /// Returns the process's own ids, which own the files that it creates.
    #[must_use]
    pub fn own(&self) -> (Option<SourceUid>, Option<SourceGid>) {
        (SourceUid::new(self.uid), SourceGid::new(self.gid))
    }

    /// Returns whether the process can act with other ids than its own.
    #[must_use]
    pub fn are_privileged(&self) -> bool {
        self.privileged
    }

    /// Acts with the ids that are to own a new inode, and with the caller's umask.
    ///
    /// The source applies the umask unless a default ACL overrides it. EPERM if the process cannot change ids and these
    /// are not its own; EOVERFLOW if they are not mapped in its user namespace.
    pub fn creator(
        &self,
        (uid, gid): (SourceUid, SourceGid),
        umask: u32,
    ) -> Result<ActingAs<'_>, Errno> {
        let now = self.init_thread();
        if now.umask != umask {
            rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
            ThreadCreds { umask, epoch: now.epoch.wrapping_add(1), ..now }.record();
        }
        self.act_as(uid.raw(), gid.raw())
    }

    /// Acts with the source ids of a caller that creates nothing.
    ///
    /// `None`: the caller is unmapped, and the thread acts with ids that own nothing. EOVERFLOW if there are none.
    pub fn on_behalf(&self, ids: Option<(SourceUid, SourceGid)>) -> Result<ActingAs<'_>, Errno> {
        if !self.privileged {
            return Ok(self.acting());
        }
        match ids {
            Some((uid, gid)) => self.act_as(uid.raw(), gid.raw()),
            None => self.as_ownerless(None),
        }
    }

    /// Drops all capabilities but those that every worker has.
    pub fn drop_lent(&self) {
        let now = self.init_thread();
        set_effective(now, now.capabilities.effective & self.worker);
    }

    /// Acts with ids that own nothing, and that are not `to` in particular. EOVERFLOW if there are none.
    pub fn as_ownerless(&self, to: Option<(u32, u32)>) -> Result<ActingAs<'_>, Errno> {
        let (uid, gid) = self.ownerless.ok_or(Errno::OVERFLOW)?;
        let other = |id: u32, not: Option<u32>| if not == Some(id) { id - 1 } else { id };
        self.act_as(other(uid, to.map(|ids| ids.0)), other(gid, to.map(|ids| ids.1)))
    }

    /// Acts with exactly these ids, whatever they mean on the source.
    ///
    /// Quota and reserved blocks count for them.
    pub fn writer(&self, uid: u32, gid: u32) -> Result<ActingAs<'_>, Errno> {
        if self.privileged { self.act_as(uid, gid) } else { Ok(self.acting()) }
    }

    /// Acts with ids that own nothing, to write. `gid` chooses the gid, given the one that owns nothing.
    ///
    /// EOVERFLOW if there are no such ids.
    pub fn ownerless_writer(&self, gid: impl FnOnce(u32) -> u32) -> Result<ActingAs<'_>, Errno> {
        if !self.privileged {
            return Ok(self.acting());
        }
        let (uid, own_gid) = self.ownerless.ok_or(Errno::OVERFLOW)?;
        self.act_as(uid, gid(own_gid))
    }

    /// Runs a closure with the process's own ids, and restores the ids that the thread had.
    pub fn as_self<T>(&self, run: impl FnOnce() -> T) -> Result<T, Errno> {
        if !self.privileged {
            return Ok(run());
        }
        let before = self.init_thread();
        let _ours = self.act_as(self.uid, self.gid)?;
        let result = run();
        let _theirs = self.act_as(before.uid, before.gid)?;
        if let Some(now) = ThreadCreds::current() {
            ThreadCreds { epoch: before.epoch, ..now }.record();
        }
        Ok(result)
    }

    /// Acts with ids that own nothing, without CAP_FSETID but with CAP_SYS_ADMIN, to open a backing file.
    ///
    /// The kernel writes to a backing file with the credentials at the time of the FUSE_DEV_IOC_BACKING_OPEN ioctl: the
    /// source must clear setuid and setgid bits then, and must not give reserved blocks. The ioctl itself needs
    /// CAP_SYS_ADMIN, which the thread keeps until it lends capabilities the next time. EPERM if there are no such ids.
    pub fn act_for_backing_open(&self) -> Result<(), Errno> {
        let mut kept = CapabilitySet::all();
        if self.privileged {
            let _ownerless = self.as_ownerless(None).map_err(|_| Errno::PERM)?;
            kept -= CapabilitySet::FSETID;
        }
        let now = self.init_thread();
        let admin = CapabilitySet::SYS_ADMIN & self.capabilities.permitted;
        set_effective(now, (now.capabilities.effective & kept) | admin);
        Ok(())
    }

    fn acting(&self) -> ActingAs<'_> {
        self.init_thread();
        ActingAs { credentials: self, epoch: epoch(), _thread: PhantomData }
    }

    fn act_as(&self, uid: u32, gid: u32) -> Result<ActingAs<'_>, Errno> {
        if !self.privileged {
            let is_self = uid == self.uid && gid == self.gid;
            return if is_self { Ok(self.acting()) } else { Err(Errno::PERM) };
        }
        let now = self.init_thread();
        let epoch = now.epoch.wrapping_add(1);
        // A call that fails leaves the id as it was, so the recorded ids stay right. It fails for an id that is not
        // mapped in the process's user namespace, which no file can belong to.
        if now.uid != uid {
            sys::creds::set_fsuid(uid, now.verify).map_err(|_| Errno::OVERFLOW)?;
            ThreadCreds { uid, epoch, ..now }.record();
        }
        if now.gid != gid {
            sys::creds::set_fsgid(gid, now.verify).map_err(|_| Errno::OVERFLOW)?;
            ThreadCreds { uid, gid, epoch, ..now }.record();
        }
        Ok(self.acting())
    }

    fn switch_fsetid(&self, wanted: bool) {
        let now = self.init_thread();
        let fsetid = CapabilitySet::FSETID & self.worker;
        let before = now.capabilities.effective;
        set_effective(now, if wanted { before | fsetid } else { before - fsetid });
    }

    /// Prepares a thread at its first use.
    ///
    /// It gets a umask of its own, no groups, and capabilities that stay when ids change. A new thread starts with the
    /// ids and capabilities of the thread that made it, which may have been those of a caller.
    fn init_thread(&self) -> ThreadCreds {
        if let Some(acting) = ThreadCreds::current() {
            return acting;
        }
        sys::creds::unshare_fs().unwrap_or_else(|e| abort("unshare", e));
        let mut verify = self.verify;
        if self.privileged {
            rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
                .unwrap_or_else(|e| abort("prctl(PR_SET_SECUREBITS)", e));
            // The daemon's groups must not help a caller. In a user namespace setgroups(2) may be denied.
            if let Err(e) = rustix::thread::set_thread_groups(&[]) {
                log::debug!(
                    "cannot drop supplementary groups, so workers keep the daemon's: {}",
                    errno_field(e)
                );
            }
            // A security module or a seccomp filter may refuse any other id: probe with one, and verify every change if
            // it is refused.
            let takes = sys::creds::set_fsuid(PROBE_ID, Verify::Yes)
                .and_then(|()| sys::creds::set_fsgid(PROBE_ID, Verify::Yes));
            if takes.is_err() {
                verify = Verify::Yes;
            }
            sys::creds::set_fsuid(self.uid, Verify::Yes).unwrap_or_else(|e| abort("setfsuid", e));
            sys::creds::set_fsgid(self.gid, Verify::Yes).unwrap_or_else(|e| abort("setfsgid", e));
        }
        let capabilities = CapabilitySets { effective: self.worker, ..self.capabilities };
        if !capabilities.permitted.is_empty() {
            rustix::thread::set_capabilities(None, capabilities)
                .unwrap_or_else(|e| abort("capset", e));
        }
        let umask = 0;
        rustix::process::umask(Mode::empty());
        let (uid, gid) = (self.uid, self.gid);
        let acting = ThreadCreds { uid, gid, umask, capabilities, verify, epoch: 1 };
        acting.record();
        acting
    }
}

#[cfg(test)]
mod tests {
    use super::super::thread_creds::{drop_admin, raise_for_backing_close};
    use super::*;

    /// Reads the filesystem ids, groups and effective capabilities of the calling thread (proc_pid_status(5)).
    fn creds_in_proc() -> (String, String, String, String) {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc is mounted");
        let last = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).expect("it has the line");
            line.split_whitespace().last().expect("the line has a value").to_owned()
        };
        (last("Uid:"), last("Gid:"), last("Groups:"), last("CapEff:"))
    }

    fn effective() -> CapabilitySet {
        rustix::thread::capabilities(None).expect("capget").effective
    }

    fn in_a_thread(run: impl FnOnce(&Credentials) + Send + 'static) {
        let credentials = Credentials::of_process();
        assert!(credentials.are_privileged(), "these tests run as root");
        std::thread::spawn(move || run(&credentials)).join().expect("the thread ends");
    }

    #[test]
    fn a_setfsuid_refused_by_a_seccomp_filter_is_detected() {
        in_a_thread(|credentials| {
            sys::creds::refuse_other_ids();
            assert_eq!(credentials.writer(1234, 5678).err(), Some(Errno::OVERFLOW));
            assert_eq!(credentials.on_behalf(None).err(), Some(Errno::OVERFLOW));
            assert_eq!(creds_in_proc().0, "0");
            assert!(credentials.writer(0, 0).is_ok());
        });
    }

    #[test]
    fn a_thread_spawned_under_a_callers_ids_starts_with_the_daemons_own() {
        in_a_thread(|credentials| {
            let first = credentials.writer(0, 0).map(drop);
            assert_eq!(first, Ok(()));
            let before = creds_in_proc();
            let mut acting = credentials.writer(1234, 5678).expect("act as a user");
            acting.set_fsetid(false);
            let _lent = acting.lend(CapabilitySet::MKNOD).expect("lend");
            assert_eq!(creds_in_proc().0, "1234");
            let credentials = *credentials;
            let made = std::thread::spawn(move || {
                let _acting = credentials.writer(0, 0).expect("act as the daemon");
                creds_in_proc()
            });
            assert_eq!(made.join().expect("the thread ends"), before);
        });
    }

    #[test]
    fn an_unmapped_caller_acts_with_ids_that_own_nothing() {
        in_a_thread(|credentials| {
            let acting = credentials.on_behalf(None).expect("act as ids that own nothing");
            assert_eq!(acting.check_current(), Ok(()));
            assert_eq!(creds_in_proc().0, (u32::MAX - 1).to_string());
            assert_eq!(creds_in_proc().1, (u32::MAX - 1).to_string());
            assert_eq!(creds_in_proc().2, "Groups:", "the daemon's groups are gone");
            let owner = u32::MAX - 1;
            let _acting = credentials
                .as_ownerless(Some((owner, 7)))
                .expect("act as other ids that own nothing");
            assert_eq!(creds_in_proc().0, (owner - 1).to_string());
            assert_eq!(creds_in_proc().1, owner.to_string());
        });
    }

    #[test]
    fn capabilities_are_lent_to_one_call_and_to_no_other() {
        let extra = CapabilitySet::MKNOD | CapabilitySet::SETFCAP | CapabilitySet::SYS_ADMIN;
        in_a_thread(move |credentials| {
            let mut acting = credentials.writer(1234, 5678).expect("act as a user");
            assert!(!effective().intersects(extra | CapabilitySet::LINUX_IMMUTABLE));
            {
                let lent = acting.lend(CapabilitySet::MKNOD).expect("lend");
                assert_eq!(lent.check_current(), Ok(()));
                assert_eq!(effective() & extra, CapabilitySet::MKNOD);
            }
            assert_eq!(acting.check_current(), Ok(()));
            assert!(!effective().intersects(extra));
            acting.set_fsetid(false);
            drop(acting.lend(CapabilitySet::SETFCAP).expect("lend"));
            assert!(!effective().intersects(extra | CapabilitySet::FSETID), "it is as before");
            // What is left over from a backing file is not lent to other calls.
            credentials.act_for_backing_open().expect("act for a backing open");
            assert_eq!(effective() & extra, CapabilitySet::SYS_ADMIN);
            assert!(!effective().contains(CapabilitySet::FSETID));
            let acting = credentials.writer(1234, 5678).expect("act as a user");
            drop(acting.lend(CapabilitySet::empty()).expect("lend"));
            assert!(!effective().intersects(extra));
            raise_for_backing_close();
            assert_eq!(effective() & extra, CapabilitySet::SYS_ADMIN);
            drop_admin();
            assert!(!effective().intersects(extra));
        });
    }

    #[test]
    #[should_panic = "the thread ends"]
    fn outdated_credentials_change_nothing() {
        in_a_thread(|credentials| {
            let acting = credentials.writer(1234, 5678).expect("act as a user");
            let _other = credentials.writer(4321, 5678).expect("act as a user");
            let _refused = acting.check_current();
        });
    }
}
