//! Translates POSIX ACLs: the values of `system.posix_acl_access` and `system.posix_acl_default`.
//!
//! The format is that of linux/posix_acl_xattr.h: a version, then entries of tag, permissions and id, all little
//! endian. The rules are the kernel's for an idmapped mount:
//!
//! * Read: an entry with an unmapped id stays and grants no user anything. An idmapped mount shows 4294967295 for that
//!   id. From a FUSE server the kernel does not accept that id (`posix_acl_from_xattr` fails, and with it every access
//!   to the file), so the largest id that the map uses for no source id takes its place, 4294967294 on nearly every
//!   map. That id cannot be stored, so setting what was read fails as on an idmapped mount.
//! * Set: an entry with an id that cannot be stored makes the whole ACL EINVAL.
//! * Entries keep their number and order. Where several source ids map to one mount id, a read shows the entry several
//!   times. The kernel accepts that: it takes the first match for users and any match for groups, and to drop one would
//!   change what the file grants. For the same reason nothing is merged when an ACL is set.
//!
//! Whether the entries are consistent (order, one mask, no missing owner) is checked by the kernel: at the mount before
//! the daemon gets the ACL, and again on the source.

use std::fmt;

use rustix::io::Errno;

use crate::idmap::{
    Extent, IdMap, IdView, Kind, MAX_ID, MountGid, MountId, MountUid, NO_ID, SourceGid, SourceId,
    SourceUid,
};

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

/// An access control list with the ids of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl<U, G> {
    /// In the order of the value.
    pub entries: Vec<AclEntry<U, G>>,
}

/// An ACL as stored on the source.
pub type SourceAcl = Acl<SourceUid, SourceGid>;
/// An ACL as seen at the mount.
pub type MountAcl = Acl<MountUid, MountGid>;

/// One entry: a tag and its permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AclEntry<U, G> {
    /// What the entry applies to.
    pub tag: AclTag<U, G>,
    /// The permission bits, unchecked.
    pub perm: u16,
}

/// The tag of an entry, with its id if it has one. `None`: 4294967295, no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclTag<U, G> {
    /// `ACL_USER_OBJ`
    Owner,
    /// `ACL_USER`
    User(Option<U>),
    /// `ACL_GROUP_OBJ`
    OwningGroup,
    /// `ACL_GROUP`
    Group(Option<G>),
    /// `ACL_MASK`
    Mask,
    /// `ACL_OTHER`
    Other,
}

/// Converts an id of either side from and to the number in the value.
pub trait RawId: Copy {
    /// The id, unless the number is 4294967295.
    fn from_raw(raw: u32) -> Option<Self>;
    /// The number.
    fn to_raw(self) -> u32;
}

impl<K: Kind> RawId for SourceId<K> {
    fn from_raw(raw: u32) -> Option<Self> {
        Self::new(raw)
    }

    fn to_raw(self) -> u32 {
        self.raw()
    }
}

impl<K: Kind> RawId for MountId<K> {
    fn from_raw(raw: u32) -> Option<Self> {
        Self::new(raw)
    }

    fn to_raw(self) -> u32 {
        self.raw()
    }
}

/// Why a value is no ACL, or cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclError {
    /// Too short for a header, not a whole number of entries, or an unknown tag.
    Malformed,
    /// A version other than 2.
    Version(u32),
    /// An entry has an id that maps to no source id.
    Unmapped,
}

impl fmt::Display for AclError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("malformed ACL"),
            Self::Version(version) => write!(f, "ACL of version {version}; {VERSION} is known"),
            Self::Unmapped => f.write_str("the ACL names an id that maps to no source id"),
        }
    }
}

impl std::error::Error for AclError {}

impl From<AclError> for Errno {
    /// The errno of `posix_acl_from_xattr` and of an idmapped mount.
    fn from(error: AclError) -> Self {
        match error {
            AclError::Malformed | AclError::Unmapped => Self::INVAL,
            AclError::Version(_) => Self::OPNOTSUPP,
        }
    }
}

