//! Explains the translation of ids.

use std::collections::BTreeMap;

use super::{Facts, MAX_LISTED, MAX_NAMED, with_name};
use crate::accounts::{Accounts, Named};
use crate::idmap::{Extent, MAX_ID, MountId, SourceId, Translation, Unmapped};

/// A range of ids, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
}

impl Range {
    fn new(first: u32, count: u32) -> Self {
        Self { first, last: first + (count - 1) }
    }

    /// A range of the same length that begins at another id.
    fn moved_to(self, first: u32) -> Self {
        Self { first, last: first + (self.last - self.first) }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}..{}", self.first, self.last)
        }
    }
}

/// Adds a line for each of the first ranges, and one with the number of the others.
fn push_ranges(out: &mut Facts, subject: &str, ranges: &[Range], fact: impl Fn(&Range) -> String) {
    for range in ranges.iter().take(MAX_LISTED) {
        out.push(subject, fact(range));
    }
    if ranges.len() > MAX_LISTED {
        out.push(subject, format!("… and {} more such ranges", ranges.len() - MAX_LISTED));
    }
}

pub(super) fn explain_ids<K: Named>(
    out: &mut Facts,
    ids: &Translation<K>,
    accounts: &dyn Accounts,
) {
    let map = ids.map();
    if map.is_identity() {
        out.push(K::WORD, "every source id is shown as itself");
        return;
    }
    for (number, extent) in map.extents().iter().enumerate() {
        explain_extent(out, extent, accounts, number < MAX_NAMED);
    }
    let source_gaps = gaps(map.extents().iter().map(source_range));
    // With root-as the mount id 0 is in no gap: it has a line of its own.
    let root = ids.root_as().map(|_| Range::new(0, 1));
    let mount_gaps = gaps(map.extents().iter().map(mount_range).chain(root));
    explain_gaps(out, ids, &source_gaps, &mount_gaps, accounts);
    explain_collisions(out, ids, &source_gaps);
    if let Some(stored) = ids.root_as() {
        let stored = with_name(stored.raw(), K::name_of(accounts, stored.raw()));
        out.push(K::WORD, format!("mount 0 is stored as {stored}, because root-as was given"));
    }
}

fn source_range<K: Named>(extent: &Extent<K>) -> Range {
    Range::new(extent.source().raw(), extent.count())
}

fn mount_range<K: Named>(extent: &Extent<K>) -> Range {
    Range::new(extent.mount().raw(), extent.count())
}

fn explain_extent<K: Named>(
    out: &mut Facts,
    extent: &Extent<K>,
    accounts: &dyn Accounts,
    with_names: bool,
) {
    let (source, mount) = (source_range(extent), mount_range(extent));
    let names = [source.first, mount.first]
        .map(|id| with_names.then(|| K::name_of(accounts, id)).flatten());
    if extent.count() > 1 {
        out.push(K::WORD, format!("source {source} is shown as {mount}"));
        if names == [None, None] {
            return;
        }
    }
    let [source_name, mount_name] = names;
    let source = with_name(source.first, source_name);
    let mount = with_name(mount.first, mount_name);
    out.push(K::WORD, format!("source {source} is shown as {mount}"));
}

/// The ids that no range holds.
fn gaps(ranges: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut ranges: Vec<Range> = ranges.collect();
    ranges.sort_by_key(|range| range.first);
    let mut gaps = Vec::new();
    // One past MAX_ID still fits a u32.
    let mut next = 0;
    for range in ranges {
        if range.first > next {
            gaps.push(Range { first: next, last: range.first - 1 });
        }
        next = next.max(range.last + 1);
    }
    if next <= MAX_ID {
        gaps.push(Range { first: next, last: MAX_ID });
    }
    gaps
}

fn explain_gaps<K: Named>(
    out: &mut Facts,
    ids: &Translation<K>,
    source_gaps: &[Range],
    mount_gaps: &[Range],
    accounts: &dyn Accounts,
) {
    let (shown, stored) = match ids.unmapped() {
        Unmapped::Deny => (
            "shown as the overflow id (65534), owned by no user".to_owned(),
            "cannot be stored (EOVERFLOW)".to_owned(),
        ),
        Unmapped::Pass => ("shown as it is".to_owned(), "stored as it is".to_owned()),
        Unmapped::Squash(to) => {
            let stored = ids.to_source(to).map_or(to.raw(), SourceId::raw);
            let name = |id| with_name(id, K::name_of(accounts, id));
            (format!("shown as {}", name(to.raw())), format!("stored as {}", name(stored)))
        }
    };
    push_ranges(out, K::WORD, source_gaps, |gap| format!("source {gap} is unmapped: {shown}"));
    push_ranges(out, K::WORD, mount_gaps, |gap| format!("mount {gap} is unmapped: {stored}"));
}

/// Explains which source id is stored for a mount id that several source ids are shown as.
fn explain_collisions<K: Named>(out: &mut Facts, ids: &Translation<K>, source_gaps: &[Range]) {
    let passed: &[Range] = if matches!(ids.unmapped(), Unmapped::Pass) { source_gaps } else { &[] };
    // At each id: the number of extents, and of passed ranges, that begin there, minus those that ended before it.
    let mut steps: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
    for extent in ids.map().extents() {
        let range = mount_range(extent);
        steps.entry(range.first).or_default().0 += 1;
        steps.entry(range.last + 1).or_default().0 -= 1;
    }
    for range in passed {
        steps.entry(range.first).or_default().1 += 1;
        steps.entry(range.last + 1).or_default().1 -= 1;
    }
    let mut contested = Vec::new();
    let (mut extents, mut passes) = (0, 0);
    let mut points = steps.into_iter().peekable();
    while let Some((first, (more_extents, more_passes))) = points.next() {
        extents += more_extents;
        passes += more_passes;
        if let Some((next, _)) = points.peek()
            && extents > 0
            && extents + passes > 1
        {
            contested.push(Range { first, last: next - 1 });
        }
    }
    push_ranges(out, K::WORD, &contested, |range| {
        let winner = MountId::new(range.first).and_then(|id| ids.to_source(id));
        let winner = range.moved_to(winner.map_or(range.first, SourceId::raw));
        format!(
            "mount {range} stands for several source ids: stored as {winner}, by the first extent"
        )
    });
}
