//! The program: command line in, exit status out.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use shiftbind::cli::{self, Command};
use shiftbind::error::{Error, Result};

fn main() -> ExitCode {
    match run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shiftbind: {}", one_line(&error.to_string()));
            ExitCode::from(error.exit().code())
        }
    }
}

fn run(argv: impl IntoIterator<Item = OsString>) -> Result<()> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    match cli::parse(argv.clone())? {
        Command::Mount(config) => {
            let options = cli::again(argv, &config);
            shiftbind::daemon::run(config, Box::new(options))
        }
        Command::Fake(_) => Ok(()),
        Command::Remount { mountpoint, flags } => shiftbind::mount::remount(&mountpoint, &flags),
        Command::Explain(config) => print(&cli::explain(
            &config,
            shiftbind::fuse::Server::cache_verdict(&config).as_deref(),
        )),
        Command::Help => print(&cli::help()),
        Command::Version => print(&cli::version()),
        Command::Generate(artifact) => print(&cli::generate(artifact)),
    }
}

/// Writes to standard output. That nobody reads to the end (`| head`) is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::file("standard output", error))
        }
        _ => Ok(()),
    }
}

/// Control characters of what the user typed written out, so that the message stays one line.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
