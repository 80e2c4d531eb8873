//! What a request does not say of its caller, read from /proc when a decision needs it (proc_pid_status(5)).

use rustix::fs::{AtFlags, CWD};

use super::types::{Attr, Caller};

/// CAP_FOWNER.
const FOWNER: u32 = 3;
/// CAP_FSETID.
const FSETID: u32 = 4;
/// CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;

/// Signals that end nobody who has not asked for it: ignored by default, or stopping (signal(7)).
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// What becomes of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It lives on, or cannot be seen from here.
    Lives,
    /// It has got a signal that it will not survive, and ends when its request is answered.
    Dies,
    /// It has ended.
    Gone,
}

impl Fate {
    /// Looks at a thread by its id.
    #[must_use]
    pub fn of(thread: u32) -> Self {
        let process = Process::of(thread);
        match (thread, process.ended) {
            (0, _) => Self::Lives,
            (_, true) => Self::Gone,
            _ if process.is_dying() => Self::Dies,
            _ => Self::Lives,
        }
    }
}

/// A caller's groups and capabilities at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
    /// Supplementary groups, as the mount sees them.
    groups: Vec<u32>,
    effective: u64,
    /// Signals that wait and are neither blocked nor ignored.
    signals: u64,
    /// Signals that it has handlers for.
    caught: u64,
    ended: bool,
}

impl Process {
    /// Reads what /proc tells of a thread. A thread that is gone has ended, and has no rights.
    pub(super) fn of(pid: u32) -> Self {
        match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) if pid != 0 => Self { pid, ..Self::parse(&status) },
            _ => Self { ended: true, ..Self::default() },
        }
    }

    fn parse(status: &str) -> Self {
        let mut process = Self::default();
        let hex = |value: &str| u64::from_str_radix(value, 16).unwrap_or(0);
        let (mut pending, mut ignored) = (0, 0);
        for line in status.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key {
                "State" => process.ended = value.starts_with(['Z', 'X']),
                "Groups" => {
                    process.groups =
                        value.split_whitespace().filter_map(|g| g.parse().ok()).collect();
                }
                "CapEff" => process.effective = hex(value),
                "SigPnd" | "ShdPnd" => pending |= hex(value),
                "SigCgt" => process.caught = hex(value),
                "SigBlk" | "SigIgn" => ignored |= hex(value),
                _ => {}
            }
        }
        process.signals = pending & !ignored;
        process
    }

    /// Whether a file's setgid bit survives what this caller does to the file (Linux `in_group_or_capable`).
    pub(super) fn keeps_setgid(&self, caller: &Caller, file: &Attr) -> bool {
        let member =
            file.gid.is_some_and(|gid| gid == caller.gid || self.groups.contains(&gid.raw()));
        member || self.has_over(FSETID, file)
    }

    /// Whether setuid and setgid bits of a file survive its writes.
    pub(super) fn may_keep_bits(&self) -> bool {
        self.has(FSETID)
    }

    /// Whether it may do to a file what its owner may (Linux `inode_owner_or_capable`).
    pub(super) fn overrides_owner(&self, file: &Attr) -> bool {
        self.has_over(FOWNER, file)
    }

    /// Whether `trusted.*` attributes are listed for it (xattr(7)).
    pub(super) fn is_admin(&self) -> bool {
        self.has(SYS_ADMIN)
    }

    /// Whether a wait of it must end: a signal came, or it is gone.
    pub(super) fn is_interrupted(&self) -> bool {
        self.ended || self.signals != 0
    }

    /// Whether it is being killed.
    fn is_dying(&self) -> bool {
        let harmless = HARMLESS.iter().fold(0, |set, signal| set | 1 << (signal - 1));
        self.signals & !self.caught & !harmless != 0
    }

    /// A capability that counts everywhere: one in our own user namespace.
    fn has(&self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0 && self.is_in_our_namespace()
    }

    /// A capability over a file: also one in another user namespace, if the file's owner and group mean something there
    /// (Linux `capable_wrt_inode_uidgid`).
    fn has_over(&self, capability: u32, file: &Attr) -> bool {
        let (Some(uid), Some(gid)) = (file.uid, file.gid) else { return false };
        self.effective & (1 << capability) != 0
            && (self.is_in_our_namespace()
                || (self.maps("uid_map", uid.raw()) && self.maps("gid_map", gid.raw())))
    }

    fn is_in_our_namespace(&self) -> bool {
        let namespace = |path: &str| {
            rustix::fs::statat(CWD, path, AtFlags::empty()).ok().map(|s| (s.st_dev, s.st_ino))
        };
        let own = namespace("/proc/self/ns/user");
        own.is_some() && own == namespace(&format!("/proc/{}/ns/user", self.pid))
    }

    /// Whether an id of our user namespace means something in its own (user_namespaces(7)).
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

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tcat\nState:\tS (sleeping)\nGroups:\t4 24 1000 \nSigPnd:\t0000000000000000\n\
                          ShdPnd:\t0000000000004002\nSigBlk:\t0000000000004000\nSigIgn:\t0000000000000000\n\
                          CapEff:\t0000000000200000\n";

    #[test]
    fn groups_capabilities_and_signals_are_read() {
        let process = Process { pid: std::process::id(), ..Process::parse(STATUS) };
        assert_eq!(process.groups, [4, 24, 1000]);
        assert!(process.is_admin() && !process.may_keep_bits());
        assert!(process.is_interrupted());
    }

    #[test]
    fn only_a_signal_that_is_neither_handled_nor_harmless_kills() {
        let with = |pending: i32, caught: u64| {
            let text = format!("ShdPnd:\t{:x}\nSigCgt:\t{caught:x}\n", 1u64 << (pending - 1));
            Process::parse(&text).is_dying()
        };
        assert!(with(libc::SIGKILL, 0) && with(libc::SIGTERM, 0));
        assert!(!with(libc::SIGALRM, 1 << (libc::SIGALRM - 1)));
        assert!(!with(libc::SIGCHLD, 0) && !with(libc::SIGTSTP, 0));
        assert_eq!(Fate::of(std::process::id()), Fate::Lives);
        assert_eq!(Fate::of(u32::MAX), Fate::Gone);
        assert_eq!(Fate::of(0), Fate::Lives);
    }

    #[test]
    fn the_ids_of_our_own_namespace_mean_something_in_it() {
        let process = Process { pid: std::process::id(), ..Process::default() };
        assert!(process.is_in_our_namespace());
        assert!(process.maps("uid_map", rustix::process::getuid().as_raw()));
        assert!(!process.maps("no_map", 0));
    }

    #[test]
    fn a_process_that_is_gone_has_no_rights_and_waits_no_more() {
        let gone = Process::of(u32::MAX);
        assert!(gone.is_interrupted() && !gone.is_admin());
        assert!(!Process::of(std::process::id()).is_interrupted());
    }
}
