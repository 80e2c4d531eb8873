//! The ids of a user namespace: each has a number inside it and one outside (user_namespaces(7)).

/// A line of uid_map or gid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id, as the namespace numbers it.
    pub inside: u32,
    /// The same id, as this program's namespace numbers it.
    pub outside: u32,
    /// How many ids.
    pub count: u32,
}

impl IdRange {
    fn at(self, first: u32, id: u32, to: u32) -> Option<u32> {
        let offset = id.checked_sub(first).filter(|offset| *offset < self.count)?;
        to.checked_add(offset)
    }
}

/// The ids of a user namespace other than this program's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserNamespaceIds {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

impl UserNamespaceIds {
    /// Parses uid_map and gid_map. `None` for text that is neither.
    #[must_use]
    pub fn parse(uid_map: &str, gid_map: &str) -> Option<Self> {
        let line = |line: &str| {
            let mut words = line.split_whitespace().map(str::parse);
            let range = IdRange {
                inside: words.next()?.ok()?,
                outside: words.next()?.ok()?,
                count: words.next()?.ok()?,
            };
            words.next().is_none().then_some(range)
        };
        let ranges = |text: &str| text.lines().map(line).collect::<Option<Vec<_>>>();
        Some(Self { uids: ranges(uid_map)?, gids: ranges(gid_map)? })
    }

    /// The ids of root in the namespace, or of the first user and group where it has none. `None` without any.
    #[must_use]
    pub fn root(&self) -> Option<(u32, u32)> {
        let first = |ranges: &[IdRange]| ranges.iter().map(|range| range.inside).min();
        Some((first(&self.uids)?, first(&self.gids)?))
    }
}

/// The number outside of an id that a namespace numbers so. `None`: the namespace has no such id.
#[must_use]
pub fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| range.at(range.inside, id, range.outside))
}

/// The number inside of an id of this program's namespace. `None`: the namespace does not have it.
#[must_use]
pub fn inside(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| range.at(range.outside, id, range.inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_number_inside_and_one_outside() {
        let map = "         0     200000      65536\n     70000       5 1\n";
        let ids = UserNamespaceIds::parse(map, "7 8 1\n").unwrap();
        assert_eq!(outside(&ids.uids, 33), Some(200_033));
        assert_eq!(outside(&ids.uids, 70_000), Some(5));
        assert_eq!(outside(&ids.uids, 65_536), None);
        assert_eq!(inside(&ids.uids, 265_535), Some(65_535));
        assert_eq!(inside(&ids.uids, 0), None, "root of this machine is no user of the namespace");
        assert_eq!(ids.root(), Some((0, 7)));
        assert_eq!(UserNamespaceIds::default().root(), None);
        for broken in ["0", "0 1", "0 1 2 3", "x 1 2", "0 1 99999999999"] {
            assert_eq!(UserNamespaceIds::parse(broken, ""), None, "{broken}");
        }
        let last = [IdRange { inside: u32::MAX, outside: 0, count: 2 }];
        assert_eq!(inside(&last, 1), None, "no number is beyond the last");
    }
}
