//! The kernel's permission checks on what the view shows, for mounts where the kernel does not make them.
//!
//! See path_resolution(7), acl(5), capabilities(7) and Linux `generic_permission`. This module makes no system calls; a
//! [`Requester`] reads its groups and capabilities only if they decide.

use rustix::fs::{Access, FileType};

use crate::idmap::{IdView, MountGid, MountUid};
use crate::translate::{AclTag, SourceAcl};
use crate::view::PresentedAttr;

/// Execute bits of all classes.
const EXECUTE: u32 = 0o111;
/// Group bits, which are the mask if there is an ACL.
const GROUP: u32 = 0o070;

/// Capabilities that override permissions, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
}

/// The credentials of the process that requests access.
pub(super) trait Requester {
    /// Returns the filesystem uid, if it is known.
    fn uid(&self) -> Option<MountUid>;
    /// Returns whether a group is the filesystem gid or a supplementary group.
    fn is_in(&self, group: MountGid) -> bool;
    /// Returns whether the process has a capability in the daemon's user namespace.
    fn has(&self, capability: Capability) -> bool;
    /// Returns whether the process has a capability over a file.
    fn has_over(&self, capability: Capability, file: &PresentedAttr) -> bool;

    /// Returns whether the process owns a file, as shown. An unmapped owner is never the process.
    fn owns(&self, file: &PresentedAttr) -> bool {
        file.uid.is_some() && file.uid == self.uid()
    }

    /// Returns whether the process may act as the owner of a file (Linux `inode_owner_or_capable`).
    fn acts_as_owner(&self, file: &PresentedAttr) -> bool {
        self.owns(file) || self.has_over(Capability::Fowner, file)
    }
}

/// Returns whether `requester` may access `file` in all of the `wanted` ways.
///
/// `acl` reads the file's access ACL as the source stores it, if it can decide; `ids` translates its entries.
pub(super) fn permits<E>(
    requester: &impl Requester,
    file: &PresentedAttr,
    acl: impl FnOnce() -> Result<Option<SourceAcl>, E>,
    ids: &IdView,
    wanted: Access,
) -> Result<bool, E> {
    // The kernel does not write to an inode with an unmapped id, which it could not write back (Linux
    // `HAS_UNMAPPED_ID`).
    if wanted.contains(Access::WRITE_OK) && (file.uid.is_none() || file.gid.is_none()) {
        return Ok(false);
    }
    Ok(by_bits(requester, file, acl, ids, bits(wanted))? || overrides(requester, file, wanted))
}

/// Returns the access as the three lowest bits of a mode.
fn bits(wanted: Access) -> u32 {
    wanted.bits() & 0o7
}

/// Checks owner, ACL, group and other bits (Linux `acl_permission_check`).
fn by_bits<E>(
    requester: &impl Requester,
    file: &PresentedAttr,
    acl: impl FnOnce() -> Result<Option<SourceAcl>, E>,
    ids: &IdView,
    wanted: u32,
) -> Result<bool, E> {
    let grants = |class: u32| wanted & !class == 0;
    if requester.owns(file) {
        return Ok(grants(file.mode >> 6));
    }
    if file.mode & GROUP != 0
        && let Some(acl) = acl()?
        && !acl.entries.is_empty()
    {
        return Ok(by_acl(requester, file, &acl, ids, wanted));
    }
    let (group, others) = (file.mode >> 3, file.mode);
    if wanted & (group ^ others) != 0 && file.gid.is_some_and(|gid| requester.is_in(gid)) {
        return Ok(grants(group));
    }
    Ok(grants(others))
}

/// Checks an ACL, for a process that does not own the file (Linux `posix_acl_permission`).
///
/// An entry with an unmapped id matches no process.
fn by_acl(
    requester: &impl Requester,
    file: &PresentedAttr,
    acl: &SourceAcl,
    ids: &IdView,
    wanted: u32,
) -> bool {
    let grants = |perm: u16| wanted & !u32::from(perm) == 0;
    let mask = acl.entries.iter().find(|entry| entry.tag == AclTag::Mask).map(|entry| entry.perm);
    let masked = |perm: u16| grants(perm & mask.unwrap_or(0o7));
    let mut is_member = false;
    for entry in &acl.entries {
        match entry.tag {
            AclTag::User(id)
                if requester.uid().is_some()
                    && id.and_then(|id| ids.uid_to_mount(id)) == requester.uid() =>
            {
                return masked(entry.perm);
            }
            AclTag::OwningGroup | AclTag::Group(_) => {
                let group = match entry.tag {
                    AclTag::Group(id) => id.and_then(|id| ids.gid_to_mount(id)),
                    _ => file.gid,
                };
                // A member of several groups has the access that one single entry grants.
                if group.is_some_and(|group| requester.is_in(group)) {
                    if grants(entry.perm) {
                        return masked(entry.perm);
                    }
                    is_member = true;
                }
            }
            AclTag::Other => return !is_member && grants(entry.perm),
            AclTag::Owner | AclTag::User(_) | AclTag::Mask => {}
        }
    }
    false
}

