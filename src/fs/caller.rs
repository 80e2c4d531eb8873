//! Reads what a request does not say about its caller from /proc/PID/status (proc_pid_status(5)).
//!
//! It does so only when a decision needs it.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD};
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, capabilities};

use super::permission::{Capability, Requester};
use super::types::Caller;
use crate::idmap::{MountGid, MountUid, UserNamespaceIds, inside, outside};
use crate::sys::proc_status::{self, Ids};
use crate::view::PresentedAttr;

/// CAP_FSETID.
const FSETID: u32 = 4;
/// CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;

/// Returns whether a thread has CAP_SYS_ADMIN in its own user namespace (capget(2)).
///
/// It may then have it in the daemon's as well. This check is much cheaper than to read /proc, and mostly says no.
pub(super) fn may_be_admin(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| {
        capabilities(Some(pid)).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
    })
}

/// Signals that do not end a process without a handler: ignored by default, or stopping it (signal(7)).
const NON_FATAL: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// How many times as long as a round of [`ClientState::of`] the rest after it is: rounds take 5 % of a processor. Chosen.
const REST_FACTOR: u32 = 19;
/// The longest rest, also after a round that lasted long because the daemon was stopped meanwhile. Chosen.
const MAX_REST: Duration = Duration::from_secs(1);

/// State of a client's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// It is running, or not visible from the daemon's pid namespace.
    Alive,
    /// A fatal signal is pending: it ends as soon as its request is answered.
    Dying,
    /// It has ended.
    Gone,
}

impl ClientState {
    /// Returns the state of the thread with this id.
    #[must_use]
    pub fn of(thread: u32) -> Self {
        let creds = CallerCreds::of(thread);
        match (thread, creds.ended) {
            (0, _) => Self::Alive,
            (_, true) => Self::Gone,
            _ if creds.is_dying() => Self::Dying,
            _ => Self::Alive,
        }
    }

    /// Returns how long a thread that asks for the states of many clients rests after a round of that length.
    #[must_use]
    pub fn rest_after(round: Duration) -> Duration {
        round.saturating_mul(REST_FACTOR).min(MAX_REST)
    }
}

/// Returns whether a thread waits in fcntl(2) for a POSIX lock (F_SETLKW).
///
/// The thread may instead wait for an open file description lock (F_OFD_SETLKW): the protocol does not tell them apart,
/// but /proc/PID/syscall does. False if the daemon may not read that file, because it needs the right to trace the
/// thread (proc_pid_syscall(5)).
pub(super) fn waits_for_posix_lock(thread: u32) -> bool {
    // The kernel sends the request before the thread sleeps, and the file says "running" until then.
    for _ in 0..20 {
        match std::fs::read_to_string(format!("/proc/{thread}/syscall")) {
            Ok(call) if call.starts_with("running") => {
                std::thread::sleep(Duration::from_micros(500));
            }
            Ok(call) => return is_posix_wait(&call),
            Err(_) => return false,
        }
    }
    false
}

/// Returns whether a line of /proc/PID/syscall is a wait for a POSIX lock.
///
/// The line holds the number of the system call and its arguments. The number is not compared, because that of 32-bit
/// programs differs.
fn is_posix_wait(call: &str) -> bool {
    let command = call.split_whitespace().nth(2).and_then(|text| text.strip_prefix("0x"));
    let command = command.and_then(|text| i64::from_str_radix(text, 16).ok());
    command.is_some_and(|command| [i64::from(libc::F_SETLKW), SETLKW64].contains(&command))
}

/// F_SETLKW64, the command of 32-bit programs.
const SETLKW64: i64 = 14;

/// A caller's groups, capabilities and signals at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct CallerCreds {
    pid: u32,
    /// Supplementary groups, as the mount sees them.
    groups: Vec<u32>,
    uids: Ids,
    gids: Ids,
    effective: u64,
    permitted: u64,
    umask: Option<u32>,
    /// Pending signals that are neither blocked nor ignored.
    signals: u64,
    /// Signals that have handlers.
    caught: u64,
    ended: bool,
    /// Whether /proc does not show the caller.
    is_invisible: bool,
    /// The container whose numbers the ids are, where the filesystem belongs to one.
    container: Option<Arc<UserNamespaceIds>>,
}

impl CallerCreds {
    /// Reads /proc/PID/status.
    ///
    /// A thread that is gone counts as ended and has no rights.
    pub(super) fn of(pid: u32) -> Self {
        match proc_status::read(pid) {
            Ok(status) if pid != 0 => Self { pid, ..Self::parse(&status) },
            _ => Self { ended: true, ..Self::default() },
        }
    }

