//! The results as Markdown tables and as CSV.

use std::fmt::Write;
use std::fs;
use std::io;

use crate::area::Area;
use crate::arguments::Arguments;
use crate::contender::Kind;
use crate::count::{Counts, Tally, per};
use crate::stopwatch::Sample;
use crate::workload::Workload;

/// All results.
pub struct Report {
    /// The machine and the run, in one line.
    pub conditions: String,
    /// The columns; the first is the source.
    pub contenders: Vec<Kind>,
    /// The rows.
    pub rows: Vec<Row>,
    /// What was left out or failed.
    pub notes: Vec<String>,
}

/// The results of one workload.
pub struct Row {
    /// The workload's name.
    pub name: &'static str,
    /// The ratio that shiftbind is to reach.
    pub goal: Option<f64>,
    /// The samples by contender and round.
    pub samples: Vec<Vec<Option<Sample>>>,
    /// The requests and system calls of shiftbind.
    pub counts: Option<Counts>,
}

/// A median with the minimum and maximum of its values.
#[derive(Debug, Clone, Copy)]
pub struct Median {
    /// The middle value, or the mean of the two middle ones.
    pub value: f64,
    /// The minimum.
    pub low: f64,
    /// The maximum.
    pub high: f64,
}

impl Median {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let value = match values.len() {
            0 => return None,
            n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self { value, low: *values.first()?, high: *values.last()? })
    }
}

impl Row {
    /// A row without samples.
    pub fn new(workload: &Workload, contenders: usize) -> Self {
        let samples = vec![Vec::new(); contenders];
        Self { name: workload.name, goal: workload.goal, samples, counts: None }
    }

    /// The median of operations per second.
    pub fn rate(&self, contender: usize) -> Option<Median> {
        Median::of(self.samples[contender].iter().flatten().map(|s| s.rate()).collect())
    }

    /// The median of the rounds' ratios to the source.
    pub fn ratio(&self, contender: usize) -> Option<Median> {
        let pairs = self.samples[contender].iter().zip(&self.samples[0]);
        Median::of(
            pairs.filter_map(|(there, here)| Some((*there)?.rate() / (*here)?.rate())).collect(),
        )
    }
}

impl Report {
    /// An empty report with the machine's present conditions.
    pub fn new(area: &Area, arguments: &Arguments) -> io::Result<Self> {
        let kernel = rustix::system::uname();
        let processors = std::thread::available_parallelism()?;
        let runs = if arguments.runs == 1 {
            "1 round".to_owned()
        } else {
            format!("{} rounds", arguments.runs)
        };
        let quick = if arguments.quick { ", QUICK: the figures mean little" } else { "" };
        let options = arguments.shiftbind.options.as_ref();
        let options = options.map(|o| format!(", shiftbind -o {o}")).unwrap_or_default();
        let conditions = format!(
            "Linux {}, {processors} CPUs, source on {}, {runs}{quick}{options}, load average {} before",
            kernel.release().to_string_lossy(),
            filesystem(area)?,
            load(),
        );
        let mut report =
            Self { conditions, contenders: Vec::new(), rows: Vec::new(), notes: Vec::new() };
        if load().parse().is_ok_and(|load: f64| load > 0.5) {
            report.note("the machine is busy with something else: not figures to publish".into());
        }
        Ok(report)
    }

    /// Adds a note for the reader of the tables, once.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            eprintln!("compare: {note}");
            self.notes.push(note);
        }
    }

    /// Completes the conditions at the end of the run.
    pub fn finish(&mut self) {
        let _ = write!(self.conditions, " and {} after", load());
    }
}

fn filesystem(area: &Area) -> io::Result<String> {
    // Magic numbers of filesystems (statfs(2)), in hexadecimal.
    let names =
        [("ef53", "ext4"), ("58465342", "xfs"), ("9123683e", "btrfs"), ("1021994", "tmpfs")];
    let found = format!("{:x}", rustix::fs::statfs(area.source().as_path())?.f_type);
    let name = names.into_iter().find(|(magic, _)| *magic == found);
    Ok(name.map_or(found, |(_, name)| name.to_owned()))
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("?").to_owned()
}

