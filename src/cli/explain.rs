//! `--explain`: a mount in words. One fact a line, each line with its subject first, so that grep finds it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::accounts::{Accounts, Named, SystemAccounts};
use crate::config::{Access, CachePolicy, Config};
use crate::idmap::{Extent, IdMap, MAX_ID, MountId, SourceId, Translation, Unmapped};

/// Names are looked up for this many extents of a kind: a look-up may go over the network.
const NAMED: usize = 32;
/// So many ranges of one sort are listed.
const LISTED: usize = 100;
/// The kernel's limits for a uid_map (user_namespaces(7)): extents, and bytes of text, which must be fewer than a page.
const KERNEL_EXTENTS: usize = 340;
const KERNEL_TEXT: usize = 4096;

/// The mount in words, with the names of the system's users and groups. `cache`: what trying the source showed of the cache
/// policy, where it was there to be tried.
#[must_use]
pub fn explain(config: &Config, cache: Option<&str>) -> String {
    explain_with(config, cache, &SystemAccounts)
}

/// As [`explain`], with another user database.
#[must_use]
pub fn explain_with(config: &Config, cache: Option<&str>, accounts: &dyn Accounts) -> String {
    let mut out = Lines(String::new());
    out.push("source", config.source.display());
    out.push("mountpoint", config.mountpoint.display());
    explain_ids(&mut out, &config.view.ids.uids, accounts);
    explain_ids(&mut out, &config.view.ids.gids, accounts);
    out.push("engine", "fuse (this version has no other)");
    out.push("kernel", kernel_verdict(config));
    match cache {
        Some(found) => out.push("cache", found),
        None => out.push("cache", cache_words(config.cache)),
    }
    out.push(
        "passthrough",
        if config.data.passthrough {
            "auto: file data goes past the daemon where the kernel allows it"
        } else {
            "off: file data goes through the daemon, because passthrough=off was given"
        },
    );
    out.push(
        "access",
        match config.access {
            None => "everyone if root mounts, else only who mounts",
            Some(Access::Everyone) => "everyone",
            Some(Access::OwnerAndRoot) => "who mounts, and root",
            Some(Access::Owner) => "only who mounts",
        },
    );
    out.push("threads", config.threads);
    out.0
}

struct Lines(String);

impl Lines {
    fn push(&mut self, subject: &str, fact: impl std::fmt::Display) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{subject}: {fact}");
    }

    /// A line for each of the first ranges, and how many more there are.
    fn push_ranges(&mut self, subject: &str, ranges: &[Range], fact: impl Fn(&Range) -> String) {
        for range in ranges.iter().take(LISTED) {
            self.push(subject, fact(range));
        }
        if ranges.len() > LISTED {
            self.push(subject, format!("… and {} more such ranges", ranges.len() - LISTED));
        }
    }
}

/// Ids from a first to a last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
}

impl Range {
    fn new(first: u32, count: u32) -> Self {
        Self { first, last: first + (count - 1) }
    }

