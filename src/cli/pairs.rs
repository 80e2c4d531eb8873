//! Ids in bindfs's words: `--map=alice/bob:@staff/@users:1000-1999/5000`, maps out of passwd(5) and group(5), offsets.

use std::collections::HashSet;
use std::path::Path;

use super::accounts::{Accounts, Named};
use super::maps::read_id;
use crate::error::{Error, Result};
use crate::idmap::{Extent, Group, MAX_ID, SourceId, User};

type Read<T> = std::result::Result<T, String>;

/// Which way a file of accounts maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The file's ids are the source's.
    FromFile,
    /// The file's ids are the mount's.
    ToFile,
}

/// Extents for users and for groups; those of a single id and itself are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pairs {
    pub(super) uids: Vec<Extent<User>>,
    pub(super) gids: Vec<Extent<Group>>,
}

/// The value of `--map`.
pub(super) fn read_pairs(text: &str, accounts: &dyn Accounts) -> Read<Pairs> {
    let mut pairs = Pairs::default();
    // Scripts that put such lists together leave separators behind; bindfs passes over them as well.
    let mut items = text.split([':', ',']).filter(|item| !item.is_empty()).peekable();
    if items.peek().is_none() {
        return Err("the map is empty; give USER1/USER2 or @GROUP1/@GROUP2".to_owned());
    }
    for item in items {
        let bad = |why: String| format!("'{item}': {why}");
        let Some((source, mount)) = item.split_once('/') else {
            return Err(bad("give USER1/USER2 or @GROUP1/@GROUP2".to_owned()));
        };
        match (source.strip_prefix('@'), mount.strip_prefix('@')) {
            (None, None) => pairs.uids.extend(read_pair(source, mount, accounts).map_err(bad)?),
            (Some(source), Some(mount)) => {
                pairs.gids.extend(read_pair(source, mount, accounts).map_err(bad)?);
            }
            _ => {
                return Err(bad("a user cannot be shown as a group; put @ before both".to_owned()));
            }
        }
    }
    Ok(pairs)
}

fn read_pair<K: Named>(
    source: &str,
    mount: &str,
    accounts: &dyn Accounts,
) -> Read<Option<Extent<K>>> {
    let (first, count) = read_range::<K>(source, accounts)?;
    let (shown, shown_count) = read_range::<K>(mount, accounts)?;
    // Of the right side the first id is enough.
    if shown_count != 1 && shown_count != count {
        return Err(format!("{count} ids cannot be shown as {shown_count}"));
    }
    if first == shown {
        return Ok(None);
    }
    Extent::new(first, shown, count).map(Some).map_err(|error| error.to_string())
}

/// The first id and how many: one for a name or a number, more for `FIRST-LAST`.
fn read_range<K: Named>(text: &str, accounts: &dyn Accounts) -> Read<(u32, u32)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('-') {
        Some((first, last)) if is_number(first) && is_number(last) => {
            let (first, last) = (read_id::<K>(first, accounts)?, read_id::<K>(last, accounts)?);
            match last.checked_sub(first) {
                Some(more) => Ok((first, more + 1)),
                None => Err(format!("{text} ends before it begins")),
            }
        }
        _ => Ok((read_id::<K>(text, accounts)?, 1)),
    }
}

/// The extents of a file in the form of passwd(5) or group(5): of each line the first and the third field. Names that
/// this machine does not know are put into `warnings`.
pub(super) fn read_accounts<K: Named>(
    option: &str,
    path: &Path,
    way: Way,
    accounts: &dyn Accounts,
    warnings: &mut Vec<String>,
) -> Result<Vec<Extent<K>>> {
    let place = format!("option '{option}': {}", path.display());
    let bytes = std::fs::read(path).map_err(|e| Error::unreadable(place.clone(), e))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut extents = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{place}:{}", number + 1);
        let bad = |why: String| Error::usage(format!("{place}: {why}"));
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or_default();
        let Some(id) = fields.nth(1) else {
            return Err(bad(format!("'{line}' is not a line NAME:x:{}", K::WORD.to_uppercase())));
        };
        if !id.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad(format!("'{id}' is not a {}", K::WORD)));
        }
        let id = read_id::<K>(id, accounts).map_err(bad)?;
        let Some(here) = K::id_of(accounts, name) else {
            warnings.push(format!("{place}: there is no {} '{name}' here; passed over", K::NOUN));
            continue;
        };
        let (source, mount) = match way {
            Way::FromFile => (id, here),
            Way::ToFile => (here, id),
        };
        if source != mount {
            extents.push(Extent::new(source, mount, 1).map_err(|e| bad(e.to_string()))?);
        }
    }
    Ok(extents)
}

