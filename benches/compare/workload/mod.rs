//! The work that is compared, one list; each subject has a file.

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

/// One kind of work.
pub struct Workload {
    /// In reports and filters.
    pub name: &'static str,
    /// The ratio to the bare source that shiftbind is to reach.
    pub goal: Option<f64>,
    /// The program that must be installed.
    pub program: Option<&'static str>,
    /// Whether it starts with a mount that has nothing cached.
    pub fresh_mount: bool,
    /// How often a round does it, of which the median counts: for what is over in a few milliseconds.
    pub times: usize,
    /// Done for every contender, before all of them rest and then run.
    pub warmup: Option<Warmup>,
    /// Makes the data on the bare source, unless it is there.
    pub data: fn(&Area) -> io::Result<()>,
    /// Does it once. What is not to be timed stays outside the stopwatch.
    pub run: fn(&RunContext<'_>, &mut Stopwatch<'_>) -> io::Result<()>,
}

/// Something to be done a while earlier.
pub struct Warmup {
    /// What.
    pub run: fn(&RunContext<'_>) -> io::Result<()>,
    /// How much earlier.
    pub delay: fn(Effort) -> Duration,
}

impl Workload {
    /// A workload on a mount in use, with nothing special about it.
    const fn new(
        name: &'static str,
        goal: Option<f64>,
        data: fn(&Area) -> io::Result<()>,
        run: fn(&RunContext<'_>, &mut Stopwatch<'_>) -> io::Result<()>,
    ) -> Self {
        Self { name, goal, program: None, fresh_mount: false, times: 1, warmup: None, data, run }
    }
}

/// How long a workload goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Until the figures can be believed.
    Full,
    /// Until it is shown to work.
    Little,
}

impl Effort {
    /// For loops that end by the clock.
    pub fn time(self) -> Duration {
        match self {
            Self::Full => Duration::from_millis(500),
            Self::Little => Duration::from_millis(40),
        }
    }

    /// For loops that end by a count.
    pub fn count(self) -> u64 {
        match self {
            Self::Full => 4000,
            Self::Little => 200,
        }
    }
}

/// Where a workload runs.
pub struct RunContext<'a> {
    /// The source, seen through a contender: the working directory.
    pub root: &'a Path,
    /// A new, empty directory, seen through the contender.
    pub scratch: &'a Path,
    /// How the user is seen that is 1 on the source.
    pub user: u32,
    /// How long to go on.
    pub effort: Effort,
    /// What knows the data sets.
    pub area: &'a Area,
}

impl RunContext<'_> {
    /// Paths relative to the source, as seen here.
    fn all(&self, relative: &[PathBuf]) -> Vec<PathBuf> {
        relative.iter().map(|path| self.root.join(path)).collect()
    }
}

/// No data needed.
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
