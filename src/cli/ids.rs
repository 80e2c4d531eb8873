//! Combines all options about ids into an [`IdView`]: extents, bindfs maps, offsets, and the policy for unmapped ids.

use std::path::Path;

use super::bindfs_map::{self, BindfsMap, FileSide};
use super::dialect::Dialect;
use super::input_file::InputFile;
use super::maps::{IdKinds, MapList};
use super::options::Opt;
use super::values::UnmappedPolicies;
use crate::accounts::{Accounts, Named};
use crate::config::SourceOwner;
use crate::error::{Error, Result};
use crate::idmap::{
    Extent, Group, IdMap, IdRange, IdView, Kind, MapError, SourceId, Translation, Unmapped, User,
    UserNamespaceIds, inside,
};
use crate::map_from::FoundMap;

/// The options about ids that were read so far.
#[derive(Debug, Default)]
pub(super) struct IdOptions {
    /// The extents of `--idmap`, `--uidmap` and `--gidmap`, which add up.
    maps: MapList,
    /// The extents of `--map-from`, which add up, and whether to invert them.
    map_from: FoundMap,
    is_inverted: bool,
    /// The mount ids of the last `--owner-as`, and the source ids of the last `--root-as`.
    owner_as: Option<(u32, u32)>,
    root_as: Option<(u32, u32)>,
    /// The last `--map`.
    bindfs_map: Option<BindfsMap>,
    /// The last `--map-passwd` and `--map-passwd-rev`, then the same for groups.
    passwd: [Option<Vec<Extent<User>>>; 2],
    group: [Option<Vec<Extent<Group>>>; 2],
    uid_offset: Option<i64>,
    gid_offset: Option<i64>,
    unmapped: Option<UnmappedPolicies>,
    origins: Origins,
}

