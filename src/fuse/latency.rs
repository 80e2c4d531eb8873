//! Latencies of requests, counted in buckets whose width grows with the time: an answer costs two additions.
//!
//! A bucket is 250 ns wide up to 1 µs, and a quarter of its octave above, so that its bounds are at most 25 % apart. Powers
//! of two of a microsecond are bounds, which `shiftbind stat --prometheus` relies on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// The unit of the buckets' bounds, in nanoseconds.
const UNIT: u64 = 250;

/// Octaves from 1 µs on. Chosen: the last bucket with an upper bound ends at 134 s. A wait for a lock may take longer.
const OCTAVES: usize = 27;

/// Four for the times below 1 µs, four for each octave, and one for all that takes longer.
const BUCKETS: usize = 4 + 4 * OCTAVES + 1;

/// The latencies of one kind of request.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Self { buckets, nanoseconds: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one answer.
    pub(super) fn record(&self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

/// The sum of histograms of one kind of request.
#[derive(Debug)]
pub(super) struct Latencies {
    buckets: [u64; BUCKETS],
    nanoseconds: u64,
}

impl Latencies {
    /// Adds these up.
    pub(super) fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut sum = Self { buckets: [0; BUCKETS], nanoseconds: 0 };
        for one in histograms {
            for (sum, bucket) in sum.buckets.iter_mut().zip(&one.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            sum.nanoseconds = sum.nanoseconds.wrapping_add(one.nanoseconds.load(Ordering::Relaxed));
        }
        sum
    }

    /// The latencies in JSON: the sum, and the buckets that are not empty. `None` without an answer.
    pub(super) fn describe(&self) -> Option<Value> {
        let buckets: Vec<Value> = (0..BUCKETS)
            .filter(|at| self.buckets[*at] > 0)
            .map(|at| json!([upper_bound(at), self.buckets[at]]))
            .collect();
        (!buckets.is_empty()).then(|| json!({ "sum_ns": self.nanoseconds, "buckets": buckets }))
    }
}

/// The bucket of a latency: the one with the lowest upper bound that is not below it.
fn bucket_of(nanoseconds: u64) -> usize {
    let units = nanoseconds.saturating_sub(1) / UNIT;
    if units < 4 {
        return units as usize;
    }
    let octave = units.ilog2() - 2;
    // The two bits below the highest one.
    let quarter = (units >> octave) as usize - 4;
    (4 + 4 * octave as usize + quarter).min(BUCKETS - 1)
}

/// The upper bound of a bucket in nanoseconds, which belongs to it. `None`: it has none.
fn upper_bound(bucket: usize) -> Option<u64> {
    let next = bucket + 1;
    match next {
        0..4 => Some(next as u64 * UNIT),
        BUCKETS.. => None,
        _ => Some(((4 + next % 4) as u64) << (next / 4 - 1)).map(|units| units * UNIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_counted_in_the_narrowest_bucket_that_holds_it() {
        assert_eq!((bucket_of(0), bucket_of(250), bucket_of(251)), (0, 0, 1));
        let bounds: Vec<u64> = (0..BUCKETS).map_while(upper_bound).collect();
        assert_eq!(bounds.len(), BUCKETS - 1);
        for (at, bound) in bounds.iter().enumerate() {
            assert_eq!((bucket_of(*bound), bucket_of(bound + 1)), (at, at + 1), "{bound}");
            if at >= 4 {
                let below = bounds[at - 1];
                assert!(4 * (bound - below) <= below, "{below} to {bound}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn powers_of_two_of_a_microsecond_are_bounds() {
        let bounds: Vec<u64> = (0..BUCKETS).map_while(upper_bound).collect();
        for exponent in 0..=OCTAVES {
            assert!(bounds.contains(&(1000 << exponent)), "2^{exponent} µs");
        }
    }

    #[test]
    fn what_is_described_adds_up() {
        let (one, other) = (Histogram::default(), Histogram::default());
        for histogram in [&one, &other] {
            histogram.record(Duration::from_nanos(900));
        }
        one.record(Duration::from_secs(1000));
        let told = Latencies::of([&one, &other].into_iter()).describe().unwrap();
        assert_eq!(
            told,
            json!({ "sum_ns": 1_000_000_001_800_u64, "buckets": [[1000, 2], [null, 1]] })
        );
        assert_eq!(Latencies::of(std::iter::empty()).describe(), None);
    }
}
