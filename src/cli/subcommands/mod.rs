//! The subcommands: their table, from which parser, help, man page and completions are made, and their grammar.
//!
//! The first argument selects one, under the name shiftbind only: mount(8)'s helpers and bindfs have none. A source that
//! has a subcommand's name is given as `./list`.

mod help;

use std::ffi::OsString;
use std::path::PathBuf;

pub use help::help;

use super::arguments::{self, Invocation};
use super::dialect::Dialect;
use super::options::{self, Given, OPTIONS, Opt, OptionDef};
use super::settings::Settings;
use super::{Command, command_of};
use crate::accounts::Accounts;
use crate::error::{Error, Result};

/// Which options of the table a subcommand takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    /// These, and `--help`.
    These(&'static [Opt]),
    /// All options of a mount.
    OptionsOfMount,
}

/// Identifies a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    List,
    Stat,
    Explain,
    Reload,
    Umount,
}

/// One subcommand: everything that the parser, the help, the man page and the completions need.
#[derive(Debug)]
pub(super) struct SubcommandDef {
    id: Name,
    /// The word on the command line.
    pub(super) name: &'static str,
    /// The names of the operands, in order.
    pub(super) operands: &'static [&'static str],
    /// How many of the operands may be left out.
    optional: usize,
    takes: Takes,
    /// One line, for `--help` and the shells.
    pub(super) help: &'static str,
    /// Whole sentences, for the man page.
    pub(super) about: &'static str,
}

const MOUNTPOINT: &str = "MOUNTPOINT";

/// Every subcommand.
pub(super) static SUBCOMMANDS: &[SubcommandDef] = &[
    SubcommandDef {
        id: Name::List,
        name: "list",
        operands: &[],
        optional: 0,
        takes: Takes::These(&[Opt::Json]),
        help: "List the mounts of this program",
        about: "Lists the mounts of both engines in this mount namespace, one a line: mount point, source, engine, map, \
                time since it was mounted, process id of the daemon. What is not known is written -.\n\n\
                Blanks, control characters and backslashes of a name are written as a backslash and three octal digits, \
                as in /proc/self/mountinfo. A user other than root sees the mounts that this user made.\n\n\
                A daemon that does not answer within two seconds delays no other: its mount is listed with what the mount \
                table says.",
    },
    SubcommandDef {
        id: Name::Stat,
        name: "stat",
        operands: &[MOUNTPOINT],
        optional: 0,
        takes: Takes::These(&[Opt::Json]),
        help: "Tell what is known of one mount",
        about: "Prints what is known of the mount at MOUNTPOINT, a fact a line: as list, and the options that were given, \
                the cache policy in force, reloads, requests and errors by kind, and the memory and descriptors of the \
                daemon. Root and the user who mounted may ask.",
    },
    SubcommandDef {
        id: Name::Explain,
        name: "explain",
        operands: &["SOURCE", MOUNTPOINT],
        optional: 2,
        takes: Takes::OptionsOfMount,
        help: "Explain a mount, and mount nothing",
        about: "With SOURCE and MOUNTPOINT, or without operands: the same as --explain. With one operand, which is a mount of this program: \
                explains the map in force there.",
    },
    SubcommandDef {
        id: Name::Reload,
        name: "reload",
        operands: &[MOUNTPOINT],
        optional: 0,
        takes: Takes::These(&[]),
        help: "Make the daemon of MOUNTPOINT reload its options",
        about: "Makes the daemon that serves MOUNTPOINT reload its options, see Changing a mount. The option --reload does \
                the same.",
    },
    SubcommandDef {
        id: Name::Umount,
        name: "umount",
        operands: &[MOUNTPOINT],
        optional: 0,
        takes: Takes::These(&[Opt::Lazy]),
        help: "Unmount MOUNTPOINT, if it is a mount of this program",
        about: "Unmounts MOUNTPOINT, if the topmost mount there was made by this program, whichever engine made it, and \
                with it what the kernel's engine has taken along from below the source. umount(8) does the same for a \
                mount without others below it.",
    },
];

impl SubcommandDef {
    /// The options that it takes, in the table's order.
    pub(super) fn options(&'static self) -> impl Iterator<Item = &'static OptionDef> {
        OPTIONS.iter().filter(|option| match self.takes {
            Takes::OptionsOfMount => option.is_of_mount(),
            Takes::These(ids) => option.id == Opt::Help || ids.contains(&option.id),
        })
    }

    /// The name and its operands, as in a usage line.
    pub(super) fn usage(&self) -> String {
        let mut usage = self.name.to_owned();
        let required = self.operands.len() - self.optional;
        for (number, operand) in self.operands.iter().enumerate() {
            usage.push_str(&match number < required {
                true => format!(" {operand}"),
                false => format!(" [{operand}]"),
            });
        }
        usage
    }
}

/// The subcommand that the first argument names.
pub(super) fn of(argv: &[OsString]) -> Option<&'static SubcommandDef> {
    let first = argv.get(1)?;
    SUBCOMMANDS.iter().find(|definition| first == definition.name)
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
    let mountpoint = operands.into_iter().next().map(PathBuf::from).unwrap_or_default();
    Ok(match definition.id {
        Name::List | Name::Explain => Command::List { json },
        Name::Stat => Command::Stat { mountpoint, json },
        Name::Reload => Command::Reload { mountpoint },
        Name::Umount => Command::Umount { mountpoint, lazy },
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
            let settings = Settings::read(given, Dialect::Shiftbind, accounts)?;
            command_of(settings, operands, false)
        }
    }
}

#[cfg(test)]
mod tests;
