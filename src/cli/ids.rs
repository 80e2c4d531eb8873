//! All options about ids, put together: maps in our words and in bindfs's, offsets, and what becomes of the other ids.

use std::path::Path;

use super::accounts::{Accounts, Named};
use super::dialect::Dialect;
use super::maps::{MapList, Side};
use super::options::Opt;
use super::pairs::{self, Pairs, Way};
use super::values::Policy;
use crate::error::{Error, Result};
use crate::idmap::{Extent, Group, IdMap, IdView, Kind, Translation, Unmapped, User};

/// What the options said of ids so far.
#[derive(Debug, Default)]
pub(super) struct IdOptions {
    /// Of `--idmap`, `--uidmap`, `--gidmap`, which add up.
    maps: MapList,
    /// Of `--map`: the last one.
    pairs: Option<Pairs>,
    /// Of files of accounts, the last one of each sort.
    passwd: [Option<Vec<Extent<User>>>; 2],
    group: [Option<Vec<Extent<Group>>>; 2],
    uid_offset: Option<i64>,
    gid_offset: Option<i64>,
    unmapped: Option<Policy>,
}

impl IdOptions {
    /// Adds a map.
    pub(super) fn add_map(
        &mut self,
        option: &str,
        side: Side,
        text: &str,
        accounts: &dyn Accounts,
    ) -> Result<()> {
        self.maps.add(option, side, text, accounts)
    }

    /// Says what becomes of ids that no extent holds.
    pub(super) fn set_unmapped(&mut self, policy: Policy) {
        self.unmapped = Some(policy);
    }

    /// Replaces what `--map` said.
    pub(super) fn set_pairs(&mut self, pairs: Pairs) {
        self.pairs = Some(pairs);
    }

    /// Replaces what a file of accounts said.
    pub(super) fn set_accounts(
        &mut self,
        id: Opt,
        option: &str,
        path: &Path,
        accounts: &dyn Accounts,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let way = match id {
            Opt::MapPasswdRev | Opt::MapGroupRev => Way::ToFile,
            _ => Way::FromFile,
        };
        if matches!(id, Opt::MapGroup | Opt::MapGroupRev) {
            let extents = pairs::read_accounts(option, path, way, accounts, warnings)?;
            self.group[usize::from(way == Way::ToFile)] = Some(extents);
        } else {
            let extents = pairs::read_accounts(option, path, way, accounts, warnings)?;
            self.passwd[usize::from(way == Way::ToFile)] = Some(extents);
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

    /// Those of the given options that bindfs, too, has for root only.
    pub(super) fn root_only(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.pairs.is_some(), "map"),
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

    /// Makes the translation.
    pub(super) fn finish(self, dialect: Dialect) -> Result<IdView> {
        let offset = match (self.uid_offset, self.gid_offset) {
            (Some(_), _) => Some("uid-offset"),
            (None, Some(_)) => Some("gid-offset"),
            (None, None) => None,
        };
        if let (Some(_), Some(offset)) = (&self.pairs, offset) {
            return Err(Error::usage(format!(
                "option '{offset}' contradicts map; write the ids that you want shown into the map"
            )));
        }
        let Pairs { uids, gids } = self.pairs.unwrap_or_default();
        let ours = !(self.maps.uids.is_empty() && self.maps.gids.is_empty());
        // A map in our words means that what it does not say is not there; one in bindfs's that it stays.
        let passes = dialect == Dialect::Bindfs || !ours;
        let uids = One { listed: uids, files: self.passwd, ranges: self.maps.uids };
        let gids = One { listed: gids, files: self.group, ranges: self.maps.gids };
        let (uids, gids) = (uids.extents()?, gids.extents()?);
        if !passes && uids.is_empty() != gids.is_empty() {
            return Err(one_kind_only(if gids.is_empty() { "gid" } else { "uid" }));
        }
        let (for_uids, for_gids) = self.unmapped.unzip();
        let for_uids = for_uids.unwrap_or(default_policy(passes && !uids.is_empty()));
        let for_gids = for_gids.unwrap_or(default_policy(passes && !gids.is_empty()));
        Ok(IdView {
            uids: translation(uids, self.uid_offset, for_uids)?,
            gids: translation(gids, self.gid_offset, for_gids)?,
        })
    }
}

/// Where no id is listed every id is shown as itself, and there is nothing to pass.
fn default_policy<K: Kind>(passes: bool) -> Unmapped<K> {
    if passes { Unmapped::Pass } else { Unmapped::Deny }
}

/// What was said of one kind of id.
struct One<K: Kind> {
    listed: Vec<Extent<K>>,
    files: [Option<Vec<Extent<K>>>; 2],
    ranges: Vec<Extent<K>>,
}

impl<K: Named> One<K> {
    fn extents(self) -> Result<Vec<Extent<K>>> {
        let mut extents: Vec<Extent<K>> = self.files.into_iter().flatten().flatten().collect();
        extents.extend(self.listed);
        pairs::check_once(&extents)?;
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
) -> Result<Translation<K>> {
    let none = extents.is_empty();
    let Some(offset) = offset.filter(|offset| *offset != 0) else {
        let map = if none { IdMap::identity() } else { map_of(extents)? };
        return Ok(Translation::new(map, unmapped));
    };
    // Ids that pass get the offset as well, so they need extents. Checked for overlaps first.
    let mut extents = map_of(extents)?.extents().to_vec();
    let passes = none || unmapped == Unmapped::Pass;
    if passes {
        extents.extend(pairs::rest(&extents));
    }
    let unmapped = if passes { Unmapped::Deny } else { unmapped };
    Ok(Translation::new(map_of(pairs::shifted(&extents, offset))?, unmapped))
}

fn map_of<K: Named>(extents: Vec<Extent<K>>) -> Result<IdMap<K>> {
    IdMap::new(extents).map_err(|error| Error::usage(format!("{} map: {error}", K::WORD)))
}