/// Refuses extents that name an id twice on one side: which of the two is meant nobody can tell.
pub(super) fn check_once<K: Named>(extents: &[Extent<K>]) -> Result<()> {
    for (side, first_of) in [
        ("on the source (left)", (|e| e.source().raw()) as fn(&Extent<K>) -> u32),
        ("at the mount (right)", |e| e.mount().raw()),
    ] {
        let mut sorted: Vec<&Extent<K>> = extents.iter().collect();
        sorted.sort_by_key(|extent| first_of(extent));
        for pair in sorted.windows(2) {
            let again = first_of(pair[1]);
            if again - first_of(pair[0]) < pair[0].count() {
                let word = K::WORD;
                return Err(Error::usage(format!(
                    "option 'map': {word} {again} stands twice {side}; name each {word} once"
                )));
            }
        }
    }
    Ok(())
}

/// The value of `--uid-offset` and `--gid-offset`.
pub(super) fn read_offset(text: &str) -> Read<i64> {
    let most = i64::from(MAX_ID);
    let offset = text.parse().ok().filter(|offset| (-most..=most).contains(offset));
    offset.ok_or_else(|| format!("'{text}' is not a number from -{most} to {most}"))
}

/// The extents with `offset` added to what is shown; what would leave the range of ids is cut off.
pub(super) fn shifted<K: Named>(extents: &[Extent<K>], offset: i64) -> Vec<Extent<K>> {
    extents.iter().filter_map(|extent| shift_one(extent, offset)).collect()
}

fn shift_one<K: Named>(extent: &Extent<K>, offset: i64) -> Option<Extent<K>> {
    let mount = i64::from(extent.mount().raw()) + offset;
    let last = (mount + i64::from(extent.count()) - 1).min(i64::from(MAX_ID));
    let first = mount.max(0);
    let count = u32::try_from(last - first + 1).ok()?;
    let source = extent.source().raw() + u32::try_from(first - mount).ok()?;
    Extent::new(source, u32::try_from(first).ok()?, count).ok()
}

/// One extent for each run of source ids that no extent holds, which shows them as themselves.
pub(super) fn rest<K: Named>(extents: &[Extent<K>]) -> Vec<Extent<K>> {
    let mut held: Vec<(SourceId<K>, u32)> =
        extents.iter().map(|extent| (extent.source(), extent.count())).collect();
    held.sort_by_key(|(source, _)| *source);
    let mut free = Vec::new();
    let mut next = 0;
    // Up to the largest id, which is one less than there are u32s.
    let all = held.into_iter().map(|(source, count)| (source.raw(), count)).chain([(u32::MAX, 0)]);
    for (source, count) in all {
        if source > next {
            free.extend(Extent::new(next, next, source - next));
        }
        next = next.max(source.saturating_add(count));
    }
    free
}

/// The value of `--mirror`: users and `@groups`, separated by commas or colons.
pub(super) fn read_principals(
    text: &str,
    accounts: &dyn Accounts,
) -> Read<Vec<crate::view::Principal>> {
    use crate::idmap::MountId;
    use crate::view::Principal;

    let mut principals = Vec::new();
    let mut seen = HashSet::new();
    for item in text.split([':', ',']).filter(|item| !item.is_empty()) {
        let principal = match item.strip_prefix('@') {
            Some(group) => MountId::new(read_id::<Group>(group, accounts)?).map(Principal::Group),
            None => MountId::new(read_id::<User>(item, accounts)?).map(Principal::User),
        };
        if seen.insert(item) {
            principals.extend(principal);
        }
    }
    if principals.is_empty() {
        return Err("nobody is named; give USER or @GROUP".to_owned());
    }
    Ok(principals)
}
