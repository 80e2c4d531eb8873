//! The callers: every operation runs in a child process that takes the credentials of one of them.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::scenario::Scenario;

/// A caller, with ids as its own user namespace has them.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) name: &'static str,
    /// Whether it lives in the scenario's user namespace.
    pub(crate) inside: bool,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// The capabilities; `None` for all.
    caps: Option<CapabilitySet>,
}

impl Caller {
    /// All callers of a scenario, the simple ones first: a failing sequence shrinks towards them.
    pub(crate) fn all(scenario: &Scenario) -> Vec<Self> {
        let (a, b, s) = (scenario.a.mount, scenario.b.mount, scenario.unmapped_caller);
        let none = Some(CapabilitySet::empty());
        let plain = |name, uid, gid, groups: &[u32]| Self {
            name,
            inside: false,
            uid,
            gid,
            groups: groups.to_vec(),
            caps: none,
        };
        let many: Vec<u32> = (0..63).map(|n| 900_000 + n).chain([a.1]).collect();
        let mut all = vec![
            Self { caps: None, ..plain("root", 0, 0, &[]) },
            plain("a", a.0, a.1, &[]),
            plain("b", b.0, b.1, &[]),
            plain("unmapped caller", s.0, s.1, &[]),
            plain("overflow id", 65_534, 65_534, &[]),
            plain("only a's uid", a.0, 900_001, &[]),
            Self { inside: true, caps: None, ..plain("the namespace's root", 0, 0, &[]) },
            plain("unmapped owner", scenario.unmapped_owner.0, scenario.unmapped_owner.1, &[]),
            plain("only a's gid", 900_001, a.1, &[]),
            plain("b in a's group", b.0, b.1, &[a.1]),
            plain("b in a's group, the last of 64", b.0, b.1, &many),
            plain("b in an unmapped group", b.0, b.1, &[s.1]),
            plain("b in the unmapped owner's group", b.0, b.1, &[scenario.unmapped_owner.1]),
            plain("unmapped caller in a's group", s.0, s.1, &[a.1]),
            plain("a in b's group", a.0, a.1, &[b.1]),
            plain("root without capabilities", 0, 0, &[]),
            Self { inside: true, ..plain("the namespace's root, no capabilities", 0, 0, &[]) },
        ];
        if scenario.namespace_size > 2000 {
            all.push(Self { inside: true, ..plain("1000 in the namespace", 1000, 1000, &[]) });
        }
        for (name, cap) in [
            ("b with CAP_CHOWN", CapabilitySet::CHOWN),
            ("b with CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
            ("b with CAP_DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH),
            ("b with CAP_FOWNER", CapabilitySet::FOWNER),
            ("b with CAP_FSETID", CapabilitySet::FSETID),
            ("b with CAP_SETFCAP", CapabilitySet::SETFCAP),
            ("b with CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
            ("b with CAP_MKNOD", CapabilitySet::MKNOD),
        ] {
            all.push(Self { caps: Some(cap), ..plain(name, b.0, b.1, &[]) });
        }
        for (name, cap) in [
            ("unmapped caller with CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
            ("unmapped caller with CAP_FOWNER", CapabilitySet::FOWNER),
            ("unmapped caller with CAP_CHOWN", CapabilitySet::CHOWN),
        ] {
            all.push(Self { caps: Some(cap), ..plain(name, s.0, s.1, &[]) });
        }
        all
    }

    /// Takes this caller's credentials, irrevocably.
    pub(crate) fn become_it(&self, namespace: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if self.inside {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
        }
        set_keep_capabilities(true)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        if let Some(caps) = self.caps {
            let inheritable = CapabilitySet::empty();
            set_capabilities(
                None,
                CapabilitySets { effective: caps, permitted: caps, inheritable },
            )?;
        }
        Ok(())
    }
}
