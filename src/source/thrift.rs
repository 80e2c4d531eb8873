//! When memory that forgotten inodes leave with the allocator is given back to the system.
//!
//! Looking for it takes time, so it is worth it only after many were forgotten. Those that are still known lie
//! scattered among them, and a few keep nearly all pages; so once is not enough when it comes in the middle of a burst.

use super::table::Extent;

/// So many forgotten inodes are not worth looking for.
const FEW: usize = 1000;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Thrift {
    /// How many inodes were known at the last look.
    last: usize,
    /// Whether memory was given back while inodes were perhaps still being forgotten.
    is_unsettled: bool,
}

impl Thrift {
    /// Whether memory is to be given back now: after each time the table's most is to be counted anew. To be asked
    /// regularly.
    pub(super) fn is_due(&mut self, Extent { known, most }: Extent) -> bool {
        let is_falling = known < std::mem::replace(&mut self.last, known);
        let forgotten = most.saturating_sub(known);
        if forgotten > known / 2 + FEW {
            self.is_unsettled = true;
            return true;
        }
        if self.is_unsettled && !is_falling {
            self.is_unsettled = false;
            return forgotten > 0;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these looks at a table, each with the inodes known at most before it and then, give memory back.
    fn due(looks: &[(usize, usize)]) -> Vec<usize> {
        let mut thrift = Thrift::default();
        let mut most_left = 0;
        let is_due = |(at, &(most, known)): (usize, &(usize, usize))| {
            let is_due = thrift.is_due(Extent { known, most: most.max(most_left) });
            most_left = if is_due { known } else { most.max(most_left) };
            is_due.then_some(at)
        };
        looks.iter().enumerate().filter_map(is_due).collect()
    }

    #[test]
    fn what_came_and_went_between_two_looks_is_given_back() {
        assert_eq!(due(&[(1, 1), (50_000, 1), (1, 1), (1, 1)]), [1]);
    }

    #[test]
    fn a_look_in_the_middle_of_a_burst_is_not_the_last() {
        assert_eq!(due(&[(50_000, 50_000), (50_000, 8_000), (8_000, 1), (1, 1)]), [1, 2]);
        assert_eq!(due(&[(50_000, 50_000), (50_000, 900), (900, 1), (1, 1), (1, 1)]), [1, 3]);
        assert_eq!(due(&[(50_000, 30_000), (30_000, 1), (1, 1)]), [0, 1]);
    }

    #[test]
    fn what_comes_and_goes_all_the_time_is_not_looked_for() {
        let looks: Vec<_> = (0..100).map(|at| (50_000, 34_000 + at % 7 * 1000)).collect();
        assert_eq!(due(&looks), []);
        let slowly: Vec<_> = (0..900).map(|at| (900 - at, 900 - at)).collect();
        assert_eq!(due(&slowly), []);
    }
}