    /// Returns a caller that /proc does not show, with CAP_FSETID and CAP_FOWNER.
    pub(super) fn invisible_root() -> Self {
        let effective = (1 << FSETID) | (1 << (Capability::Fowner as u32));
        Self { effective, is_invisible: true, ..Self::default() }
    }

    /// Returns the same with the ids as a container numbers them. /proc has the numbers of the daemon's namespace.
    ///
    /// Ids that the container does not have are left out.
    pub(super) fn numbered_by(mut self, container: Option<&Arc<UserNamespaceIds>>) -> Self {
        let Some(ids) = container else { return self };
        self.groups = self.groups.iter().filter_map(|gid| inside(&ids.gids, *gid)).collect();
        self.uids = self.uids.map(|uid| inside(&ids.uids, uid));
        self.gids = self.gids.map(|gid| inside(&ids.gids, gid));
        self.container = Some(Arc::clone(ids));
        self
    }

    fn parse(status: &str) -> Self {
        let mut creds = Self::default();
        let hex = |value: &str| u64::from_str_radix(value, 16).unwrap_or(0);
        let (mut pending, mut ignored) = (0, 0);
        for (key, value) in proc_status::fields(status) {
            match key {
                "State" => creds.ended = value.starts_with(['Z', 'X']),
                "Groups" => {
                    creds.groups =
                        value.split_whitespace().filter_map(|g| g.parse().ok()).collect();
                }
                "Uid" => creds.uids = Ids::parse(value),
                "Gid" => creds.gids = Ids::parse(value),
                "CapEff" => creds.effective = hex(value),
                "CapPrm" => creds.permitted = hex(value),
                "Umask" => creds.umask = u32::from_str_radix(value, 8).ok(),
                "SigPnd" | "ShdPnd" => pending |= hex(value),
                "SigCgt" => creds.caught = hex(value),
                "SigBlk" | "SigIgn" => ignored |= hex(value),
                _ => {}
            }
        }
        creds.signals = pending & !ignored;
        creds
    }

    /// Returns the filesystem uid in the daemon's user namespace.
    pub(super) fn filesystem_uid(&self) -> Option<u32> {
        self.uids.filesystem
    }

    /// Returns whether a file's setgid bit survives a change by this caller (Linux `in_group_or_capable`).
    pub(super) fn keeps_setgid(&self, caller: &Caller, file: &PresentedAttr) -> bool {
        file.gid.is_some_and(|gid| self.is_in(caller, gid)) || self.has_over(FSETID, file)
    }

    fn is_in(&self, caller: &Caller, group: MountGid) -> bool {
        caller.gid() == Some(group) || self.groups.contains(&group.raw())
    }

    /// Reduces the rights to those that a request with these ids carries.
    ///
    /// /proc shows the thread's own credentials, but the kernel may send a request on its behalf with others. access(2)
    /// uses the real ids, and drops the capabilities unless the real uid is root. An overlay or an NFS server uses the
    /// ids of another user, whose groups and capabilities are not known.
    ///
    /// If the kernel does not tell the request's ids, the thread's groups do not count, since an idmapped mount may show
    /// them as others; nor do its capabilities over files (in another user namespace). What is left are the capabilities
    /// of a process in the daemon's own user namespace.
    pub(super) fn with_request_ids(mut self, caller: &Caller) -> Self {
        let Some((uid, gid)) = caller.ids else {
            self.groups.clear();
            self.effective = self.capabilities().bits();
            return self;
        };
        let asks = (Some(uid.raw()), Some(gid.raw()));
        let (uids, gids) = (self.uids, self.gids);
        if asks == (uids.filesystem, gids.filesystem) {
            return self;
        }
        let is_self = asks == (uids.real, gids.real);
        // Root of a container has all capabilities over the files that the container's ids own.
        let is_root = uid.raw() == 0 && (self.container.is_some() || self.is_in_our_namespace());
        if !is_self {
            self.groups.clear();
        }
        self.effective = match (is_root, is_self) {
            (true, true) => self.permitted,
            (true, false) => u64::MAX,
            (false, _) => 0,
        };
        self
    }

    /// Returns whether setuid and setgid bits of a file survive its writes (CAP_FSETID).
    pub(super) fn may_keep_bits(&self) -> bool {
        self.has(FSETID)
    }

    /// Returns whether the caller may act as the owner of a file by capability (Linux `inode_owner_or_capable`).
    pub(super) fn overrides_owner(&self, file: &PresentedAttr) -> bool {
        self.has_over(Capability::Fowner as u32, file)
    }

    /// Returns whether listxattr(2) shows the caller `trusted.*` attributes (xattr(7)).
    pub(super) fn is_admin(&self) -> bool {
        self.has(SYS_ADMIN)
    }

