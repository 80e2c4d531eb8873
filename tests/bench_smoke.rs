//! That the comparison in `benches/compare` still works: one workload, a short run, and the shape of what it writes.
//! Never the figures.

use std::fs;
use std::process::Command;

#[test]
fn a_quick_comparison_writes_a_table_a_csv_and_a_picture() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: the comparison mounts, which needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("result.csv"), folder.path().join("result.svg"));
    // Built as the tests are: nobody reads these figures.
    let output = Command::new(env!("CARGO"))
        .args(["bench", "--quiet", "--profile", "dev", "--bench", "compare", "--"])
        .args(["--quick", "--runs", "2", "--with", "idmapped,shiftbind", "stat, one file"])
        .arg("--csv")
        .arg(&csv)
        .arg("--plot")
        .arg(&plot)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {messages}", output.status);

    let text = String::from_utf8(output.stdout).unwrap();
    let cells = |start: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no line {start} in:\n{text}\n{messages}"));
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let heads = ["work", "goal", "source, per second", "idmapped", "shiftbind"];
    let head = cells("| work | goal |");
    assert_eq!(head[..5], heads);
    assert_eq!(head[5], "requests per operation");
    let row = cells("| stat, one file |");
    assert_eq!(row.len(), head.len(), "{text}");
    assert_eq!(row[1], "≥ 0.95");
    for cell in &row[2..5] {
        let number: f64 = cell.trim_matches('*').parse().unwrap_or_else(|_| panic!("{text}"));
        assert!(number > 0.0, "{text}");
    }
    assert!(text.contains("What shiftbind is asked"), "{text}");

    let csv = fs::read_to_string(csv).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4, "a head and three contenders:\n{csv}");
    assert!(lines[3].starts_with("\"stat, one file\",shiftbind,0.95,"), "{csv}");
    assert_eq!(lines[3].matches(',').count(), lines[0].matches(',').count() + 1, "{csv}");

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
