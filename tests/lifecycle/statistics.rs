//! `shiftbind stat`: counts, latencies, the live view, and the metrics for Prometheus.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::exposition::{self, value};
use crate::namespace::{Namespace, Signal, ended, signal, text, wait_until};

fn namespace() -> Namespace {
    let ns = Namespace::new();
    ns.ok(
        "mount -t tmpfs -o mode=755 run /run && mkdir k && mount -t tmpfs source a && chmod 777 a",
    );
    ns
}

fn stat(ns: &Namespace) -> Value {
    serde_json::from_str(&ns.ok("$S stat --json m")).unwrap()
}

/// How many answers the buckets of a kind of request hold.
fn answers(told: &Value, kind: &str) -> u64 {
    let buckets = told["requests"][kind]["latency"]["buckets"].as_array();
    buckets.into_iter().flatten().map(|bucket| bucket[1].as_u64().unwrap()).sum()
}

#[test]
fn latencies_and_bytes_are_those_of_the_requests() {
    let ns = namespace();
    ns.ok("$S --engine=fuse --passthrough=off --cache=none a m");
    ns.ok("head -c 70000 /dev/zero > m/f && cat m/f > /dev/null && ! cat m/absent 2>/dev/null");
    let told = stat(&ns);
    let data = &told["data"];
    assert_eq!(data["written_bytes"], 70_000, "{data}");
    assert!(data["read_bytes"].as_u64().unwrap() >= 70_000, "{data}");
    for kind in ["LOOKUP", "CREATE", "WRITE", "READ"] {
        let one = &told["requests"][kind];
        assert_eq!(answers(&told, kind), one["count"].as_u64().unwrap(), "{kind}: {one}");
        let (p50, p99) = (one["latency"]["p50_ns"].as_u64(), one["latency"]["p99_ns"].as_u64());
        assert!(0 < p50.unwrap() && p50 <= p99, "{kind}: {one}");
        let sum = one["latency"]["sum_ns"].as_u64().unwrap();
        assert!(sum > 0 && sum <= p99.unwrap() * one["count"].as_u64().unwrap() * 1000, "{one}");
    }
    // FORGET has no answer.
    assert_eq!(told["requests"]["FORGET"]["latency"], Value::Null);
    let facts = ns.ok("$S stat m");
    for line in ["\nlatency WRITE: p50 ", "\ndata written bytes: 70000\n", "\nopen files: 0\n"] {
        assert!(facts.contains(line), "{line}: {facts}");
    }
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn a_request_that_waits_has_a_long_latency() {
    let ns = namespace();
    ns.ok("$S --engine=fuse a m && touch m/f");
    ns.ok("flock m/f sleep 0.5 & sleep 0.2; flock m/f true; wait");
    let told = stat(&ns);
    let waited = told["requests"]["SETLKW"]["latency"]["sum_ns"].as_u64();
    assert!(waited.is_some_and(|waited| waited > 50_000_000), "{}", told["requests"]);
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn what_is_in_use_is_counted_and_so_is_what_was_invalidated() {
    let ns = namespace();
    ns.ok("$S --engine=fuse --cache=coherent a m && echo one > a/f && cat m/f");
    ns.ok("ls m > /dev/null; echo more >> a/f; rm a/f");
    wait_until("the kernel is told of the removal", || {
        stat(&ns)["invalidations"]["INVAL_ENTRY"]["sent"].as_u64().unwrap() > 0
    });
    ns.ok("echo two > a/g");
    let mut holder = ns.command("sh");
    let mut holder = holder.args(["-c", "exec 3<m/g; echo open; exec cat"]);
    holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    let mut line = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    let told = stat(&ns);
    assert_eq!(told["open"]["files"], 1, "{}", told["open"]);
    assert!(told["inodes"].as_u64().unwrap() >= 2, "{told}");
    let backing = &told["backing_files"];
    let passed = backing["open"].as_u64().unwrap();
    // A kernel without passthrough has none.
    assert!(passed <= 1 && (passed == 1 || told["data"]["read_bytes"] != 0), "{told}");
    drop(holder.stdin.take());
    ended(&mut holder);
    wait_until("the file is closed", || stat(&ns)["open"]["files"] == 0);
    let descriptors = &stat(&ns)["caches"]["descriptors"];
    assert!(descriptors["hits"].as_u64().unwrap() > 0, "{descriptors}");
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn metrics_keep_the_format_whatever_the_names_are() {
    let ns = namespace();
    ns.ok("mkdir \"$(printf 'q\"b\\\\n\\nl\\033')\" dead && $S --engine=fuse a q* && $S --engine=fuse a dead");
    ns.ok("$S --engine=kernel -o idmap=b:0:100000:65536 a k && $S --engine=fuse --passthrough=off --cache=none a m");
    ns.ok("echo data > m/f && cat m/f && ! cat m/absent 2>/dev/null");
    let dead: Value = serde_json::from_str(&ns.ok("$S stat --json dead")).unwrap();
    signal(dead["daemon"]["pid"].as_u64().unwrap() as u32, Signal::KILL);
    wait_until("the daemon is dead", || ns.ok("$S stat dead").contains("\nstate: dead\n"));
    let metrics = exposition::parse(&ns.ok("$S stat --prometheus"));
    let at = |name: &str| ns.path(name).display().to_string();
    let (m, k, dead) = (at("m"), at("k"), at("dead"));
    let of = |name: &str, mount: &str| value(&metrics, name, &[("mountpoint", mount)]);
    assert_eq!(of("shiftbind_up", &at("q\"b\\134n\nl\\033")), 1.0, "{:?}", metrics["shiftbind_up"]);
    assert_eq!(
        [of("shiftbind_up", &m), of("shiftbind_up", &k), of("shiftbind_up", &dead)],
        [1.0, 1.0, 0.0]
    );
    let info = [("mountpoint", k.as_str()), ("engine", "kernel"), ("source", &at("a"))];
    assert_eq!(value(&metrics, "shiftbind_mount_info", &info), 1.0);
    assert_eq!(of("shiftbind_written_bytes_total", &m), 5.0);
    assert!(of("shiftbind_resident_bytes", &m) > 100_000.0);
    let creates = [("mountpoint", m.as_str()), ("kind", "CREATE")];
    assert_eq!(value(&metrics, "shiftbind_requests_total", &creates), 1.0);
    assert_eq!(value(&metrics, "shiftbind_request_duration_seconds_count", &creates), 1.0);
    assert!(value(&metrics, "shiftbind_request_duration_seconds_sum", &creates) < 10.0);
    let lookups = [("mountpoint", m.as_str()), ("kind", "LOOKUP")];
    assert!(value(&metrics, "shiftbind_request_errors_total", &lookups) >= 1.0);
    let one = exposition::parse(&ns.ok("$S stat --prometheus m"));
    assert!(one["shiftbind_up"].len() == 1 && one.len() == metrics.len(), "{one:?}");
    assert_eq!(ns.sh("$S stat --prometheus absent").status.code(), Some(32));
    each_metric_is_documented(&metrics);
    ns.ok("umount dead; for m in q* k m; do $S umount \"$m\"; done");
    ns.wait_until_gone();
    assert_eq!(ns.ok("$S stat --prometheus"), "");
}

fn each_metric_is_documented(metrics: &exposition::Samples) {
    let text = include_str!("../../doc/LIST.md");
    for name in metrics.keys() {
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = base.unwrap_or(name);
        assert!(text.contains(&format!("| `{name}` |")), "{name} is not in doc/LIST.md");
    }
    let documented = text.lines().filter(|line| line.starts_with("| `shiftbind_")).count();
    // A histogram has three names.
    assert_eq!(documented, metrics.len() - 2, "doc/LIST.md describes a metric that is not there");
}

#[test]
fn a_user_gets_the_metrics_of_own_mounts() {
    let ns = namespace();
    ns.let_users_mount();
    ns.ok("mkdir u own && chown 1000 u own && $S --engine=fuse a m");
    assert!(ns.sh_as_user("$S own u").status.success());
    let output = ns.sh_as_user("$S stat --prometheus");
    let metrics = exposition::parse(&text(&output.stdout));
    assert_eq!(metrics["shiftbind_up"].len(), 1, "{metrics:?}");
    assert_eq!(metrics["shiftbind_up"][0].0["mountpoint"], ns.path("u").to_str().unwrap());
    assert!(!metrics["shiftbind_requests_total"].is_empty());
    assert!(ns.sh_as_user("$S umount u").status.success());
    ns.ok("$S umount m");
    ns.wait_until_gone();
}

#[test]
fn the_live_view_ends_when_the_mount_is_gone() {
    let ns = namespace();
    ns.ok("$S --engine=fuse --passthrough=off a m");
    let output = ns.ok("$S stat --watch=0.1 m > views & for i in 1 2 3 4 5; do sleep 0.1; echo x > m/f; done; umount m; wait $!; cat views");
    assert!(!output.contains('\u{1b}'), "{output}");
    let views: Vec<&str> = output.split("\n\n").collect();
    assert!(views.len() > 2, "{output}");
    for view in &views {
        assert!(view.contains("fuse, serving, up ") && view.contains("\nKIND "), "{view}");
    }
    assert!(views[0].contains("\nrequests/s -  "), "{output}");
    let writes =
        |view: &&str| view.lines().any(|line| line.starts_with("WRITE ") && !line.ends_with('-'));
    assert!(views[1..].iter().any(writes), "{output}");
    ns.wait_until_gone();
    assert_eq!(ns.sh("$S stat --watch m").status.code(), Some(32));
}

#[test]
fn the_live_view_in_json_is_a_document_a_line() {
    let ns = namespace();
    ns.ok("$S --engine=fuse a m");
    let output = ns.ok("$S stat --json --watch=0.1 m | head -n 3");
    let told: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 3);
    for pair in told.windows(2) {
        assert_eq!((&pair[0]["schema"], &pair[0]["state"]), (&1.into(), &"serving".into()));
        let at = |value: &Value| value["observed_at"].as_f64().unwrap();
        let between = at(&pair[1]) - at(&pair[0]);
        assert!((0.01..10.0).contains(&between), "{between}");
    }
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn the_live_view_ends_with_a_signal_and_with_its_reader() {
    let ns = namespace();
    ns.ok("$S --engine=fuse a m");
    for sent in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut command = ns.command(ns.path("shiftbind"));
        command.args(["stat", "--watch=60", "m"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut watching = command.spawn().unwrap();
        let mut byte = [0];
        watching.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        signal(watching.id(), sent);
        assert!(ended(&mut watching).success(), "{sent:?}");
        let mut errors = String::new();
        watching.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(errors, "");
    }
    // A pipe that is full: no process reads it.
    let mut command = ns.command(ns.path("shiftbind"));
    command.args(["stat", "--watch=0.1", "--json", "m"]).stdout(Stdio::piped());
    let mut watching = command.spawn().unwrap();
    let wchan = format!("/proc/{}/wchan", watching.id());
    wait_until("the pipe is full", || {
        std::fs::read_to_string(&wchan).is_ok_and(|at| at.contains("pipe_write"))
    });
    signal(watching.id(), Signal::INT);
    assert!(ended(&mut watching).success());
    // bash tells the status of each part of a pipe.
    let status =
        ns.ok("bash -c '$S stat --watch=0.1 m | head -n 1 > /dev/null; echo ${PIPESTATUS[0]}'");
    assert_eq!(status, "0\n");
    ns.ok("umount m");
    ns.wait_until_gone();
}

#[test]
fn the_live_view_redraws_a_terminal() {
    let ns = namespace();
    ns.ok("$S --engine=fuse a m");
    let output = ns.ok("(sleep 0.5; umount m) & script -qec 'stty rows 5 cols 40; $S stat --watch=0.1 m' /dev/null < /dev/null; wait");
    let views: Vec<&str> = output.split("\u{1b}[H").skip(1).collect();
    assert!(views.len() > 1, "{output:?}");
    assert!(views[0].starts_with("\u{1b}[2J") && !views[1].starts_with("\u{1b}[2J"), "{output:?}");
    for view in &views {
        let lines: Vec<&str> = view.trim_start_matches("\u{1b}[2J").lines().collect();
        assert!(lines.len() <= 5 && view.trim_end().ends_with("\u{1b}[J"), "{view:?}");
        let is_narrow = |line: &&str| line.split('\u{1b}').next().unwrap().chars().count() <= 40;
        assert!(lines.iter().all(is_narrow), "{view:?}");
    }
    ns.wait_until_gone();
}
