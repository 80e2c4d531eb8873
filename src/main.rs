//! The program: command line in, exit status out.

use std::ffi::OsString;
use std::process::ExitCode;

use shiftbind::cli::{self, Command};
use shiftbind::config::Config;
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
    match cli::parse(argv)? {
        Command::Mount(config) => mount(config),
        Command::Fake(_) => Ok(()),
        _ => Err(Error::refused("not yet")),
    }
}

fn mount(config: Config) -> Result<()> {
    shiftbind::daemon::run(config)
}

/// Control characters of what the user typed written out, so that the message stays one line.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