/// Extents that the user did not write, as text, each with the option that gave it.
#[derive(Debug, Default)]
struct Origins {
    uids: Vec<(String, &'static str)>,
    gids: Vec<(String, &'static str)>,
}

impl IdOptions {
    /// Adds the extents of one map option.
    pub(super) fn add_map(
        &mut self,
        option: &str,
        kinds: IdKinds,
        text: &str,
        accounts: &dyn Accounts,
    ) -> Result<()> {
        self.maps.add(option, kinds, text, accounts)
    }

    /// Adds the extents of a user namespace.
    pub(super) fn add_found(&mut self, found: FoundMap) {
        self.maps.uids.extend(found.uids);
        self.maps.gids.extend(found.gids);
    }

    /// Adds extents that the user did not write, and notes the option that they are of.
    fn add_named(&mut self, option: &'static str, found: FoundMap) {
        self.origins.uids.extend(found.uids.iter().map(|extent| (extent.to_string(), option)));
        self.origins.gids.extend(found.gids.iter().map(|extent| (extent.to_string(), option)));
        self.add_found(found);
    }

    /// Adds the extents of one `--map-from`.
    pub(super) fn add_map_from(&mut self, found: FoundMap) {
        self.map_from.uids.extend(found.uids);
        self.map_from.gids.extend(found.gids);
    }

    /// Exchanges source and mount in the extents of `--map-from`.
    pub(super) fn invert_map_from(&mut self) {
        self.is_inverted = true;
    }

    /// Sets the mount ids of the source's owner and group.
    pub(super) fn set_owner_as(&mut self, ids: (u32, u32)) {
        self.owner_as = Some(ids);
    }

    /// Sets the source ids of an unmapped root.
    pub(super) fn set_root_as(&mut self, ids: (u32, u32)) {
        self.root_as = Some(ids);
    }

    /// Whether `--root-as` was given.
    pub(super) fn has_root_as(&self) -> bool {
        self.root_as.is_some()
    }

    /// Adds the extents of `--owner-as`, whose source ids are those of the source's owner, and returns the owner.
    ///
    /// `kept` is the owner that a running mount has found. A reload does not ask again: the path may name another inode by
    /// now.
    pub(super) fn find_owner(
        &mut self,
        source: &Path,
        kept: Option<SourceOwner>,
    ) -> Result<Option<SourceOwner>> {
        let Some((uid, gid)) = self.owner_as else { return Ok(kept) };
        if source.as_os_str().is_empty() {
            return Err(Error::usage(
                "option 'owner-as': give SOURCE and MOUNTPOINT: it is the source's owner",
            ));
        }
        let owner = match kept {
            Some(owner) => owner,
            None => rustix::fs::stat(source)
                .map(|stat| SourceOwner::of(&stat))
                .map_err(|e| Error::mount(format!("source {}", source.display()), e))?,
        };
        let is_alone =
            [self.maps.is_empty(), self.map_from.uids.is_empty(), self.map_from.gids.is_empty()];
        if is_alone == [true; 3] {
            self.unmapped.get_or_insert((Unmapped::Pass, Unmapped::Pass));
        }
        let bad = |e: MapError| Error::usage(format!("option 'owner-as': {e}"));
        let uids = vec![Extent::new(owner.uid, uid, 1).map_err(bad)?];
        let gids = vec![Extent::new(owner.gid, gid, 1).map_err(bad)?];
        self.add_named("owner-as", FoundMap { uids, gids });
        Ok(Some(owner))
    }

    /// Sets the map for a container where no option says anything about ids: each id as itself. `own` are the ids of a user who
    /// can store files as no other: then these alone, as the container numbers them.
    pub(super) fn set_default_map(&mut self, ids: &UserNamespaceIds, own: Option<(u32, u32)>) {
        let found = &self.map_from;
        let is_typed = !(self.maps.is_empty() && found.uids.is_empty() && found.gids.is_empty())
            || self.bindfs_map.is_some()
            || self.owner_as.is_some()
            || self.passwd.iter().any(Option::is_some)
            || self.group.iter().any(Option::is_some)
            || self.has_offset();
        if is_typed {
            return;
        }
        fn same<K: Kind>(ranges: &[IdRange]) -> Vec<Extent<K>> {
            let extent =
                |range: &IdRange| Extent::new(range.inside, range.inside, range.count).ok();
            ranges.iter().filter_map(extent).collect()
        }
        fn one<K: Kind>(ranges: &[IdRange], own: u32) -> Vec<Extent<K>> {
            inside(ranges, own).and_then(|id| Extent::new(own, id, 1).ok()).into_iter().collect()
        }
        (self.maps.uids, self.maps.gids) = match own {
            None => (same(&ids.uids), same(&ids.gids)),
            Some((uid, gid)) => (one(&ids.uids, uid), one(&ids.gids, gid)),
        };
    }

    /// Sets the policy for unmapped ids.
    pub(super) fn set_unmapped(&mut self, policies: UnmappedPolicies) {
        self.unmapped = Some(policies);
    }

    /// Replaces the value of `--map`.
    pub(super) fn set_bindfs_map(&mut self, map: BindfsMap) {
        self.bindfs_map = Some(map);
    }

    /// Replaces the extents of one accounts file option.
    pub(super) fn set_accounts_file(
        &mut self,
        id: Opt,
        option: &str,
        file: InputFile<'_>,
        accounts: &dyn Accounts,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let side = match id {
            Opt::MapPasswdRev | Opt::MapGroupRev => FileSide::Mount,
            _ => FileSide::Source,
        };
        if matches!(id, Opt::MapGroup | Opt::MapGroupRev) {
            let extents = bindfs_map::extents_from_file(option, file, side, accounts, warnings)?;
            self.group[usize::from(side == FileSide::Mount)] = Some(extents);
        } else {
            let extents = bindfs_map::extents_from_file(option, file, side, accounts, warnings)?;
            self.passwd[usize::from(side == FileSide::Mount)] = Some(extents);
        }
        Ok(())
    }

    /// Replaces an offset.
    pub(super) fn set_offset(&mut self, id: Opt, offset: i64) {
        match id {
            Opt::GidOffset => self.gid_offset = Some(offset),
            _ => self.uid_offset = Some(offset),
        }
    }

    /// Whether an offset shifts ids. It leaves some mount ids unmapped that the user did not choose: with a positive
    /// one, 0.
    pub(super) fn has_offset(&self) -> bool {
        self.uid_offset.is_some() || self.gid_offset.is_some()
    }

    /// The options given that bindfs restricts to root as well.
    pub(super) fn root_only(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.bindfs_map.is_some(), "map"),
            (self.passwd[0].is_some(), "map-passwd"),
            (self.passwd[1].is_some(), "map-passwd-rev"),
            (self.group[0].is_some(), "map-group"),
            (self.group[1].is_some(), "map-group-rev"),
            (self.uid_offset.is_some(), "uid-offset"),
            (self.gid_offset.is_some(), "gid-offset"),
        ]
        .into_iter()
        .filter_map(|(given, option)| given.then_some(option))
    }

