//! The grammar of the subcommands, whose table is beside that of the options.
//!
//! The first argument selects one, under the name shiftbind only: mount(8)'s helpers and bindfs have none. A source that
//! has a subcommand's name is given as `./list`, or after `--`.

mod help;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use help::help;

use super::arguments::{self, Invocation};
use super::dialect::Dialect;
use super::options::{self, Given, Name, Opt, SUBCOMMANDS, SubcommandDef};
use super::settings::Settings;
use super::suggest::nearest;
use super::{Command, command_of};
use crate::accounts::Accounts;
use crate::error::{Error, Result};

/// The subcommand that the first argument names.
pub(super) fn of(argv: &[OsString]) -> Option<&'static SubcommandDef> {
    let first = argv.get(1)?;
    SUBCOMMANDS.iter().find(|definition| first == definition.name)
}

/// Other words for what this program does, with the arguments that do it.
const SYNONYMS: &[(&str, &str)] = &[
    ("unmount", "umount"),
    ("ls", "list"),
    ("status", "stat"),
    ("show", "stat"),
    ("help", "--help"),
    ("version", "--version"),
];

/// Refuses a source with the name of a subcommand, and suggests one where a word is no source.
pub(super) fn check_source(operands: &[OsString]) -> Result<()> {
    let Some(first) = operands.first().and_then(|operand| operand.to_str()) else { return Ok(()) };
    if SUBCOMMANDS.iter().any(|definition| first == definition.name) {
        return Err(Error::usage(format!(
            "'{first}' is a command: give it as the first argument, or the source as ./{first}"
        )));
    }
    let is_source = operands.len() > 1 && Path::new(first).symlink_metadata().is_ok();
    if first.contains('/') || is_source {
        return Ok(());
    }
    let synonym = SYNONYMS.iter().find(|(word, _)| *word == first).map(|(_, meant)| *meant);
    match synonym.or_else(|| nearest(first, SUBCOMMANDS.iter().map(|definition| definition.name))) {
        Some(meant) => Err(Error::usage(format!(
            "there is no command and no source '{first}'; did you mean 'shiftbind {meant}'?"
        ))),
        None => Ok(()),
    }
}

/// Parses an argument vector whose first argument names the subcommand.
pub(super) fn parse(
    definition: &'static SubcommandDef,
    argv: Vec<OsString>,
    accounts: &dyn Accounts,
) -> Result<Command> {
    let mut argv = argv;
    // clap takes the first element for the program's name.
    argv.remove(0);
    let Invocation { given, operands } = arguments::parse_subcommand(definition, argv)?;
    let asked = |id: Opt| given.iter().any(|one| one.option.id == id);
    if asked(Opt::Help) {
        return Ok(Command::HelpOf(definition.name));
    }
    check_operands(definition, &operands)?;
    let (json, lazy) = (asked(Opt::Json), asked(Opt::Lazy));
    match definition.id {
        Name::Explain => return explain(given, operands, accounts),
        Name::Stat => return stat(&given, operands),
        _ => {}
    }
    let namespace = namespace(&given)?;
    let hook_config = arguments::last_value(&given, Opt::HookConfig).map(PathBuf::from);
    let mountpoint = operands.into_iter().next().map(PathBuf::from).unwrap_or_default();
    Ok(match definition.id {
        Name::List | Name::Explain | Name::Stat => Command::List { json },
        Name::Reload => Command::Reload { mountpoint, namespace },
        Name::Umount => Command::Umount { mountpoint, lazy, namespace },
        Name::OciHook => Command::OciHook { config: hook_config },
    })
}

fn check_operands(definition: &SubcommandDef, operands: &[OsString]) -> Result<()> {
    let required = definition.operands.len() - definition.optional;
    if let Some(missing) = definition.operands[..required].get(operands.len()) {
        return Err(Error::usage(format!("{}: {missing} is missing", definition.name)));
    }
    if let Some(at) = operands.iter().position(|operand| operand.is_empty()) {
        return Err(Error::usage(format!(
            "{}: {} is empty",
            definition.name, definition.operands[at]
        )));
    }
    Ok(())
}

/// The longest interval of `--watch`, in seconds: a day.
const MAX_INTERVAL: f64 = 86_400.0;

fn stat(given: &[Given], operands: Vec<OsString>) -> Result<Command> {
    let asked = |id: Opt| given.iter().any(|one| one.option.id == id);
    let mountpoint = operands.into_iter().next().map(PathBuf::from);
    let (json, watch) = (asked(Opt::Json), arguments::last_value(given, Opt::Watch));
    let namespace = namespace(given)?;
    if asked(Opt::Prometheus) {
        return match (json, watch) {
            (false, None) if namespace.is_some() && mountpoint.is_none() => Err(Error::usage(
                "stat: MOUNTPOINT is missing: without it, leave out --namespace, too, and all mounts are told",
            )),
            (false, None) => Ok(Command::Metrics { mountpoint, namespace }),
            _ => Err(Error::usage(
                "stat: option '--prometheus' goes with neither '--json' nor '--watch'",
            )),
        };
    }
    let mountpoint = mountpoint.ok_or_else(|| Error::usage("stat: MOUNTPOINT is missing"))?;
    let Some(value) = watch else { return Ok(Command::Stat { mountpoint, json, namespace }) };
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    let interval = seconds.filter(|seconds| (0.1..=MAX_INTERVAL).contains(seconds));
    let interval = interval.map(Duration::from_secs_f64).ok_or_else(|| {
        let value = value.to_string_lossy();
        Error::usage(format!(
            "stat: option '--watch': '{value}' is not a number of seconds from 0.1 to {MAX_INTERVAL}"
        ))
    })?;
    Ok(Command::Watch { mountpoint, json, interval, namespace })
}

/// The mount namespace that a subcommand is about, when it is another one.
fn namespace(given: &[Given]) -> Result<Option<OsString>> {
    match arguments::last_value(given, Opt::Namespace) {
        Some(value) if value.is_empty() => {
            Err(Error::usage("option 'namespace': the value is empty"))
        }
        value => Ok(value.map(OsStr::to_owned)),
    }
}

fn explain(given: Vec<Given>, operands: Vec<OsString>, accounts: &dyn Accounts) -> Result<Command> {
    match <[OsString; 1]>::try_from(operands) {
        Ok([mountpoint]) => match given.first() {
            None => Ok(Command::ExplainMounted { mountpoint: mountpoint.into() }),
            Some(one) => Err(Error::usage(format!(
                "explain: option '{}': give SOURCE and MOUNTPOINT with options, or a mount of this program alone",
                one.option.long
            ))),
        },
        Err(operands) => {
            let mut given = given;
            let option = options::by_id(Opt::Explain);
            given.push(Given { option, on: true, value: None });
            let settings = Settings::read(given, Dialect::Shiftbind, accounts, None)?;
            command_of(settings, operands, false)
        }
    }
}

#[cfg(test)]
mod tests;
