//! Owners: forced on everything presented, mirrored to callers, or given to new files.

use super::PermRules;
use crate::idmap::{MountGid, MountUid, SourceGid, SourceUid};

/// Owners that everything is presented with. They do not affect what is created or changed.
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
    /// The users that the user database has in this group, by login group or as members.
    Group(MountGid),
}

/// Users that see themselves as the owner of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Whether all other users except root are shown files without permissions.
    pub only: bool,
    /// The users.
    pub principals: Vec<Principal>,
}

/// The user and group that a new file gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CreatedBy {
    /// The caller's.
    #[default]
    Caller,
    /// The mounter's, except for callers that an extent of the map names.
    Mounter,
}

/// The owner and the permissions of new files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Creation {
    /// The user and group that they get.
    pub by: CreatedBy,
    /// In place of that: this owner on the source.
    pub uid: Option<SourceUid>,
    /// In place of that: this group on the source. Directories with the setgid bit pass on their group all the same.
    pub gid: Option<SourceGid>,
    /// What becomes of the permissions that the creator asked for.
    pub perms: PermRules,
}
