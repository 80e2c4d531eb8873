//! bindfs's options about ids: `--map=alice/bob:@staff/@users:1000-1999/5000`, maps from passwd(5) and group(5) files,
//! offsets, and the users of `--mirror`.

use std::collections::HashSet;

use super::input_file::InputFile;
use super::maps::read_id;
use crate::accounts::{Accounts, Named};
use crate::error::{Error, Result};
use crate::idmap::{Extent, Group, MAX_ID, SourceId, User};

type Parsed<T> = std::result::Result<T, String>;

/// Which side of the map the ids of an accounts file are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileSide {
    /// They are source ids (`map-passwd`, `map-group`).
    Source,
    /// They are mount ids (`map-passwd-rev`, `map-group-rev`).
    Mount,
}

/// Extents for users and groups, without those that map a single id to itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BindfsMap {
    pub(super) uids: Vec<Extent<User>>,
    pub(super) gids: Vec<Extent<Group>>,
}

/// Parses the value of `--map`.
pub(super) fn parse_map(text: &str, accounts: &dyn Accounts) -> Parsed<BindfsMap> {
    let mut map = BindfsMap::default();
    // bindfs ignores empty items too; scripts that build such lists leave separators behind.
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
            (None, None) => map.uids.extend(parse_pair(source, mount, accounts).map_err(bad)?),
            (Some(source), Some(mount)) => {
                map.gids.extend(parse_pair(source, mount, accounts).map_err(bad)?);
            }
            _ => {
                return Err(bad("a user cannot be shown as a group; put @ before both".to_owned()));
            }
        }
    }
    Ok(map)
}

fn parse_pair<K: Named>(
    source: &str,
    mount: &str,
    accounts: &dyn Accounts,
) -> Parsed<Option<Extent<K>>> {
    let (first, count) = parse_range::<K>(source, accounts)?;
    let (shown, shown_count) = parse_range::<K>(mount, accounts)?;
    // The right side may name the first id alone.
    if shown_count != 1 && shown_count != count {
        return Err(format!("{count} ids cannot be shown as {shown_count}"));
    }
    if first == shown {
        return Ok(None);
    }
    Extent::new(first, shown, count).map(Some).map_err(|error| error.to_string())
}

/// Parses an id, or a range `FIRST-LAST`, into the first id and a count.
fn parse_range<K: Named>(text: &str, accounts: &dyn Accounts) -> Parsed<(u32, u32)> {
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

/// Reads extents from a file in the format of passwd(5) or group(5): the first and third field of each line.
///
/// Names that the user database of this machine lacks are skipped and reported in `warnings`.
pub(super) fn extents_from_file<K: Named>(
    option: &str,
    file: InputFile<'_>,
    side: FileSide,
    accounts: &dyn Accounts,
    warnings: &mut Vec<String>,
) -> Result<Vec<Extent<K>>> {
    let place = format!("option '{option}': {}", file.path.display());
    let bytes = file.read().map_err(|e| Error::unreadable(place.clone(), e))?;
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
        let (source, mount) = match side {
            FileSide::Source => (id, here),
            FileSide::Mount => (here, id),
        };
        if source != mount {
            extents.push(Extent::new(source, mount, 1).map_err(|e| bad(e.to_string()))?);
        }
    }
    Ok(extents)
}

