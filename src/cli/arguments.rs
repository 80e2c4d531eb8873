//! The ordinary command line, `shiftbind [OPTIONS] SOURCE MOUNTPOINT`: a clap command built from the option table.

use std::ffi::{OsStr, OsString};

use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};

use super::mount_options::{self, OnUnknown};
use super::options::{
    self, Category, Completion, Given, OPTIONS, Opt, OptionDef, SUBCOMMANDS, SubcommandDef,
};
use super::suggest::did_you_mean;
use crate::error::{Error, Result};

/// The result of parsing an argument vector: the options in the order given, and the operands.
pub(super) struct Invocation {
    pub(super) given: Vec<Given>,
    pub(super) operands: Vec<OsString>,
}

const SOURCE: &str = "SOURCE";
const MOUNTPOINT: &str = "MOUNTPOINT";

/// Parses an argument vector, whose first element is the program's name.
pub(super) fn parse(argv: Vec<OsString>) -> Result<Invocation> {
    let matches = command(Purpose::Parsing).try_get_matches_from(argv);
    let matches =
        matches.map_err(|e| one_line(&e, options_of_mount(), "one SOURCE and one MOUNTPOINT"))?;
    let operands = [SOURCE, MOUNTPOINT]
        .iter()
        .filter_map(|id| matches.get_one::<OsString>(id).cloned())
        .collect();
    Ok(Invocation { given: given(&matches, options_of_mount())?, operands })
}

/// Parses the arguments of a subcommand, the first of which is its name.
pub(super) fn parse_subcommand(
    definition: &'static SubcommandDef,
    argv: Vec<OsString>,
) -> Result<Invocation> {
    let command = subcommand(definition, Purpose::Parsing);
    let matches = command.try_get_matches_from(argv).map_err(|e| {
        let operands = match definition.operands {
            [] => "no operand".to_owned(),
            operands => operands.join(" and "),
        };
        let e = one_line(&e, definition.options(), &operands);
        Error::usage(format!("{}: {e}", definition.name))
    })?;
    let operands = definition
        .operands
        .iter()
        .filter_map(|id| matches.get_one::<OsString>(id).cloned())
        .collect();
    Ok(Invocation { given: given(&matches, definition.options())?, operands })
}

fn options_of_mount() -> impl Iterator<Item = &'static OptionDef> {
    OPTIONS.iter().filter(|option| option.is_of_mount())
}

/// What the clap command is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Parsing: clap accepts any value, and `settings` checks it.
    Parsing,
    /// Shell completion: clap lists the possible values.
    Completing,
}

/// Builds the clap command from the option table.
pub(super) fn command(purpose: Purpose) -> Command {
    let mut command = bare_command("shiftbind");
    for option in options_of_mount() {
        command = command.args(args_of(option, purpose));
    }
    command = command
        .arg(operand(SOURCE).help("The directory or file to show"))
        .arg(operand(MOUNTPOINT).help("Where to show it"));
    if purpose == Purpose::Completing {
        command = command.disable_help_subcommand(true);
        for definition in SUBCOMMANDS {
            command = command.subcommand(subcommand(definition, purpose));
        }
    }
    command
}

/// Builds the clap command of a subcommand.
fn subcommand(definition: &'static SubcommandDef, purpose: Purpose) -> Command {
    let mut command = bare_command(definition.name).about(definition.help);
    for option in definition.options() {
        command = command.args(args_of(option, purpose));
    }
    definition.operands.iter().fold(command, |command, name| command.arg(operand(name)))
}

fn bare_command(name: &'static str) -> Command {
    Command::new(name)
        .no_binary_name(false)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
}

fn operand(name: &'static str) -> Arg {
    Arg::new(name).value_parser(value_parser!(OsString)).value_hint(ValueHint::AnyPath)
}

