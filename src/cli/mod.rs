//! The command line: arguments in, a [`Command`] out. Everything the user types is checked here, and names become ids.
//!
//! `options` holds the one table of options; `arguments` (shiftbind), `helper` (mount.shiftbind) and `mount_options` (-o) are the
//! grammars made from it; `settings` turns what they found into a [`Config`], with `ids` (who is shown as whom) and `view_options`
//! (everything else that is shown or may change). `dialect` says whose defaults hold.
//! `help`, `manpage` and `explain` only print.

mod arguments;
mod bindfs_map;
mod dialect;
mod explain;
mod fstab;
mod help;
mod helper;
mod ids;
mod manpage;
mod maps;
mod mount_options;
mod options;
mod reload_options;
mod settings;
mod suggest;
mod values;
mod view_options;

use std::ffi::OsString;
use std::path::PathBuf;

pub use crate::accounts::{Accounts, SystemAccounts};
pub use dialect::Dialect;
pub use explain::{ProbeResults, explain, explain_with};
pub use help::{fuse_version, help, version};
pub use manpage::generate;
pub use reload_options::reload_options;

use crate::config::{Config, MountFlags};
use crate::error::{Error, Result};
use arguments::Invocation;
use options::{Given, Opt};
use settings::Settings;

/// What the user asks for.
#[derive(Debug)]
pub enum Command {
    /// Mount.
    Mount(Config),
    /// Change the mount options of a mount that is there.
    Remount {
        /// Where it is.
        mountpoint: PathBuf,
        /// What is to change: only what is `Some`.
        flags: MountFlags,
    },
    /// Have the daemon of a mount read its options again.
    Reload {
        /// Where it is.
        mountpoint: PathBuf,
    },
    /// Everything was checked; mount nothing (`mount -f`).
    Fake(Config),
    /// Say what would be mounted.
    Explain(Config),
    /// Print the help.
    Help(Dialect),
    /// Print the version.
    Version(Dialect),
    /// Print the version of the FUSE library.
    FuseVersion,
    /// Print a file that belongs to the program.
    Generate(Artifact),
}

/// A file that is made from the table of options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Artifact {
    /// shiftbind.8.
    Man,
    /// Completions for bash.
    Bash,
    /// Completions for zsh.
    Zsh,
    /// Completions for fish.
    Fish,
}

/// Reads the arguments, the program's name included; names are those of the system's users and groups.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Command> {
    parse_with(argv, &SystemAccounts)
}

/// As [`parse`], with another user database.
pub fn parse_with(
    argv: impl IntoIterator<Item = OsString>,
    accounts: &dyn Accounts,
) -> Result<Command> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let name = argv.first().cloned().unwrap_or_default();
    let dialect = Dialect::of(&name);
    if dialect::helper(&name).is_some() {
        let helper::HelperInvocation { invocation, fake } = helper::parse(argv)?;
        let Invocation { given, operands } = invocation;
        let mut settings = Settings::read(given, dialect, accounts)?;
        settings.set_called_by_mount8();
        return command_of(settings, operands, fake);
    }
    let called_by_mount8 = is_from_mount_fuse(&argv);
    let invocation = arguments::parse(argv)?;
    let asked = |id| invocation.given.iter().any(|one| one.option.id == id);
    if asked(Opt::Help) {
        return Ok(Command::Help(dialect));
    }
    if asked(Opt::Version) {
        return Ok(Command::Version(dialect));
    }
    if asked(Opt::FuseVersion) {
        return Ok(Command::FuseVersion);
    }
    if let Some(what) = arguments::last_value(&invocation.given, Opt::Generate) {
        return match what.to_str() {
            Some("man") => Ok(Command::Generate(Artifact::Man)),
            Some("bash") => Ok(Command::Generate(Artifact::Bash)),
            Some("zsh") => Ok(Command::Generate(Artifact::Zsh)),
            Some("fish") => Ok(Command::Generate(Artifact::Fish)),
            _ => Err(Error::usage("option '--generate': give man, bash, zsh or fish")),
        };
    }
    let reload = asked(Opt::Reload);
    let Invocation { given, operands } = invocation;
    if reload {
        return reload_of(&given, operands);
    }
    let mut settings = Settings::read(given, dialect, accounts)?;
    if called_by_mount8 {
        settings.set_called_by_mount8();
    }
    if dialect == Dialect::Bindfs {
        settings.apply_bindfs_defaults();
    }
    command_of(settings, operands, false)
}

/// Whether the call has the form in which mount.fuse3(8) starts a program for mount(8): `PROGRAM SOURCE MOUNTPOINT -o
/// rw,…`. mount(8) always begins with one of `rw` and `ro`, and never gives that alone.
fn is_from_mount_fuse(argv: &[OsString]) -> bool {
    let [_, source, mountpoint, flag, list] = argv else { return false };
    let is_operand = |argument: &OsString| !argument.as_encoded_bytes().starts_with(b"-");
    let begins = [b"rw,", b"ro,"].iter().any(|word| list.as_encoded_bytes().starts_with(*word));
    flag == "-o" && is_operand(source) && is_operand(mountpoint) && begins
}

/// `--reload MOUNTPOINT`: the options are those that the daemon reads again.
fn reload_of(given: &[Given], operands: Vec<OsString>) -> Result<Command> {
    if let Some(other) = given.iter().find(|one| one.option.id != Opt::Reload) {
        return Err(Error::usage(format!(
            "option '{}': --reload takes no other options; the daemon reads its own again",
            other.option.long
        )));
    }
    match <[OsString; 1]>::try_from(operands) {
        Ok([mountpoint]) if !mountpoint.is_empty() => {
            Ok(Command::Reload { mountpoint: mountpoint.into() })
        }
        _ => Err(Error::usage("--reload: give the MOUNTPOINT, and nothing else")),
    }
}

fn command_of(settings: Settings, operands: Vec<OsString>, fake: bool) -> Result<Command> {
    if let Some(empty) = operands.iter().position(|operand| operand.is_empty()) {
        let which = if empty == 0 { "SOURCE" } else { "MOUNTPOINT" };
        return Err(Error::usage(format!("{which} is empty")));
    }
    let paths: Vec<PathBuf> = operands.into_iter().map(PathBuf::from).collect();
    if settings.is_remount() {
        return match paths.as_slice() {
            [mountpoint] | [_, mountpoint] => {
                let mountpoint = mountpoint.clone();
                Ok(Command::Remount { mountpoint, flags: settings.into_flags() })
            }
            _ => Err(Error::usage("remount: give the MOUNTPOINT")),
        };
    }
    let [source, mountpoint]: [PathBuf; 2] = paths.try_into().map_err(|paths: Vec<PathBuf>| {
        Error::usage(match paths.len() {
            0 => "SOURCE and MOUNTPOINT are missing; see shiftbind --help",
            1 => "MOUNTPOINT is missing; give SOURCE and MOUNTPOINT",
            _ => "too many arguments; give one SOURCE and one MOUNTPOINT",
        })
    })?;
    let explain = settings.is_explain();
    let config = settings.into_config(source, mountpoint)?;
    Ok(match (explain, fake) {
        (true, _) => Command::Explain(config),
        (false, true) => Command::Fake(config),
        (false, false) => Command::Mount(config),
    })
}

#[cfg(test)]
mod tests;