    /// Builds the translation.
    pub(super) fn finish(mut self, dialect: Dialect) -> Result<IdView> {
        let found = std::mem::take(&mut self.map_from);
        if self.is_inverted && found.uids.is_empty() && found.gids.is_empty() {
            return Err(Error::usage("option 'invert-map' has a meaning with map-from only"));
        }
        self.add_named("map-from", if self.is_inverted { found.inverted() } else { found });
        let offset = match (self.uid_offset, self.gid_offset) {
            (Some(_), _) => Some("uid-offset"),
            (None, Some(_)) => Some("gid-offset"),
            (None, None) => None,
        };
        if let (Some(_), Some(offset)) = (&self.bindfs_map, offset) {
            return Err(Error::usage(format!(
                "option '{offset}' contradicts map; write the ids that you want shown into the map"
            )));
        }
        let BindfsMap { uids, gids } = self.bindfs_map.unwrap_or_default();
        let ours = !(self.maps.uids.is_empty() && self.maps.gids.is_empty());
        // Ids absent from `--idmap` and its kin are unmapped; ids absent from bindfs's `--map` pass through.
        let unlisted_pass = dialect == Dialect::Bindfs || !ours;
        let uids = KindExtents { listed: uids, files: self.passwd, ranges: self.maps.uids };
        let gids = KindExtents { listed: gids, files: self.group, ranges: self.maps.gids };
        let (uids, gids) = (uids.extents()?, gids.extents()?);
        if !unlisted_pass && uids.is_empty() != gids.is_empty() {
            return Err(one_kind_only(if gids.is_empty() { "gid" } else { "uid" }));
        }
        let (for_uids, for_gids) = self.unmapped.unzip();
        let for_uids = for_uids.unwrap_or(default_policy(unlisted_pass && !uids.is_empty()));
        let for_gids = for_gids.unwrap_or(default_policy(unlisted_pass && !gids.is_empty()));
        let (root_uid, root_gid) = self.root_as.unzip();
        Ok(IdView {
            uids: translation(uids, self.uid_offset, for_uids, &self.origins.uids)?
                .with_root_as(root_uid.and_then(SourceId::new)),
            gids: translation(gids, self.gid_offset, for_gids, &self.origins.gids)?
                .with_root_as(root_gid.and_then(SourceId::new)),
        })
    }
}

/// Without any extent the map is the identity, which leaves no id to pass through.
fn default_policy<K: Kind>(unlisted_pass: bool) -> Unmapped<K> {
    if unlisted_pass { Unmapped::Pass } else { Unmapped::Deny }
}

/// The extents for one kind of id, by the options that gave them.
struct KindExtents<K: Kind> {
    listed: Vec<Extent<K>>,
    files: [Option<Vec<Extent<K>>>; 2],
    ranges: Vec<Extent<K>>,
}

impl<K: Named> KindExtents<K> {
    fn extents(self) -> Result<Vec<Extent<K>>> {
        let mut extents: Vec<Extent<K>> = self.files.into_iter().flatten().flatten().collect();
        extents.extend(self.listed);
        bindfs_map::check_unique(&extents)?;
        extents.extend(self.ranges);
        Ok(extents)
    }
}

fn one_kind_only(missing: &str) -> Error {
    let (given, things) = if missing == "gid" { ("uid", "groups") } else { ("gid", "users") };
    Error::usage(format!(
        "a map for {given}s only would leave every {missing} unmapped; add --{missing}map=…, or \
         --{missing}map=identity to show {things} as they are"
    ))
}