/// Refuses extents that name an id twice on one side, since the map would be ambiguous.
pub(super) fn check_unique<K: Named>(extents: &[Extent<K>]) -> Result<()> {
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

/// Parses the value of `--uid-offset` or `--gid-offset`.
pub(super) fn parse_offset(text: &str) -> Parsed<i64> {
    let max = i64::from(MAX_ID);
    let offset = text.parse().ok().filter(|offset| (-max..=max).contains(offset));
    offset.ok_or_else(|| format!("'{text}' is not a number from -{max} to {max}"))
}

/// Adds `offset` to the mount ids, and cuts off what leaves the range of ids.
pub(super) fn with_offset<K: Named>(extents: &[Extent<K>], offset: i64) -> Vec<Extent<K>> {
    extents.iter().filter_map(|extent| offset_one(extent, offset)).collect()
}

fn offset_one<K: Named>(extent: &Extent<K>, offset: i64) -> Option<Extent<K>> {
    let mount = i64::from(extent.mount().raw()) + offset;
    let last = (mount + i64::from(extent.count()) - 1).min(i64::from(MAX_ID));
    let first = mount.max(0);
    let count = u32::try_from(last - first + 1).ok()?;
    let source = extent.source().raw() + u32::try_from(first - mount).ok()?;
    Extent::new(source, u32::try_from(first).ok()?, count).ok()
}

/// Returns identity extents for all source ids that no extent holds.
pub(super) fn identity_of_gaps<K: Named>(extents: &[Extent<K>]) -> Vec<Extent<K>> {
    let mut held: Vec<(SourceId<K>, u32)> =
        extents.iter().map(|extent| (extent.source(), extent.count())).collect();
    held.sort_by_key(|(source, _)| *source);
    let mut free = Vec::new();
    let mut next = 0;
    // u32::MAX means "no id": the largest id is one less, so an empty extent at u32::MAX ends the last gap.
    let all = held.into_iter().map(|(source, count)| (source.raw(), count)).chain([(u32::MAX, 0)]);
    for (source, count) in all {
        if source > next {
            free.extend(Extent::new(next, next, source - next));
        }
        next = next.max(source.saturating_add(count));
    }
    free
}

/// Parses the value of `--mirror`: users and `@groups`, separated by commas or colons.
pub(super) fn parse_principals(
    text: &str,
    accounts: &dyn Accounts,
) -> Parsed<Vec<crate::view::Principal>> {
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
        return Err("no user or group is named; give USER or @GROUP".to_owned());
    }
    Ok(principals)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::accounts::TestAccounts;
    use proptest::prelude::*;
    use std::io::Write;

    fn read(text: &str) -> Parsed<BindfsMap> {
        parse_map(text, &TestAccounts)
    }

    fn shown<K: Named>(extents: &[Extent<K>]) -> String {
        extents.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn both(text: &str) -> (String, String) {
        let map = read(text).expect(text);
        (shown(&map.uids), shown(&map.gids))
    }

    fn pair(uids: &str, gids: &str) -> (String, String) {
        (uids.to_owned(), gids.to_owned())
    }

    #[test]
    fn map_takes_names_numbers_and_ranges() {
        for (text, uids, gids) in [
            ("1000/2000", "1000:2000:1", ""),
            ("alice/bob:@staff/@users", "1000:2000:1", "50:100:1"),
            ("alice/bob,@staff/@users", "1000:2000:1", "50:100:1"),
            ("0/5:1000-1999/100000", "0:5:1 1000:100000:1000", ""),
            ("1000-1999/100000-100999", "1000:100000:1000", ""),
            ("@10-19/@0", "", "10:0:10"),
            ("7-7/9", "7:9:1", ""),
            ("1000/1000:5/6", "5:6:1", ""),
            ("10-19/10", "", ""),
            (":5/6::7/8:", "5:6:1 7:8:1", ""),
            ("0/4294967294", "0:4294967294:1", ""),
        ] {
            assert_eq!(both(text), pair(uids, gids), "{text}");
        }
    }

    #[test]
    fn a_malformed_pair_is_refused_with_the_item() {
        for (text, message) in [
            ("", "the map is empty; give USER1/USER2 or @GROUP1/@GROUP2"),
            (":", "the map is empty; give USER1/USER2 or @GROUP1/@GROUP2"),
            ("1000", "'1000': give USER1/USER2 or @GROUP1/@GROUP2"),
            ("1000/", "'1000/': a uid is missing"),
            ("/1000", "'/1000': a uid is missing"),
            ("@/@5", "'@/@5': a gid is missing"),
            ("1/2:eve/3", "'eve/3': there is no user 'eve'"),
            ("@alice/@5", "'@alice/@5': there is no group 'alice'"),
            ("1/@2", "'1/@2': a user cannot be shown as a group; put @ before both"),
            (
                "4294967295/1",
                "'4294967295/1': 4294967295 means \"no id\"; the largest id is 4294967294",
            ),
            (
                "4294967296/1",
                "'4294967296/1': 4294967296 is too large; the largest id is 4294967294",
            ),
            ("9-1/0", "'9-1/0': 9-1 ends before it begins"),
            ("0-9/0-4", "'0-9/0-4': 10 ids cannot be shown as 5"),
            ("5/0-4", "'5/0-4': 1 ids cannot be shown as 5"),
            (
                "0-9/4294967290",
                "'0-9/4294967290': extent 0:4294967290:10 runs past 4294967294, the largest id",
            ),
            ("-1/5", "'-1/5': there is no user '-1'"),
        ] {
            assert_eq!(read(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn an_id_may_appear_once_on_each_side() {
        let check = |text: &str| check_unique(&read(text).unwrap().uids);
        assert!(check("1/2:3/4:2/1").is_ok());
        let twice = |text: &str| check(text).unwrap_err().to_string();
        assert!(twice("1/2:1/3").contains("uid 1 stands twice on the source"));
        assert!(twice("1/2:3/2").contains("uid 2 stands twice at the mount"));
        assert!(twice("10-19/100:15/7").contains("uid 15 stands twice on the source"));
        assert!(twice("10-19/100:5/105").contains("uid 105 stands twice at the mount"));
        let error = check_unique(&read("@1/@2:@1/@3").unwrap().gids).unwrap_err().to_string();
        assert!(error.contains("gid 1"), "{error}");
    }

    fn file_of(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn from_file(text: &str, side: FileSide) -> (Result<String>, Vec<String>) {
        let file = file_of(text);
        let mut warnings = Vec::new();
        let extents = extents_from_file::<User>(
            "map-passwd",
            InputFile { path: file.path(), is_reload: false },
            side,
            &TestAccounts,
            &mut warnings,
        );
        (extents.map(|extents| shown(&extents)), warnings)
    }

    #[test]
    fn a_passwd_file_maps_by_name_either_way() {
        let text = "# ours\n\nalice:x:501:20:Alice:/home/alice:/bin/sh\nbob::502\nroot:x:0:0\n";
        let (extents, warnings) = from_file(text, FileSide::Source);
        assert_eq!(extents.unwrap(), "501:1000:1 502:2000:1", "an empty field is a field");
        assert!(warnings.is_empty());
        assert_eq!(from_file(text, FileSide::Mount).0.unwrap(), "1000:501:1 2000:502:1");
    }

    #[test]
    fn a_name_unknown_on_this_machine_is_skipped_with_a_warning() {
        let (extents, warnings) = from_file("eve:x:1:1\nalice:x:2:2\n", FileSide::Source);
        assert_eq!(extents.unwrap(), "2:1000:1");
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].ends_with(":1: there is no user 'eve' here; passed over"));
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number() {
        for (text, message) in [
            ("alice:x:1\nbob", ":2: 'bob' is not a line NAME:x:UID"),
            ("alice:x:\n", ":1: a uid is missing"),
            ("alice:x:me\n", ":1: 'me' is not a uid"),
            ("alice:x:-1\n", ":1: '-1' is not a uid"),
            (
                "alice:x:4294967295\n",
                ":1: 4294967295 means \"no id\"; the largest id is 4294967294",
            ),
        ] {
            let error = from_file(text, FileSide::Source).0.unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
        let missing = Path::new("/no/such/file");
        let none = extents_from_file::<User>(
            "map-passwd",
            InputFile { path: missing, is_reload: false },
            FileSide::Source,
            &TestAccounts,
            &mut Vec::new(),
        );
        let error = none.unwrap_err();
        assert_eq!(
            error.to_string(),
            "option 'map-passwd': /no/such/file: No such file or directory"
        );
        assert_eq!(error.exit().code(), 1);
    }

    #[test]
    fn offsets_are_signed_numbers() {
        for (text, offset) in
            [("5", 5), ("+5", 5), ("-5", -5), ("0", 0), ("4294967294", 4_294_967_294)]
        {
            assert_eq!(parse_offset(text), Ok(offset), "{text}");
        }
        for text in
            ["", "x", "1.5", "4294967295", "-4294967295", "1 ", "--1", "9".repeat(30).as_str()]
        {
            assert!(parse_offset(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_offset_cuts_what_would_leave_the_range_of_ids() {
        let moved = |source, mount, count, offset| {
            shown(&with_offset(&[Extent::<User>::new(source, mount, count).unwrap()], offset))
        };
        assert_eq!(moved(0, 0, 10, 5), "0:5:10");
        assert_eq!(moved(0, 0, 10, -5), "5:0:5");
        assert_eq!(moved(0, 100, 10, -105), "5:0:5");
        assert_eq!(moved(0, 0, 10, -10), "");
        assert_eq!(moved(0, MAX_ID - 9, 10, 5), "0:4294967290:5");
        assert_eq!(moved(0, MAX_ID, 1, 1), "");
    }

    #[test]
    fn principals_are_users_and_groups_named_once() {
        use crate::view::Principal;
        let read = |text| parse_principals(text, &TestAccounts);
        let text = |list: Vec<Principal>| format!("{list:?}");
        assert_eq!(text(read("alice:bob,@staff").unwrap()), text(read("1000,2000:@50").unwrap()));
        assert_eq!(read("alice:alice").unwrap().len(), 1);
        for bad in ["eve", "@alice", "@", "", ":", "4294967295", "4294967296"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    fn any_pairs() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        let pair = (0..=MAX_ID, 0..=MAX_ID, 1u32..5000).prop_filter("fits", |(s, m, count)| {
            s != m && s.checked_add(*count).is_some() && m.checked_add(*count).is_some()
        });
        prop::collection::vec(pair, 1..10)
    }

    fn any_disjoint() -> impl Strategy<Value = Vec<Extent<User>>> {
        prop::collection::vec((0u32..5, 0u32..100, 1u32..9), 0..8).prop_map(|parts| {
            let mut source = 0;
            let mut out = Vec::new();
            for (gap, mount, count) in parts {
                source += gap;
                out.push(Extent::new(source, mount, count).unwrap());
                source += count;
            }
            out
        })
    }

    proptest! {
        #[test]
        fn printed_pairs_parse_as_themselves(pairs in any_pairs(), separator in "[:,]", long in any::<bool>()) {
            let text: Vec<String> = pairs.iter().map(|(source, mount, count)| match (count, long) {
                (1, _) => format!("{source}/{mount}"),
                (n, true) => format!("{source}-{}/{mount}-{}", source + (n - 1), mount + (n - 1)),
                (n, false) => format!("{source}-{}/{mount}", source + (n - 1)),
            }).collect();
            let expected: Vec<String> = pairs.iter().map(|(s, m, n)| format!("{s}:{m}:{n}")).collect();
            prop_assert_eq!(both(&text.join(&separator)), (expected.join(" "), String::new()));
        }

        #[test]
        fn no_text_makes_them_panic(text in "[0-9/@:, a-z-]{0,30}|.{0,20}") {
            let _ = (read(&text), parse_offset(&text), parse_principals(&text, &TestAccounts));
        }

        #[test]
        fn gaps_get_identity_extents_and_no_id_is_held_twice(extents in any_disjoint()) {
            let rest = identity_of_gaps(&extents);
            for id in (0..100).chain([MAX_ID - 1, MAX_ID]) {
                let holds = |e: &Extent<User>| id >= e.source().raw() && id - e.source().raw() < e.count();
                let times = extents.iter().filter(|e| holds(e)).count() + rest.iter().filter(|e| holds(e)).count();
                prop_assert_eq!(times, 1, "{}", id);
            }
            prop_assert!(rest.iter().all(|e| e.source().raw() == e.mount().raw()));
        }

        #[test]
        fn an_offset_adds_to_each_id_or_drops_it(extents in any_disjoint(), offset in -120i64..120) {
            let moved = with_offset(&extents, offset);
            for extent in &extents {
                for n in 0..extent.count() {
                    let source = extent.source().raw() + n;
                    let expected = i64::from(extent.mount().raw() + n) + offset;
                    let found = moved.iter().find(|e| source >= e.source().raw() && source - e.source().raw() < e.count());
                    let found = found.map(|e| i64::from(e.mount().raw() + (source - e.source().raw())));
                    prop_assert_eq!(found, Some(expected).filter(|id| *id >= 0));
                }
            }
        }
    }
}
