//! When memory that forgotten inodes leave with the allocator is given back to the system.
//!
//! Looking for it takes time, so it is worth it only after many were forgotten. Those that are still known lie
//! scattered among them, and a few keep nearly all pages; so once is not enough when it comes in the middle of a burst.

use super::table::TableStats;

/// So many forgotten inodes are not worth looking for.
const MIN_FREED: usize = 1000;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct TrimPolicy {
    /// How many inodes were known at the last look.
    last_len: usize,
    /// Whether memory was given back while inodes were perhaps still being forgotten.
    is_pending: bool,
}

impl TrimPolicy {
    /// Whether memory is to be given back now: after each time the table's most is to be counted anew. To be asked
    /// regularly.
    pub(super) fn is_due(&mut self, TableStats { len, peak }: TableStats) -> bool {
        let is_falling = len < std::mem::replace(&mut self.last_len, len);
        let freed = peak.saturating_sub(len);
        if freed > len / 2 + MIN_FREED {
            self.is_pending = true;
            return true;
        }
        if self.is_pending && !is_falling {
            self.is_pending = false;
            return freed > 0;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these looks at a table, each with the inodes known at most before it and then, give memory back.
    fn due(samples: &[(usize, usize)]) -> Vec<usize> {
        let mut policy = TrimPolicy::default();
        let mut peak_left = 0;
        let is_due = |(at, &(peak, len)): (usize, &(usize, usize))| {
            let is_due = policy.is_due(TableStats { len, peak: peak.max(peak_left) });
            peak_left = if is_due { len } else { peak.max(peak_left) };
            is_due.then_some(at)
        };
        samples.iter().enumerate().filter_map(is_due).collect()
    }

    #[test]
    fn memory_freed_between_two_samples_is_trimmed() {
        assert_eq!(due(&[(1, 1), (50_000, 1), (1, 1), (1, 1)]), [1]);
    }

    #[test]
    fn a_trim_in_the_middle_of_a_burst_is_followed_by_another() {
        assert_eq!(due(&[(50_000, 50_000), (50_000, 8_000), (8_000, 1), (1, 1)]), [1, 2]);
        assert_eq!(due(&[(50_000, 50_000), (50_000, 900), (900, 1), (1, 1), (1, 1)]), [1, 3]);
        assert_eq!(due(&[(50_000, 30_000), (30_000, 1), (1, 1)]), [0, 1]);
    }

    #[test]
    fn steady_churn_and_slow_forgetting_do_not_trim() {
        let samples: Vec<_> = (0..100).map(|at| (50_000, 34_000 + at % 7 * 1000)).collect();
        assert_eq!(due(&samples), []);
        let slowly: Vec<_> = (0..900).map(|at| (900 - at, 900 - at)).collect();
        assert_eq!(due(&slowly), []);
    }
}