    /// As many ids, from another one on.
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

fn explain_ids<K: Named>(out: &mut Lines, ids: &Translation<K>, accounts: &dyn Accounts) {
    let map = ids.map();
    if map.is_identity() {
        out.push(K::WORD, "every source id is shown as itself");
        return;
    }
    for (number, extent) in map.extents().iter().enumerate() {
        explain_extent(out, extent, accounts, number < NAMED);
    }
    let source_gaps = gaps(map.extents().iter().map(source_range));
    let mount_gaps = gaps(map.extents().iter().map(mount_range));
    explain_gaps(out, ids, &source_gaps, &mount_gaps, accounts);
    explain_winners(out, ids, &source_gaps);
}

fn source_range<K: Named>(extent: &Extent<K>) -> Range {
    Range::new(extent.source().raw(), extent.count())
}

fn mount_range<K: Named>(extent: &Extent<K>) -> Range {
    Range::new(extent.mount().raw(), extent.count())
}

fn explain_extent<K: Named>(
    out: &mut Lines,
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

fn with_name(id: u32, name: Option<String>) -> String {
    match name {
        Some(name) => format!("{id} ({name})"),
        None => id.to_string(),
    }
}

/// The ids that no range holds.
fn gaps(ranges: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut ranges: Vec<Range> = ranges.collect();
    ranges.sort_by_key(|range| range.first);
    let mut gaps = Vec::new();
    // One past MAX_ID is still a u32.
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
    out: &mut Lines,
    ids: &Translation<K>,
    source_gaps: &[Range],
    mount_gaps: &[Range],
    accounts: &dyn Accounts,
) {
    let (shown, stored) = match ids.unmapped() {
        Unmapped::Deny => (
            "shown as the overflow id (65534), owned by nobody".to_owned(),
            "cannot be stored (EOVERFLOW)".to_owned(),
        ),
        Unmapped::Pass => ("shown as it is".to_owned(), "stored as it is".to_owned()),
        Unmapped::Squash(to) => {
            let stored = ids.to_source(to).map_or(to.raw(), SourceId::raw);
            let name = |id| with_name(id, K::name_of(accounts, id));
            (format!("shown as {}", name(to.raw())), format!("stored as {}", name(stored)))
        }
    };
    out.push_ranges(K::WORD, source_gaps, |gap| format!("source {gap} is unmapped: {shown}"));
    out.push_ranges(K::WORD, mount_gaps, |gap| format!("mount {gap} is unmapped: {stored}"));
}

/// Where one mount id stands for several source ids: which of them the way back leads to.
fn explain_winners<K: Named>(out: &mut Lines, ids: &Translation<K>, source_gaps: &[Range]) {
    let passed: &[Range] = if matches!(ids.unmapped(), Unmapped::Pass) { source_gaps } else { &[] };
    // How many extents, and how many passed ranges, begin less those that end at an id.
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
    out.push_ranges(K::WORD, &contested, |range| {
        let winner = MountId::new(range.first).and_then(|id| ids.to_source(id));
        let winner = range.moved_to(winner.map_or(range.first, SourceId::raw));
        format!(
            "mount {range} stands for several source ids: stored as {winner}, whose extent is the first"
        )
    });
}

/// Whether the kernel's own idmapped mounts could do the same, and if not why not.
fn kernel_verdict(config: &Config) -> String {
    let (uids, gids) = (&config.view.ids.uids, &config.view.ids.gids);
    if uids.map().is_identity() && gids.map().is_identity() {
        return "nothing is mapped: an ordinary bind mount shows the same".to_owned();
    }
    let mut obstacles = Vec::new();
    kernel_obstacles(uids, &mut obstacles);
    kernel_obstacles(gids, &mut obstacles);
    if obstacles.is_empty() {
        "an idmapped mount of the kernel could express this map".to_owned()
    } else {
        format!(
            "an idmapped mount of the kernel could not express this map: {}",
            obstacles.join("; ")
        )
    }
}

fn kernel_obstacles<K: Named>(ids: &Translation<K>, obstacles: &mut Vec<String>) {
    let (map, word): (&IdMap<K>, _) = (ids.map(), K::WORD);
    if !map.is_one_to_one() {
        obstacles.push(format!("several {word}s are shown as one"));
    }
    let count = map.extents().len();
    if count > KERNEL_EXTENTS {
        obstacles.push(format!("{count} {word} extents are more than {KERNEL_EXTENTS}"));
    }
    // Each extent is a line of as many bytes as it has here.
    let text: usize = map.extents().iter().map(|extent| extent.to_string().len() + 1).sum();
    if text >= KERNEL_TEXT {
        obstacles.push(format!("its {word}_map of {text} bytes would not be below {KERNEL_TEXT}"));
    }
    if !map.is_identity() && ids.unmapped() != Unmapped::Deny {
        obstacles.push(format!("unmapped {word}s are not denied"));
    }
}

fn cache_words(cache: CachePolicy) -> String {
    match cache {
        CachePolicy::Coherent { required: true } => {
            "coherent: what others change on the source is watched for, because cache=coherent was given"
                .to_owned()
        }
        CachePolicy::Coherent { required: false } => {
            "coherent: what others change on the source is watched for, where root mounts and the source's \
             filesystem can be watched; else timeout: everything 1s"
                .to_owned()
        }
        CachePolicy::Timeouts { entry, negative, attr } => format!(
            "timeout: names {}, missing names {}, attributes {}, because others may change the \
             source meanwhile",
            seconds(entry),
            seconds(negative),
            seconds(attr)
        ),
        CachePolicy::None => {
            "none: the source is asked every time, because cache=none was given".to_owned()
        }
        CachePolicy::Forever => {
            "forever: nobody else changes the source, because cache=forever was given".to_owned()
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Command, parse_with};
    use super::*;
    use crate::accounts::FewAccounts;

    fn explained(args: &str) -> Vec<String> {
        let argv =
            ["shiftbind", "/src", "/mnt", "--explain"].into_iter().chain(args.split_whitespace());
        match parse_with(argv.map(OsString::from), &FewAccounts) {
            Ok(Command::Explain(config)) => {
                explain_with(&config, None, &FewAccounts).lines().map(str::to_owned).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn of<'a>(lines: &'a [String], subject: &str) -> Vec<&'a str> {
        lines.iter().filter_map(|line| line.strip_prefix(subject)?.strip_prefix(": ")).collect()
    }

    #[test]
    fn a_container_map_is_told_with_its_gaps() {
        let lines = explained("--idmap=0:100000:65536");
        assert_eq!(
            of(&lines, "uid"),
            [
                "source 0..65535 is shown as 100000..165535",
                "source 0 (root) is shown as 100000",
                "source 65536..4294967294 is unmapped: shown as the overflow id (65534), owned by nobody",
                "mount 0..99999 is unmapped: cannot be stored (EOVERFLOW)",
                "mount 165536..4294967294 is unmapped: cannot be stored (EOVERFLOW)",
            ]
        );
        assert_eq!(of(&lines, "gid").len(), 5);
        assert_eq!(
            of(&lines, "kernel"),
            ["an idmapped mount of the kernel could express this map"]
        );
    }

    #[test]
    fn single_ids_have_their_names() {
        let lines = explained("--uidmap=1000:101000:1:5:bob:1 --gidmap=identity");
        assert_eq!(of(&lines, "uid")[0], "source 1000 (alice) is shown as 101000");
        assert_eq!(of(&lines, "uid")[1], "source 5 is shown as 2000 (bob)");
        assert_eq!(of(&lines, "gid"), ["every source id is shown as itself"]);
    }

    #[test]
    fn of_several_source_ids_the_winner_is_told() {
        let lines = explained("--uidmap=500:15:1:0:10:10 --gidmap=identity");
        let expected =
            "mount 15 stands for several source ids: stored as 500, whose extent is the first";
        assert!(of(&lines, "uid").contains(&expected), "{lines:?}");
        assert!(of(&lines, "kernel")[0].ends_with("several uids are shown as one"));
    }

    #[test]
    fn passed_ids_that_an_extent_shows_as_well_are_told() {
        let lines = explained("--uidmap=0:100:10 --gidmap=identity --unmapped=pass");
        let uid = of(&lines, "uid");
        assert!(uid.contains(&"source 10..4294967294 is unmapped: shown as it is"));
        assert!(uid.contains(&"mount 0..99 is unmapped: stored as it is"));
        assert!(uid.contains(
            &"mount 100..109 stands for several source ids: stored as 0..9, whose extent is the first"
        ));
        assert!(of(&lines, "kernel")[0].ends_with(": unmapped uids are not denied"));
    }

    #[test]
    fn squashed_ids_are_told_both_ways() {
        let lines = explained("--idmap=0:1000:10 --unmapped=squash=alice:users");
        assert!(
            of(&lines, "uid").contains(&"source 10..4294967294 is unmapped: shown as 1000 (alice)")
        );
        assert!(of(&lines, "uid").contains(&"mount 0..999 is unmapped: stored as 0 (root)"));
        assert!(of(&lines, "gid").contains(&"mount 0..999 is unmapped: stored as 100 (users)"));
    }

    #[test]
    fn the_kernels_limits_are_known() {
        let many = |count: u32, step: u32| {
            let extents: Vec<String> =
                (0..count).map(|i| format!("{}:{}:1", i * step, i * step)).collect();
            let lines = explained(&format!("--uidmap={} --gidmap=identity", extents.join(":")));
            of(&lines, "kernel")[0].to_owned()
        };
        assert!(many(340, 2).contains("could express"));
        assert!(many(341, 2).ends_with("341 uid extents are more than 340"));
        assert!(many(300, 1_000_000).contains("bytes would not be below 4096"));
    }

    #[test]
    fn without_a_map_there_is_nothing_to_map() {
        let lines = explained("");
        assert_eq!(of(&lines, "uid"), ["every source id is shown as itself"]);
        assert!(of(&lines, "kernel")[0].contains("ordinary bind mount"));
        assert!(of(&lines, "cache")[0].starts_with("coherent: "));
    }

    #[test]
    fn the_cache_is_told_in_seconds() {
        let lines = explained("--cache=timeout=2m -o negative_timeout=0,attr_timeout=1.5");
        let expected = "timeout: names 120s, missing names 0s, attributes 1.5s, because";
        assert!(of(&lines, "cache")[0].starts_with(expected), "{lines:?}");
        assert!(of(&explained("--cache=none"), "cache")[0].starts_with("none: "));
    }

    #[test]
    fn long_lists_of_gaps_are_cut_short() {
        let extents: Vec<String> = (0..10_000).map(|i| format!("{}:{}:1", i * 2, i * 2)).collect();
        let lines = explained(&format!("--uidmap={} --gidmap=identity", extents.join(";")));
        let uid = of(&lines, "uid");
        assert_eq!(uid.len(), 10_000 + 2 * (LISTED + 1));
        assert_eq!(uid[10_000 + LISTED], "… and 9900 more such ranges");
    }
}
