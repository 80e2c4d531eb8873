//! The order in which a walk comes to directories: each before those below it, siblings as their parent lists them.
//!
//! Nothing is known of who walks. A directory whose listing begins, having been expected, confirms whoever expected it;
//! the more in a row were, the surer is the next.

use std::collections::VecDeque;

use crate::source::NodeId;

/// Directories whose order is remembered at most: those above the one where a walk is, and some of other walks.
const MOST_TRAILS: usize = 64;
/// Directories below one that are remembered at most; of one that has more the first are.
const MOST_BELOW: usize = 4096;
/// Directories that are expected at most, one by each walk.
const MOST_EXPECTED: usize = 16;
/// So many directories in a row must have come as expected before the next is worth work.
const SURE: u32 = 2;

/// See the module's head.
#[derive(Debug, Default)]
pub(in crate::fs) struct Trails {
    /// The one that began last is last.
    trails: VecDeque<Trail>,
    /// With how many will have come as expected when it does.
    expected: VecDeque<(NodeId, u32)>,
}

#[derive(Debug)]
struct Trail {
    dir: NodeId,
    below: Vec<NodeId>,
    in_a_row: u32,
}

impl Trails {
    /// The listing of a directory begins.
    pub(super) fn begin(&mut self, dir: NodeId) {
        let expected = self.expected.iter().position(|(node, _)| *node == dir);
        let in_a_row = expected.and_then(|at| self.expected.remove(at)).map_or(0, |(_, row)| row);
        self.trails.retain(|trail| trail.dir != dir);
        if self.trails.len() >= MOST_TRAILS {
            self.trails.pop_front();
        }
        self.trails.push_back(Trail { dir, below: Vec::new(), in_a_row });
    }

    /// Directories were listed in one.
    pub(super) fn found(&mut self, dir: NodeId, below: &[NodeId]) {
        if let Some(trail) = self.trails.iter_mut().rev().find(|trail| trail.dir == dir) {
            let room = MOST_BELOW - trail.below.len();
            trail.below.extend(&below[..below.len().min(room)]);
        }
    }

    /// Whether a walk has come to a directory as it was expected to.
    pub(super) fn is_sure(&self, dir: NodeId) -> bool {
        self.trails.iter().rev().any(|trail| trail.dir == dir && trail.in_a_row >= SURE)
    }

    /// Whether the listing of a directory is expected to begin.
    pub(super) fn expects(&self, dir: NodeId) -> bool {
        self.expected.iter().any(|(node, _)| *node == dir)
    }

    /// The listing of a directory has ended: which is expected next, if that is sure enough.
    pub(super) fn next(&mut self, dir: NodeId) -> Option<NodeId> {
        let own = self.trails.iter().rposition(|trail| trail.dir == dir)?;
        let in_a_row = self.trails[own].in_a_row;
        let next = match self.trails[own].below.first() {
            Some(first) => *first,
            None => {
                self.trails.remove(own);
                self.next_to(dir)?
            }
        };
        self.expected.retain(|(node, _)| *node != next);
        if self.expected.len() >= MOST_EXPECTED {
            self.expected.pop_front();
        }
        self.expected.push_back((next, in_a_row.saturating_add(1)));
        (in_a_row >= SURE).then_some(next)
    }

    /// What comes when a directory and all that is below it are done: its next sibling, or that of the nearest
    /// directory above which has one.
    fn next_to(&mut self, dir: NodeId) -> Option<NodeId> {
        let mut done = dir;
        loop {
            let find = |trail: &Trail| trail.below.iter().position(|below| *below == done);
            let (up, at) = (0..self.trails.len())
                .rev()
                .find_map(|up| find(&self.trails[up]).map(|at| (up, at)))?;
            if let Some(next) = self.trails[up].below.get(at + 1) {
                return Some(*next);
            }
            done = self.trails.remove(up)?.dir;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(trails: &mut Trails, dir: u64, below: &[u64]) -> Option<u64> {
        let below: Vec<NodeId> = below.iter().copied().map(NodeId).collect();
        trails.begin(NodeId(dir));
        trails.found(NodeId(dir), &below);
        trails.next(NodeId(dir)).map(|node| node.0)
    }

    #[test]
    fn a_walk_is_known_by_its_third_directory_and_then_followed_down_and_up() {
        let mut trails = Trails::default();
        let tree: [(u64, &[u64], Option<u64>); 9] = [
            (1, &[10, 20, 30], None),
            (10, &[11, 12], None),
            (11, &[], Some(12)),
            (12, &[13], Some(13)),
            (13, &[], Some(20)),
            (20, &[], Some(30)),
            (30, &[31], Some(31)),
            (31, &[], None),
            (2, &[40, 50], None),
        ];
        for (dir, below, next) in tree {
            assert_eq!(list(&mut trails, dir, below), next, "after {dir}");
        }
        assert_eq!(trails.trails.len(), 1, "what is done is forgotten");
    }

    #[test]
    fn who_lists_as_he_likes_is_not_followed() {
        let mut trails = Trails::default();
        list(&mut trails, 1, &[10, 20, 30, 40, 50]);
        for dir in [20, 10, 40, 30, 50] {
            assert_eq!(list(&mut trails, dir, &[]), None, "after {dir}");
        }
    }

    #[test]
    fn who_leaves_the_order_is_no_longer_followed() {
        let mut trails = Trails::default();
        list(&mut trails, 1, &[10, 20, 30, 40, 50, 60, 70, 80]);
        let steps =
            [(10, None), (20, Some(30)), (30, Some(40)), (50, None), (60, None), (70, Some(80))];
        for (dir, next) in steps {
            assert_eq!(list(&mut trails, dir, &[]), next, "after {dir}");
        }
    }

    #[test]
    fn two_walks_are_followed_side_by_side() {
        let mut trails = Trails::default();
        list(&mut trails, 1, &[10, 11, 12, 13]);
        list(&mut trails, 2, &[20, 21, 22, 23]);
        for (one, other) in [(10, 20), (11, 21), (12, 22)] {
            let sure = one > 10;
            assert_eq!(list(&mut trails, one, &[]), sure.then_some(one + 1));
            assert_eq!(list(&mut trails, other, &[]), sure.then_some(other + 1));
        }
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut trails = Trails::default();
        for dir in 1..1000 {
            let below: Vec<u64> = (0..5000).map(|n| dir * 10_000 + n).collect();
            list(&mut trails, dir, &below);
        }
        assert_eq!((trails.trails.len(), trails.expected.len()), (MOST_TRAILS, MOST_EXPECTED));
        assert!(trails.trails.iter().all(|trail| trail.below.len() == MOST_BELOW));
    }
}
