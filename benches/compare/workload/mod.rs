//! The list of workloads; each subject has a file.

mod directories;
mod files;
mod fio;
mod metadata;
mod programs;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::area::Area;
use crate::stopwatch::Stopwatch;

/// One workload.
pub struct Workload {
    /// The name in reports and filters.
    pub name: &'static str,
    /// The ratio to the bare source that shiftbind is to reach.
    pub goal: Option<f64>,
    /// The program that must be installed.
    pub program: Option<&'static str>,
    /// Whether it starts with a fresh mount, without cached entries.
    pub fresh_mount: bool,
    /// Repetitions in a round, of which the median counts: for work of a few milliseconds.
    pub times: usize,
    /// Runs for every contender before a common delay and the timed runs.
    pub warmup: Option<Warmup>,
    /// Creates the data on the bare source, unless it exists.
    pub data: fn(&Area) -> io::Result<()>,
    /// Runs once; preparations stay outside the stopwatch.
    pub run: fn(&RunContext<'_>, &mut Stopwatch<'_>) -> io::Result<()>,
}

/// Work that is done some time before the timed run.
pub struct Warmup {
    /// The work.
    pub run: fn(&RunContext<'_>) -> io::Result<()>,
    /// The delay until the timed run.
    pub delay: fn(Effort) -> Duration,
}

impl Workload {
    /// A workload on a mount in use.
    const fn new(
        name: &'static str,
        goal: Option<f64>,
        data: fn(&Area) -> io::Result<()>,
        run: fn(&RunContext<'_>, &mut Stopwatch<'_>) -> io::Result<()>,
    ) -> Self {
        Self { name, goal, program: None, fresh_mount: false, times: 1, warmup: None, data, run }
    }
}

/// How long a workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Long enough for reliable figures.
    Full,
    /// Just long enough to show that it works.
    Little,
}

impl Effort {
    /// The duration of loops that end by the clock.
    pub fn time(self) -> Duration {
        match self {
            Self::Full => Duration::from_millis(500),
            Self::Little => Duration::from_millis(40),
        }
    }

    /// The iterations of loops that end by a count.
    pub fn count(self) -> u64 {
        match self {
            Self::Full => 4000,
            Self::Little => 200,
        }
    }
}

/// What a workload runs on.
pub struct RunContext<'a> {
    /// The source's root as the contender shows it: the working directory.
    pub root: &'a Path,
    /// A new, empty directory at the contender.
    pub scratch: &'a Path,
    /// The uid at the contender of the source's user 1.
    pub user: u32,
    /// How long to run.
    pub effort: Effort,
    /// The data sets.
    pub area: &'a Area,
}

impl RunContext<'_> {
    /// The paths, relative to the source, as the contender shows them.
    fn all(&self, relative: &[PathBuf]) -> Vec<PathBuf> {
        relative.iter().map(|path| self.root.join(path)).collect()
    }
}

/// For workloads without data.
fn nothing(_: &Area) -> io::Result<()> {
    Ok(())
}

/// All workloads, in the order of the report.
pub fn all() -> Vec<Workload> {
    [
        metadata::workloads(),
        files::workloads(),
        directories::workloads(),
        fio::workloads(),
        programs::workloads(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
