//! Measures how soon the mount shows a change on the source, and what watching costs unrelated processes on the same
//! filesystem.

mod arguments;
mod changes;
#[path = "../common/mod.rs"]
mod common;
mod overhead;
mod visibility;

use std::io;
use std::process::ExitCode;

use arguments::{Arguments, Request};
use common::filesystem::Filesystem;
use common::scratch_dir::ScratchDir;
use common::{figures, namespace};

/// Set in the environment once this program runs in its own namespaces.
const INSIDE: &str = "SHIFTBIND_COHERENCE_INSIDE";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coherence: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    match arguments::parse(std::env::args().skip(1)).map_err(io::Error::other)? {
        Request::Help => print!("{}", arguments::HELP),
        Request::Run(arguments) if std::env::var_os(INSIDE).is_some() => measure(&arguments)?,
        Request::Run(_) => return Err(namespace::enter_with_processes(INSIDE)),
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let scratch = ScratchDir::new("coherence")?;
    let names = 100_000 + 4 * arguments.directories + arguments.entries;
    let filesystem = Filesystem::new(&scratch, arguments.on, names)?;
    println!(
        "Linux {}, {} CPUs, source on {}, load average {}",
        rustix::system::uname().release().to_string_lossy(),
        std::thread::available_parallelism()?,
        arguments.on.name(),
        load()?,
    );
    if !arguments.overhead_only {
        visibility::measure(&scratch, &filesystem, arguments)?;
    }
    if !arguments.changes_only {
        overhead::measure(&scratch, &filesystem, arguments)?;
    }
    println!("\nload average {} at the end", load()?);
    Ok(())
}

fn load() -> io::Result<String> {
    let averages = std::fs::read_to_string("/proc/loadavg")?;
    Ok(averages.split(' ').next().unwrap_or_default().to_owned())
}
