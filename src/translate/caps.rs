//! Translates file capabilities: the root id in the value of `security.capability`.
//!
//! The format is that of linux/capability.h, `vfs_cap_data` and `vfs_ns_cap_data`. A capability has effect in user
//! namespaces that have its root id as root: version 3 names the id, version 2 means 0. The kernel handles the
//! attribute itself, so what the daemon returns and receives is not what a program sees:
//!
//! * getxattr(2) at the mount takes the daemon's value as ids of the mount, then converts it for the caller: a root id
//!   that is 0 in the caller's user namespace to version 2, any other to version 3, and one without a meaning there to
//!   EOVERFLOW.
//! * execve(2) takes the value the same way, and grants nothing for a root id that is no id. But any *error* of the
//!   daemon would fail the execve.
//! * setxattr(2) has converted the caller's root id to an id of the mount. It keeps version 2 only for a caller with
//!   privileges over the whole filesystem, so that version 2 always means mount id 0.
//!
//! These rules give programs the kernel's answers for an idmapped mount:
//!
//! * Read: the root id is translated and returned as version 3, or as version 2 where it becomes 0. An unmapped one is
//!   returned as version 3 with root id 4294967295, which the kernel turns into EOVERFLOW for getxattr(2) and into no
//!   capabilities for execve(2).
//! * Set: the root id is translated and stored as version 3, also where it is 0, as on an idmapped mount. Version 2
//!   stays only where every uid maps to itself. A root id that cannot be stored is EINVAL.
//!
//! `--unmapped=squash` sets the owner of files with unmapped owners, and does not decide which user is root: it does
//! not apply to root ids. A squash to 0 would otherwise give capabilities of unmapped root users to the mount's root.

use std::fmt;

use rustix::io::Errno;

use crate::idmap::{IdView, MountUid, NO_ID, SourceUid, Unmapped};

const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;
const SIZE_2: usize = 20;
const SIZE_3: usize = 24;

/// The value to return for a capability with an unmapped root id: getxattr(2) then fails with EOVERFLOW, and execve(2)
/// grants nothing.
pub const UNMAPPED_CAPS: [u8; SIZE_3] =
    [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];

/// A file's capabilities. The meaning of the bits is left to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Whether the program starts with them in effect.
    pub effective: bool,
    /// The permitted and inheritable words, as in the value.
    pub sets: [u8; 16],
    /// The root user that they serve.
    pub root: RootId,
}

/// The root id of a capability, of the side that the value is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootId {
    /// Version 2: id 0, not written.
    Implicit,
    /// Version 3. 4294967295: no root user has them.
    Id(u32),
}

/// Why a value is no capability, or cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapsError {
    /// Not of version 2 or 3, not of its version's length, or with unknown flags. The kernel's extended attribute calls
    /// do not accept version 1 either.
    Malformed,
    /// The root id maps to no source id.
    Unmapped,
}

impl fmt::Display for CapsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed file capability",
            Self::Unmapped => "the file capability's root id maps to no source id",
        })
    }
}

impl std::error::Error for CapsError {}

impl From<CapsError> for Errno {
    fn from(_: CapsError) -> Self {
        Self::INVAL
    }
}

impl Caps {
    /// Parses a value of version 2 or 3.
    pub fn parse(value: &[u8]) -> Result<Self, CapsError> {
        let (magic, rest) = value.split_first_chunk::<4>().ok_or(CapsError::Malformed)?;
        let magic = u32::from_le_bytes(*magic);
        if magic & !REVISION_MASK & !EFFECTIVE != 0 {
            return Err(CapsError::Malformed);
        }
        let (sets, root) = rest.split_first_chunk::<16>().ok_or(CapsError::Malformed)?;
        let root = match (magic & REVISION_MASK, root) {
            (REVISION_2, []) => RootId::Implicit,
            (REVISION_3, &[a, b, c, d]) => RootId::Id(u32::from_le_bytes([a, b, c, d])),
            _ => return Err(CapsError::Malformed),
        };
        Ok(Self { effective: magic & EFFECTIVE != 0, sets: *sets, root })
    }

