//! One view of `shiftbind stat --watch`: what a mount is doing, with rates of the interval since the last view.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::latency::{Buckets, time};
use super::text::{duration, name, word};

/// The view of what is told now, beside what was told before.
pub(super) fn view(now: &Value, before: Option<(&Value, Duration)>) -> String {
    let mut out = String::new();
    let mut push = |line: String| {
        out.push_str(line.trim_end());
        out.push('\n');
    };
    let uptime = now["uptime_seconds"].as_u64().map_or_else(|| "-".to_owned(), duration);
    let (engine, state) = (word(&now["engine"]), word(&now["state"]));
    push(format!(
        "{} from {}: {engine}, {state}, up {uptime}",
        name(now, "mountpoint"),
        name(now, "source")
    ));
    if let Some(reason) = now["reason"].as_str() {
        push(crate::error::one_line(reason));
    }
    if !now["requests"].is_object() {
        return out;
    }
    let kib = now["daemon"]["resident_kib"].as_u64().unwrap_or(0);
    push(format!(
        "inodes {}  open files {}  directories {}  backing files {}  descriptors {}  memory {}",
        word(&now["inodes"]),
        word(&now["open"]["files"]),
        word(&now["open"]["directories"]),
        word(&now["backing_files"]["open"]),
        word(&now["daemon"]["descriptors"]),
        bytes(1024.0 * kib as f64),
    ));
    let rate = |of: &dyn Fn(&Value) -> u64| {
        before.map(|(told, interval)| {
            of(now).saturating_sub(of(told)) as f64 / interval.as_secs_f64().max(0.001)
        })
    };
    let per_second = |of: &dyn Fn(&Value) -> u64| rate(of).map_or_else(|| "-".to_owned(), number);
    let data = |key: &'static str| {
        rate(&move |told| u64_of(&told["data"][key])).map_or_else(|| "-".to_owned(), bytes)
    };
    push(format!(
        "requests/s {}  errors/s {}  read/s {}  written/s {}  invalidations/s {}",
        per_second(&|told| sum(&told["requests"], "count")),
        per_second(&|told| sum(&told["requests"], "errors")),
        data("read_bytes"),
        data("written_bytes"),
        per_second(&|told| sum(&told["invalidations"], "sent")),
    ));
    push(format!(
        "{:<16}{:>12}{:>10}{:>10}{:>10}{:>10}",
        "KIND", "TOTAL", "PER_S", "ERRORS", "P50", "P99"
    ));
    kinds(now, before).into_iter().for_each(push);
    out
}

/// A line for each kind of request, the most frequent of the interval first.
fn kinds(now: &Value, before: Option<(&Value, Duration)>) -> Vec<String> {
    let mut lines = BTreeMap::new();
    for (kind, counts) in now["requests"].as_object().into_iter().flatten() {
        let earlier = before.map(|(told, interval)| (&told["requests"][kind], interval));
        let total = u64_of(&counts["count"]);
        let new = total.saturating_sub(earlier.map_or(0, |(counts, _)| u64_of(&counts["count"])));
        let buckets = Buckets::of(&counts["latency"]).unwrap_or_default();
        let since = earlier.and_then(|(counts, _)| Buckets::of(&counts["latency"]));
        let buckets = buckets.since(&since.unwrap_or_default());
        let percentile = |percent| match buckets.count() {
            0 => "-".to_owned(),
            _ => buckets.percentile(percent).map_or_else(|| ">134s".to_owned(), time),
        };
        let per_second = earlier.map_or_else(
            || "-".to_owned(),
            |(_, interval)| number(new as f64 / interval.as_secs_f64().max(0.001)),
        );
        let line = format!(
            "{:<16}{total:>12}{per_second:>10}{:>10}{:>10}{:>10}",
            word(&Value::String(kind.clone())),
            word(&counts["errors"]),
            percentile(50),
            percentile(99),
        );
        lines.insert((u64::MAX - new, u64::MAX - total, kind.clone()), line);
    }
    lines.into_values().collect()
}

fn u64_of(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn sum(members: &Value, key: &str) -> u64 {
    let members = members.as_object().into_iter().flatten();
    members.fold(0, |sum, (_, one)| sum.saturating_add(u64_of(&one[key])))
}

fn number(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut count, mut unit) = (count, 0);
    while count >= 1024.0 && unit + 1 < UNITS.len() {
        (count, unit) = (count / 1024.0, unit + 1);
    }
    format!("{}{}", number(count), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(count: u64, read: u64) -> Value {
        let latency = json!({ "sum_ns": 1, "buckets": [[1000, count]] });
        json!({ "mountpoint": "/m", "source": "/s", "engine": "fuse", "state": "serving", "uptime_seconds": 61,
            "requests": { "READ": { "count": count, "errors": 1, "latency": latency }, "OPEN": { "count": 7, "errors": 0 } },
            "data": { "read_bytes": read }, "daemon": { "resident_kib": 2048 } })
    }

    #[test]
    fn rates_and_latencies_are_those_of_the_interval() {
        let text = view(&told(25, 4096), Some((&told(5, 0), Duration::from_secs(2))));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "/m from /s: fuse, serving, up 1m01s");
        assert!(lines[1].ends_with("memory 2.0MiB"), "{text}");
        assert!(lines[2].starts_with("requests/s 10  errors/s 0.0  read/s 2.0KiB  "), "{text}");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[4]), ["READ", "25", "10", "1", "1.00us", "1.00us"]);
        assert_eq!(words(lines[5]), ["OPEN", "7", "0.0", "0", "-", "-"]);
    }

    #[test]
    fn the_first_view_has_totals_and_no_rates() {
        let text = view(&told(25, 4096), None);
        assert!(text.contains("\nrequests/s -  errors/s -  read/s -  "), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("READ") && line.ends_with("1.00us")),
            "{text}"
        );
    }

    #[test]
    fn a_mount_that_tells_nothing_has_its_state() {
        let text = view(&json!({ "mountpoint": "/m", "state": "dead", "reason": "x\ny" }), None);
        assert_eq!(text, "/m from -: -, dead, up -\nx\\ny\n");
    }
}