/// The ratios, then the requests and system calls.
pub fn markdown(report: &Report) -> String {
    let mut text = format!("{}\n\n", report.conditions);
    text.push_str(
        "Rate as a ratio to the bare source (1.00: as fast; 0.50: half as fast); bold: below the goal. \
         Of tar, git, cp, rsync and rm an operation is a file of the tree; of cargo build it is the build.\n\n",
    );
    text.push_str("| work | goal | source, per second |");
    for kind in &report.contenders[1..] {
        let _ = write!(text, " {} |", kind.name());
    }
    text.push_str(" requests per operation |\n|---|---|---|");
    text.push_str(&"---|".repeat(report.contenders.len()));
    text.push('\n');
    for row in &report.rows {
        let goal = row.goal.map(|goal| format!("≥ {goal:.2}")).unwrap_or_default();
        let rate = row.rate(0).map(|rate| rounded(rate.value)).unwrap_or_default();
        let _ = write!(text, "| {} | {goal} | {rate} |", row.name);
        for (which, kind) in report.contenders.iter().enumerate().skip(1) {
            let cell = row.ratio(which).map_or("failed".to_owned(), |ratio| {
                let missed = row.goal.is_some_and(|goal| ratio.value < goal);
                let value = ratio_text(ratio.value);
                if missed && *kind == Kind::Shiftbind { format!("**{value}**") } else { value }
            });
            let _ = write!(text, " {cell} |");
        }
        let requests = row.counts.as_ref().map(requests_text).unwrap_or_default();
        let _ = writeln!(text, " {requests} |");
    }
    if report.rows.iter().any(|row| row.counts.is_some()) {
        text.push_str("\nWhat shiftbind is asked and what it does, per operation:\n\n");
        text.push_str("| work | requests | system calls |\n|---|---|---|\n");
        for row in &report.rows {
            if let Some(counts) = &row.counts {
                let requests = by_size(&counts.requests, counts.operations);
                let syscalls = by_size(&counts.syscalls, counts.operations);
                let total = per(counts.syscalls.values().sum(), counts.operations);
                let total = count_text(total);
                let colon = if syscalls.is_empty() { "" } else { ": " };
                let _ = writeln!(text, "| {} | {requests} | {total}{colon}{syscalls} |", row.name);
            }
        }
    }
    if !report.notes.is_empty() {
        text.push('\n');
    }
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

/// One line for each workload and contender.
pub fn csv(report: &Report) -> String {
    let mut text = String::from(
        "work,contender,goal,operations_per_second,ratio,ratio_low,ratio_high,rounds,requests_per_operation\n",
    );
    for row in &report.rows {
        for (which, kind) in report.contenders.iter().enumerate() {
            let goal = row.goal.filter(|_| *kind == Kind::Shiftbind);
            let goal = goal.map(|goal| goal.to_string()).unwrap_or_default();
            let rate = row.rate(which).map(|rate| format!("{:.3}", rate.value)).unwrap_or_default();
            let ratio = row.ratio(which).map_or(",,".to_owned(), |ratio| {
                format!("{:.4},{:.4},{:.4}", ratio.value, ratio.low, ratio.high)
            });
            let rounds = row.samples[which].iter().flatten().count();
            let counts = row.counts.as_ref().filter(|_| *kind == Kind::Shiftbind);
            let requests = counts.map(|c| format!("{:.4}", c.requests_per_operation()));
            let _ = writeln!(
                text,
                "\"{}\",{},{goal},{rate},{ratio},{rounds},{}",
                row.name,
                kind.name(),
                requests.unwrap_or_default(),
            );
        }
    }
    text
}

/// Two significant digits, also for small ratios.
pub fn ratio_text(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

fn requests_text(counts: &Counts) -> String {
    let about = if counts.approximate { "≈ " } else { "" };
    format!("{about}{}", count_text(counts.requests_per_operation()))
}

fn count_text(count: f64) -> String {
    match count {
        0.0 => "0".to_owned(),
        c if c < 0.01 => "< 0.01".to_owned(),
        c if c < 100.0 => format!("{c:.2}"),
        c => format!("{c:.0}"),
    }
}

fn rounded(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.2}") } else { format!("{rate:.0}") }
}

/// The most frequent first, without what occurs in less than one of a hundred operations.
fn by_size(tally: &Tally, operations: u64) -> String {
    let mut parts: Vec<(&String, f64)> =
        tally.iter().map(|(name, count)| (name, per(*count, operations))).collect();
    parts.retain(|(_, rate)| *rate >= 0.01);
    parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let parts: Vec<String> =
        parts.into_iter().map(|(name, rate)| format!("{} {name}", count_text(rate))).collect();
    parts.join(", ")
}
