//! Maps from /etc/subuid and /etc/subgid: what a user was granted (subuid(5)), and what rootless engines make of it.

use std::path::Path;

use super::{FoundMap, Kinds, Result, number, read_text};
use crate::accounts::Accounts;

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

/// The ranges of a user, in order: the container's ids from 0 on.
pub(super) fn granted(user: &str, accounts: &dyn Accounts) -> Result<FoundMap> {
    let (name, uid) = user_of(user, accounts);
    let failed = |e: String| format!("subuid: {e}");
    let mut map = FoundMap::default();
    for (file, kinds) in [(SUBUID, Kinds::Users), (SUBGID, Kinds::Groups)] {
        let text = read_text(Path::new(file)).map_err(failed)?;
        push_ranges(&mut map, kinds, &ranges(&text, file, &name, uid).map_err(failed)?, 0)
            .map_err(failed)?;
    }
    map.complete(&format!("user {user}"))
        .map_err(|e| failed(format!("{e} in {SUBUID} and {SUBGID}")))
}

/// As rootless podman maps: the user is 0, the ranges follow from 1 on.
pub(super) fn rootless(user: &str, accounts: &dyn Accounts) -> Result<FoundMap> {
    let failed = |e: String| format!("rootless: {e}");
    let (name, uid) = user_of(user, accounts);
    let uid = uid.ok_or_else(|| failed(format!("there is no user '{user}'")))?;
    let gid =
        accounts.login_group(uid).ok_or_else(|| failed(format!("user {user} has no group")))?;
    let mut map = FoundMap::default();
    for (file, kinds, own) in [(SUBUID, Kinds::Users, uid), (SUBGID, Kinds::Groups, gid)] {
        map.push(kinds, 0, own, 1).map_err(failed)?;
        // Without a range a rootless container has the user's own ids alone.
        let text = if Path::new(file).exists() {
            read_text(Path::new(file)).map_err(failed)?
        } else {
            String::new()
        };
        let ranges = ranges(&text, file, &name, Some(uid)).map_err(failed)?;
        push_ranges(&mut map, kinds, &ranges, 1).map_err(failed)?;
    }
    Ok(map)
}

/// The name and the uid of a user, which the files may have in either form.
fn user_of(user: &str, accounts: &dyn Accounts) -> (String, Option<u32>) {
    match user.parse::<u32>() {
        Ok(uid) => (accounts.user_name(uid).unwrap_or_default(), Some(uid)),
        Err(_) => (user.to_owned(), accounts.user_id(user)),
    }
}

/// The ranges of a user: lines `NAME-OR-UID:START:COUNT`.
fn ranges(text: &str, file: &str, name: &str, uid: Option<u32>) -> Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let mut fields = line.split(':');
        let owner = fields.next().unwrap_or_default();
        let is_uid = uid.is_some_and(|uid| owner.parse() == Ok(uid));
        if line.starts_with('#') || owner.is_empty() || !(owner == name || is_uid) {
            continue;
        }
        let mut next = |field: &str| {
            number(field, fields.next().unwrap_or_default()).map_err(|e| {
                format!("{file}:{}: '{line}': {e}; the order is USER:START:COUNT", at + 1)
            })
        };
        found.push((next("START")?, next("COUNT")?));
    }
    Ok(found)
}

/// Adds ranges one after the other, from a container's id on.
fn push_ranges(map: &mut FoundMap, kinds: Kinds, ranges: &[(u32, u32)], first: u32) -> Result<()> {
    let mut next = first;
    for (start, count) in ranges {
        map.push(kinds, next, *start, *count)?;
        next = next.checked_add(*count).ok_or("the ranges hold more ids than there are")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::shown;
    use super::*;

    #[test]
    fn the_ranges_of_a_name_and_of_its_number_follow_each_other() {
        let text = "# c\nroot:1:1\nalice:100000:65536\n1000:300000:10\nalicex:5:5\n\n";
        let found = ranges(text, SUBUID, "alice", Some(1000)).unwrap();
        assert_eq!(found, [(100_000, 65536), (300_000, 10)]);
        let mut map = FoundMap::default();
        push_ranges(&mut map, Kinds::Users, &found, 1).unwrap();
        assert_eq!(shown(&map).0, "1:100000:65536 65537:300000:10");
        let error = ranges("alice:5", SUBUID, "alice", None).unwrap_err();
        assert_eq!(
            error,
            "/etc/subuid:1: 'alice:5': COUNT is missing; the order is USER:START:COUNT"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(a:[0-9:]{0,14}\\n|\\PC{0,20}\\n){0,4}") {
            if let Ok(found) = ranges(&text, SUBUID, "a", Some(1)) {
                let _ = push_ranges(&mut FoundMap::default(), Kinds::Both, &found, 1);
            }
        }
    }
}