/// The clap arguments of an option and of its opposite.
fn args_of(option: &'static OptionDef, purpose: Purpose) -> Vec<Arg> {
    let hidden = option.category == Category::Hidden;
    let mut arg = Arg::new(option.long).long(option.long).help(option.help).hide(hidden);
    if let Some(letter) = option.short {
        arg = arg.short(letter);
    }
    let other_spelling = |name: &str| name.contains('-').then(|| name.replace('-', "_"));
    for name in std::iter::once(&option.long).chain(option.aliases) {
        arg = arg.aliases(other_spelling(name));
    }
    arg = arg.aliases(option.aliases.iter().chain(option.long_aliases).copied());
    if option.id == Opt::UidOffset || option.id == Opt::GidOffset {
        arg = arg.allow_negative_numbers(true);
    }
    arg = match option.value {
        Some(value) => {
            let mut arg = arg.action(ArgAction::Append).value_name(value.placeholder);
            if let Some(bare) = value.if_bare {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value(bare);
            }
            match value.completion {
                Completion::Words(words) if purpose == Purpose::Completing => {
                    arg.value_parser(PossibleValuesParser::new(words.iter().copied()))
                }
                Completion::File => {
                    arg.value_parser(value_parser!(OsString)).value_hint(ValueHint::FilePath)
                }
                _ => arg.value_parser(value_parser!(OsString)).value_hint(ValueHint::Other),
            }
        }
        None if option.accumulates() => arg.action(ArgAction::Count),
        None => arg.action(ArgAction::SetTrue),
    };
    let opposite = option.opposite.map(|name| {
        let arg = Arg::new(name).long(name).aliases(other_spelling(name)).help(option.help);
        let arg = option.opposite_short.into_iter().fold(arg, Arg::short);
        arg.action(ArgAction::SetTrue)
    });
    std::iter::once(arg).chain(opposite).collect()
}

/// The options in the order given; those of an `-o` list take the list's position.
fn given(
    matches: &ArgMatches,
    options: impl Iterator<Item = &'static OptionDef>,
) -> Result<Vec<Given>> {
    let mut found: Vec<(usize, Given)> = Vec::new();
    for option in options {
        for (id, on) in [(Some(option.long), true), (option.opposite, false)] {
            let Some(id) = id else { continue };
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let positions = matches.indices_of(id).into_iter().flatten();
            if option.value.is_some() {
                let values = matches.get_many::<OsString>(id).into_iter().flatten();
                for (position, value) in positions.zip(values) {
                    if option.id == Opt::Options {
                        let options = mount_options::parse_list(value, OnUnknown::Refuse)?;
                        found.extend(options.into_iter().map(|option| (position, option)));
                    } else {
                        found.push((position, Given { option, on, value: Some(value.clone()) }));
                    }
                }
            } else {
                let times = if option.accumulates() { matches.get_count(id) } else { 1 };
                let position = positions.last().unwrap_or_default();
                for _ in 0..times {
                    found.push((position, Given { option, on, value: None }));
                }
            }
        }
    }
    // A stable sort keeps the order within one -o list.
    found.sort_by_key(|(position, _)| *position);
    Ok(found.into_iter().map(|(_, given)| given).collect())
}

/// Converts clap's error to a message of one line. `options` may be suggested; `operands` are those to give.
fn one_line(
    error: &clap::Error,
    options: impl Iterator<Item = &'static OptionDef>,
    operands: &str,
) -> Error {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    // clap reports "--uidmap <MAP>"; the message names the flag alone.
    let flag = argument.split([' ', '=', '[']).next().unwrap_or(argument);
    let message = match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let name = flag.trim_start_matches('-');
            let hint = did_you_mean(name, options::long_flags(options), "--");
            format!("unknown option '{flag}'; {hint}")
        }
        ErrorKind::UnknownArgument => {
            format!("unexpected argument '{argument}'; give {operands}")
        }
        ErrorKind::InvalidValue => format!("option '{flag}' needs a value"),
        ErrorKind::TooManyValues => format!("option '{flag}' takes no value"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    };
    Error::usage(message)
}

/// The last value given for an option.
pub(super) fn last_value(given: &[Given], id: Opt) -> Option<&OsStr> {
    given.iter().rev().find(|one| one.option.id == id).and_then(|one| one.value.as_deref())
}
