//! How long the kernel may believe an answer, by cache policy.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::kernel_features::KernelFeatures;
use crate::config::CachePolicy;
use crate::fs::{Attr, CacheValidity, Entry};
use crate::view::{Checks, Needs};

/// As long as the kernel can count.
const MAX_TTL: Duration = Duration::from_secs(u32::MAX as u64);
/// What is watched is asked for again after this time all the same, in case a change reached no watch: one made through
/// a file handle whose name the source's kernel had dropped.
const WATCHED_TTL: Duration = Duration::from_secs(600);
/// What is not watched, or only since a moment ago, beside what is.
const UNWATCHED_TTL: Duration = Duration::from_secs(1);

/// See the module's head. Clones stay the same: what changes in one changes in all.
#[derive(Debug, Clone)]
pub(super) struct Ttls {
    table: Arc<ArcSwap<TtlTable>>,
    limits: KernelLimits,
}

/// What the kernel does not let us take back, and may therefore not believe for long.
#[derive(Debug, Clone, Copy)]
struct KernelLimits {
    /// A name that is missing cannot be invalidated.
    negative: bool,
    /// All names may have to go at once, and there is no notice for that.
    names: bool,
}

#[derive(Debug, Clone, Copy)]
struct TtlTable {
    watched_entry: Duration,
    watched_negative: Duration,
    watched_attr: Duration,
    entry: Duration,
    negative: Duration,
    attr: Duration,
}

impl Ttls {
    /// `all_names_may_change`: all names may change at once (`follow-source`).
    pub(super) fn of(
        cache: CachePolicy,
        needs: Needs,
        kernel: KernelFeatures,
        all_names_may_change: bool,
    ) -> Self {
        let limits = KernelLimits {
            negative: !kernel.invalidates_negative,
            names: all_names_may_change && !kernel.has_epoch,
        };
        Self { table: Arc::new(ArcSwap::from_pointee(TtlTable::of(cache, needs, limits))), limits }
    }

    /// From now on these; what the kernel keeps already it keeps for as long as it was told.
    pub(super) fn set(&self, cache: CachePolicy, needs: Needs) {
        self.table.store(Arc::new(TtlTable::of(cache, needs, self.limits)));
    }

    /// A name that is missing.
    pub(super) fn negative(&self, validity: CacheValidity) -> Duration {
        let table = self.table.load();
        by(validity, table.watched_negative, table.negative)
    }

    /// A name, and the attributes that come with it.
    pub(super) fn entry(&self, entry: &Entry) -> (Duration, Duration) {
        let table = self.table.load();
        let name = by(entry.name, table.watched_entry, table.entry);
        (name, by(entry.attr.validity, table.watched_attr, table.attr))
    }

    /// Attributes.
    pub(super) fn attr(&self, attr: &Attr) -> Duration {
        let table = self.table.load();
        by(attr.validity, table.watched_attr, table.attr)
    }
}

impl TtlTable {
    fn of(cache: CachePolicy, needs: Needs, limits: KernelLimits) -> Self {
        let all = |watched, unwatched| Self {
            watched_entry: watched,
            watched_negative: watched,
            watched_attr: watched,
            entry: unwatched,
            negative: unwatched,
            attr: unwatched,
        };
        let mut ttls = match cache {
            CachePolicy::Coherent { .. } => all(WATCHED_TTL, UNWATCHED_TTL),
            CachePolicy::Timeouts { entry, negative, attr } => {
                let watched_entry = Duration::ZERO;
                let (watched_attr, watched_negative) = (Duration::ZERO, Duration::ZERO);
                Self { watched_entry, watched_negative, watched_attr, entry, negative, attr }
            }
            CachePolicy::None => all(Duration::ZERO, Duration::ZERO),
            CachePolicy::Forever => all(MAX_TTL, MAX_TTL),
        };
        if let CachePolicy::Coherent { .. } = cache {
            if limits.negative {
                (ttls.watched_negative, ttls.negative) = Default::default();
            }
            if limits.names {
                ttls.watched_entry = ttls.watched_entry.min(UNWATCHED_TTL);
                ttls.watched_negative = ttls.watched_negative.min(UNWATCHED_TTL);
            }
        }
        if needs.checks == Checks::Daemon {
            // Each step of a path must come to us: the kernel would let everyone through.
            (ttls.watched_entry, ttls.entry) = Default::default();
            (ttls.watched_negative, ttls.negative) = Default::default();
        }
        if needs.per_caller {
            (ttls.watched_attr, ttls.attr) = Default::default();
        }
        ttls
    }
}

fn by(validity: CacheValidity, watched: Duration, unwatched: Duration) -> Duration {
    match validity {
        CacheValidity::WhileWatched => watched.max(unwatched),
        CacheValidity::Timeout => unwatched,
        CacheValidity::Uncached => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::IdView;
    use crate::view::View;

    const FULL: KernelFeatures =
        KernelFeatures { invalidates_negative: true, waits_for_lookups: true, has_epoch: true };
    const COHERENT: CachePolicy = CachePolicy::Coherent { required: false };

    fn ttls(cache: CachePolicy, kernel: KernelFeatures, all_names_may_change: bool) -> Ttls {
        Ttls::of(cache, View::of_ids(IdView::identity()).needs(), kernel, all_names_may_change)
    }

    #[test]
    fn a_negative_dentry_is_cached_only_where_it_can_be_invalidated() {
        let lacking = KernelFeatures { invalidates_negative: false, ..FULL };
        for validity in [CacheValidity::WhileWatched, CacheValidity::Timeout] {
            assert_eq!(ttls(COHERENT, lacking, false).negative(validity), Duration::ZERO);
            assert!(ttls(COHERENT, FULL, false).negative(validity) >= UNWATCHED_TTL);
        }
        let by_time = CachePolicy::DEFAULT_TIMEOUTS;
        assert_eq!(
            ttls(by_time, lacking, false).negative(CacheValidity::Timeout),
            UNWATCHED_TTL,
            "as the user said"
        );
    }

    #[test]
    fn a_followed_source_caches_names_for_a_second_where_not_all_can_be_invalidated() {
        let lacking = KernelFeatures { has_epoch: false, ..FULL };
        for (kernel, all_names_may_change, expected) in [
            (lacking, true, UNWATCHED_TTL),
            (lacking, false, WATCHED_TTL),
            (FULL, true, WATCHED_TTL),
        ] {
            let negative =
                ttls(COHERENT, kernel, all_names_may_change).negative(CacheValidity::WhileWatched);
            assert_eq!(negative, expected, "{kernel:?} {all_names_may_change}");
        }
    }
}