/// Checks capabilities (Linux `generic_permission`).
fn overrides(requester: &impl Requester, file: &PresentedAttr, wanted: Access) -> bool {
    let has = |capability| requester.has_over(capability, file);
    if file.kind == FileType::Directory {
        let reads = !wanted.contains(Access::WRITE_OK);
        return (reads && has(Capability::DacReadSearch)) || has(Capability::DacOverride);
    }
    if bits(wanted) == bits(Access::READ_OK) && has(Capability::DacReadSearch) {
        return true;
    }
    // A file without any execute bit cannot be executed, not even by root.
    let runs = wanted.contains(Access::EXEC_OK);
    (!runs || file.mode & EXECUTE != 0) && has(Capability::DacOverride)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;
    use crate::idmap::{SourceGid, SourceUid};
    use crate::translate::{Acl, AclEntry};

    /// Uid 1000 with these groups and capabilities; counts how often they are queried.
    #[derive(Default)]
    struct FakeRequester {
        groups: Vec<u32>,
        capabilities: Vec<Capability>,
        asked: Cell<u32>,
    }

    impl FakeRequester {
        fn in_groups(groups: &[u32]) -> Self {
            Self { groups: groups.to_vec(), ..Self::default() }
        }

        fn with(capability: Capability) -> Self {
            Self { capabilities: vec![capability], ..Self::default() }
        }

        fn may(
            &self,
            file: &PresentedAttr,
            acl: &[(AclTag<SourceUid, SourceGid>, u16)],
            wanted: &str,
        ) -> bool {
            let entries = acl.iter().map(|&(tag, perm)| AclEntry { tag, perm }).collect();
            let acl = || Ok::<_, Infallible>((!acl.is_empty()).then_some(Acl { entries }));
            let mut access = Access::empty();
            access.set(Access::READ_OK, wanted.contains('r'));
            access.set(Access::WRITE_OK, wanted.contains('w'));
            access.set(Access::EXEC_OK, wanted.contains('x'));
            let Ok(answer) = permits(self, file, acl, &IdView::identity(), access);
            answer
        }
    }

    impl Requester for FakeRequester {
        fn uid(&self) -> Option<MountUid> {
            MountUid::new(1000)
        }

        fn is_in(&self, group: MountGid) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.groups.contains(&group.raw())
        }

        fn has(&self, capability: Capability) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.capabilities.contains(&capability)
        }

        fn has_over(&self, capability: Capability, file: &PresentedAttr) -> bool {
            self.has(capability) && file.uid.is_some() && file.gid.is_some()
        }
    }

    fn file(uid: u32, gid: u32, mode: u32) -> PresentedAttr {
        let (uid, gid) = (MountUid::new(uid), MountGid::new(gid));
        PresentedAttr { uid, gid, kind: FileType::RegularFile, mode }
    }

    fn dir(uid: u32, gid: u32, mode: u32) -> PresentedAttr {
        PresentedAttr { kind: FileType::Directory, ..file(uid, gid, mode) }
    }

    fn user(id: u32) -> AclTag<SourceUid, SourceGid> {
        AclTag::User(SourceUid::new(id))
    }

    fn group(id: u32) -> AclTag<SourceUid, SourceGid> {
        AclTag::Group(SourceGid::new(id))
    }

    #[test]
    fn the_first_matching_class_decides_alone() {
        let me = FakeRequester::in_groups(&[50]);
        assert!(me.may(&file(1000, 50, 0o400), &[], "r"));
        assert!(!me.may(&file(1000, 50, 0o077), &[], "r"));
        assert!(me.may(&file(1, 50, 0o040), &[], "r"));
        assert!(!me.may(&file(1, 50, 0o707), &[], "r"));
        assert!(!me.may(&file(1, 60, 0o770), &[], "r"));
        assert!(me.may(&file(1, 60, 0o006), &[], "rw"));
        assert!(!me.may(&file(1, 60, 0o006), &[], "rx"));
    }

    #[test]
    fn groups_are_looked_up_only_when_they_decide() {
        let me = FakeRequester::default();
        assert!(me.may(&file(1000, 50, 0o700), &[], "rwx"));
        assert!(me.may(&file(1, 50, 0o755), &[], "rx"));
        assert_eq!(me.asked.get(), 0);
        assert!(me.may(&file(1, 50, 0o704), &[], "r"));
        assert_eq!(me.asked.get(), 1);
    }

    #[test]
    fn capabilities_override_all_but_executing_a_file_without_x_bits() {
        let me = FakeRequester::with(Capability::DacOverride);
        assert!(me.may(&file(1, 1, 0), &[], "rw"));
        assert!(!me.may(&file(1, 1, 0o666), &[], "x"));
        assert!(me.may(&file(1, 1, 0o010), &[], "rwx"));
        assert!(me.may(&dir(1, 1, 0), &[], "rwx"));
        let me = FakeRequester::with(Capability::DacReadSearch);
        assert!(me.may(&file(1, 1, 0), &[], "r"));
        assert!(!me.may(&file(1, 1, 0o100), &[], "x"));
        assert!(!me.may(&file(1, 1, 0), &[], "rw"));
        assert!(me.may(&dir(1, 1, 0), &[], "rx"));
        assert!(!me.may(&dir(1, 1, 0), &[], "wx"));
        assert!(!FakeRequester::with(Capability::Fowner).may(&file(1, 1, 0), &[], "r"));
    }

    #[test]
    fn a_file_with_an_unmapped_id_has_no_owner_and_cannot_be_written() {
        let me = FakeRequester::with(Capability::DacOverride);
        let unmapped = PresentedAttr { uid: None, ..file(0, 1, 0o707) };
        assert!(me.may(&unmapped, &[], "rx"));
        assert!(!me.may(&unmapped, &[], "w"));
        assert!(!me.may(&PresentedAttr { mode: 0o700, ..unmapped }, &[], "r"));
        assert!(!me.may(&PresentedAttr { gid: None, ..file(1000, 1, 0o777) }, &[], "w"));
    }

    #[test]
    fn acl_entries_grant_permissions_within_the_mask() {
        let me = FakeRequester::in_groups(&[50, 60]);
        let shown = file(1, 7, 0o670);
        let acl = |perm, mask| {
            [
                (AclTag::Owner, 6),
                (user(1000), perm),
                (AclTag::OwningGroup, 0),
                (AclTag::Mask, mask),
                (AclTag::Other, 7),
            ]
        };
        assert!(me.may(&shown, &acl(6, 7), "rw"));
        assert!(!me.may(&shown, &acl(6, 4), "rw"));
        assert!(me.may(&shown, &acl(6, 4), "r"));
        assert!(
            !me.may(&shown, &acl(0, 7), "r"),
            "the user's own entry comes before the other entry"
        );
        let groups = [
            (AclTag::Owner, 6),
            (AclTag::OwningGroup, 0),
            (group(50), 4),
            (group(60), 2),
            (AclTag::Mask, 7),
            (AclTag::Other, 7),
        ];
        assert!(me.may(&shown, &groups, "r") && me.may(&shown, &groups, "w"));
        assert!(!me.may(&shown, &groups, "rw"), "no single group entry grants both");
        assert!(!me.may(&shown, &groups, "x"), "a group member does not get the other entry");
        assert!(FakeRequester::default().may(&shown, &groups, "x"));
        assert!(!me.may(&file(1, 7, 0o600), &acl(7, 7), "r"), "without group bits no ACL is read");
        assert!(me.may(&file(1000, 7, 0o670), &acl(0, 7), "r"), "the owner's bits are in the mode");
    }

    #[test]
    fn an_acl_entry_with_an_unmapped_id_matches_no_caller() {
        let me = FakeRequester::default();
        let acl = [
            (AclTag::User(None), 7),
            (AclTag::Group(None), 7),
            (AclTag::Mask, 7),
            (AclTag::Other, 0),
        ];
        assert!(!me.may(&file(1, 7, 0o070), &acl, "r"));
    }
}
