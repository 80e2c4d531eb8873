//! The ids that mean something in the daemon's user namespace.

/// The uids or gids that are mapped in the process's user namespace (user_namespaces(7)).
#[derive(Debug, Clone, Copy)]
pub(super) struct NamespaceIds {
    /// How many ids are mapped.
    count: u64,
    /// The highest mapped id.
    pub(super) last: Option<u32>,
}

impl NamespaceIds {
    /// Reads a map of this process: `uid_map` or `gid_map`.
    pub(super) fn of_namespace(map: &str) -> Self {
        let map = std::fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
        Self::parse(&map)
    }

    fn parse(map: &str) -> Self {
        let mut ids = Self { count: 0, last: None };
        for line in map.lines() {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            if let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
                (numbers.next(), numbers.next(), numbers.next())
                && let Some(last) = count.checked_sub(1).and_then(|more| first.checked_add(more))
            {
                ids.count += u64::from(count);
                ids.last = ids.last.max(Some(last));
            }
        }
        ids
    }

    /// Returns whether every id is mapped.
    ///
    /// Each id is then itself, unless a namespace permutes them.
    pub(super) fn cover_all(&self) -> bool {
        self.count == u64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_id_of_a_user_namespace_is_found() {
        let last = |map| NamespaceIds::parse(map).last;
        assert_eq!(last("         0          0 4294967295\n"), Some(u32::MAX - 1));
        assert_eq!(last("0 1000 1\n1 100000 65535\n"), Some(65535));
        assert_eq!(last("5 1000 1\n0 100000 5\n"), Some(5));
        assert_eq!((last(""), last("0 0 0\n")), (None, None));
        assert!(NamespaceIds::parse("0 0 4294967295\n").cover_all());
        assert!(!NamespaceIds::parse("0 0 65536\n").cover_all());
    }
}
