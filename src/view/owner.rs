//! Owners: those that are forced on everything shown, those that callers see of themselves, those of new files.

use super::PermRules;
use crate::idmap::{MountGid, MountUid, SourceGid, SourceUid};

/// Owners that everything is shown with. They do not affect what is created or changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forced {
    /// The owner.
    pub uid: Option<MountUid>,
    /// The group.
    pub gid: Option<MountGid>,
}

/// A user, or the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// This user.
    User(MountUid),
    /// Whoever the user database counts to this group, by his login group or as a member.
    Group(MountGid),
}

/// Who sees himself as the owner of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Whether the others, but for root, see files that nobody may touch.
    pub only: bool,
    /// Who.
    pub principals: Vec<Principal>,
}

/// Whose ids a new file gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CreatedBy {
    /// The caller's.
    #[default]
    Caller,
    /// The mounter's, but for callers whom an extent of the map names.
    Mounter,
}

/// Whom new files belong to, and with which permissions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Creation {
    /// Whose ids they get.
    pub by: CreatedBy,
    /// In place of that: this owner on the source.
    pub uid: Option<SourceUid>,
    /// In place of that: this group on the source. Directories with the setgid bit hand down theirs all the same.
    pub gid: Option<SourceGid>,
    /// What becomes of the permissions that the creator asked for.
    pub perms: PermRules,
}
