//! Which changes pass, and how attributes other than owners and permissions are presented.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::PermRules;

/// The execute bits, for all classes.
const EXECUTE: u32 = 0o111;

/// S_ISUID of inode(7).
pub const SETUID: u32 = 0o4000;
/// S_ISGID of inode(7).
pub const SETGID: u32 = 0o2000;

/// What becomes of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChangePolicy {
    /// It is made.
    #[default]
    Normal,
    /// It succeeds for every caller and changes nothing.
    Ignore,
    /// It fails with EPERM.
    Deny,
}

impl ChangePolicy {
    /// What is left of a change. EPERM when there is one and it is refused.
    pub fn pass<T>(self, change: Option<T>) -> Result<Option<T>, Errno> {
        match (self, change) {
            (Self::Deny, Some(_)) => Err(Errno::PERM),
            (Self::Ignore, _) => Ok(None),
            (_, change) => Ok(change),
        }
    }
}

/// What becomes of extended attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Xattrs {
    /// They can be read and changed.
    #[default]
    ReadWrite,
    /// Changes fail with EACCES.
    ReadOnly,
    /// There are none: every call fails with EOPNOTSUPP.
    None,
}

/// Which changes pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangePolicies {
    /// Changes of owners.
    pub chown: ChangePolicy,
    /// Changes of groups.
    pub chgrp: ChangePolicy,
    /// Changes of permissions.
    pub chmod: ChangePolicy,
    /// Rules for the permissions that chmod(2) asks for.
    pub chmod_filter: PermRules,
    /// Where chmod is ignored or refused: execute bits of regular files may be changed all the same.
    pub chmod_allow_x: bool,
    /// Changes of extended attributes.
    pub xattrs: Xattrs,
    /// Removing a name fails with EPERM, also by renaming another over it.
    pub deny_delete: bool,
    /// Renaming fails with EPERM.
    pub deny_rename: bool,
    /// Callers with an unmapped id may link and rename all the same, since that stores no owner.
    pub names_by_unmapped: bool,
    /// Every ioctl on a file is passed to the source, without a check.
    pub forward_ioctls: bool,
}

impl ChangePolicies {
    /// The permissions (all twelve bits) to set when `asked` are asked for. `None`: nothing is to be done.
    ///
    /// `now` returns the permissions on the source; only some policies call it. EPERM when the change is refused, and
    /// what `now` says.
    pub fn chmod(
        &self,
        kind: FileType,
        asked: u32,
        now: impl FnOnce() -> Result<u32, Errno>,
    ) -> Result<Option<u32>, Errno> {
        let allows_x = self.chmod_allow_x && kind == FileType::RegularFile;
        match self.chmod {
            ChangePolicy::Normal => Ok(Some(self.chmod_filter.apply(kind, asked))),
            ChangePolicy::Ignore if allows_x => Ok(Some((now()? & !EXECUTE) | (asked & EXECUTE))),
            ChangePolicy::Ignore => Ok(None),
            ChangePolicy::Deny if allows_x && (now()? ^ asked) & !EXECUTE == 0 => Ok(Some(asked)),
            ChangePolicy::Deny => Err(Errno::PERM),
        }
    }
}

/// How attributes other than owners and permissions are presented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttrOverrides {
    /// The change time is the modification time.
    pub ctime_from_mtime: bool,
    /// The link count is 1.
    pub hide_hard_links: bool,
    /// Block devices are regular files of the device's size.
    pub block_devices_as_files: bool,
    /// Permissions that the mounter lacks are hidden.
    pub realistic_permissions: bool,
}

/// What removing a name removes, where symbolic links are presented as what they lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkRemoval {
    /// Nothing: it fails with EPERM.
    Deny,
    /// The link.
    #[default]
    SymlinkOnly,
    /// The link, then what it leads to.
    SymlinkFirst,
    /// What it leads to, then the link.
    TargetFirst,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chmod(
        changes: &ChangePolicies,
        kind: FileType,
        now: u32,
        asked: u32,
    ) -> Result<Option<u32>, Errno> {
        changes.chmod(kind, asked, || Ok(now))
    }

    #[test]
    fn a_policy_applies_ignores_or_refuses_a_change() {
        assert_eq!(ChangePolicy::Normal.pass(Some(1)), Ok(Some(1)));
        assert_eq!(ChangePolicy::Ignore.pass(Some(1)), Ok(None));
        assert_eq!(ChangePolicy::Deny.pass(Some(1)), Err(Errno::PERM));
        assert_eq!(ChangePolicy::Deny.pass::<u32>(None), Ok(None));
    }

    #[test]
    fn allow_x_still_changes_the_execute_bits_of_regular_files() {
        use FileType::{Directory, RegularFile};
        let ignore = ChangePolicies {
            chmod: ChangePolicy::Ignore,
            chmod_allow_x: true,
            ..ChangePolicies::default()
        };
        assert_eq!(chmod(&ignore, RegularFile, 0o4640, 0o711), Ok(Some(0o4751)));
        assert_eq!(chmod(&ignore, Directory, 0o640, 0o711), Ok(None));
        let deny = ChangePolicies { chmod: ChangePolicy::Deny, ..ignore };
        assert_eq!(chmod(&deny, RegularFile, 0o640, 0o750), Ok(Some(0o750)));
        assert_eq!(chmod(&deny, RegularFile, 0o640, 0o650), Ok(Some(0o650)));
        assert_eq!(chmod(&deny, RegularFile, 0o640, 0o600), Err(Errno::PERM));
        assert_eq!(chmod(&deny, Directory, 0o640, 0o750), Err(Errno::PERM));
    }

    #[test]
    fn a_filter_changes_what_is_asked_for() {
        let changes =
            ChangePolicies { chmod_filter: "go-w".parse().unwrap(), ..ChangePolicies::default() };
        assert_eq!(chmod(&changes, FileType::RegularFile, 0, 0o4777), Ok(Some(0o4755)));
    }
}