    /// Returns the capabilities that the caller has in the daemon's user namespace, as far as known.
    pub(super) fn capabilities(&self) -> CapabilitySet {
        match self.is_in_our_namespace() {
            true => CapabilitySet::from_bits_retain(self.effective),
            false => CapabilitySet::empty(),
        }
    }

    /// Returns the caller's umask; if it is not known, one that gives others no permissions.
    pub(super) fn umask(&self) -> u32 {
        self.umask.unwrap_or(0o077)
    }

    /// Returns whether a fatal signal is pending.
    fn is_dying(&self) -> bool {
        let harmless = NON_FATAL.iter().fold(0, |set, signal| set | 1 << (signal - 1));
        self.signals & !self.caught & !harmless != 0
    }

    /// Returns whether the caller has a capability in the daemon's user namespace.
    fn has(&self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0 && self.is_in_our_namespace()
    }

    /// Returns whether the caller has a capability over a file.
    ///
    /// In another user namespace it counts if the file's owner and group are mapped there (Linux
    /// `capable_wrt_inode_uidgid`).
    fn has_over(&self, capability: u32, file: &PresentedAttr) -> bool {
        let (Some(uid), Some(gid)) = (file.uid, file.gid) else { return false };
        let own = match &self.container {
            None => Some((uid.raw(), gid.raw())),
            Some(ids) => outside(&ids.uids, uid.raw()).zip(outside(&ids.gids, gid.raw())),
        };
        let Some((uid, gid)) = own else { return false };
        self.effective & (1 << capability) != 0
            && (self.is_in_our_namespace()
                || (self.maps("uid_map", uid) && self.maps("gid_map", gid)))
    }

    fn is_in_our_namespace(&self) -> bool {
        let namespace = |path: &str| {
            rustix::fs::statat(CWD, path, AtFlags::empty()).ok().map(|s| (s.st_dev, s.st_ino))
        };
        let own = namespace("/proc/self/ns/user");
        self.is_invisible
            || own.is_some() && own == namespace(&format!("/proc/{}/ns/user", self.pid))
    }

    /// Returns whether an id of the daemon's user namespace is mapped in the caller's (user_namespaces(7)).
    fn maps(&self, map: &str, id: u32) -> bool {
        let lines = std::fs::read_to_string(format!("/proc/{}/{map}", self.pid));
        lines.is_ok_and(|lines| {
            lines.lines().any(|line| {
                let mut numbers = line.split_whitespace().skip(1).map(str::parse::<u32>);
                match (numbers.next(), numbers.next()) {
                    (Some(Ok(first)), Some(Ok(count))) => {
                        id.checked_sub(first).is_some_and(|at| at < count)
                    }
                    _ => false,
                }
            })
        })
    }
}

/// Returns the filesystem uid of a thread, as the daemon's user namespace has it. `None` if /proc does not show the thread.
#[must_use]
pub fn user_of_thread(pid: u32) -> Option<u32> {
    CallerCreds::of(pid).filesystem_uid()
}

impl Caller {
    /// Returns the user whose limits count: the filesystem uid or, if the kernel does not tell it, that of the thread.
    ///
    /// `None` if the daemon cannot see the thread: all such callers count as one user.
    pub(super) fn limited_user(&self) -> Option<MountUid> {
        self.uid().or_else(|| user_of_thread(self.pid).and_then(MountUid::new))
    }
}

/// A caller with groups and capabilities that are read when they are first needed.
pub(super) struct LazyCallerCreds<'a> {
    caller: &'a Caller,
    container: Option<Arc<UserNamespaceIds>>,
    creds: OnceCell<CallerCreds>,
}

impl<'a> LazyCallerCreds<'a> {
    pub(super) fn of(caller: &'a Caller, container: Option<Arc<UserNamespaceIds>>) -> Self {
        Self { caller, container, creds: OnceCell::new() }
    }

    fn creds(&self) -> &CallerCreds {
        self.creds.get_or_init(|| {
            let creds = CallerCreds::of(self.caller.pid).numbered_by(self.container.as_ref());
            creds.with_request_ids(self.caller)
        })
    }

    /// See [`CallerCreds::keeps_setgid`].
    pub(super) fn keeps_setgid(&self, file: &PresentedAttr) -> bool {
        let own_group = file.gid.is_some() && file.gid == self.caller.gid();
        own_group || self.creds().keeps_setgid(self.caller, file)
    }
}

