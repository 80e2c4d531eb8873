//! A strict parser of the text exposition format of Prometheus: what promtool would refuse is refused, and so is what would
//! make two time series of one.

use std::collections::{BTreeMap, HashSet};

/// A sample: its labels and its value.
pub(crate) type Sample = (BTreeMap<String, String>, f64);

/// The samples of a metric by their names: `NAME`, or `NAME_bucket` and its kin of a histogram.
pub(crate) type Samples = BTreeMap<String, Vec<Sample>>;

/// Parses a text, which must keep every rule of the format.
pub(crate) fn parse(text: &str) -> Samples {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    let mut samples = Samples::new();
    let mut families: HashSet<String> = HashSet::new();
    let mut current: Option<(String, String)> = None;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(is_name(name) && !help.is_empty() && help.is_ascii(), "{line}");
            assert!(families.insert(name.to_owned()), "{name} twice");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")));
            let kind = kind.unwrap_or_else(|| panic!("no type after {line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}: {kind}");
            current = Some((name.to_owned(), kind.to_owned()));
            assert!(lines.peek().is_some_and(|line| line.starts_with(name)), "{name}: no sample");
            continue;
        }
        let (family, kind) = current.as_ref().unwrap_or_else(|| panic!("no type before {line}"));
        let (name, sample) = parse_sample(line);
        let suffix =
            name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{name} in {family}"));
        let suffixes: &[&str] =
            if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{name} in {family}");
        assert!(kind == "gauge" || sample.1 >= 0.0, "{line}");
        let others = samples.entry(name).or_default();
        assert!(others.iter().all(|(labels, _)| *labels != sample.0), "twice: {line}");
        others.push(sample);
    }
    check_histograms(&samples);
    samples
}

fn is_name(name: &str) -> bool {
    let is_right = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_right) && name.starts_with(|c: char| !c.is_ascii_digit())
}

fn parse_sample(line: &str) -> (String, Sample) {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    loop {
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(key), "{line}");
        let (value, after) = parse_value(after, line);
        assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                rest = after.strip_prefix("} ").unwrap_or_else(|| panic!("{line}"));
                break;
            }
        }
    }
    let value = rest.parse().unwrap_or_else(|_| panic!("{line}"));
    (name.to_owned(), (labels, value))
}

/// The value of a label up to its quote, and what follows that.
fn parse_value<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                _ => panic!("an escape that the format lacks: {line}"),
            }),
            c => {
                assert!(!c.is_control(), "{line:?}");
                value.push(c);
            }
        }
    }
    panic!("no end of a label: {line}");
}

/// Each histogram has ascending bounds and counts, a bucket for all, which is its count, and a sum.
fn check_histograms(samples: &Samples) {
    for (name, buckets) in samples {
        let Some(family) = name.strip_suffix("_bucket") else { continue };
        let mut of: BTreeMap<Vec<_>, Vec<(f64, f64)>> = BTreeMap::new();
        for (labels, count) in buckets {
            let mut labels = labels.clone();
            let bound = labels.remove("le").expect("a bucket has a bound");
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect(&bound) };
            of.entry(labels.into_iter().collect()).or_default().push((bound, *count));
        }
        for (labels, buckets) in of {
            let is_ascending =
                buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
            assert!(is_ascending, "{family} {labels:?}: {buckets:?}");
            let (bound, count) = buckets[buckets.len() - 1];
            assert_eq!(bound, f64::INFINITY, "{family} {labels:?}");
            let labels = labels.into_iter().collect();
            assert_eq!(value_of(samples, &format!("{family}_count"), &labels), count);
            value_of(samples, &format!("{family}_sum"), &labels);
        }
    }
}

fn value_of(samples: &Samples, name: &str, labels: &BTreeMap<String, String>) -> f64 {
    let found = samples[name].iter().find(|(these, _)| these == labels);
    found.unwrap_or_else(|| panic!("no {name} {labels:?}")).1
}

/// The value of the sample with these labels, among others.
pub(crate) fn value(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |these: &BTreeMap<String, String>| {
        labels.iter().all(|(key, value)| these.get(*key).is_some_and(|one| one == value))
    };
    let mut found = samples.get(name).into_iter().flatten().filter(|(these, _)| fits(these));
    let (one, other) = (found.next(), found.next());
    assert!(other.is_none(), "several {name} {labels:?}");
    one.unwrap_or_else(|| panic!("no {name} {labels:?}")).1
}

#[test]
fn what_breaks_the_format_is_refused() {
    let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{m=\"/\\\\x\\\"\\n\"} 1\n";
    assert_eq!(parse(text)["a_total"][0].0["m"], "/\\x\"\n");
    for (from, to) in [
        ("counter", "gauge"),
        ("\\n", "\\t"),
        ("} 1", "}1"),
        ("} 1\n", "} 1"),
        ("} 1\n", "} -1\n"),
        ("# TYPE", "# TIPE"),
        ("a_total{", "b_total{"),
        ("m=\"", "m-=\""),
        ("{m=\"/", "{m=\"/\u{1b}"),
        ("} 1\n", "} 1\na_total{m=\"/\\\\x\\\"\\n\"} 1\n"),
    ] {
        let wrong = text.replacen(from, to, 1);
        assert!(std::panic::catch_unwind(|| parse(&wrong)).is_err(), "{wrong}");
    }
}
