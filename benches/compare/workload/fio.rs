//! File data by fio(1): buffered I/O on a file in the page cache.

use std::fs::{self, File};
use std::io;
use std::process::Command;

use super::{Effort, RunContext, Workload};
use crate::area::Area;
use crate::process;
use crate::stopwatch::{Sample, Stopwatch};

/// The parameters of fio.
struct Job {
    pattern: &'static str,
    block: &'static str,
    jobs: u32,
    engine: &'static str,
    fsync: bool,
}

const JOB: Job = Job { pattern: "read", block: "128k", jobs: 1, engine: "psync", fsync: false };

pub(super) fn workloads() -> Vec<Workload> {
    const READS: [(&str, Option<f64>, Run); 6] = [
        ("fio sequential read 128k", Some(0.95), |p, w| run(&JOB, p, w)),
        ("fio sequential read 1M", None, |p, w| run(&Job { block: "1M", ..JOB }, p, w)),
        ("fio random read 4k", Some(0.80), |p, w| run(&RANDOM, p, w)),
        ("fio random read 4k, 4 jobs, one file", Some(0.85), |p, w| {
            run(&Job { jobs: 4, ..RANDOM }, p, w)
        }),
        ("fio mmap random read 4k", Some(0.90), |p, w| {
            run(&Job { engine: "mmap", ..RANDOM }, p, w)
        }),
        ("fio mmap sequential read 4k", None, |p, w| {
            run(&Job { engine: "mmap", pattern: "read", ..RANDOM }, p, w)
        }),
    ];
    const WRITES: [(&str, Option<f64>, Run); 4] = [
        ("fio sequential write 128k", Some(0.90), |p, w| run(&WRITE, p, w)),
        ("fio sequential write 1M", None, |p, w| run(&Job { block: "1M", ..WRITE }, p, w)),
        ("fio random write 4k", Some(0.90), |p, w| {
            run(&Job { pattern: "randwrite", block: "4k", ..WRITE }, p, w)
        }),
        ("fio write 4k + fsync", None, |p, w| {
            run(&Job { block: "4k", fsync: true, ..WRITE }, p, w)
        }),
    ];
    READS
        .into_iter()
        .chain(WRITES)
        .map(|(name, goal, run)| Workload {
            program: Some("fio"),
            ..Workload::new(name, goal, Area::big_file, run)
        })
        .collect()
}

type Run = fn(&RunContext<'_>, &mut Stopwatch<'_>) -> io::Result<()>;

const RANDOM: Job = Job { pattern: "randread", block: "4k", ..JOB };
const WRITE: Job = Job { pattern: "write", ..JOB };

fn run(job: &Job, context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let file = context.root.join("data/file");
    let mut fio = Command::new("fio");
    fio.args(["--name=compare", "--output-format=json", "--group_reporting", "--thread"])
        .args(["--time_based", "--invalidate=0", "--norandommap", "--fallocate=none"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--size={}", context.area.big_file_size()))
        .arg(format!("--rw={}", job.pattern))
        .arg(format!("--bs={}", job.block))
        .arg(format!("--numjobs={}", job.jobs))
        .arg(format!("--ioengine={}", job.engine))
        .arg(format!("--runtime={}", if context.effort == Effort::Full { 2 } else { 1 }));
    if job.fsync {
        fio.arg("--fsync=1");
    }
    let writes = job.pattern.ends_with("write");
    if !writes {
        io::copy(&mut File::open(&file)?, &mut io::sink())?;
    }
    let output = context.area.other("fio")?.join("result.json");
    fio.arg(format!("--output={}", output.display()));
    watch.around(|| {
        process::run(&mut fio)?;
        let result = fs::read_to_string(&output)?;
        sample(&result, if writes { "write" } else { "read" })
            .ok_or_else(|| io::Error::other("fio's result was not understood"))
    })
}

/// The number and rate of I/Os in one direction. With group reporting fio's list of jobs has one entry.
fn sample(json: &str, direction: &str) -> Option<Sample> {
    let (_, jobs) = json.split_once("\"jobs\" :")?;
    let (_, section) = jobs.split_once(&format!("\"{direction}\" : {{"))?;
    let number = |key: &str| -> Option<f64> {
        let (_, after) = section.split_once(&format!("\"{key}\" :"))?;
        after.split([',', '}', '\n']).next()?.trim().parse().ok()
    };
    let (total, rate) = (number("total_ios")?, number("iops")?);
    (rate > 0.0).then(|| Sample { operations: total as u64, seconds: total / rate })
}