impl Requester for LazyCallerCreds<'_> {
    fn uid(&self) -> Option<MountUid> {
        self.caller.uid()
    }

    fn is_in(&self, group: MountGid) -> bool {
        self.caller.gid() == Some(group) || self.creds().is_in(self.caller, group)
    }

    fn has(&self, capability: Capability) -> bool {
        self.creds().has(capability as u32)
    }

    fn has_over(&self, capability: Capability, file: &PresentedAttr) -> bool {
        self.creds().has_over(capability as u32, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tcat\nState:\tS (sleeping)\nUid:\t1000\t0\t0\t7\nGid:\t1001\t0\t0\t8\nGroups:\t4 24 1000 \nSigPnd:\t0000000000000000\n\
                          ShdPnd:\t0000000000004002\nSigBlk:\t0000000000004000\nSigIgn:\t0000000000000000\n\
                          CapPrm:\t0000000000200001\nCapEff:\t0000000000200000\n";

    fn caller(uid: u32, gid: u32) -> Caller {
        let (uid, gid) = (MountUid::new(uid).unwrap(), MountGid::new(gid).unwrap());
        Caller::known(uid, gid, std::process::id())
    }

    #[test]
    fn groups_capabilities_and_signals_are_read() {
        let creds = CallerCreds { pid: std::process::id(), ..CallerCreds::parse(STATUS) };
        assert_eq!(creds.groups, [4, 24, 1000]);
        assert!(creds.is_admin() && !creds.may_keep_bits());
        assert_ne!(creds.signals, 0);
    }

    #[test]
    fn only_an_unhandled_fatal_signal_makes_a_client_dying() {
        let with = |pending: i32, caught: u64| {
            let text = format!("ShdPnd:\t{:x}\nSigCgt:\t{caught:x}\n", 1u64 << (pending - 1));
            CallerCreds::parse(&text).is_dying()
        };
        assert!(with(libc::SIGKILL, 0) && with(libc::SIGTERM, 0));
        assert!(!with(libc::SIGALRM, 1 << (libc::SIGALRM - 1)));
        assert!(!with(libc::SIGCHLD, 0) && !with(libc::SIGTSTP, 0));
        assert_eq!(ClientState::of(std::process::id()), ClientState::Alive);
        assert_eq!(ClientState::of(u32::MAX), ClientState::Gone);
        assert_eq!(ClientState::of(0), ClientState::Alive);
    }

    #[test]
    fn a_wait_for_an_open_file_description_lock_is_no_wait_for_a_posix_lock() {
        assert!(is_posix_wait(
            "72 0x3 0x7 0x7ffd6f3ab2d0 0x0 0x0 0x0 0x7ffd6f3ab2a8 0x7f5b4f9f1a6d\n"
        ));
        assert!(
            is_posix_wait("221 0x3 0xe 0xffd6f3a0 0x0 0x0 0x0 0xffd6f3a8 0xf7f5b4f9\n"),
            "32-bit"
        );
        assert!(!is_posix_wait(
            "72 0x3 0x26 0x7ffd6f3ab2d0 0x0 0x0 0x0 0x7ffd6f3ab2a8 0x7f5b4f9f1a6d\n"
        ));
        assert!(!is_posix_wait("-1 0x7ffd6f3ab2a8 0x7f5b4f9f1a6d\n") && !is_posix_wait(""));
    }

    #[test]
    fn a_request_with_other_ids_than_the_threads_carries_none_of_its_capabilities() {
        let creds = CallerCreds { pid: std::process::id(), ..CallerCreds::parse(STATUS) };
        let with = |uid, gid| creds.clone().with_request_ids(&caller(uid, gid));
        assert_eq!(with(7, 8), creds);
        let by_real_ids = with(1000, 1001);
        assert_eq!((by_real_ids.effective, &by_real_ids.groups), (0, &creds.groups));
        let as_somebody = with(3000, 8);
        assert_eq!((as_somebody.effective, as_somebody.groups.len()), (0, 0));
        assert!(with(0, 0).is_admin());
        let real_root = |ids: Ids| Ids { real: Some(0), ..ids };
        let (uids, gids) = (real_root(creds.uids), real_root(creds.gids));
        let root = CallerCreds { uids, gids, ..creds.clone() }.with_request_ids(&caller(0, 0));
        assert_eq!(root.effective, creds.permitted);
    }

    #[test]
    fn the_daemons_ids_are_mapped_in_its_own_namespace() {
        let creds = CallerCreds { pid: std::process::id(), ..CallerCreds::default() };
        assert!(creds.is_in_our_namespace());
        assert!(creds.maps("uid_map", rustix::process::getuid().as_raw()));
        assert!(!creds.maps("no_map", 0));
    }

    #[test]
    fn an_exited_thread_has_no_rights_and_counts_as_ended() {
        let gone = CallerCreds::of(u32::MAX);
        assert!(gone.ended && !gone.is_admin());
        assert!(!CallerCreds::of(std::process::id()).ended);
    }
}
