//! Latencies of requests in a report: buckets of a histogram, and the percentiles that follow from them.

use serde_json::{Map, Value};

/// The buckets of a histogram: upper bounds in nanoseconds, ascending, with the number of answers in each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Buckets(Vec<(u64, u64)>);

/// Stands for the bound of the bucket that has none.
const UNBOUNDED: u64 = u64::MAX;

impl Buckets {
    /// The buckets in the member `latency` of a kind of request. `None` where it is not of the documented type.
    pub(super) fn of(latency: &Value) -> Option<Self> {
        let bucket = |bucket: &Value| {
            let [bound, count] = bucket.as_array()?.as_slice() else { return None };
            let bound = if bound.is_null() { UNBOUNDED } else { bound.as_u64()? };
            Some((bound, count.as_u64()?))
        };
        let buckets: Vec<_> =
            latency["buckets"].as_array()?.iter().map(bucket).collect::<Option<_>>()?;
        buckets.is_sorted_by(|one, next| one.0 < next.0).then_some(Self(buckets))
    }

    /// What was counted since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        let count_before = |bound| {
            before.0.binary_search_by_key(&bound, |one| one.0).map_or(0, |at| before.0[at].1)
        };
        let since =
            |&(bound, count): &(u64, u64)| (bound, count.saturating_sub(count_before(bound)));
        Self(self.0.iter().map(since).filter(|(_, count)| *count > 0).collect())
    }

    /// The number of answers.
    pub(super) fn count(&self) -> u64 {
        self.count_up_to(UNBOUNDED)
    }

    /// The number of answers that took at most so many nanoseconds, which must be a bound.
    pub(super) fn count_up_to(&self, nanoseconds: u64) -> u64 {
        let within = self.0.iter().take_while(|(bound, _)| *bound <= nanoseconds);
        within.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The bound in nanoseconds that this share of the answers kept, in percent. `None` without an answer, and if it is
    /// beyond the last bound.
    pub(super) fn percentile(&self, percent: u64) -> Option<u64> {
        let count = u128::from(self.count());
        let mut sum = 0;
        let at = self.0.iter().find(|(_, count_here)| {
            sum += u128::from(*count_here);
            sum * 100 >= count * u128::from(percent)
        });
        at.map(|(bound, _)| *bound).filter(|bound| *bound != UNBOUNDED)
    }
}

/// Adds the percentiles to each kind of request of a report.
pub(super) fn add_percentiles(told: &mut Map<String, Value>) {
    let Some(Value::Object(requests)) = told.get_mut("requests") else { return };
    for latency in requests.values_mut().filter_map(|kind| kind.get_mut("latency")) {
        let Some(buckets) = Buckets::of(latency) else { continue };
        latency["p50_ns"] = buckets.percentile(50).into();
        latency["p99_ns"] = buckets.percentile(99).into();
    }
}

/// A time with a unit, in three digits or so.
pub(super) fn time(nanoseconds: u64) -> String {
    let unit = |size: u64, name| {
        let digits =
            if nanoseconds < 10 * size { 2 } else { usize::from(nanoseconds < 100 * size) };
        format!("{:.digits$}{name}", nanoseconds as f64 / size as f64)
    };
    match nanoseconds {
        0..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => unit(1_000, "us"),
        1_000_000..1_000_000_000 => unit(1_000_000, "ms"),
        _ => unit(1_000_000_000, "s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn buckets(value: Value) -> Option<Buckets> {
        Buckets::of(&json!({ "buckets": value }))
    }

    #[test]
    fn percentiles_are_the_bounds_that_so_many_answers_kept() {
        let some = buckets(json!([[1000, 98], [2000, 1], [null, 1]])).unwrap();
        assert_eq!(some.percentile(50), Some(1000));
        assert_eq!((some.percentile(98), some.percentile(99)), (Some(1000), Some(2000)));
        assert_eq!(some.percentile(100), None, "beyond the last bound");
        assert_eq!(Buckets::default().percentile(50), None);
        assert_eq!((some.count(), some.count_up_to(2000)), (100, 99));
    }

    #[test]
    fn an_interval_has_what_was_counted_since() {
        let before = buckets(json!([[1000, 5], [4000, 1]])).unwrap();
        let now = buckets(json!([[1000, 5], [2000, 3], [4000, 2]])).unwrap();
        assert_eq!(now.since(&before), buckets(json!([[2000, 3], [4000, 1]])).unwrap());
        assert_eq!(now.since(&Buckets::default()), now);
    }

    #[test]
    fn buckets_of_another_type_or_order_are_refused() {
        for value in [
            json!([[2, 1], [1, 1]]),
            json!([[null, 1], [1, 1]]),
            json!([[1]]),
            json!([[1, -1]]),
            json!(5),
        ] {
            assert_eq!(buckets(value.clone()), None, "{value}");
        }
        let many = buckets(json!([[1, u64::MAX], [2, u64::MAX]])).unwrap();
        assert_eq!((many.count(), many.percentile(99)), (u64::MAX, Some(1)));
    }

    #[test]
    fn times_have_a_unit() {
        let times = [750, 1250, 14_000, 131_072_000, 2_500_000_000].map(time);
        assert_eq!(times, ["750ns", "1.25us", "14.0us", "131ms", "2.50s"]);
    }
}
