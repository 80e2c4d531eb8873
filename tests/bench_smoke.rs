//! Checks that the benchmarks `compare`, `scale` and `coherence` still work: short runs, and the format of their
//! output, never the figures.

use std::fs;
use std::process::{Command, Output};

#[allow(dead_code)]
#[path = "support/machine.rs"]
mod machine;

/// Runs a benchmark in the tests' build profile: its figures are not used.
fn bench(name: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO"))
        .args(["bench", "--quiet", "--profile", "dev", "--bench", name, "--"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

/// The output of a benchmark, which must succeed. `None` if it could not mount; the test is then skipped.
fn report(name: &str, arguments: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        machine::skipped("the benchmark mounts, which needs root");
        return None;
    }
    let output = bench(name, arguments);
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {messages}", output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The cells of the line that starts with `start`.
fn cells(text: &str, start: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(start));
    let line = line.unwrap_or_else(|| panic!("no line {start} in:\n{text}"));
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// Asserts that a row has a number in that column; 0 is allowed for very short times.
fn is_measured(text: &str, row: &str, column: usize) {
    let cells = cells(text, &format!("| {row} |"));
    let number: f64 = cells[column].parse().unwrap_or_else(|_| panic!("{row}: {text}"));
    assert!(number >= 0.0, "{row}: {text}");
}

#[test]
fn a_little_of_everything_is_measured() {
    let quick = ["--quick", "--names", "2000", "--entries", "2000", "--files", "50"];
    let few = ["--threads", "8", "--mounts", "12", "--on", "tmpfs"];
    let Some(text) = report("scale", &[&quick[..], &few].concat()) else { return };
    for work in ["make (mkdir, open O_CREAT, close)", "`find`, fresh mount", "`du` again"] {
        is_measured(&text, work, 1);
        is_measured(&text, work, 5);
    }
    assert_eq!(cells(&text, "| 204 |").len(), 9, "what is kept of a tenth: {text}");
    is_measured(&text, "list, all, µs an entry", 4);
    is_measured(&text, "read 4 KiB", 4);
    is_measured(&text, "open, read 4 KiB, close", 6);
    assert_eq!(cells(&text, "| 11 to 12 |").len(), 6, "{text}");
    assert!(text.contains("Unmounting all of them"), "{text}");
}

#[test]
fn a_few_changes_are_seen_and_what_watching_costs_is_measured() {
    let few = ["--entries", "200", "--directories", "300", "--on", "tmpfs"];
    let Some(text) = report("coherence", &[&["--quick"][..], &few].concat()) else { return };
    for change in ["create", "append, the file stays open", "setxattr of an ACL"] {
        is_measured(&text, change, 1);
        is_measured(&text, change, 4);
    }
    is_measured(&text, "pwrite of 1 byte", 1);
    is_measured(&text, "pwrite of 1 byte", 3);
    assert!(text.contains("A watched directory takes"), "{text}");
}

#[test]
fn an_unknown_section_is_an_error() {
    for (name, arguments) in [("scale", ["--only", "none"]), ("coherence", ["--on", "none"])] {
        let output = bench(name, &arguments);
        assert!(!output.status.success());
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(messages.contains("none: "), "{messages}");
    }
}

#[test]
fn a_quick_comparison_writes_a_table_a_csv_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("result.csv"), folder.path().join("result.svg"));
    let quick = [
        "--quick",
        "--runs",
        "2",
        "--with",
        "idmapped,shiftbind-kernel,shiftbind",
        "stat, one file",
    ];
    let files = ["--csv", csv.to_str().unwrap(), "--plot", plot.to_str().unwrap()];
    let Some(text) = report("compare", &[&quick[..], &files].concat()) else { return };

    let heads = ["work", "goal", "source, per second", "idmapped", "shiftbind-kernel", "shiftbind"];
    let head = cells(&text, "| work | goal |");
    assert_eq!(head[..6], heads);
    assert_eq!(head[6], "requests per operation");
    let row = cells(&text, "| stat, one file |");
    assert_eq!(row.len(), head.len(), "{text}");
    assert_eq!(row[1], "≥ 0.95");
    for cell in &row[2..6] {
        let number: f64 = cell.trim_matches('*').parse().unwrap_or_else(|_| panic!("{text}"));
        assert!(number > 0.0, "{text}");
    }
    assert!(text.contains("What shiftbind is asked"), "{text}");

    let csv = fs::read_to_string(csv).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 5, "a head and four contenders:\n{csv}");
    assert!(lines[4].starts_with("\"stat, one file\",shiftbind,0.95,"), "{csv}");
    assert_eq!(lines[4].matches(',').count(), lines[0].matches(',').count() + 1, "{csv}");

    let plot = fs::read_to_string(plot).unwrap();
    assert!(plot.starts_with("<svg ") && plot.trim_end().ends_with("</svg>"), "{plot}");
    assert!(plot.contains("<title>stat, one file, shiftbind: "), "{plot}");
}

#[test]
fn a_workload_that_is_not_there_is_an_error() {
    let output = Command::new(env!("CARGO"))
        .args(["bench", "--quiet", "--profile", "dev", "--bench", "compare", "--"])
        .args(["--quick", "no such workload"])
        .env("SHIFTBIND_COMPARE_INSIDE", "1")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(messages.contains("no workload has such a name"), "{messages}");
}