    /// The value.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        let (revision, size) = match self.root {
            RootId::Implicit => (REVISION_2, SIZE_2),
            RootId::Id(_) => (REVISION_3, SIZE_3),
        };
        let mut value = Vec::with_capacity(size);
        value.extend((revision | u32::from(self.effective)).to_le_bytes());
        value.extend(self.sets);
        if let RootId::Id(id) = self.root {
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// The capabilities as seen at the mount.
    #[must_use]
    pub fn to_mount(self, view: &IdView) -> Self {
        let shown = SourceUid::new(self.root.raw()).and_then(|id| match view.uids.unmapped() {
            Unmapped::Squash(_) => view.uids.map().to_mount(id),
            Unmapped::Deny | Unmapped::Pass => view.uid_to_mount(id),
        });
        let root = match shown.map_or(NO_ID, MountUid::raw) {
            0 => RootId::Implicit,
            id => RootId::Id(id),
        };
        Self { root, ..self }
    }

    /// The capabilities as stored on the source. [`CapsError::Unmapped`] when the root id maps to no source id.
    pub fn to_source(self, view: &IdView) -> Result<Self, CapsError> {
        let stored = MountUid::new(self.root.raw()).and_then(|id| match view.uids.unmapped() {
            Unmapped::Squash(_) => view.uids.map().to_source(id),
            Unmapped::Deny | Unmapped::Pass => view.uid_to_source(id),
        });
        let id = stored.ok_or(CapsError::Unmapped)?;
        let root = match self.root {
            RootId::Implicit if view.uids.map().is_identity() => RootId::Implicit,
            _ => RootId::Id(id.raw()),
        };
        Ok(Self { root, ..self })
    }
}

