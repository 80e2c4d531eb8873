//! How long the kernel may believe an answer, by cache policy.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::kernel::KernelTraits;
use crate::config::CachePolicy;
use crate::fs::{Attr, Entry, Trust};
use crate::view::{Checks, Needs};

/// As long as the kernel can count.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// What is watched is asked for again after this time all the same, in case a change reached no watch: one made through
/// a file handle whose name the source's kernel had dropped.
const WATCHED: Duration = Duration::from_secs(600);
/// What is not watched, or only since a moment ago, beside what is.
const FRESH: Duration = Duration::from_secs(1);

/// See the module's head. Clones stay the same: what changes in one changes in all.
#[derive(Debug, Clone)]
pub(super) struct Times {
    kept: Arc<ArcSwap<Kept>>,
    limits: Limits,
}

/// What the kernel does not let us take back, and may therefore not believe for long.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// A name that is missing cannot be invalidated.
    missing: bool,
    /// All names may have to go at once, and there is no notice for that.
    names: bool,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    watched: Duration,
    watched_missing: Duration,
    watched_attr: Duration,
    name: Duration,
    missing: Duration,
    attr: Duration,
}

impl Times {
    /// `renewed`: all names may change at once (`follow-source`).
    pub(super) fn of(
        cache: CachePolicy,
        needs: Needs,
        kernel: KernelTraits,
        renewed: bool,
    ) -> Self {
        let limits =
            Limits { missing: !kernel.invalidates_missing, names: renewed && !kernel.has_epoch };
        Self { kept: Arc::new(ArcSwap::from_pointee(Kept::of(cache, needs, limits))), limits }
    }

    /// From now on these; what the kernel keeps already it keeps for as long as it was told.
    pub(super) fn set(&self, cache: CachePolicy, needs: Needs) {
        self.kept.store(Arc::new(Kept::of(cache, needs, self.limits)));
    }

    /// A name that is missing.
    pub(super) fn missing(&self, trust: Trust) -> Duration {
        let kept = self.kept.load();
        by(trust, kept.watched_missing, kept.missing)
    }

    /// A name, and the attributes that come with it.
    pub(super) fn entry(&self, entry: &Entry) -> (Duration, Duration) {
        let kept = self.kept.load();
        let name = by(entry.name, kept.watched, kept.name);
        (name, by(entry.attr.trust, kept.watched_attr, kept.attr))
    }

    /// Attributes.
    pub(super) fn attr(&self, attr: &Attr) -> Duration {
        let kept = self.kept.load();
        by(attr.trust, kept.watched_attr, kept.attr)
    }
}

impl Kept {
    fn of(cache: CachePolicy, needs: Needs, limits: Limits) -> Self {
        let all = |watched, time| Self {
            watched,
            watched_missing: watched,
            watched_attr: watched,
            name: time,
            missing: time,
            attr: time,
        };
        let mut times = match cache {
            CachePolicy::Coherent { .. } => all(WATCHED, FRESH),
            CachePolicy::Timeouts { entry, negative, attr } => {
                let watched = Duration::ZERO;
                let (watched_attr, watched_missing) = (watched, watched);
                let missing = negative;
                Self { watched, watched_missing, watched_attr, name: entry, missing, attr }
            }
            CachePolicy::None => all(Duration::ZERO, Duration::ZERO),
            CachePolicy::Forever => all(FOREVER, FOREVER),
        };
        if let CachePolicy::Coherent { .. } = cache {
            if limits.missing {
                (times.watched_missing, times.missing) = Default::default();
            }
            if limits.names {
                times.watched = times.watched.min(FRESH);
                times.watched_missing = times.watched_missing.min(FRESH);
            }
        }
        if needs.checks == Checks::Ours {
            // Each step of a path must come to us: the kernel would let everyone through.
            (times.watched, times.name) = Default::default();
            (times.watched_missing, times.missing) = Default::default();
        }
        if needs.per_caller {
            (times.watched_attr, times.attr) = Default::default();
        }
        times
    }
}

fn by(trust: Trust, watched: Duration, fresh: Duration) -> Duration {
    match trust {
        Trust::Watched => watched.max(fresh),
        Trust::Fresh => fresh,
        Trust::Never => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::IdView;
    use crate::view::View;

    const GOOD: KernelTraits =
        KernelTraits { invalidates_missing: true, waits_for_lookups: true, has_epoch: true };
    const COHERENT: CachePolicy = CachePolicy::Coherent { required: false };

    fn times(cache: CachePolicy, kernel: KernelTraits, renewed: bool) -> Times {
        Times::of(cache, View::of_ids(IdView::identity()).needs(), kernel, renewed)
    }

    #[test]
    fn a_missing_name_is_believed_only_where_it_can_be_invalidated() {
        let bad = KernelTraits { invalidates_missing: false, ..GOOD };
        for trust in [Trust::Watched, Trust::Fresh] {
            assert_eq!(times(COHERENT, bad, false).missing(trust), Duration::ZERO);
            assert!(times(COHERENT, GOOD, false).missing(trust) >= FRESH);
        }
        let by_time = CachePolicy::DEFAULT_TIMEOUTS;
        assert_eq!(times(by_time, bad, false).missing(Trust::Fresh), FRESH, "as the user said");
    }

    #[test]
    fn a_followed_source_has_names_for_a_second_where_not_all_can_be_invalidated() {
        let bad = KernelTraits { has_epoch: false, ..GOOD };
        for (kernel, renewed, expected) in
            [(bad, true, FRESH), (bad, false, WATCHED), (GOOD, true, WATCHED)]
        {
            let missing = times(COHERENT, kernel, renewed).missing(Trust::Watched);
            assert_eq!(missing, expected, "{kernel:?} {renewed}");
        }
    }
}
