//! The order in which a walk comes to directories: each before those below it, siblings as their parent lists them.
//!
//! Nothing is known of who walks. A directory whose listing begins, having been expected, confirms whoever expected it;
//! the more in a row were, the surer is the next.

use std::collections::VecDeque;

use crate::source::NodeId;

/// Directories whose order is remembered at most: those above the one where a walk is, and some of other walks.
const MAX_DIRS: usize = 64;
/// Directories below one that are remembered at most; of one that has more the first are.
const MAX_SUBDIRS: usize = 4096;
/// Directories that are expected at most, one by each walk.
const MAX_PREDICTIONS: usize = 16;
/// So many directories in a row must have come as expected before the next is worth work.
const MIN_CONFIRMED: u32 = 2;

/// See the module's head.
#[derive(Debug, Default)]
pub(in crate::fs) struct WalkPredictor {
    /// The one that began last is last.
    dirs: VecDeque<VisitedDir>,
    /// With how many will have come as expected when it does.
    predictions: VecDeque<(NodeId, u32)>,
}

#[derive(Debug)]
struct VisitedDir {
    dir: NodeId,
    subdirs: Vec<NodeId>,
    confirmed: u32,
}

impl WalkPredictor {
    /// The listing of a directory begins.
    pub(super) fn start_dir(&mut self, dir: NodeId) {
        let at = self.predictions.iter().position(|(node, _)| *node == dir);
        let confirmed = at.and_then(|at| self.predictions.remove(at)).map_or(0, |(_, row)| row);
        self.dirs.retain(|visited| visited.dir != dir);
        if self.dirs.len() >= MAX_DIRS {
            self.dirs.pop_front();
        }
        self.dirs.push_back(VisitedDir { dir, subdirs: Vec::new(), confirmed });
    }

    /// Directories were listed in one.
    pub(super) fn add_subdirs(&mut self, dir: NodeId, subdirs: &[NodeId]) {
        if let Some(visited) = self.dirs.iter_mut().rev().find(|visited| visited.dir == dir) {
            let free = MAX_SUBDIRS - visited.subdirs.len();
            visited.subdirs.extend(&subdirs[..subdirs.len().min(free)]);
        }
    }

    /// Whether a walk has come to a directory as it was expected to.
    pub(super) fn is_confident(&self, dir: NodeId) -> bool {
        self.dirs
            .iter()
            .rev()
            .any(|visited| visited.dir == dir && visited.confirmed >= MIN_CONFIRMED)
    }

    /// Whether the listing of a directory is expected to begin.
    pub(super) fn predicts(&self, dir: NodeId) -> bool {
        self.predictions.iter().any(|(node, _)| *node == dir)
    }

    /// The listing of a directory has ended: which is expected next, if that is sure enough.
    pub(super) fn predict_next(&mut self, dir: NodeId) -> Option<NodeId> {
        let own = self.dirs.iter().rposition(|visited| visited.dir == dir)?;
        let confirmed = self.dirs[own].confirmed;
        let next = match self.dirs[own].subdirs.first() {
            Some(first) => *first,
            None => {
                self.dirs.remove(own);
                self.next_sibling(dir)?
            }
        };
        self.predictions.retain(|(node, _)| *node != next);
        if self.predictions.len() >= MAX_PREDICTIONS {
            self.predictions.pop_front();
        }
        self.predictions.push_back((next, confirmed.saturating_add(1)));
        (confirmed >= MIN_CONFIRMED).then_some(next)
    }

    /// What comes when a directory and all that is below it are done: its next sibling, or that of the nearest
    /// directory above which has one.
    fn next_sibling(&mut self, dir: NodeId) -> Option<NodeId> {
        let mut done = dir;
        loop {
            let find =
                |visited: &VisitedDir| visited.subdirs.iter().position(|subdir| *subdir == done);
            let (up, at) = (0..self.dirs.len())
                .rev()
                .find_map(|up| find(&self.dirs[up]).map(|at| (up, at)))?;
            if let Some(next) = self.dirs[up].subdirs.get(at + 1) {
                return Some(*next);
            }
            done = self.dirs.remove(up)?.dir;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(predictor: &mut WalkPredictor, dir: u64, subdirs: &[u64]) -> Option<u64> {
        let subdirs: Vec<NodeId> = subdirs.iter().copied().map(NodeId).collect();
        predictor.start_dir(NodeId(dir));
        predictor.add_subdirs(NodeId(dir), &subdirs);
        predictor.predict_next(NodeId(dir)).map(|node| node.0)
    }

    #[test]
    fn a_walk_is_predicted_from_its_third_directory_on() {
        let mut predictor = WalkPredictor::default();
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
        for (dir, subdirs, next) in tree {
            assert_eq!(list(&mut predictor, dir, subdirs), next, "after {dir}");
        }
        assert_eq!(predictor.dirs.len(), 1, "what is done is forgotten");
    }

    #[test]
    fn listings_in_random_order_are_not_predicted() {
        let mut predictor = WalkPredictor::default();
        list(&mut predictor, 1, &[10, 20, 30, 40, 50]);
        for dir in [20, 10, 40, 30, 50] {
            assert_eq!(list(&mut predictor, dir, &[]), None, "after {dir}");
        }
    }

    #[test]
    fn a_walk_that_leaves_the_order_is_no_longer_predicted() {
        let mut predictor = WalkPredictor::default();
        list(&mut predictor, 1, &[10, 20, 30, 40, 50, 60, 70, 80]);
        let steps =
            [(10, None), (20, Some(30)), (30, Some(40)), (50, None), (60, None), (70, Some(80))];
        for (dir, next) in steps {
            assert_eq!(list(&mut predictor, dir, &[]), next, "after {dir}");
        }
    }

    #[test]
    fn two_interleaved_walks_are_both_predicted() {
        let mut predictor = WalkPredictor::default();
        list(&mut predictor, 1, &[10, 11, 12, 13]);
        list(&mut predictor, 2, &[20, 21, 22, 23]);
        for (one, other) in [(10, 20), (11, 21), (12, 22)] {
            let sure = one > 10;
            assert_eq!(list(&mut predictor, one, &[]), sure.then_some(one + 1));
            assert_eq!(list(&mut predictor, other, &[]), sure.then_some(other + 1));
        }
    }

    #[test]
    fn all_lists_are_bounded() {
        let mut predictor = WalkPredictor::default();
        for dir in 1..1000 {
            let subdirs: Vec<u64> = (0..5000).map(|n| dir * 10_000 + n).collect();
            list(&mut predictor, dir, &subdirs);
        }
        assert_eq!(
            (predictor.dirs.len(), predictor.predictions.len()),
            (MAX_DIRS, MAX_PREDICTIONS)
        );
        assert!(predictor.dirs.iter().all(|visited| visited.subdirs.len() == MAX_SUBDIRS));
    }
}