impl RootId {
    fn raw(self) -> u32 {
        match self {
            Self::Implicit => 0,
            Self::Id(id) => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::{Extent, IdMap, Translation, User};
    use proptest::prelude::*;

    fn view(extents: &[(u32, u32, u32)], unmapped: Unmapped<User>) -> IdView {
        let extents = extents.iter().map(|&(s, m, n)| Extent::new(s, m, n).unwrap()).collect();
        IdView {
            uids: Translation::new(IdMap::new(extents).unwrap(), unmapped),
            ..IdView::identity()
        }
    }

    fn caps(root: RootId) -> Caps {
        Caps { effective: true, sets: *b"permittedinherit", root }
    }

    fn shown(root: RootId, view: &IdView) -> RootId {
        caps(root).to_mount(view).root
    }

    fn stored(root: RootId, view: &IdView) -> Result<RootId, CapsError> {
        Ok(caps(root).to_source(view)?.root)
    }

    // The results of the three maps below were measured on kernel idmapped mounts.

    #[test]
    fn a_container_range_shows_the_sources_root_as_the_containers() {
        let view = view(&[(0, 100_000, 65_536)], Unmapped::Deny);
        assert_eq!(shown(RootId::Implicit, &view), RootId::Id(100_000));
        assert_eq!(shown(RootId::Id(0), &view), RootId::Id(100_000));
        assert_eq!(shown(RootId::Id(5), &view), RootId::Id(100_005));
        assert_eq!(shown(RootId::Id(65_536), &view), RootId::Id(NO_ID));
        assert_eq!(stored(RootId::Id(100_000), &view), Ok(RootId::Id(0)));
        assert_eq!(stored(RootId::Implicit, &view), Err(CapsError::Unmapped));
        assert_eq!(stored(RootId::Id(5), &view), Err(CapsError::Unmapped));
    }

    #[test]
    fn another_id_shown_as_root_serves_root() {
        let view = view(&[(5, 0, 1), (10, 100, 10)], Unmapped::Deny);
        assert_eq!(shown(RootId::Id(5), &view), RootId::Implicit);
        assert_eq!(
            shown(RootId::Implicit, &view),
            RootId::Id(NO_ID),
            "the source's root has no id at the mount"
        );
        assert_eq!(stored(RootId::Implicit, &view), Ok(RootId::Id(5)));
        assert_eq!(stored(RootId::Id(0), &view), Ok(RootId::Id(5)));
        assert_eq!(stored(RootId::Id(101), &view), Ok(RootId::Id(11)));
    }

    #[test]
    fn a_root_mapped_to_itself_is_stored_as_version_3() {
        let view = view(&[(0, 0, 1), (1, 1001, 10)], Unmapped::Deny);
        assert_eq!(shown(RootId::Implicit, &view), RootId::Implicit);
        assert_eq!(stored(RootId::Implicit, &view), Ok(RootId::Id(0)));
    }

    #[test]
    fn the_identity_leaves_both_versions_alone() {
        let view = IdView::identity();
        for root in [RootId::Implicit, RootId::Id(7)] {
            assert_eq!((shown(root, &view), stored(root, &view)), (root, Ok(root)));
        }
    }

    #[test]
    fn squash_does_not_apply_to_root_ids() {
        let view = view(&[(1000, 2000, 10)], Unmapped::Squash(MountUid::new(0).unwrap()));
        assert_eq!(shown(RootId::Implicit, &view), RootId::Id(NO_ID));
        assert_eq!(shown(RootId::Id(77), &view), RootId::Id(NO_ID));
        assert_eq!(stored(RootId::Implicit, &view), Err(CapsError::Unmapped));
        assert_eq!(stored(RootId::Id(2001), &view), Ok(RootId::Id(1001)));
    }

    #[test]
    fn pass_leaves_unmapped_roots_alone() {
        let view = view(&[(1000, 2000, 10)], Unmapped::Pass);
        assert_eq!(shown(RootId::Implicit, &view), RootId::Implicit);
        assert_eq!(stored(RootId::Implicit, &view), Ok(RootId::Id(0)));
        assert_eq!(shown(RootId::Id(77), &view), RootId::Id(77));
    }

    #[test]
    fn unmapped_caps_parse_with_no_root_id() {
        let unmapped = Caps::parse(&UNMAPPED_CAPS).unwrap();
        assert_eq!((unmapped.root, unmapped.sets), (RootId::Id(NO_ID), [0; 16]));
        let view = view(&[(0, 100_000, 65_536)], Unmapped::Deny);
        assert_eq!(unmapped.to_mount(&view), unmapped);
        assert_eq!(unmapped.to_source(&view), Err(CapsError::Unmapped));
    }

    #[test]
    fn wrong_lengths_versions_and_flags_are_refused() {
        let v2 = caps(RootId::Implicit).print();
        let v3 = caps(RootId::Id(0)).print();
        let mut flags = v2.clone();
        flags[0] = 3;
        let mut v1 = v2.clone();
        v1[3] = 1;
        for bad in [
            &v2[..19],
            &v3[..23],
            &v3[..20],
            &v1[..12],
            &v1,
            &flags,
            &[],
            &[v2.clone(), vec![0; 4]].concat(),
        ] {
            assert_eq!(Caps::parse(bad), Err(CapsError::Malformed), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn printing_what_was_parsed_gives_the_same_bytes(
            effective: bool, sets: [u8; 16], id in proptest::option::of(any::<u32>()),
        ) {
            let caps = Caps { effective, sets, root: id.map_or(RootId::Implicit, RootId::Id) };
            let bytes = caps.print();
            prop_assert_eq!(Caps::parse(&bytes), Ok(caps));
        }

        #[test]
        fn a_mapped_root_id_comes_back_the_same(id in 0u32..65_536) {
            let view = view(&[(0, 100_000, 65_536)], Unmapped::Deny);
            let caps = caps(RootId::Id(id));
            prop_assert_eq!(caps.to_mount(&view).to_source(&view), Ok(caps));
        }
    }
}
