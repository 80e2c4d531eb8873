//! Timeouts of entries and attributes: how long the kernel may cache an answer, by cache policy.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::kernel_features::KernelFeatures;
use crate::config::CachePolicy;
use crate::fs::{Attr, CacheValidity, Entry};
use crate::view::{Checks, Needs};

/// The longest timeout: 136 years, as many seconds as fit in 32 bits.
const MAX_TTL: Duration = Duration::from_secs(u32::MAX as u64);
/// The timeout of what is watched. Chosen: it bounds how long a change that makes no event stays unseen, such as a store
/// to a mapping of the source's file, or an access time.
const WATCHED_TTL: Duration = Duration::from_secs(600);
/// The timeout of what is not watched on a mount that watches, or has been only for a moment. Chosen.
const UNWATCHED_TTL: Duration = Duration::from_secs(1);

/// The timeouts of one mount. Clones share them: a change in one is a change in all.
#[derive(Debug, Clone)]
pub(super) struct Ttls {
    table: Arc<ArcSwap<TtlTable>>,
    limits: KernelLimits,
}

/// What this kernel cannot invalidate, and must therefore not cache for long.
#[derive(Debug, Clone, Copy)]
struct KernelLimits {
    /// A negative dentry cannot be invalidated.
    negative: bool,
    /// All names may change at once, and no notification invalidates them all.
    names: bool,
    /// The invalidation of a name does not wait for a listing that brings it, which a client can hold back.
    listed: bool,
}

#[derive(Debug, Clone, Copy)]
struct TtlTable {
    watched_entry: Duration,
    /// As `watched_entry`, in a listing.
    watched_listed: Duration,
    watched_negative: Duration,
    watched_attr: Duration,
    entry: Duration,
    negative: Duration,
    attr: Duration,
}

impl Ttls {
    /// Timeouts for a policy. `all_names_may_change`: the source's root may be replaced (`follow-source`).
    pub(super) fn of(
        cache: CachePolicy,
        needs: Needs,
        kernel: KernelFeatures,
        all_names_may_change: bool,
    ) -> Self {
        let limits = KernelLimits {
            negative: !kernel.invalidates_negative,
            names: all_names_may_change && !kernel.has_epoch,
            listed: !kernel.waits_for_lookups,
        };
        Self { table: Arc::new(ArcSwap::from_pointee(TtlTable::of(cache, needs, limits))), limits }
    }

    /// Sets the timeouts of future answers. What the kernel has cached keeps the timeout that it came with.
    pub(super) fn set(&self, cache: CachePolicy, needs: Needs) {
        self.table.store(Arc::new(TtlTable::of(cache, needs, self.limits)));
    }

    /// The timeout of a negative dentry.
    pub(super) fn negative(&self, validity: CacheValidity) -> Duration {
        let table = self.table.load();
        by(validity, table.watched_negative, table.negative)
    }

    /// The timeouts of a dentry and of the attributes that come with it.
    pub(super) fn entry(&self, entry: &Entry) -> (Duration, Duration) {
        let table = self.table.load();
        let name = by(entry.name, table.watched_entry, table.entry);
        (name, by(entry.attr.validity, table.watched_attr, table.attr))
    }

    /// As [`Self::entry`], in a listing.
    pub(super) fn listed(&self, entry: &Entry) -> (Duration, Duration) {
        let table = self.table.load();
        let name = by(entry.name, table.watched_listed, table.entry);
        (name, by(entry.attr.validity, table.watched_attr, table.attr))
    }

    /// The timeout of attributes.
    pub(super) fn attr(&self, attr: &Attr) -> Duration {
        let table = self.table.load();
        by(attr.validity, table.watched_attr, table.attr)
    }
}

impl TtlTable {
    fn of(cache: CachePolicy, needs: Needs, limits: KernelLimits) -> Self {
        let all = |watched, unwatched| Self {
            watched_entry: watched,
            watched_listed: watched,
            watched_negative: watched,
            watched_attr: watched,
            entry: unwatched,
            negative: unwatched,
            attr: unwatched,
        };
        let mut ttls = match cache {
            CachePolicy::Coherent { .. } => all(WATCHED_TTL, UNWATCHED_TTL),
            CachePolicy::Timeouts { entry, negative, attr } => {
                Self { entry, negative, attr, ..all(Duration::ZERO, Duration::ZERO) }
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
            if limits.names || limits.listed {
                ttls.watched_listed = ttls.watched_listed.min(UNWATCHED_TTL);
            }
        }
        if needs.checks == Checks::Daemon {
            // Each step of a path must reach the daemon: without `default_permissions` the kernel lets every caller
            // through.
            (ttls.watched_entry, ttls.entry) = Default::default();
            ttls.watched_listed = Duration::ZERO;
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

    const FULL: KernelFeatures = KernelFeatures {
        invalidates_negative: true,
        waits_for_lookups: true,
        has_epoch: true,
        allows_idmap: true,
    };
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

    #[test]
    fn a_listed_name_is_cached_for_a_second_where_its_invalidation_does_not_wait_for_the_listing() {
        let lacking = KernelFeatures { waits_for_lookups: false, ..FULL };
        for (kernel, listed) in [(FULL, WATCHED_TTL), (lacking, UNWATCHED_TTL)] {
            let ttls = ttls(COHERENT, kernel, false);
            let table = ttls.table.load();
            assert_eq!((table.watched_listed, table.watched_entry), (listed, WATCHED_TTL));
        }
    }
}
