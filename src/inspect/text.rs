//! The output of `list` and `stat` for people: columns of words without blanks, and a fact a line.

use std::ffi::OsStr;

use serde_json::Value;

use super::latency::time;
use crate::describe::escaped;
use crate::error::one_line;

/// At most this many extents are listed in a line of the table.
const MAX_EXTENTS: usize = 4;

/// The widest column, in characters: a longer cell shifts the rest of its line only. The formatter takes 65,535 at most.
const MAX_WIDTH: usize = 60;

/// A longer cell is cut, in characters.
const MAX_CELL: usize = 1000;

/// One line a mount, below a line of headings. Without mounts: nothing.
pub(super) fn table(mounts: &[Value]) -> String {
    if mounts.is_empty() {
        return String::new();
    }
    let headings = ["MOUNTPOINT", "SOURCE", "ENGINE", "MAP", "UPTIME", "PID"].map(str::to_owned);
    let rows: Vec<[String; 6]> =
        std::iter::once(headings).chain(mounts.iter().map(|mount| row(mount).map(cut))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> =
        (0..6).map(|column| width(column).unwrap_or(0).min(MAX_WIDTH)).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn cut(cell: String) -> String {
    match cell.char_indices().nth(MAX_CELL) {
        Some((at, _)) => format!("{}…", &cell[..at]),
        None => cell,
    }
}

fn row(mount: &Value) -> [String; 6] {
    [
        match mount["namespace"]["value"].as_str() {
            Some(namespace) => {
                format!("{}:{}", escaped(OsStr::new(namespace)), name(mount, "mountpoint"))
            }
            None => name(mount, "mountpoint"),
        },
        name(mount, "source"),
        word(&mount["engine"]),
        map(&mount["map"]),
        mount["uptime_seconds"].as_u64().map_or_else(|| "-".to_owned(), duration),
        match mount["state"].as_str() {
            Some("serving") => word(&mount["daemon"]["pid"]),
            Some("mounted") => "-".to_owned(),
            Some(state) => escaped(OsStr::new(state)),
            None => "-".to_owned(),
        },
    ]
}

pub(super) fn name(told: &Value, key: &str) -> String {
    match told[format!("{key}_escaped")].as_str() {
        Some(name) => one_line(name),
        None => word(&told[key]),
    }
}

/// A value as a word without blanks. `-` for what is not known.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => escaped(OsStr::new(text)),
        other => escaped(OsStr::new(&other.to_string())),
    }
}

/// A map in the format of `--idmap`, and the policy for unmapped ids unless it is `deny`.
fn map(told: &Value) -> String {
    let (uids, gids) = (&told["uids"], &told["gids"]);
    if uids.is_null() || gids.is_null() {
        return "-".to_owned();
    }
    match uids == gids {
        true => one_map(uids),
        false => format!("u:{};g:{}", one_map(uids), one_map(gids)),
    }
}

fn one_map(told: &Value) -> String {
    let policy = match told["unmapped"].as_str() {
        Some("squash") => format!(",squash={}", word(&told["squash"])),
        Some("pass") => ",pass".to_owned(),
        _ => String::new(),
    };
    let Some(extents) = told["extents"].as_array().filter(|extents| !extents.is_empty()) else {
        return "identity".to_owned();
    };
    let text = |extent: &Value| [0, 1, 2].map(|at| word(&extent[at])).join(":");
    let mut texts: Vec<String> = extents.iter().take(MAX_EXTENTS).map(text).collect();
    if extents.len() > MAX_EXTENTS {
        texts.push("…".to_owned());
    }
    texts.join(":") + &policy
}

