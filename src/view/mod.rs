//! The view: what a mount presents of its source, and which changes it lets through.
//!
//! It is made from the options once, and applied by the filesystem as a whole; no option acts on its own. Attributes
//! pass through it in this order: change time, ids (map and offset), forced owners, mirror, the end for callers outside
//! `mirror-only`, hard links, block devices, permission rules, the mounter's own rights. What is created passes the ids
//! backwards, and then the owners that [`Creation`] names. Pure: no I/O, no FUSE.

mod excluded;
mod needs;
mod owner;
mod perms;
mod policy;

pub use excluded::{Excluded, Verdict, is_numbered_alias};
pub use needs::{Checks, Needs};
pub use owner::{CreatedBy, Creation, Forced, Mirror, Principal};
pub use perms::PermRules;
pub use policy::{
    AttrOverrides, ChangePolicies, ChangePolicy, LinkRemoval, SETGID, SETUID, Xattrs,
};

use rustix::fs::FileType;

use crate::idmap::{IdView, MountGid, MountUid, SourceGid, SourceUid};

/// The permission bits: read, write and execute for user, group and other.
pub const PERMISSIONS: u32 = 0o777;

/// A view. See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// How ids are translated: map, offset, and what becomes of unmapped ids.
    pub ids: IdView,
    /// Owners that everything is presented with, whatever the source says.
    pub forced: Forced,
    /// Users that see themselves as the owner of everything.
    pub mirror: Option<Mirror>,
    /// How permission bits are presented.
    pub perms: PermRules,
    /// How other attributes are presented.
    pub attr_overrides: AttrOverrides,
    /// The owner and the permissions of new files.
    pub creation: Creation,
    /// Which changes pass, which are ignored, which are refused.
    pub changes: ChangePolicies,
    /// If set, symbolic links are presented as what they lead to; the value says what removing such a name removes.
    pub resolve_symlinks: Option<LinkRemoval>,
    /// Names that are hidden.
    pub excluded: Excluded,
}

/// The caller, as far as what it is shown depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// Nothing depends on the caller.
    Anyone,
    /// A caller that sees itself as the owner of everything.
    Mirrored(MountUid),
    /// A caller from which `mirror-only` hides all permissions.
    Outsider,
}

/// An inode's owner, type and permissions as the view presents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentedAttr {
    /// The owner; `None` is unmapped.
    pub uid: Option<MountUid>,
    /// The group; `None` is unmapped.
    pub gid: Option<MountGid>,
    /// The type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
}

/// An inode's owner, type and permissions on the source. `None` where the source has 4294967295, which is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceAttr {
    /// The owner.
    pub uid: Option<SourceUid>,
    /// The group.
    pub gid: Option<SourceGid>,
    /// The type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
}

impl View {
    /// A view that translates ids and changes nothing else.
    #[must_use]
    pub fn of_ids(ids: IdView) -> Self {
        Self {
            ids,
            forced: Forced::default(),
            mirror: None,
            perms: PermRules::default(),
            attr_overrides: AttrOverrides::default(),
            creation: Creation::default(),
            changes: ChangePolicies::default(),
            resolve_symlinks: None,
            excluded: Excluded::default(),
        }
    }

    /// Presents an inode's owner, type and permissions to a viewer.
    #[must_use]
    pub fn present(&self, source: SourceAttr, viewer: Viewer) -> PresentedAttr {
        let mut uid = source.uid.and_then(|uid| self.ids.uid_to_mount(uid));
        let mut gid = source.gid.and_then(|gid| self.ids.gid_to_mount(gid));
        uid = self.forced.uid.or(uid);
        gid = self.forced.gid.or(gid);
        let mut mode = source.mode;
        // Setuid and setgid bits are hidden where the kernel would run the file as a user that does not own it. With a
        // mirror the kernel's inode has the owner that the last caller was shown; for a caller that owns the file the
        // bit has no meaning. And a file that is only presented as a user's (forced or squashed owner) must not lend
        // that user's rights.
        let owner = self.mapped_owner(source);
        if self.mirror.is_some() || uid != owner.uid {
            mode &= !SETUID;
        }
        if gid != owner.gid && !source.kind.is_dir() {
            mode &= !SETGID;
        }
        let kind = self.presented_kind(source.kind);
        match viewer {
            Viewer::Anyone => {}
            Viewer::Mirrored(caller) => uid = Some(caller),
            Viewer::Outsider => return PresentedAttr { uid, gid, kind, mode: mode & !PERMISSIONS },
        }
        if source.kind != FileType::Symlink {
            mode = self.perms.apply(source.kind, mode);
        }
        PresentedAttr { uid, gid, kind, mode }
    }

    /// Presents an inode with the owner that the id map alone gives it: without forced owners, and unmapped where the
    /// id would be squashed.
    #[must_use]
    pub fn mapped_owner(&self, source: SourceAttr) -> PresentedAttr {
        let SourceAttr { uid, gid, kind, mode } = source;
        let uid = uid.and_then(|uid| self.ids.uids.counterpart(uid));
        let gid = gid.and_then(|gid| self.ids.gids.counterpart(gid));
        PresentedAttr { uid, gid, kind, mode }
    }

    /// Whether permissions may be presented other than they are on the source.
    #[must_use]
    pub fn alters_permissions(&self) -> bool {
        !self.perms.is_empty() || self.attr_overrides.realistic_permissions || self.mirror.is_some()
    }

    /// The file type that is presented for a type on the source.
    #[must_use]
    pub fn presented_kind(&self, kind: FileType) -> FileType {
        match kind {
            FileType::BlockDevice if self.attr_overrides.block_devices_as_files => {
                FileType::RegularFile
            }
            kind => kind,
        }
    }
}
