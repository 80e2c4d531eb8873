//! The text exposition format of Prometheus: `shiftbind stat --prometheus`. doc/LIST.md describes each metric.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::Value;

use super::latency::Buckets;

/// The bounds of the histogram's buckets in microseconds: powers of 4, up to 67 s. Each is a bound of the report's buckets.
const BOUNDS: [u64; 14] = {
    let mut bounds = [1; 14];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = 4 * bounds[at - 1];
        at += 1;
    }
    bounds
};

/// One line: what follows the name of the metric, labels beside the mount point, the value.
struct Sample {
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: String,
}

impl Sample {
    fn new(value: impl ToString) -> Self {
        Self { suffix: "", labels: Vec::new(), value: value.to_string() }
    }

    fn label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((name, value.into()));
        self
    }

    fn suffix(self, suffix: &'static str) -> Self {
        Self { suffix, ..self }
    }
}

/// A metric: name, type, help, and what it is of a mount.
type Metric = (&'static str, &'static str, &'static str, fn(&Value) -> Vec<Sample>);

const METRICS: &[Metric] = &[
    ("shiftbind_mount_info", "gauge", "A mount of shiftbind; always 1.", info),
    (
        "shiftbind_up",
        "gauge",
        "Whether the mount works: the daemon answers, or the kernel serves it.",
        up,
    ),
    (
        "shiftbind_mount_time_seconds",
        "gauge",
        "When it was mounted, in seconds since 1970.",
        |told| number(&told["mounted_at"]),
    ),
    ("shiftbind_requests_total", "counter", "FUSE requests by kind.", |told| {
        by_kind(&told["requests"], "count")
    }),
    (
        "shiftbind_request_errors_total",
        "counter",
        "FUSE requests answered with an errno.",
        |told| by_kind(&told["requests"], "errors"),
    ),
    (
        "shiftbind_request_duration_seconds",
        "histogram",
        "Time from the daemon's reading of a request to its answer.",
        |told| members(&told["requests"]).flat_map(|(kind, one)| histogram(kind, one)).collect(),
    ),
    (
        "shiftbind_read_bytes_total",
        "counter",
        "Bytes that the daemon has read for clients.",
        |told| number(&told["data"]["read_bytes"]),
    ),
    (
        "shiftbind_written_bytes_total",
        "counter",
        "Bytes that the daemon has written for clients.",
        |told| number(&told["data"]["written_bytes"]),
    ),
    ("shiftbind_inodes", "gauge", "Inodes that the kernel knows.", |told| number(&told["inodes"])),
    ("shiftbind_open_files", "gauge", "Files that clients have open.", |told| {
        number(&told["open"]["files"])
    }),
    ("shiftbind_open_directories", "gauge", "Directories that clients have open.", |told| {
        number(&told["open"]["directories"])
    }),
    ("shiftbind_backing_files", "gauge", "Files registered for passthrough.", |told| {
        labelled(&told["backing_files"], "state", |count| count)
    }),
    (
        "shiftbind_invalidations_total",
        "counter",
        "Notifications sent to the kernel's caches.",
        |told| labelled(&told["invalidations"], "kind", |one| &one["sent"]),
    ),
    (
        "shiftbind_cache_hits_total",
        "counter",
        "Times that a cache of the daemon was of use.",
        |told| labelled(&told["caches"], "cache", |one| &one["hits"]),
    ),
    (
        "shiftbind_cache_misses_total",
        "counter",
        "Times that a cache of the daemon was of no use.",
        |told| labelled(&told["caches"], "cache", |one| &one["misses"]),
    ),
    ("shiftbind_descriptors", "gauge", "Descriptors that the daemon has open.", |told| {
        number(&told["daemon"]["descriptors"])
    }),
    ("shiftbind_resident_bytes", "gauge", "Memory of the daemon that is resident.", |told| {
        let kib = told["daemon"]["resident_kib"].as_u64();
        kib.map(|kib| Sample::new(kib.saturating_mul(1024))).into_iter().collect()
    }),
    ("shiftbind_reloads_total", "counter", "Reloads that have ended.", |told| {
        number(&told["reloads"]["ended"])
    }),
];

/// The metrics of these mounts. Of several mounts at one mount point of a namespace the last one counts, which covers the
/// others.
pub(super) fn exposition(mounts: &[Value]) -> String {
    let is_covered =
        |at: usize| mounts[at + 1..].iter().any(|later| place(later) == place(&mounts[at]));
    let mounts: Vec<&Value> =
        (0..mounts.len()).filter(|at| !is_covered(*at)).map(|at| &mounts[at]).collect();
    let mut out = String::new();
    for (name, kind, help, samples) in METRICS {
        let samples = mounts.iter().map(|mount| (place(mount), samples(mount)));
        let samples: Vec<_> = samples.filter(|(_, samples)| !samples.is_empty()).collect();
        if samples.is_empty() {
            continue;
        }
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        // A daemon of another user may tell names that come out alike, and Prometheus refuses all if a sample stands twice.
        let mut written = HashSet::new();
        for ((mountpoint, namespace), samples) in samples {
            for Sample { suffix, labels, value } in samples {
                let mut sample = format!("{name}{suffix}{{mountpoint=\"{}\"", label(&mountpoint));
                if let Some(inode) = namespace {
                    let _ = write!(sample, ",namespace=\"{inode}\"");
                }
                for (key, text) in labels.iter().filter(|(_, text)| !text.is_empty()) {
                    let _ = write!(sample, ",{key}=\"{}\"", label(text));
                }
                if !written.contains(&sample) {
                    let _ = writeln!(out, "{sample}}} {value}");
                    written.insert(sample);
                }
            }
        }
    }
    out
}

/// A label's value: backslashes, quotes and line feeds as the format has them, other control characters as a backslash and
/// three octal digits, since a terminal would interpret them.
fn label(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(out, "\\\\{byte:03o}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// The mount point, and the inode number of its mount namespace if that is another one than this process's.
fn place(told: &Value) -> (String, Option<u64>) {
    (name(told, "mountpoint"), told["namespace"]["inode"].as_u64())
}

/// A name, in octal where it is not UTF-8. A backslash is always in octal, so that no two names come out alike.
fn name(told: &Value, key: &str) -> String {
    match told[format!("{key}_escaped")].as_str() {
        Some(escaped) => escaped.to_owned(),
        None => told[key].as_str().unwrap_or_default().replace('\\', "\\134"),
    }
}

fn info(told: &Value) -> Vec<Sample> {
    let word = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    let info = Sample::new(1).label("source", name(told, "source")).label("engine", word("engine"));
    vec![info.label("fstype", word("fstype")).label("cache", word("cache"))]
}

fn up(told: &Value) -> Vec<Sample> {
    vec![Sample::new(u8::from(matches!(told["state"].as_str(), Some("serving" | "mounted"))))]
}

fn number(value: &Value) -> Vec<Sample> {
    value.as_u64().map(Sample::new).into_iter().collect()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn labelled<'a>(
    value: &'a Value,
    label: &'static str,
    count: impl Fn(&'a Value) -> &'a Value,
) -> Vec<Sample> {
    let sample = |(key, one): (&String, &'a Value)| {
        Some(Sample::new(count(one).as_u64()?).label(label, key.clone()))
    };
    members(value).filter_map(sample).collect()
}

fn by_kind(requests: &Value, key: &str) -> Vec<Sample> {
    labelled(requests, "kind", |one| &one[key])
}

fn histogram(kind: &str, one: &Value) -> Vec<Sample> {
    let Some(buckets) = Buckets::of(&one["latency"]) else { return Vec::new() };
    let sample = |suffix, value: String| Sample::new(value).suffix(suffix).label("kind", kind);
    let bucket =
        |bound: String, count: u64| sample("_bucket", count.to_string()).label("le", bound);
    let seconds = |nanoseconds: u64| (nanoseconds as f64 / 1e9).to_string();
    let bounds = BOUNDS.iter().map(|bound| 1000 * bound);
    let mut samples: Vec<Sample> =
        bounds.map(|bound| bucket(seconds(bound), buckets.count_up_to(bound))).collect();
    samples.push(bucket("+Inf".to_owned(), buckets.count()));
    let sum = one["latency"]["sum_ns"].as_u64().unwrap_or(0);
    samples.push(sample("_sum", seconds(sum)));
    samples.push(sample("_count", buckets.count().to_string()));
    samples
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_escaped_as_the_format_has_it_and_for_terminals() {
        assert_eq!(label("a\\b\"c\nd é"), "a\\\\b\\\"c\\nd é");
        assert_eq!(label("\u{1b}[2J\u{85}"), "\\\\033[2J\\\\302\\\\205");
    }

    #[test]
    fn no_two_names_come_out_alike_and_no_sample_twice() {
        let named = |name: &str| json!({ "mountpoint": name, "state": "silent" });
        let text = exposition(&[named("e\\033x"), named("e\u{1b}x"), named("l\nf")]);
        for label in ["e\\\\134033x", "e\\\\033x", "l\\nf"] {
            let sample = format!("shiftbind_up{{mountpoint=\"{label}\"}} 0\n");
            assert_eq!(text.matches(&sample).count(), 1, "{sample}: {text}");
        }
        let two_kinds = json!({ "A\u{1b}": { "count": 1 }, "A\\033": { "count": 2 } });
        let text = exposition(&[json!({ "mountpoint": "/m", "requests": two_kinds })]);
        assert_eq!(text.matches("shiftbind_requests_total{").count(), 1, "{text}");
        assert!(text.contains("shiftbind_mount_info{mountpoint=\"/m\"} 1\n"), "{text}");
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let latency =
            json!({ "sum_ns": 5_001_500, "buckets": [[1500, 1], [5_000_000, 2], [null, 1]] });
        let mount = json!({ "mountpoint": "/m", "requests": { "READ": { "latency": latency } } });
        let text = exposition(&[mount]);
        let line = |le: &str| {
            let start = format!(
                "shiftbind_request_duration_seconds_bucket{{mountpoint=\"/m\",kind=\"READ\",le=\"{le}\"}} "
            );
            text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
        };
        assert_eq!(
            [line("0.000001"), line("0.000004"), line("67.108864"), line("+Inf")],
            ["0", "1", "3", "4"]
        );
        assert!(text.contains("_sum{mountpoint=\"/m\",kind=\"READ\"} 0.0050015\n"), "{text}");
        assert!(text.contains("_count{mountpoint=\"/m\",kind=\"READ\"} 4\n"), "{text}");
    }

    #[test]
    fn mounts_at_one_path_of_two_namespaces_are_told_apart() {
        let inside = |inode: u64| json!({ "mountpoint": "/m", "namespace": { "inode": inode, "value": "7" } });
        let text = exposition(&[json!({ "mountpoint": "/m" }), inside(5), inside(6)]);
        for labels in ["", ",namespace=\"5\"", ",namespace=\"6\""] {
            let sample = format!("shiftbind_mount_info{{mountpoint=\"/m\"{labels}}} 1\n");
            assert_eq!(text.matches(&sample).count(), 1, "{sample}: {text}");
        }
    }

    #[test]
    fn a_covered_mount_is_left_out_and_an_answer_of_any_shape_is_taken() {
        let mount = |source: &str| json!({ "mountpoint": "/m", "source": source, "requests": 5, "data": [] });
        let text = exposition(&[mount("/one"), mount("/two"), json!(null)]);
        assert!(!text.contains("/one") && text.contains("source=\"/two\""), "{text}");
        assert_eq!(exposition(&[]), "");
    }
}
