//! Decides when the daemon returns freed heap memory to the system.
//!
//! Trimming walks the heap, so it is done only after many inodes were forgotten. The inodes that remain are scattered
//! over the heap, and a few of them keep nearly all pages in use; a trim in the middle of a burst of forgets is
//! therefore repeated when the burst is over.

use super::shard::TableStats;

/// Below this many freed inodes, do not trim the heap (chosen: about 128 KiB).
const MIN_FREED: usize = 1000;

/// Decides at each sweep whether to trim the heap.
#[derive(Debug, Default)]
pub(super) struct TrimPolicy {
    /// Number of inodes in the table at the previous sweep.
    last_len: usize,
    /// Whether the last trim may have come in the middle of a burst of forgets.
    is_pending: bool,
}

impl TrimPolicy {
    /// Returns whether to trim the heap now; the caller then resets the table's peak.
    ///
    /// To be called at every sweep.
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

    /// Returns at which of these samples, each `(peak since the previous one, inodes now)`, the policy trims.
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
        assert_eq!(due(&samples), [0; 0]);
        let slowly: Vec<_> = (0..900).map(|at| (900 - at, 900 - at)).collect();
        assert_eq!(due(&slowly), [0; 0]);
    }
}
