//! Parses maps: extents `SOURCE:MOUNT:COUNT` in colon lists, for users and groups, with names or numbers.

use crate::accounts::{Accounts, Named};
use crate::error::{Error, Result};
use crate::idmap::{Extent, Group, IdMap, MAX_ID, User};

/// Which kinds of id an extent maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdKinds {
    Users,
    Groups,
    Both,
}

impl IdKinds {
    fn from_letter(field: &str) -> Option<Self> {
        match field {
            "u" => Some(Self::Users),
            "g" => Some(Self::Groups),
            "b" => Some(Self::Both),
            _ => None,
        }
    }
}

/// The extents of all map options, in the order given.
#[derive(Debug, Default)]
pub(super) struct MapList {
    pub(super) uids: Vec<Extent<User>>,
    pub(super) gids: Vec<Extent<Group>>,
}

impl MapList {
    /// Whether no option gave an extent.
    pub(super) fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Adds the extents of one option.
    ///
    /// Lists are separated by `;` or blanks, fields within a list by colons. The letters `u:`, `g:` and `b:` are
    /// allowed with [`IdKinds::Both`] only.
    pub(super) fn add(
        &mut self,
        option: &str,
        kinds: IdKinds,
        text: &str,
        accounts: &dyn Accounts,
    ) -> Result<()> {
        let mut lists = text
            .split(|c: char| c == ';' || c.is_ascii_whitespace())
            .filter(|list| !list.is_empty())
            .peekable();
        if lists.peek().is_none() {
            return Err(Error::usage(format!(
                "{option}: the map is empty; give SOURCE:MOUNT:COUNT"
            )));
        }
        for list in lists {
            self.add_list(option, kinds, list, accounts)?;
        }
        Ok(())
    }

    fn add_list(
        &mut self,
        option: &str,
        option_kinds: IdKinds,
        list: &str,
        accounts: &dyn Accounts,
    ) -> Result<()> {
        let inner = list.strip_prefix(':').unwrap_or(list);
        let inner = inner.strip_suffix(':').unwrap_or(inner);
        let mut fields = inner.split(':');
        let mut kinds = option_kinds;
        while let Some(mut first) = fields.next() {
            if let Some(letter) = IdKinds::from_letter(first) {
                if option_kinds != IdKinds::Both {
                    return Err(Error::usage(format!(
                        "{option}: '{first}:' in {list} has a meaning with idmap= only"
                    )));
                }
                kinds = letter;
                first = fields.next().unwrap_or_default();
            }
            let extent = if first == "identity" {
                RawExtent::Identity
            } else {
                match (fields.next(), fields.next()) {
                    (Some(mount), Some(count)) => RawExtent::Extent([first, mount, count]),
                    (mount, _) => {
                        let cut = [Some(first), mount];
                        let cut: Vec<&str> = cut.into_iter().flatten().collect();
                        return Err(Error::usage(format!(
                            "{option}: extent {} is cut short; give SOURCE:MOUNT:COUNT",
                            cut.join(":")
                        )));
                    }
                }
            };
            if kinds != IdKinds::Groups {
                extent.push_to(&mut self.uids, option, accounts)?;
            }
            if kinds != IdKinds::Users {
                extent.push_to(&mut self.gids, option, accounts)?;
            }
        }
        Ok(())
    }
}

/// An extent as the user wrote it.
enum RawExtent<'a> {
    Identity,
    Extent([&'a str; 3]),
}

impl RawExtent<'_> {
    fn push_to<K: Named>(
        &self,
        extents: &mut Vec<Extent<K>>,
        option: &str,
        accounts: &dyn Accounts,
    ) -> Result<()> {
        match self {
            Self::Identity => extents.extend_from_slice(IdMap::<K>::identity().extents()),
            Self::Extent(fields) => extents.push(read_extent(*fields, option, accounts)?),
        }
        Ok(())
    }
}

fn read_extent<K: Named>(
    fields: [&str; 3],
    option: &str,
    accounts: &dyn Accounts,
) -> Result<Extent<K>> {
    let [source, mount, count] = fields;
    let bad = |why: String| Error::usage(format!("{option}: extent {}: {why}", fields.join(":")));
    let source = read_id::<K>(source, accounts).map_err(bad)?;
    let mount = read_id::<K>(mount, accounts).map_err(bad)?;
    let count = match number(count) {
        Some(count) => count.map_err(bad)?,
        None => return Err(bad(format!("'{count}' is not a count"))),
    };
    Extent::new(source, mount, count).map_err(|error| Error::usage(format!("{option}: {error}")))
}

/// Parses an id: a number up to [`MAX_ID`], or the name of a user or group.
pub(super) fn read_id<K: Named>(
    text: &str,
    accounts: &dyn Accounts,
) -> std::result::Result<u32, String> {
    if text.is_empty() {
        return Err(format!("a {} is missing", K::WORD));
    }
    match number(text) {
        Some(Ok(id)) if id > MAX_ID => {
            Err(format!("{id} means \"no id\"; the largest id is {MAX_ID}"))
        }
        Some(id) => id,
        None => K::id_of(accounts, text).ok_or_else(|| format!("there is no {} '{text}'", K::NOUN)),
    }
}

