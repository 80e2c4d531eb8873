//! Predicts the order in which a walk lists directories.
//!
//! A walk lists each directory before those below it, and siblings in their parent's order. The predictor does not know
//! which process walks. When the listing of a predicted directory begins, it confirms the prediction, and a prediction
//! with enough confirmations in a row is acted on.

use std::collections::VecDeque;

use crate::source::NodeId;

/// Maximum number of directories to remember: those above the position of a walk, for several walks.
const MAX_DIRS: usize = 64;
/// Maximum number of subdirectories to remember for one directory; the first ones are kept.
const MAX_SUBDIRS: usize = 4096;
/// Maximum number of predictions, one for each walk.
const MAX_PREDICTIONS: usize = 16;
/// How many predictions in a row must be confirmed before the next one is acted on.
const MIN_CONFIRMED: u32 = 2;

/// See the head of this file.
#[derive(Debug, Default)]
pub(in crate::fs) struct WalkPredictor {
    /// Directories in the order in which their listings began.
    dirs: VecDeque<VisitedDir>,
    /// Predicted directories, with the number of confirmations in a row that each would make.
    predictions: VecDeque<(NodeId, u32)>,
}

#[derive(Debug)]
struct VisitedDir {
    dir: NodeId,
    subdirs: Vec<NodeId>,
    confirmed: u32,
}

impl WalkPredictor {
    /// Records that the listing of a directory begins.
    pub(super) fn start_dir(&mut self, dir: NodeId) {
        let at = self.predictions.iter().position(|(node, _)| *node == dir);
        let confirmed = at.and_then(|at| self.predictions.remove(at)).map_or(0, |(_, row)| row);
        self.dirs.retain(|visited| visited.dir != dir);
        if self.dirs.len() >= MAX_DIRS {
            self.dirs.pop_front();
        }
        self.dirs.push_back(VisitedDir { dir, subdirs: Vec::new(), confirmed });
    }

    /// Records subdirectories that a listing of a directory has returned.
    pub(super) fn add_subdirs(&mut self, dir: NodeId, subdirs: &[NodeId]) {
        if let Some(visited) = self.dirs.iter_mut().rev().find(|visited| visited.dir == dir) {
            let free = MAX_SUBDIRS - visited.subdirs.len();
            visited.subdirs.extend(&subdirs[..subdirs.len().min(free)]);
        }
    }

    /// Returns whether a directory was predicted with enough confirmations in a row.
    pub(super) fn is_confident(&self, dir: NodeId) -> bool {
        self.dirs
            .iter()
            .rev()
            .any(|visited| visited.dir == dir && visited.confirmed >= MIN_CONFIRMED)
    }

    /// Returns whether the listing of a directory is predicted to begin.
    pub(super) fn predicts(&self, dir: NodeId) -> bool {
        self.predictions.iter().any(|(node, _)| *node == dir)
    }

    /// Records that the listing of a directory has ended. Returns the predicted next one, if it is certain enough.
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

    /// Returns the directory that follows when a directory and all below it are done.
    ///
    /// It is the next sibling, or that of the nearest directory above that has one.
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
        assert_eq!(predictor.dirs.len(), 1, "finished directories are removed");
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
