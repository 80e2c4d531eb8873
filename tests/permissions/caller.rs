//! The callers: root, the owner, members, unrelated users, and users with one capability.

use std::panic::resume_unwind;
use std::thread;

use rustix::fs::Mode;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, set_capabilities,
    set_capabilities_secure_bits, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::support::sys;

/// A caller's credentials.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'static [u32],
    /// The capabilities; `None` for those that the kernel gives the uid.
    pub(crate) capabilities: Option<CapabilitySet>,
}

const fn user(name: &'static str, uid: u32, gid: u32, groups: &'static [u32]) -> Caller {
    Caller { name, uid, gid, groups, capabilities: None }
}

const fn with(name: &'static str, uid: u32, capability: CapabilitySet) -> Caller {
    Caller { name, uid, gid: uid, groups: &[], capabilities: Some(capability) }
}

/// The uid and gid of the owner of most files.
pub(crate) const OWNER: u32 = 1000;
/// The user that ACLs name.
pub(crate) const NAMED_USER: u32 = 3000;
/// The group that ACLs name.
pub(crate) const NAMED_GROUP: u32 = 3100;

pub(crate) const CALLERS: &[Caller] = &[
    user("root", 0, 0, &[]),
    Caller { capabilities: Some(CapabilitySet::empty()), ..user("powerless root", 0, 0, &[]) },
    user("the owner", OWNER, OWNER, &[60]),
    user("the owner, in another group", OWNER, 2500, &[]),
    user("a member by the primary group", 2000, OWNER, &[]),
    user("a member by a supplementary group", 2100, 2100, &[50, OWNER, 60]),
    user("the user that the ACL names", NAMED_USER, NAMED_USER, &[]),
    user("a member of the group that the ACL names", 3200, 3200, &[NAMED_GROUP]),
    user("a member of both groups", 3300, 3300, &[NAMED_GROUP, OWNER]),
    user("another user", 4000, 4000, &[60]),
    user("the owner of the other file", 7000, 7000, &[]),
    with("CAP_DAC_OVERRIDE", 5000, CapabilitySet::DAC_OVERRIDE),
    with("CAP_DAC_READ_SEARCH", 5001, CapabilitySet::DAC_READ_SEARCH),
    with("CAP_FOWNER", 5002, CapabilitySet::FOWNER),
    with("CAP_CHOWN", 5003, CapabilitySet::CHOWN),
    with("CAP_FSETID", 5004, CapabilitySet::FSETID),
];

impl Caller {
    /// Runs the closure with the caller's credentials, on a thread with a umask and working directory of its own.
    pub(crate) fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let body = || {
            sys::unshare_fs();
            let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            set_thread_groups(&groups).expect("set the groups");
            set_thread_res_gid(gid, gid, gid).expect("set the gid");
            if self.capabilities.is_some() {
                set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
                    .expect("keep the capabilities");
            }
            set_thread_res_uid(uid, uid, uid).expect("set the uid");
            if let Some(capabilities) = self.capabilities {
                let sets = CapabilitySets {
                    effective: capabilities,
                    permitted: capabilities,
                    inheritable: CapabilitySet::empty(),
                };
                set_capabilities(None, sets).expect("give up the other capabilities");
            }
            umask(Mode::from_raw_mode(0o022));
            run()
        };
        thread::scope(|scope| scope.spawn(body).join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}