/// Parses a decimal number. `None` if the text is none, `Err` if it does not fit.
fn number(text: &str) -> Option<std::result::Result<u32, String>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().map_err(|_| format!("{text} is too large; the largest id is {MAX_ID}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::TestAccounts;
    use proptest::prelude::*;

    fn read(kinds: IdKinds, text: &str) -> Result<MapList> {
        let mut list = MapList::default();
        list.add("map", kinds, text, &TestAccounts).map(|()| list)
    }

    fn shown<K: Named>(extents: &[Extent<K>]) -> String {
        extents.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn both(text: &str) -> (String, String) {
        let list = read(IdKinds::Both, text).unwrap();
        (shown(&list.uids), shown(&list.gids))
    }

    fn error(kinds: IdKinds, text: &str) -> String {
        read(kinds, text).unwrap_err().to_string()
    }

    fn pair(uids: &str, gids: &str) -> (String, String) {
        (uids.to_owned(), gids.to_owned())
    }

    #[test]
    fn an_idmap_without_a_letter_is_for_users_and_groups() {
        assert_eq!(both("0:100000:65536"), pair("0:100000:65536", "0:100000:65536"));
        assert_eq!(both("b:0:1:2"), pair("0:1:2", "0:1:2"));
    }

    #[test]
    fn a_letter_holds_to_the_end_of_its_list_or_the_next_letter() {
        assert_eq!(both("u:0:1:2:5:6:7:g:1:1:1"), pair("0:1:2 5:6:7", "1:1:1"));
        assert_eq!(both("u:0:1:2;5:6:7"), pair("0:1:2 5:6:7", "5:6:7"));
        assert_eq!(both("u:0:1:2 g:5:6:7"), pair("0:1:2", "5:6:7"));
    }

    #[test]
    fn a_colon_list_may_begin_and_end_with_a_colon() {
        let list = read(IdKinds::Users, ":0:10:100:100:10000:2000:").unwrap();
        assert_eq!(shown(&list.uids), "0:10:100 100:10000:2000");
        assert!(
            error(IdKinds::Users, "0:1:2::3:4:5").starts_with("map: extent :3:4: a uid is missing")
        );
    }

    #[test]
    fn names_are_resolved_in_their_own_database() {
        assert_eq!(both("bob:root:1"), pair("2000:0:1", "2000:0:1"));
        assert_eq!(both("u:alice:bob:1:g:staff:users:1"), pair("1000:2000:1", "50:100:1"));
        assert_eq!(
            error(IdKinds::Both, "alice:0:1"),
            "map: extent alice:0:1: there is no group 'alice'"
        );
        assert_eq!(error(IdKinds::Users, "eve:0:1"), "map: extent eve:0:1: there is no user 'eve'");
    }

    #[test]
    fn bad_extents_are_refused_by_name() {
        for (text, message) in [
            ("", "map: the map is empty; give SOURCE:MOUNT:COUNT"),
            ("5:10", "map: extent 5:10 is cut short; give SOURCE:MOUNT:COUNT"),
            ("0:1:2:9", "map: extent 9 is cut short; give SOURCE:MOUNT:COUNT"),
            ("1:2:0", "map: extent 1:2:0 has a count of 0; give at least 1"),
            ("1:2:x", "map: extent 1:2:x: 'x' is not a count"),
            ("1:2:-1", "map: extent 1:2:-1: '-1' is not a count"),
            ("+1:2:1", "map: extent +1:2:1: there is no user '+1'"),
            (
                "4294967295:2:1",
                "map: extent 4294967295:2:1: 4294967295 means \"no id\"; the largest id is 4294967294",
            ),
            (
                "0:99999999999:1",
                "map: extent 0:99999999999:1: 99999999999 is too large; the largest id is 4294967294",
            ),
            ("0:4294967294:2", "map: extent 0:4294967294:2 runs past 4294967294, the largest id"),
            ("u:0:1:1", "map: 'u:' in u:0:1:1 has a meaning with idmap= only"),
        ] {
            assert_eq!(error(IdKinds::Users, text), message);
        }
        assert_eq!(
            error(IdKinds::Both, "u:"),
            "map: extent u is cut short; give SOURCE:MOUNT:COUNT".replace("extent u", "extent ")
        );
    }

    #[test]
    fn the_largest_id_can_be_mapped() {
        let list = read(IdKinds::Both, "4294967294:0:1").unwrap();
        assert_eq!(shown(&list.uids), "4294967294:0:1");
    }

    fn any_extents<K: Named>() -> impl Strategy<Value = Vec<Extent<K>>> {
        let extent =
            (any::<u32>(), any::<u32>(), 1..=u32::MAX).prop_filter_map("fits", |(s, m, c)| {
                let headroom = MAX_ID.checked_sub(s.max(m))?;
                Extent::new(s, m, c.min(headroom.saturating_add(1))).ok()
            });
        prop::collection::vec(extent, 1..20)
    }

    proptest! {
        #[test]
        fn a_printed_map_parses_as_itself(extents in any_extents::<User>(), separator in "[:; ]") {
            let text: Vec<String> = extents.iter().map(ToString::to_string).collect();
            prop_assert_eq!(read(IdKinds::Users, &text.join(&separator)).unwrap().uids, extents);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ugb0-9:; a-z]{0,40}|.{0,40}") {
            let _ = read(IdKinds::Both, &text);
        }
    }

    #[test]
    fn ten_thousand_extents_are_read() {
        let text: Vec<String> = (0..10_000).map(|i| format!("{}:{}:3", i * 10, i * 7)).collect();
        assert_eq!(read(IdKinds::Both, &text.join(":")).unwrap().uids.len(), 10_000);
    }
}
