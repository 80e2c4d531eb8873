//! How long the kernel may believe an answer, by cache policy.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

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
pub(super) struct Times(Arc<ArcSwap<Kept>>);

#[derive(Debug, Clone, Copy)]
struct Kept {
    watched: Duration,
    watched_attr: Duration,
    name: Duration,
    missing: Duration,
    attr: Duration,
}

impl Times {
    pub(super) fn of(cache: CachePolicy, needs: Needs) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Kept::of(cache, needs))))
    }

    /// From now on these; what the kernel keeps already it keeps for as long as it was told.
    pub(super) fn set(&self, cache: CachePolicy, needs: Needs) {
        self.0.store(Arc::new(Kept::of(cache, needs)));
    }

    /// A name that is missing.
    pub(super) fn missing(&self, trust: Trust) -> Duration {
        let kept = self.0.load();
        by(trust, kept.watched, kept.missing)
    }

    /// A name, and the attributes that come with it.
    pub(super) fn entry(&self, entry: &Entry) -> (Duration, Duration) {
        let kept = self.0.load();
        let name = by(entry.name, kept.watched, kept.name);
        (name, by(entry.attr.trust, kept.watched_attr, kept.attr))
    }

    /// Attributes.
    pub(super) fn attr(&self, attr: &Attr) -> Duration {
        let kept = self.0.load();
        by(attr.trust, kept.watched_attr, kept.attr)
    }
}

impl Kept {
    fn of(cache: CachePolicy, needs: Needs) -> Self {
        let all = |watched, time| Self {
            watched,
            watched_attr: watched,
            name: time,
            missing: time,
            attr: time,
        };
        let mut times = match cache {
            CachePolicy::Coherent { .. } => all(WATCHED, FRESH),
            CachePolicy::Timeouts { entry, negative, attr } => {
                let watched = Duration::ZERO;
                let watched_attr = watched;
                Self { watched, watched_attr, name: entry, missing: negative, attr }
            }
            CachePolicy::None => all(Duration::ZERO, Duration::ZERO),
            CachePolicy::Forever => all(FOREVER, FOREVER),
        };
        if needs.checks == Checks::Ours {
            // Each step of a path must come to us: the kernel would let everyone through.
            (times.watched, times.name, times.missing) = Default::default();
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
