//! The id map: extents that map source ids to mount ids and back.

use std::fmt;
use std::marker::PhantomData;

use super::ids::{Kind, MAX_ID, MountId, SourceId};

/// A range of ids: `source..source+count` on the source maps to `mount..mount+count`.
///
/// Written `SOURCE:MOUNT:COUNT`, in the order of a line of `/proc/PID/uid_map` when the namespace is a mount's
/// (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent<K: Kind> {
    source: u32,
    mount: u32,
    count: u32,
    kind: PhantomData<K>,
}

/// Why an extent or a map was refused. The text names the extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapError {
    /// The count is zero.
    Empty(String),
    /// The last id would exceed 4294967294.
    TooLong(String),
    /// Two extents map one source id.
    Overlap(String, String),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(extent) => write!(f, "extent {extent} has a count of 0; give at least 1"),
            Self::TooLong(extent) => {
                write!(f, "extent {extent} runs past {MAX_ID}, the largest id")
            }
            Self::Overlap(one, other) => {
                write!(
                    f,
                    "extents {one} and {other} overlap: a source id can be shown in one way only"
                )
            }
        }
    }
}

impl std::error::Error for MapError {}

impl<K: Kind> Extent<K> {
    /// Checks the numbers: `count` is at least 1, and neither side exceeds [`MAX_ID`].
    pub fn new(source: u32, mount: u32, count: u32) -> Result<Self, MapError> {
        let extent = Self { source, mount, count, kind: PhantomData };
        if count == 0 {
            return Err(MapError::Empty(extent.to_string()));
        }
        let fits = |first: u32| first.checked_add(count - 1).is_some_and(|last| last <= MAX_ID);
        if !fits(source) || !fits(mount) {
            return Err(MapError::TooLong(extent.to_string()));
        }
        Ok(extent)
    }

    /// The first source id.
    #[must_use]
    pub fn source(&self) -> SourceId<K> {
        SourceId::new(self.source).expect("checked in new")
    }

    /// The first mount id.
    #[must_use]
    pub fn mount(&self) -> MountId<K> {
        MountId::new(self.mount).expect("checked in new")
    }

    /// The number of ids, at least 1.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The same with source and mount exchanged.
    #[must_use]
    pub fn inverted(&self) -> Self {
        Self { source: self.mount, mount: self.source, ..*self }
    }

    fn last_source(&self) -> u32 {
        self.source + (self.count - 1)
    }

    fn last_mount(&self) -> u32 {
        self.mount + (self.count - 1)
    }
}

impl<K: Kind> fmt::Display for Extent<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.mount, self.count)
    }
}

/// Extents sorted for both directions; a lookup is a binary search.
///
/// A source id may be in one extent only. Several may map to the same mount id (many to one); back to the source, the
/// extent that was given first wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap<K: Kind> {
    /// As given, for display.
    extents: Vec<Extent<K>>,
    /// Sorted by source, disjoint in source.
    forward: Vec<Extent<K>>,
    /// Sorted by mount, disjoint in mount: where given extents overlap in mount, cut so that the first given wins.
    backward: Vec<Extent<K>>,
}

impl<K: Kind> IdMap<K> {
    /// Builds the map. Fails when two extents overlap on the source side.
    pub fn new(extents: Vec<Extent<K>>) -> Result<Self, MapError> {
        let mut forward = extents.clone();
        forward.sort_by_key(|e| e.source);
        for pair in forward.windows(2) {
            if pair[0].last_source() >= pair[1].source {
                return Err(MapError::Overlap(pair[0].to_string(), pair[1].to_string()));
            }
        }
        let backward = first_wins(&extents);
        Ok(Self { extents, forward, backward })
    }

    /// Maps every id to itself.
    #[must_use]
    pub fn identity() -> Self {
        let all = Extent::new(0, 0, MAX_ID).expect("fits");
        let last = Extent::new(MAX_ID, MAX_ID, 1).expect("fits");
        Self::new(vec![all, last]).expect("disjoint")
    }

    /// The extents as given.
    #[must_use]
    pub fn extents(&self) -> &[Extent<K>] {
        &self.extents
    }

    /// The mount id of a source id; `None` when it is in no extent.
    #[must_use]
    pub fn to_mount(&self, id: SourceId<K>) -> Option<MountId<K>> {
        let raw = id.raw();
        let at = self.forward.partition_point(|e| e.source <= raw).checked_sub(1)?;
        let extent = &self.forward[at];
        if raw > extent.last_source() {
            return None;
        }
        MountId::new(extent.mount + (raw - extent.source))
    }

    /// The source id of a mount id; `None` when it is in no extent.
    #[must_use]
    pub fn to_source(&self, id: MountId<K>) -> Option<SourceId<K>> {
        let raw = id.raw();
        let at = self.backward.partition_point(|e| e.mount <= raw).checked_sub(1)?;
        let extent = &self.backward[at];
        if raw > extent.last_mount() {
            return None;
        }
        SourceId::new(extent.source + (raw - extent.mount))
    }

    /// Whether no two source ids map to one mount id, as a kernel idmapped mount requires.
    #[must_use]
    pub fn is_one_to_one(&self) -> bool {
        let mut by_mount = self.extents.clone();
        by_mount.sort_by_key(|e| e.mount);
        by_mount.windows(2).all(|pair| pair[0].last_mount() < pair[1].mount)
    }

    /// Whether every id maps to itself.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        let total: u64 = self.forward.iter().map(|e| u64::from(e.count)).sum();
        total == u64::from(MAX_ID) + 1 && self.forward.iter().all(|e| e.source == e.mount)
    }
}