fn translation<K: Named>(
    extents: Vec<Extent<K>>,
    offset: Option<i64>,
    unmapped: Unmapped<K>,
    origins: &[(String, &str)],
) -> Result<Translation<K>> {
    let none = extents.is_empty();
    let Some(offset) = offset.filter(|offset| *offset != 0) else {
        let map = if none { IdMap::identity() } else { map_of(extents, origins)? };
        return Ok(Translation::new(map, unmapped));
    };
    // Ids that pass through are shifted as well, so they need identity extents. Overlaps are checked first.
    let mut extents = map_of(extents, origins)?.extents().to_vec();
    let named = map_of(bindfs_map::with_offset(&extents, offset), &[])?;
    let unlisted_pass = none || unmapped == Unmapped::Pass;
    if unlisted_pass {
        extents.extend(bindfs_map::identity_of_gaps(&extents));
    }
    let unmapped = if unlisted_pass { Unmapped::Deny } else { unmapped };
    Ok(Translation::new(map_of(bindfs_map::with_offset(&extents, offset), &[])?, unmapped)
        .with_explicit(named))
}

/// Builds a map. An overlap names the option of an extent that the user did not write.
fn map_of<K: Named>(extents: Vec<Extent<K>>, origins: &[(String, &str)]) -> Result<IdMap<K>> {
    IdMap::new(extents).map_err(|error| {
        let mut message = format!("{} map: {error}", K::WORD);
        if let MapError::Overlap(one, other) = &error {
            let mut named: Vec<_> =
                origins.iter().filter(|(text, _)| text == one || text == other).collect();
            named.dedup();
            for (extent, option) in named {
                message.push_str(&format!("; {extent} is of option '{option}'"));
            }
        }
        Error::usage(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::TestAccounts;
    use crate::idmap::{MountId, SourceId};

    fn options(map: &str, idmap: &str) -> IdOptions {
        let mut options = IdOptions::default();
        if !map.is_empty() {
            options.set_bindfs_map(bindfs_map::parse_map(map, &TestAccounts).unwrap());
        }
        if !idmap.is_empty() {
            options.add_map("idmap", IdKinds::Both, idmap, &TestAccounts).unwrap();
        }
        options
    }

    impl IdOptions {
        fn into_found(self) -> FoundMap {
            FoundMap { uids: self.maps.uids, gids: self.maps.gids }
        }
    }

    fn finish(options: IdOptions) -> IdView {
        options.finish(Dialect::Shiftbind).unwrap()
    }

    /// The mount id that a source uid is shown as, and the source id that the same number is stored as.
    fn uid(view: &IdView, id: u32) -> (Option<u32>, Option<u32>) {
        (
            view.uid_to_mount(SourceId::new(id).unwrap()).map(MountId::raw),
            view.uid_to_source(MountId::new(id).unwrap()).map(SourceId::raw),
        )
    }

    #[test]
    fn ids_that_map_does_not_list_pass_through() {
        let view = finish(options("1000/2000", ""));
        assert_eq!(uid(&view, 1000), (Some(2000), Some(1000)));
        assert_eq!(uid(&view, 2000), (Some(2000), Some(1000)));
        assert_eq!(uid(&view, 7), (Some(7), Some(7)));
        assert!(view.gids.map().is_identity(), "users alone oblige to nothing");
    }

    #[test]
    fn idmap_extents_add_to_map_and_all_other_ids_are_denied() {
        let view = finish(options("1000/2000:@50/@60", "0:100000:10"));
        assert_eq!(uid(&view, 1000).0, Some(2000));
        assert_eq!(uid(&view, 3).0, Some(100_003));
        assert_eq!(uid(&view, 500), (None, None));
        let as_bindfs = options("1000/2000", "u:0:100000:10").finish(Dialect::Bindfs).unwrap();
        assert_eq!(uid(&as_bindfs, 500), (Some(500), Some(500)));
    }

    #[test]
    fn an_explicit_policy_wins_over_that_of_the_map() {
        let mut options = options("1000/2000", "");
        options.set_unmapped((Unmapped::Deny, Unmapped::Deny));
        assert_eq!(uid(&finish(options), 7), (None, None));
    }

    #[test]
    fn an_extent_that_overlaps_map_is_an_error() {
        let error = options("1000/2000", "1000:5:1").finish(Dialect::Shiftbind).unwrap_err();
        assert!(error.to_string().contains("overlap"), "{error}");
    }

    #[test]
    fn an_offset_alone_shifts_every_id_and_drops_those_out_of_range() {
        let mut options = IdOptions::default();
        options.set_offset(Opt::UidOffset, 1000);
        let view = finish(options);
        assert_eq!(uid(&view, 5), (Some(1005), None));
        assert_eq!(uid(&view, 1005), (Some(2005), Some(5)));
        assert_eq!(uid(&view, 4_294_967_294).0, None);
        assert_eq!(uid(&view, 4_294_966_294), (Some(4_294_967_294), Some(4_294_965_294)));
        assert!(view.gids.map().is_identity());
    }

    #[test]
    fn an_offset_applies_after_a_map_from_a_file() {
        let mut options = IdOptions::default();
        options.passwd[0] = Some(vec![Extent::new(501, 1000, 1).unwrap()]);
        options.set_offset(Opt::UidOffset, 10);
        let view = finish(options);
        let named = |id| view.uids.explicit_to_source(MountId::new(id).unwrap()).map(SourceId::raw);
        assert_eq!((named(1010), named(17)), (Some(501), None), "only listed ids are named");
        assert_eq!(uid(&view, 501).0, Some(1010));
        assert_eq!(uid(&view, 1010).1, Some(501));
        assert_eq!(uid(&view, 7).0, Some(17), "what the file does not list is moved as well");
        assert_eq!(uid(&view, 17).1, Some(7));
        assert_eq!(uid(&view, 511).1, None, "501 is shown as 1010 and nothing else");
    }

    #[test]
    fn an_offset_leaves_denied_ids_denied() {
        let mut options = options("", "0:100:10");
        options.set_offset(Opt::UidOffset, -50);
        let view = finish(options);
        assert_eq!(uid(&view, 3).0, Some(53));
        assert_eq!(uid(&view, 20), (None, None));
    }

    #[test]
    fn an_offset_and_map_contradict_each_other() {
        let mut options = options("1/2", "");
        options.set_offset(Opt::GidOffset, 1);
        let error = options.finish(Dialect::Bindfs).unwrap_err().to_string();
        assert!(error.starts_with("option 'gid-offset' contradicts map"), "{error}");
    }

    #[test]
    fn an_id_in_both_map_and_a_file_is_an_error() {
        let mut options = options("1000/5", "");
        options.passwd[1] = Some(vec![Extent::new(1000, 501, 1).unwrap()]);
        assert!(options.finish(Dialect::Bindfs).unwrap_err().to_string().contains("1000"));
    }

    #[test]
    fn identity_shows_every_id_as_itself() {
        let mut options = options("", "u:0:5:1");
        options.add_map("gidmap", IdKinds::Groups, "identity", &TestAccounts).unwrap();
        let view = finish(options);
        assert!(view.gids.map().is_identity() && !view.uids.map().is_identity());
    }

    #[test]
    fn a_map_for_one_kind_of_id_is_refused_with_advice() {
        let error = |idmap| options("", idmap).finish(Dialect::Shiftbind).unwrap_err().to_string();
        assert!(error("u:0:1:1").contains("--gidmap=identity"));
        assert!(error("g:0:1:1").contains("--uidmap=identity"));
        assert!(options("", "u:0:1:1").finish(Dialect::Bindfs).is_ok());
    }

    #[test]
    fn an_overlap_names_the_option_of_an_extent_that_was_not_written() {
        let mut from = options("", "9:100:1");
        from.add_map_from(options("", "50:0:10").into_found());
        from.invert_map_from();
        let error = from.finish(Dialect::Shiftbind).unwrap_err().to_string();
        assert!(error.ends_with("in one way only; 0:50:10 is of option 'map-from'"), "{error}");
        let mut owner = options("", "1000:5:1");
        owner.set_owner_as((33, 34));
        let kept = SourceOwner { dev: 1, ino: 1, uid: 1000, gid: 1000 };
        assert_eq!(owner.find_owner(Path::new("/no/such"), Some(kept)).unwrap(), Some(kept));
        let error = owner.finish(Dialect::Shiftbind).unwrap_err().to_string();
        assert!(error.ends_with("in one way only; 1000:33:1 is of option 'owner-as'"), "{error}");
    }

    #[test]
    fn overlaps_are_refused_by_both_names() {
        let error = options("", "0:0:10;9:100:1").finish(Dialect::Shiftbind).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("uid map: extents 0:0:10 and 9:100:1 overlap"), "{error}");
    }
}