/// `3d04h`, `2h05m`, `7m09s` or `12s`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// One fact a line, each begins with its subject.
pub(super) fn facts(mount: &Value) -> String {
    let mut out = String::new();
    let mut push = |subject: &str, fact: String| {
        out.push_str(&format!("{subject}: {}\n", one_line(&fact)));
    };
    push("mountpoint", name(mount, "mountpoint"));
    if let Some(namespace) = mount["namespace"]["value"].as_str() {
        push("namespace", namespace.to_owned());
    }
    push("source", name(mount, "source"));
    for key in ["engine", "state", "reason", "fstype", "mounted_by", "cache"] {
        if !mount[key].is_null() {
            push(key, plain(&mount[key]));
        }
    }
    push("mount options", list(&mount["mount_options"], ","));
    push("options", list(&mount["options"], " "));
    push("map", map(&mount["map"]));
    if let Some(seconds) = mount["uptime_seconds"].as_u64() {
        push("uptime", duration(seconds));
    }
    if let Value::Object(daemon) = &mount["daemon"] {
        for (key, value) in daemon.iter().filter(|(_, value)| !value.is_null()) {
            push(&format!("daemon {}", one_line(key)), plain(value));
        }
    }
    if !mount["inodes"].is_null() {
        push("inodes", plain(&mount["inodes"]));
    }
    if let Value::Object(reloads) = &mount["reloads"] {
        push(
            "reloads",
            format!("{} begun, {} ended", plain(&reloads["begun"]), plain(&reloads["ended"])),
        );
        if !reloads["refused"].is_null() {
            push("last reload refused", plain(&reloads["refused"]));
        }
    }
    if let Value::Object(requests) = &mount["requests"] {
        for (kind, counts) in requests {
            let (count, errors) = (plain(&counts["count"]), plain(&counts["errors"]));
            push(&format!("requests {}", one_line(kind)), format!("{count}, errors {errors}"));
            let percentile = |key: &str| counts["latency"][key].as_u64();
            if let (Some(p50), Some(p99)) = (percentile("p50_ns"), percentile("p99_ns")) {
                let times = format!("p50 {}, p99 {}", time(p50), time(p99));
                push(&format!("latency {}", one_line(kind)), times);
            }
        }
    }
    for key in ["data", "open", "backing_files", "invalidations", "caches"] {
        for (part, count) in mount[key].as_object().into_iter().flatten() {
            let subject =
                format!("{} {}", key.replace('_', " "), one_line(&part.replace('_', " ")));
            push(&subject, numbers(count));
        }
    }
    out
}

/// A number, or several with their names.
fn numbers(value: &Value) -> String {
    let Value::Object(members) = value else { return plain(value) };
    let parts = members.iter().map(|(key, value)| format!("{key} {}", plain(value)));
    parts.collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value, between: &str) -> String {
    let items = value.as_array().map(|items| items.iter().map(plain).collect::<Vec<_>>());
    items
        .filter(|items| !items.is_empty())
        .map_or_else(|| "-".to_owned(), |items| items.join(between))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_mount_with_words_that_have_no_blanks() {
        let same = json!({"extents": [[0, 100000, 65536]], "unmapped": "deny"});
        let squashed = json!({"extents": [], "unmapped": "squash", "squash": 5});
        let text = table(&[
            json!({"mountpoint": "/m \u{1b}", "source": "/s", "engine": "fuse", "state": "serving",
                "map": {"uids": same, "gids": same}, "uptime_seconds": 3661, "daemon": {"pid": 7}}),
            json!({"mountpoint": "/n\u{fffd}", "mountpoint_escaped": "/n\\377", "engine": "fuse", "state": "dead",
                "map": {"uids": same, "gids": squashed}}),
        ]);
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words,
            [
                vec!["MOUNTPOINT", "SOURCE", "ENGINE", "MAP", "UPTIME", "PID"],
                vec!["/m\\040\\033", "/s", "fuse", "0:100000:65536", "1h01m", "7"],
                vec!["/n\\377", "-", "fuse", "u:0:100000:65536;g:identity", "-", "dead"],
            ]
        );
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn a_long_cell_widens_its_column_to_a_limit_and_is_cut() {
        let long = json!({"mountpoint": "/m", "source": "ü".repeat(70_000), "engine": "fuse"});
        let text = table(&[long, json!({"mountpoint": "/n", "source": "/s"})]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains(&format!("/m          {}…  fuse", "ü".repeat(MAX_CELL))),
            "{text}"
        );
        assert_eq!(lines[2], format!("/n          {:60}  -       -    -       -", "/s"));
    }

    #[test]
    fn an_answer_of_any_shape_is_printed() {
        for value in [
            json!(null),
            json!([]),
            json!({"daemon": 5, "requests": {"a\nb": 1}, "map": {"uids": 1, "gids": []}}),
        ] {
            assert!(facts(&value).lines().all(|line| line.contains(": ")), "{value}");
            table(&[value]);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [(12, "12s"), (429, "7m09s"), (7500, "2h05m"), (273600, "3d04h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