/// Cuts extents that overlap on the mount side. Each mount id is left only in the extent that was given first.
///
/// Sweeps over the mount ids with the live extents in a heap by their place in the list: O(n log n).
fn first_wins<K: Kind>(extents: &[Extent<K>]) -> Vec<Extent<K>> {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    let mut by_mount: Vec<usize> = (0..extents.len()).collect();
    by_mount.sort_by_key(|&i| extents[i].mount);
    // Points where the winner can change: starts and ends, an end being one past the last id.
    let mut points: Vec<u64> =
        extents.iter().flat_map(|e| [u64::from(e.mount), u64::from(e.last_mount()) + 1]).collect();
    points.sort_unstable();
    points.dedup();

    let mut live: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
    let mut next = by_mount.into_iter().peekable();
    let mut out: Vec<Extent<K>> = Vec::with_capacity(extents.len());
    let mut last_winner = None;
    for span in points.windows(2) {
        let (start, end) = (span[0], span[1]);
        while let Some(&i) = next.peek()
            && u64::from(extents[i].mount) <= start
        {
            live.push(Reverse(i));
            next.next();
        }
        while let Some(&Reverse(i)) = live.peek()
            && u64::from(extents[i].last_mount()) < start
        {
            live.pop();
        }
        let Some(&Reverse(winner)) = live.peek() else {
            last_winner = None;
            continue;
        };
        let count = u32::try_from(end - start).expect("within one extent");
        let mount = u32::try_from(start).expect("a start of an extent or a point inside one");
        match out.last_mut() {
            Some(previous) if last_winner == Some(winner) => previous.count += count,
            _ => {
                let from = extents[winner];
                let source = from.source + (mount - from.mount);
                out.push(Extent { source, mount, count, kind: PhantomData });
            }
        }
        last_winner = Some(winner);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::ids::User;
    use super::*;
    use proptest::prelude::*;

    fn extent(source: u32, mount: u32, count: u32) -> Extent<User> {
        Extent::new(source, mount, count).unwrap()
    }

    fn shown(map: &IdMap<User>, id: u32) -> Option<u32> {
        map.to_mount(SourceId::new(id).unwrap()).map(MountId::raw)
    }

    fn stored(map: &IdMap<User>, id: u32) -> Option<u32> {
        map.to_source(MountId::new(id).unwrap()).map(SourceId::raw)
    }

    #[test]
    fn a_container_range_shows_its_ids_and_nothing_else() {
        let map = IdMap::new(vec![extent(0, 100_000, 65_536)]).unwrap();
        assert_eq!(shown(&map, 0), Some(100_000));
        assert_eq!(shown(&map, 1000), Some(101_000));
        assert_eq!(shown(&map, 65_535), Some(165_535));
        assert_eq!(shown(&map, 65_536), None);
        assert_eq!(stored(&map, 100_500), Some(500));
        assert_eq!(stored(&map, 99_999), None);
        assert_eq!(stored(&map, 165_536), None);
    }

    #[test]
    fn the_identity_reaches_the_largest_id() {
        let map = IdMap::<User>::identity();
        assert!(map.is_identity() && map.is_one_to_one());
        for id in [0, 1, 65_534, 1 << 31, MAX_ID - 1, MAX_ID] {
            assert_eq!(shown(&map, id), Some(id));
            assert_eq!(stored(&map, id), Some(id));
        }
    }

    #[test]
    fn bad_extents_are_refused_by_name() {
        assert!(matches!(Extent::<User>::new(1, 2, 0), Err(MapError::Empty(e)) if e == "1:2:0"));
        assert!(matches!(Extent::<User>::new(u32::MAX, 0, 1), Err(MapError::TooLong(_))));
        assert!(matches!(Extent::<User>::new(0, u32::MAX - 1, 2), Err(MapError::TooLong(_))));
        assert!(Extent::<User>::new(MAX_ID, MAX_ID, 1).is_ok());
        let overlap = IdMap::new(vec![extent(0, 0, 10), extent(9, 100, 1)]);
        assert_eq!(overlap, Err(MapError::Overlap("0:0:10".into(), "9:100:1".into())));
    }

    #[test]
    fn of_two_sources_shown_alike_the_first_given_wins_on_the_way_back() {
        let map = IdMap::new(vec![extent(500, 15, 1), extent(0, 10, 10)]).unwrap();
        assert!(!map.is_one_to_one());
        assert_eq!(stored(&map, 15), Some(500));
        assert_eq!(stored(&map, 14), Some(4));
        assert_eq!(stored(&map, 16), Some(6));
        assert_eq!(shown(&map, 5), Some(15));
    }

    fn any_extents() -> impl Strategy<Value = Vec<Extent<User>>> {
        // Small numbers, so that extents meet; sources are disjoint by construction.
        proptest::collection::vec((0u32..4, 0u32..40, 1u32..12), 0..12).prop_map(|parts| {
            let mut source = 0;
            let mut out = Vec::new();
            for (gap, mount, count) in parts {
                source += gap;
                out.push(extent(source, mount, count));
                source += count;
            }
            out
        })
    }

    proptest! {
        #[test]
        fn both_ways_agree_with_a_search_through_the_list(extents in any_extents().prop_shuffle()) {
            let map = IdMap::new(extents.clone()).unwrap();
            for id in 0..200 {
                let forward = extents.iter().find(|e| (e.source..=e.last_source()).contains(&id));
                prop_assert_eq!(shown(&map, id), forward.map(|e| e.mount + (id - e.source)));
                let backward = extents.iter().find(|e| (e.mount..=e.last_mount()).contains(&id));
                prop_assert_eq!(stored(&map, id), backward.map(|e| e.source + (id - e.mount)));
            }
        }
    }
}
