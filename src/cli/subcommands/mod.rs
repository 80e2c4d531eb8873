//! The grammar of the subcommands, whose table is beside that of the options.
//!
//! The first argument selects one, under the name shiftbind only: mount(8)'s helpers and bindfs have none. A source that
//! has a subcommand's name is given as `./list`, or after `--`.

mod help;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

pub use help::help;

use super::arguments::{self, Invocation};
use super::dialect::Dialect;
use super::options::{self, Given, Name, Opt, SUBCOMMANDS, SubcommandDef};
use super::settings::Settings;
use super::suggest::nearest;
use super::{Command, command_of};
use crate::accounts::Accounts;
use crate::config::Found;
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
    if definition.id == Name::Explain {
        return explain(given, operands, accounts);
    }
    let namespace = arguments::last_value(&given, Opt::Namespace).map(OsStr::to_owned);
    if namespace.as_ref().is_some_and(|value| value.is_empty()) {
        return Err(Error::usage("option 'namespace': the value is empty"));
    }
    let hook_config = arguments::last_value(&given, Opt::HookConfig).map(PathBuf::from);
    let mountpoint = operands.into_iter().next().map(PathBuf::from).unwrap_or_default();
    Ok(match definition.id {
        Name::List | Name::Explain => Command::List { json },
        Name::Stat => Command::Stat { mountpoint, json, namespace },
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
            let settings = Settings::read(given, Dialect::Shiftbind, accounts, &Found::default())?;
            command_of(settings, operands, false)
        }
    }
}

#[cfg(test)]
mod tests;
