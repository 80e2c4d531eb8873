//! Runs the same work on the bare source, a kernel idmapped mount, other FUSE bind mounts and shiftbind, interleaved.
//! The results are ratios of rates to the bare source.
//!
//! Everything is mounted in a private mount namespace, which ends with the process, as the daemons do.

mod area;
mod arguments;
#[path = "../common/mod.rs"]
mod common;
mod contender;
mod count;
mod idmapped;
mod plot;
mod process;
mod report;
mod round;
mod sources;
mod stopwatch;
mod syscalls;
mod workload;

use std::fs;
use std::io;
use std::process::ExitCode;

use arguments::{Arguments, Request};
use common::namespace;

/// Set in the environment once this program runs in its own mount namespace.
const INSIDE: &str = "SHIFTBIND_COMPARE_INSIDE";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    match arguments::parse(std::env::args().skip(1)).map_err(io::Error::other)? {
        Request::Help => print!("{}", arguments::HELP),
        Request::List => workload::all().iter().for_each(|workload| println!("{}", workload.name)),
        Request::Run(arguments) if std::env::var_os(INSIDE).is_some() => compare(&arguments)?,
        Request::Run(_) => return Err(namespace::enter(INSIDE)),
    }
    Ok(())
}

fn compare(arguments: &Arguments) -> io::Result<()> {
    let chosen: Vec<_> = workload::all()
        .into_iter()
        .filter(|workload| {
            let name = workload.name.to_lowercase();
            arguments.filters.is_empty() || arguments.filters.iter().any(|f| name.contains(f))
        })
        .collect();
    if chosen.is_empty() {
        return Err(io::Error::other("no workload has such a name; --list names them"));
    }
    let report = round::run(&chosen, arguments)?;
    print!("{}", report::markdown(&report));
    if let Some(path) = &arguments.csv {
        fs::write(path, report::csv(&report))?;
    }
    if let Some(path) = &arguments.plot {
        fs::write(path, plot::svg(&report))?;
    }
    Ok(())
}
