//! The rounds: all contenders do the same work in turn, so that the machine's other load affects all of them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use crate::area::Area;
use crate::arguments::Arguments;
use crate::contender::{Contender, Kind};
use crate::count::Counter;
use crate::process;
use crate::report::{Report, Row};
use crate::stopwatch::{Sample, Stopwatch};
use crate::workload::{Effort, RunContext, Workload};

/// Runs all rounds of all workloads.
pub fn run(workloads: &[Workload], arguments: &Arguments) -> io::Result<Report> {
    let area = Area::new(arguments.quick)?;
    let mut report = Report::new(&area, arguments)?;
    let mut possible = Vec::new();
    for workload in workloads {
        match workload.program {
            Some(program) if process::find(program).is_none() => {
                report.note(format!("{} left out: {program} is not installed", workload.name));
            }
            _ => possible.push(workload),
        }
    }
    // Before anything is mounted: some contenders do not notice later changes of the source.
    possible.iter().try_for_each(|workload| (workload.data)(&area))?;
    let mut runner = Runner { area, arguments, contenders: Vec::new(), scratch_count: 0 };
    for kind in &arguments.contenders {
        match kind.program() {
            Some(program) if process::find(program).is_none() => {
                report.note(format!("{} left out: {program} is not installed", kind.name()));
            }
            _ => match Contender::new(*kind, &runner.area, &arguments.shiftbind) {
                Ok(contender) => runner.contenders.push(contender),
                Err(error) => report.note(format!("{} left out: {error}", kind.name())),
            },
        }
    }
    report.contenders = runner.contenders.iter().map(|contender| contender.kind).collect();
    for workload in possible {
        eprintln!("compare: {}", workload.name);
        let row = runner.workload(workload, &mut report)?;
        report.rows.push(row);
    }
    report.finish();
    // Unmounts before the area is removed.
    runner.contenders.clear();
    Ok(report)
}

struct Runner<'a> {
    area: Area,
    arguments: &'a Arguments,
    contenders: Vec<Contender>,
    scratch_count: u32,
}

impl Runner<'_> {
    fn workload(&mut self, workload: &Workload, report: &mut Report) -> io::Result<Row> {
        let effort = if self.arguments.quick { Effort::Little } else { Effort::Full };
        let mut row = Row::new(workload, self.contenders.len());
        for round in 0..self.arguments.runs {
            self.warm_up(workload, effort, None);
            for turn in 0..self.contenders.len() {
                // The order rotates, so that no contender is always first.
                let which = (turn + round) % self.contenders.len();
                let sample = self.median(workload, which, effort);
                row.samples[which].push(self.accept(sample, workload, which, report)?);
            }
        }
        let counted = self.contenders.iter().position(|c| c.kind == Kind::Shiftbind);
        if let Some(which) = counted {
            self.count(workload, which, &mut row)
                .or_else(|error| self.accept(Err(error), workload, which, report).map(drop))?;
        }
        Ok(row)
    }

    /// Notes a failure and mounts the contender again.
    fn accept(
        &mut self,
        result: io::Result<Sample>,
        workload: &Workload,
        which: usize,
        report: &mut Report,
    ) -> io::Result<Option<Sample>> {
        let contender = &mut self.contenders[which];
        match result {
            Ok(sample) => Ok(Some(sample)),
            Err(error) if contender.kind == Kind::Source => Err(error),
            Err(error) => {
                report.note(format!(
                    "{}: {} failed: {error}",
                    workload.name,
                    contender.kind.name()
                ));
                contender.remount(&self.area, &self.arguments.shiftbind)?;
                Ok(None)
            }
        }
    }

    /// Runs the workload's warm-up for all contenders, or for one (`only`), and waits.
    fn warm_up(&self, workload: &Workload, effort: Effort, only: Option<usize>) {
        let Some(warmup) = &workload.warmup else { return };
        for (which, contender) in self.contenders.iter().enumerate() {
            if only.is_none_or(|only| only == which) {
                // A failure here occurs again in the timed run, which reports it.
                let _ = inside(contender, || {
                    (warmup.run)(&self.context(contender, Path::new("."), effort))
                });
            }
        }
        thread::sleep((warmup.delay)(effort));
    }

    fn context<'a>(
        &'a self,
        contender: &'a Contender,
        scratch: &'a Path,
        effort: Effort,
    ) -> RunContext<'a> {
        RunContext { root: Path::new("."), scratch, user: contender.user, effort, area: &self.area }
    }

    /// The median of the workload's repetitions on one contender.
    fn median(&mut self, workload: &Workload, which: usize, effort: Effort) -> io::Result<Sample> {
        let once = |_| self.once(workload, which, effort, &mut Stopwatch::default());
        let mut samples = (0..workload.times).map(once).collect::<io::Result<Vec<_>>>()?;
        samples.sort_by(|one, other| one.rate().total_cmp(&other.rate()));
        Ok(samples[samples.len() / 2])
    }

    /// Runs the workload once on one contender.
    fn once(
        &mut self,
        workload: &Workload,
        which: usize,
        effort: Effort,
        watch: &mut Stopwatch<'_>,
    ) -> io::Result<Sample> {
        if workload.fresh_mount && watch.counter.is_none() {
            self.contenders[which].remount(&self.area, &self.arguments.shiftbind)?;
        }
        // Syncs first: the dirty data of the previous contender must not be written during this run.
        rustix::fs::syncfs(fs::File::open(self.area.source())?)?;
        self.scratch_count += 1;
        let scratch = Path::new(".").join(format!("scratch-{}", self.scratch_count));
        let contender = &self.contenders[which];
        inside(contender, || {
            // Created and removed through the contender, whose caches so stay correct.
            fs::create_dir(&scratch)?;
            let result = (workload.run)(&self.context(contender, &scratch, effort), watch);
            result.and(fs::remove_dir_all(&scratch))
        })?;
        watch.sample.ok_or_else(|| io::Error::other("nothing was timed"))
    }

    /// Runs once more, untimed, and counts requests and system calls.
    fn count(&mut self, workload: &Workload, which: usize, row: &mut Row) -> io::Result<()> {
        if workload.fresh_mount {
            self.contenders[which].remount(&self.area, &self.arguments.shiftbind)?;
        }
        let contender = &self.contenders[which];
        let Some(daemon) = contender.daemon() else { return Ok(()) };
        let counter = Counter::new(daemon, fs::metadata(&contender.root)?.dev());
        self.warm_up(workload, Effort::Little, Some(which));
        let mut watch = Stopwatch { counter: Some(&counter), ..Stopwatch::default() };
        self.once(workload, which, Effort::Little, &mut watch)?;
        row.counts = watch.counts;
        Ok(())
    }
}

/// Runs `work` with the contender's root as the working directory, so that walking the path to it is not measured.
fn inside(contender: &Contender, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let outside = std::env::current_dir()?;
    std::env::set_current_dir(&contender.root)?;
    let result = work();
    std::env::set_current_dir(outside)?;
    result
}