impl<U: RawId, G: RawId> Acl<U, G> {
    /// Parses a value. A header without entries is an ACL without entries, which the kernel takes as none at all.
    pub fn parse(value: &[u8]) -> Result<Self, AclError> {
        let (header, rest) = value.split_first_chunk::<HEADER>().ok_or(AclError::Malformed)?;
        let version = u32::from_le_bytes(*header);
        if version != VERSION {
            return Err(AclError::Version(version));
        }
        let (entries, tail) = rest.as_chunks::<ENTRY>();
        if !tail.is_empty() {
            return Err(AclError::Malformed);
        }
        Ok(Self { entries: entries.iter().map(AclEntry::parse).collect::<Result<_, _>>()? })
    }

    /// The value.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER + ENTRY * self.entries.len());
        value.extend(VERSION.to_le_bytes());
        for entry in &self.entries {
            let (tag, id) = entry.tag.to_raw();
            value.extend(tag.to_le_bytes());
            value.extend(entry.perm.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    fn try_map<U2, G2>(
        &self,
        user: impl Fn(Option<U>) -> Result<Option<U2>, AclError>,
        group: impl Fn(Option<G>) -> Result<Option<G2>, AclError>,
    ) -> Result<Acl<U2, G2>, AclError> {
        let entries = self.entries.iter().map(|entry| {
            let tag = match entry.tag {
                AclTag::User(id) => AclTag::User(user(id)?),
                AclTag::Group(id) => AclTag::Group(group(id)?),
                AclTag::Owner => AclTag::Owner,
                AclTag::OwningGroup => AclTag::OwningGroup,
                AclTag::Mask => AclTag::Mask,
                AclTag::Other => AclTag::Other,
            };
            Ok(AclEntry { tag, perm: entry.perm })
        });
        Ok(Acl { entries: entries.collect::<Result<_, _>>()? })
    }
}

impl<U, G> Acl<U, G> {
    /// Adapts an access ACL to a file that is presented with other permissions.
    ///
    /// `stored` and `shown` are the permissions on the source and at the mount, nine bits each. The mask bounds the
    /// named entries, so they grant no more than the presented group permissions. What those add to the stored ones,
    /// the owning group gets.
    pub fn apply_mode(&mut self, stored: u32, shown: u32) {
        let class = |mode: u32, shift: u32| (mode >> shift) as u16 & 0o7;
        let (group, added) = (class(shown, 3), class(shown & !stored, 3));
        let has_mask = self.entries.iter().any(|entry| matches!(entry.tag, AclTag::Mask));
        for entry in &mut self.entries {
            entry.perm = match entry.tag {
                AclTag::Owner => class(shown, 6),
                AclTag::OwningGroup if has_mask => entry.perm | added,
                AclTag::OwningGroup | AclTag::Mask => group,
                AclTag::User(_) | AclTag::Group(_) => entry.perm,
                AclTag::Other => class(shown, 0),
            };
        }
    }
}

impl SourceAcl {
    /// The ACL as seen at the mount.
    #[must_use]
    pub fn to_mount(&self, view: &IdView) -> MountAcl {
        let shown = self.try_map(
            |id| Ok(id.and_then(|id| view.uid_to_mount(id)).or_else(|| unused(view.uids.map()))),
            |id| Ok(id.and_then(|id| view.gid_to_mount(id)).or_else(|| unused(view.gids.map()))),
        );
        shown.unwrap_or_else(|_| unreachable!("neither closure fails"))
    }
}

/// The largest id that the map uses for no source id: it stands for unmapped ids.
fn unused<K: Kind>(map: &IdMap<K>) -> Option<MountId<K>> {
    let mut id = MountId::new(MAX_ID)?;
    while map.to_source(id).is_some() {
        // Continue below the extents that hold it. There are at most as many rounds as extents.
        let holds =
            |e: &&Extent<K>| (0..e.count()).contains(&id.raw().wrapping_sub(e.mount().raw()));
        let first = map.extents().iter().filter(holds).map(|e| e.mount().raw()).min()?;
        id = MountId::new(first.checked_sub(1)?)?;
    }
    Some(id)
}

impl MountAcl {
    /// The ACL as stored on the source. [`AclError::Unmapped`] when an id maps to no source id.
    pub fn to_source(&self, view: &IdView) -> Result<SourceAcl, AclError> {
        self.try_map(
            |id| id.and_then(|id| view.uid_to_source(id)).map(Some).ok_or(AclError::Unmapped),
            |id| id.and_then(|id| view.gid_to_source(id)).map(Some).ok_or(AclError::Unmapped),
        )
    }
}

impl<U: RawId, G: RawId> AclEntry<U, G> {
    fn parse(bytes: &[u8; ENTRY]) -> Result<Self, AclError> {
        let [t0, t1, p0, p1, id @ ..] = *bytes;
        let id = u32::from_le_bytes(id);
        // Like the kernel, ignore the id of an entry that has none.
        let tag = match u16::from_le_bytes([t0, t1]) {
            0x01 => AclTag::Owner,
            0x02 => AclTag::User(U::from_raw(id)),
            0x04 => AclTag::OwningGroup,
            0x08 => AclTag::Group(G::from_raw(id)),
            0x10 => AclTag::Mask,
            0x20 => AclTag::Other,
            _ => return Err(AclError::Malformed),
        };
        Ok(Self { tag, perm: u16::from_le_bytes([p0, p1]) })
    }
}

impl<U: RawId, G: RawId> AclTag<U, G> {
    fn to_raw(self) -> (u16, u32) {
        match self {
            Self::Owner => (0x01, NO_ID),
            Self::User(id) => (0x02, id.map_or(NO_ID, U::to_raw)),
            Self::OwningGroup => (0x04, NO_ID),
            Self::Group(id) => (0x08, id.map_or(NO_ID, G::to_raw)),
            Self::Mask => (0x10, NO_ID),
            Self::Other => (0x20, NO_ID),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::{Extent, IdMap, Translation, Unmapped};
    use proptest::prelude::*;

    fn view() -> IdView {
        let uids = IdMap::new(vec![
            Extent::new(0, 100, 10).unwrap(),
            Extent::new(20, 300, 10).unwrap(),
            Extent::new(50, 105, 1).unwrap(),
        ]);
        let gids = IdMap::new(vec![Extent::new(0, 200, 10).unwrap()]);
        IdView {
            uids: Translation::new(uids.unwrap(), Unmapped::Deny),
            gids: Translation::new(gids.unwrap(), Unmapped::Deny),
        }
    }

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = vec![2, 0, 0, 0];
        for (tag, perm, id) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(perm.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    fn shown(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        SourceAcl::parse(&value(entries)).unwrap().to_mount(&view()).print()
    }

    fn stored(entries: &[(u16, u16, u32)]) -> Result<Vec<u8>, AclError> {
        Ok(MountAcl::parse(&value(entries))?.to_source(&view())?.print())
    }

    #[test]
    fn users_and_groups_go_through_their_own_map_and_the_rest_stays() {
        let source = [
            (1, 6, NO_ID),
            (2, 7, 5),
            (4, 4, NO_ID),
            (8, 5, 5),
            (0x10, 7, NO_ID),
            (0x20, 0, NO_ID),
        ];
        let mount = [
            (1, 6, NO_ID),
            (2, 7, 105),
            (4, 4, NO_ID),
            (8, 5, 205),
            (0x10, 7, NO_ID),
            (0x20, 0, NO_ID),
        ];
        assert_eq!(shown(&source), value(&mount));
        assert_eq!(stored(&mount).unwrap(), value(&source));
    }

    #[test]
    fn an_unmapped_entry_reads_as_an_unused_id_and_is_refused_when_set() {
        assert_eq!(shown(&[(2, 7, 15), (8, 7, 25)]), value(&[(2, 7, MAX_ID), (8, 7, MAX_ID)]));
        for entry in [
            (2, 7, MAX_ID),
            (8, 7, MAX_ID),
            (2, 7, 99),
            (8, 7, 105),
            (2, 7, NO_ID),
            (8, 7, NO_ID),
            (2, 7, 65_534),
        ] {
            assert_eq!(stored(&[entry]), Err(AclError::Unmapped), "{entry:?}");
        }
    }

    #[test]
    fn the_unused_id_lies_below_extents_that_reach_the_top() {
        let map = |extents: &[(u32, u32, u32)]| {
            let extents = extents.iter().map(|&(s, m, n)| Extent::new(s, m, n).unwrap());
            IdMap::<crate::idmap::User>::new(extents.collect()).unwrap()
        };
        let raw = |map| unused(&map).map(MountId::raw);
        assert_eq!(raw(map(&[])), Some(MAX_ID));
        assert_eq!(raw(map(&[(0, 1000, MAX_ID - 999)])), Some(999));
        assert_eq!(raw(map(&[(0, MAX_ID - 9, 10), (10, MAX_ID - 19, 10)])), Some(MAX_ID - 20));
        assert_eq!(raw(IdMap::identity()), None);
    }

    #[test]
    fn two_source_ids_shown_as_one_stay_two_entries() {
        assert_eq!(shown(&[(2, 7, 5), (2, 4, 50)]), value(&[(2, 7, 105), (2, 4, 105)]));
        assert_eq!(stored(&[(2, 7, 105), (2, 4, 105)]).unwrap(), value(&[(2, 7, 5), (2, 4, 5)]));
    }

    #[test]
    fn the_id_field_of_an_entry_without_id_is_not_looked_at() {
        assert_eq!(
            stored(&[(1, 6, 77), (0x20, 4, 0)]).unwrap(),
            value(&[(1, 6, NO_ID), (0x20, 4, NO_ID)])
        );
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        assert_eq!(SourceAcl::parse(&[]), Err(AclError::Malformed));
        assert_eq!(SourceAcl::parse(&[2, 0, 0]), Err(AclError::Malformed));
        assert_eq!(SourceAcl::parse(&[1, 0, 0, 0]), Err(AclError::Version(1)));
        assert_eq!(SourceAcl::parse(&value(&[(3, 7, 0)])), Err(AclError::Malformed));
        assert_eq!(SourceAcl::parse(&value(&[(1, 7, 0)])[..11]), Err(AclError::Malformed));
        assert_eq!(SourceAcl::parse(&[2, 0, 0, 0]), Ok(Acl { entries: vec![] }));
    }

    fn any_entry(
        user: std::ops::Range<u32>,
        group: std::ops::Range<u32>,
    ) -> impl Strategy<Value = (u16, u16, u32)> {
        prop_oneof![
            (Just(2), any::<u16>(), user),
            (Just(8), any::<u16>(), group),
            (prop_oneof![Just(1), Just(4), Just(0x10), Just(0x20)], any::<u16>(), Just(NO_ID)),
        ]
    }

    proptest! {
        #[test]
        fn printing_what_was_parsed_gives_the_same_bytes(
            entries in proptest::collection::vec(any_entry(0..u32::MAX, 0..u32::MAX), 0..12),
        ) {
            let bytes = value(&entries);
            prop_assert_eq!(SourceAcl::parse(&bytes).unwrap().print(), bytes);
        }

        #[test]
        fn an_acl_of_mapped_ids_comes_back_the_same(
            entries in proptest::collection::vec(any_entry(0..10, 0..10), 0..12),
        ) {
            let bytes = value(&entries);
            let acl = SourceAcl::parse(&bytes).unwrap();
            prop_assert_eq!(acl.to_mount(&view()).to_source(&view()), Ok(acl));
        }
    }
}
