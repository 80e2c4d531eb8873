//! What a mount shows of its source and what it lets happen there: one description, made from the options once and
//! applied by the filesystem, never by an option on its own.
//!
//! Attributes pass through the view in this order: change time, ids (map and offset), forced owners, mirror, the end for
//! callers outside `mirror-only`, hard links, block devices, permission rules, the mounter's own rights. What is
//! created passes the ids backwards, and then the owners that [`Creation`] names. Pure: no I/O, no FUSE.

mod excluded;
mod needs;
mod owner;
mod perms;
mod policy;

pub use excluded::{Excluded, Verdict};
pub use needs::{Checks, Needs};
pub use owner::{CreatedBy, Creation, Forced, Mirror, Principal};
pub use perms::PermRules;
pub use policy::{AttrOverrides, ChangePolicies, ChangePolicy, LinkRemoval, Xattrs};

use rustix::fs::FileType;

use crate::idmap::{IdView, MountGid, MountUid, SourceGid, SourceUid};

/// Read and write and run, for everyone.
pub const PERMISSIONS: u32 = 0o777;

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// How ids are translated: map, offset, and what becomes of ids that no extent holds.
    pub ids: IdView,
    /// Owners that everything has, whatever the source says.
    pub forced: Forced,
    /// Callers who see themselves as the owner of everything.
    pub mirror: Option<Mirror>,
    /// How permission bits are shown.
    pub perms: PermRules,
    /// How other attributes are shown.
    pub attr_overrides: AttrOverrides,
    /// Whom new files belong to, and with which permissions.
    pub creation: Creation,
    /// Which changes pass, which are ignored, which are refused.
    pub changes: ChangePolicies,
    /// Symbolic links are shown as what they lead to; what removing such a name removes.
    pub resolve_symlinks: Option<LinkRemoval>,
    /// Names that are not there.
    pub excluded: Excluded,
}

/// Who looks, as far as what he sees depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// Anybody: nothing depends on it.
    Anyone,
    /// Somebody who sees himself as the owner of everything.
    Mirrored(MountUid),
    /// Somebody from whom `mirror-only` hides all permissions.
    Outsider,
}

/// What the view makes of an inode's owner, type and permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentedAttr {
    /// Owner; `None` is unmapped.
    pub uid: Option<MountUid>,
    /// Group; `None` is unmapped.
    pub gid: Option<MountGid>,
    /// Type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
}

/// An inode's owner, type and permissions on the source. An owner that is no id is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceAttr {
    /// Owner.
    pub uid: Option<SourceUid>,
    /// Group.
    pub gid: Option<SourceGid>,
    /// Type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
}

impl View {
    /// Ids through a map, and everything else as it is.
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

    /// How an inode's owner, type and permissions are shown to somebody.
    #[must_use]
    pub fn present(&self, source: SourceAttr, viewer: Viewer) -> PresentedAttr {
        let mut uid = source.uid.and_then(|uid| self.ids.uid_to_mount(uid));
        let mut gid = source.gid.and_then(|gid| self.ids.gid_to_mount(gid));
        uid = self.forced.uid.or(uid);
        gid = self.forced.gid.or(gid);
        let mut mode = source.mode;
        // The kernel knows one owner only, and would run the file as whoever looked last. To its caller, whose own it is,
        // the bit means nothing. And nobody gives what another user's programs may do by being shown as their owner.
        let owner = self.mapped_owner(source);
        if self.mirror.is_some() || uid != owner.uid {
            mode &= !policy::SETUID;
        }
        if gid != owner.gid && !source.kind.is_dir() {
            mode &= !policy::SETGID;
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

    /// An inode as it would be shown by its ids alone: whose it is, and not whom it is shown to belong to because all is, or
    /// because nothing else is known.
    #[must_use]
    pub fn mapped_owner(&self, source: SourceAttr) -> PresentedAttr {
        let SourceAttr { uid, gid, kind, mode } = source;
        let uid = uid.and_then(|uid| self.ids.uids.counterpart(uid));
        let gid = gid.and_then(|gid| self.ids.gids.counterpart(gid));
        PresentedAttr { uid, gid, kind, mode }
    }

    /// Whether permissions may be shown as others than those that are stored.
    #[must_use]
    pub fn alters_permissions(&self) -> bool {
        !self.perms.is_empty() || self.attr_overrides.realistic_permissions || self.mirror.is_some()
    }

    /// The type that is shown for a type on the source.
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
