//! The whole id translation of one mount: users, groups, and what becomes of unmapped ids.

use super::ids::{Group, Kind, MountGid, MountId, MountUid, SourceGid, SourceId, SourceUid, User};
use super::map::IdMap;

/// What becomes of unmapped ids, for users or for groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmapped<K: Kind> {
    /// As on a kernel idmapped mount: shown as the overflow id, and never stored.
    Deny,
    /// Shown and stored as they are.
    Pass,
    /// Shown as this mount id, and stored as its source id.
    Squash(MountId<K>),
}

/// The map of users or of groups, with its policy for unmapped ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation<K: Kind> {
    map: IdMap<K>,
    unmapped: Unmapped<K>,
    /// The extents that name an id, where not all do.
    explicit: Option<IdMap<K>>,
    /// The source id of the mount's root, where no extent holds it.
    root_as: Option<SourceId<K>>,
}

impl<K: Kind> Translation<K> {
    /// Joins a map and a policy.
    #[must_use]
    pub fn new(map: IdMap<K>, unmapped: Unmapped<K>) -> Self {
        Self { map, unmapped, explicit: None, root_as: None }
    }

    /// The same, where only these extents name an id. The others shift ids that the user has not listed one by one.
    #[must_use]
    pub fn with_explicit(self, explicit: IdMap<K>) -> Self {
        Self { explicit: Some(explicit), ..self }
    }

    /// The same, where the mount id 0 is stored as this source id if no extent holds it. It is shown as before.
    #[must_use]
    pub fn with_root_as(self, root_as: Option<SourceId<K>>) -> Self {
        Self { root_as, ..self }
    }

    /// The source id of the mount's root, where no extent holds the mount id 0.
    #[must_use]
    pub fn root_as(&self) -> Option<SourceId<K>> {
        self.root_as
            .filter(|_| MountId::new(0).is_some_and(|root| self.map.to_source(root).is_none()))
    }

    /// The map.
    #[must_use]
    pub fn map(&self) -> &IdMap<K> {
        &self.map
    }

    /// The policy for unmapped ids.
    #[must_use]
    pub fn unmapped(&self) -> Unmapped<K> {
        self.unmapped
    }

    /// The mount id of a source id. `None`: unmapped, to be sent as [`super::NO_ID`], which the kernel shows as the
    /// overflow id and matches with no caller.
    #[must_use]
    pub fn to_mount(&self, id: SourceId<K>) -> Option<MountId<K>> {
        self.map.to_mount(id).or_else(|| match self.unmapped {
            Unmapped::Deny => None,
            Unmapped::Pass => MountId::new(id.raw()),
            Unmapped::Squash(to) => Some(to),
        })
    }

    /// Like [`Self::to_mount`], but `None` for an id that is only squashed: that is shown as another user's.
    #[must_use]
    pub fn counterpart(&self, id: SourceId<K>) -> Option<MountId<K>> {
        match self.unmapped {
            Unmapped::Squash(_) => self.map.to_mount(id),
            Unmapped::Deny | Unmapped::Pass => self.to_mount(id),
        }
    }

    /// The source id of a mount id, if an explicit extent maps it to another number. Extents that map ids to themselves
    /// name no id.
    #[must_use]
    pub fn explicit_to_source(&self, id: MountId<K>) -> Option<SourceId<K>> {
        let explicit = self.explicit.as_ref().unwrap_or(&self.map);
        explicit.to_source(id).filter(|source| source.raw() != id.raw())
    }

    /// The source id of a mount id. `None`: it cannot be stored (EOVERFLOW).
    #[must_use]
    pub fn to_source(&self, id: MountId<K>) -> Option<SourceId<K>> {
        let root_as = self.root_as.filter(|_| id.raw() == 0);
        self.map.to_source(id).or(root_as).or_else(|| match self.unmapped {
            Unmapped::Deny => None,
            Unmapped::Pass => SourceId::new(id.raw()),
            Unmapped::Squash(to) => self.map.to_source(to).or_else(|| SourceId::new(to.raw())),
        })
    }
}

/// The ids of one mount: how users and groups are translated, in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdView {
    /// Users.
    pub uids: Translation<User>,
    /// Groups.
    pub gids: Translation<Group>,
}

impl IdView {
    /// Maps every id to itself.
    #[must_use]
    pub fn identity() -> Self {
        Self {
            uids: Translation::new(IdMap::identity(), Unmapped::Deny),
            gids: Translation::new(IdMap::identity(), Unmapped::Deny),
        }
    }

    /// The mount uid of a source uid.
    #[must_use]
    pub fn uid_to_mount(&self, uid: SourceUid) -> Option<MountUid> {
        self.uids.to_mount(uid)
    }

    /// The mount gid of a source gid.
    #[must_use]
    pub fn gid_to_mount(&self, gid: SourceGid) -> Option<MountGid> {
        self.gids.to_mount(gid)
    }

    /// The source uid of a mount uid.
    #[must_use]
    pub fn uid_to_source(&self, uid: MountUid) -> Option<SourceUid> {
        self.uids.to_source(uid)
    }

    /// The source gid of a mount gid.
    #[must_use]
    pub fn gid_to_source(&self, gid: MountGid) -> Option<SourceGid> {
        self.gids.to_source(gid)
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::Extent;
    use super::*;

    fn translation(unmapped: Unmapped<User>) -> Translation<User> {
        Translation::new(IdMap::new(vec![Extent::new(0, 100, 10).unwrap()]).unwrap(), unmapped)
    }

    fn both(t: &Translation<User>, id: u32) -> (Option<u32>, Option<u32>) {
        (
            t.to_mount(SourceUid::new(id).unwrap()).map(MountId::raw),
            t.to_source(MountUid::new(id).unwrap()).map(SourceId::raw),
        )
    }

    #[test]
    fn deny_has_no_answer_for_unmapped_ids() {
        assert_eq!(both(&translation(Unmapped::Deny), 50), (None, None));
    }

    #[test]
    fn pass_leaves_unmapped_ids_alone() {
        let t = translation(Unmapped::Pass);
        assert_eq!(both(&t, 50), (Some(50), Some(50)));
        assert_eq!(both(&t, 100), (Some(100), Some(0)), "the map wins on the way back");
    }

    #[test]
    fn only_an_id_that_changes_has_an_explicit_source_id() {
        let counterpart = |t: &Translation<User>, id| {
            t.explicit_to_source(MountUid::new(id).unwrap()).map(SourceId::raw)
        };
        let t = translation(Unmapped::Pass);
        assert_eq!((counterpart(&t, 103), counterpart(&t, 3)), (Some(3), None));
        let all = Translation::<User>::new(IdMap::identity(), Unmapped::Deny);
        assert_eq!(counterpart(&all, 1000), None);
    }

    #[test]
    fn squash_shows_one_id_and_stores_its_counterpart() {
        let mapped = translation(Unmapped::Squash(MountUid::new(105).unwrap()));
        assert_eq!(both(&mapped, 50), (Some(105), Some(5)));
        let foreign = translation(Unmapped::Squash(MountUid::new(1000).unwrap()));
        assert_eq!(both(&foreign, 50), (Some(1000), Some(1000)));
    }
}
