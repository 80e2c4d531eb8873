//! What a request does not say of its caller, read from /proc when a decision needs it (proc_pid_status(5)).

use super::types::Caller;

/// CAP_FSETID.
const FSETID: u32 = 4;
/// CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;

/// A caller's groups and capabilities at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Supplementary groups, as the mount sees them.
    groups: Vec<u32>,
    effective: u64,
    /// Signals that wait and are neither blocked nor ignored.
    signals: u64,
    ended: bool,
}

impl Process {
    /// Reads what /proc tells of a thread. A thread that is gone has ended, and has no rights.
    pub(super) fn of(pid: u32) -> Self {
        match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) if pid != 0 => Self::parse(&status),
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
                "SigBlk" | "SigIgn" => ignored |= hex(value),
                _ => {}
            }
        }
        process.signals = pending & !ignored;
        process
    }

    /// Whether a file's setgid bit survives what this caller does to a file of this group
    /// (Linux `in_group_or_capable`).
    pub(super) fn keeps_setgid(&self, caller: &Caller, group: Option<u32>) -> bool {
        let member = group.is_some_and(|g| g == caller.gid.raw() || self.groups.contains(&g));
        member || self.has(FSETID)
    }

    /// Whether setuid and setgid bits of a file survive its writes.
    pub(super) fn may_keep_bits(&self) -> bool {
        self.has(FSETID)
    }

    /// Whether `trusted.*` attributes are listed for it (xattr(7)).
    pub(super) fn is_admin(&self) -> bool {
        self.has(SYS_ADMIN)
    }

    /// Whether a wait of it must end: a signal came, or it is gone.
    pub(super) fn is_interrupted(&self) -> bool {
        self.ended || self.signals != 0
    }

    fn has(&self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::{MountGid, MountUid};

    const STATUS: &str = "Name:\tcat\nState:\tS (sleeping)\nGroups:\t4 24 1000 \nSigPnd:\t0000000000000000\n\
                          ShdPnd:\t0000000000004002\nSigBlk:\t0000000000004000\nSigIgn:\t0000000000000000\n\
                          CapEff:\t0000000000200000\n";

    #[test]
    fn groups_capabilities_and_signals_are_read() {
        let process = Process::parse(STATUS);
        let caller =
            Caller { uid: MountUid::new(7).unwrap(), gid: MountGid::new(8).unwrap(), pid: 1 };
        assert!(process.keeps_setgid(&caller, Some(24)) && process.keeps_setgid(&caller, Some(8)));
        assert!(!process.keeps_setgid(&caller, Some(7)) && !process.keeps_setgid(&caller, None));
        assert!(process.is_admin());
        assert!(process.is_interrupted());
    }

    #[test]
    fn a_process_that_is_gone_has_no_rights_and_waits_no_more() {
        let gone = Process::of(u32::MAX);
        assert!(gone.is_interrupted() && !gone.is_admin());
        assert!(!Process::of(std::process::id()).is_interrupted());
    }
}
