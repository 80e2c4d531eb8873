//! What is taken from a daemon's report: the documented members, where they have their documented types.
//!
//! A daemon of another user may answer anything, and programs read the JSON.

use serde_json::{Map, Value};

use super::latency::Buckets;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    List,
    Stat,
}

/// A member, with what prints it and the check of its value.
type Member = (&'static str, Detail, fn(&Value) -> bool);

const MEMBERS: [Member; 16] = [
    ("source", Detail::List, Value::is_string),
    ("source_escaped", Detail::List, Value::is_string),
    ("options", Detail::List, |value| are_all(value, Value::is_string)),
    ("map", Detail::List, |value| is_map_of_ids(&value["uids"]) && is_map_of_ids(&value["gids"])),
    ("mounted_at", Detail::List, Value::is_u64),
    ("uptime_seconds", Detail::List, Value::is_u64),
    ("daemon", Detail::List, |value| are_members(value, is_number_or_null)),
    ("cache", Detail::Stat, Value::is_string),
    ("inodes", Detail::Stat, Value::is_u64),
    ("reloads", Detail::Stat, |value| {
        let refused = &value["refused"];
        value["begun"].is_u64()
            && value["ended"].is_u64()
            && (refused.is_null() || refused.is_string())
    }),
    ("requests", Detail::Stat, |value| are_members(value, are_counts_of_requests)),
    ("data", Detail::Stat, |value| are_members(value, Value::is_u64)),
    ("open", Detail::Stat, |value| are_members(value, Value::is_u64)),
    ("backing_files", Detail::Stat, |value| are_members(value, Value::is_u64)),
    ("invalidations", Detail::Stat, |value| {
        are_members(value, |counts| are_members(counts, Value::is_u64))
    }),
    ("caches", Detail::Stat, |value| {
        are_members(value, |counts| are_members(counts, Value::is_u64))
    }),
];

/// The members of a report that are told. None where it is no object.
pub(super) fn accepted(report: Value, detail: Detail) -> Map<String, Value> {
    let Value::Object(mut report) = report else { return Map::new() };
    MEMBERS
        .iter()
        .filter(|(_, of, _)| detail == Detail::Stat || *of == Detail::List)
        .filter_map(|(key, _, is_right)| Some((*key, report.remove(*key).filter(is_right)?)))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn are_all(value: &Value, is_right: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(is_right))
}

fn are_members(value: &Value, is_right: impl Fn(&Value) -> bool) -> bool {
    value.as_object().is_some_and(|members| members.values().all(is_right))
}

/// Whether these are `count` and `errors`, and `latency` where there is one.
fn are_counts_of_requests(value: &Value) -> bool {
    let is_right = |(key, value): (&String, &Value)| match key.as_str() {
        "count" | "errors" => value.is_u64(),
        "latency" => {
            let keys = value.as_object().map_or(0, Map::len);
            keys == 2 && value["sum_ns"].is_u64() && Buckets::of(value).is_some()
        }
        _ => false,
    };
    value["count"].is_u64() && value.as_object().is_some_and(|counts| counts.iter().all(is_right))
}

fn is_number_or_null(value: &Value) -> bool {
    value.is_null() || value.is_u64()
}

fn is_map_of_ids(value: &Value) -> bool {
    let is_extent = |extent: &Value| {
        are_all(extent, Value::is_u64) && extent.as_array().is_some_and(|extent| extent.len() == 3)
    };
    value["identity"].is_boolean()
        && are_all(&value["extents"], is_extent)
        && matches!(value["unmapped"].as_str(), Some("deny" | "pass" | "squash"))
        && is_number_or_null(&value["squash"])
        && is_number_or_null(&value["root_as"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_of_another_type_and_unknown_ones_are_dropped() {
        let ids = json!({"identity": true, "extents": [], "unmapped": "deny", "squash": null});
        let right = json!({
            "source": "/s", "options": ["ro"], "map": {"uids": ids, "gids": ids}, "uptime_seconds": 5,
            "daemon": {"pid": 7, "descriptors": null}, "requests": {"LOOKUP": {"count": 1, "errors": 0}},
            "reloads": {"begun": 1, "ended": 1, "refused": "no"}, "inodes": 3, "cache": "none",
            "data": {"read_bytes": 1}, "open": {"files": 1}, "backing_files": {"idle": 0},
            "invalidations": {"INC_EPOCH": {"sent": 1}}, "caches": {"listings": {"hits": 1}},
        });
        assert_eq!(Value::Object(accepted(right.clone(), Detail::Stat)), right);
        let listed = accepted(right, Detail::List);
        assert!(!listed.contains_key("cache") && listed.contains_key("daemon"), "{listed:?}");
        let wrong = json!({
            "source": {"a": 1}, "options": "no", "map": [], "uptime_seconds": -1, "daemon": "x",
            "requests": {"LOOKUP": [1]}, "reloads": {"begun": 1}, "inodes": "3", "cache": 1, "other": 1,
            "mounted_at": null, "state": "serving",
        });
        assert_eq!(accepted(wrong, Detail::Stat), Map::new());
        for value in [json!(null), json!([[], []]), json!(5)] {
            assert_eq!(accepted(value, Detail::Stat), Map::new());
        }
    }

    #[test]
    fn latencies_are_buckets_of_numbers() {
        let latency = json!({"sum_ns": 5, "buckets": [[1000, 1], [null, 2]]});
        assert!(are_counts_of_requests(&json!({"count": 3, "errors": 0, "latency": latency})));
        for wrong in [
            json!({"sum_ns": 5, "buckets": [[1000, "1"]]}),
            json!({"sum_ns": 5, "buckets": [], "p50_ns": 1}),
            json!({"buckets": []}),
            json!(7),
        ] {
            let counts = json!({"count": 3, "errors": 0, "latency": wrong});
            assert!(!are_counts_of_requests(&counts), "{counts}");
        }
        assert!(!are_counts_of_requests(&json!({"count": 1, "other": 1})));
    }

    #[test]
    fn a_map_of_ids_is_of_numbers() {
        let ids =
            |extents: Value| json!({"identity": false, "extents": extents, "unmapped": "deny"});
        assert!(is_map_of_ids(&ids(json!([[0, 1, 2]]))));
        for extents in [json!([[0, 1]]), json!([[0, 1, "2"]]), json!({}), json!([[0, -1, 2]])] {
            assert!(!is_map_of_ids(&ids(extents.clone())), "{extents}");
        }
    }
}
