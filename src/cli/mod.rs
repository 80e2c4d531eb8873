//! The command line: parses arguments into a [`Command`], checks every value, and resolves names to ids.
//!
//! - `options` holds the option table.
//! - `arguments` (shiftbind), `helper` (mount.shiftbind) and `mount_options` (-o) are the grammars built from it.
//! - `settings` turns the options into a [`Config`]; `ids` and `view_options` handle those of the view.
//! - `dialect` selects the defaults, shiftbind's or bindfs's.
//! - `fstab` and `reload_options` find the options of a mount again for a reload.
//! - `subcommands` holds their table, and their grammar.
//! - `help`, `manpage` and `explain` only print.

mod arguments;
mod bindfs_map;
mod dialect;
mod explain;
mod fstab;
mod help;
mod helper;
mod ids;
mod input_file;
mod manpage;
mod maps;
mod mount_options;
mod options;
mod reload_options;
mod settings;
mod subcommands;
mod suggest;
mod target;
mod values;
mod view_options;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::accounts::{Accounts, SystemAccounts};
pub use dialect::Dialect;
pub use explain::{ProbeResults, explain, explain_ids_of, explain_options, explain_with};
pub use help::{fuse_version, help, version};
pub use manpage::generate;
pub use reload_options::{options_again, reload_options};
pub use subcommands::help as help_of;

use crate::config::{Config, Found, MountFlags};
use crate::error::{Error, Result};
use crate::hook::HookMount;
use arguments::Invocation;
use options::{Given, Opt};
use settings::Settings;

/// What the user asks for.
#[derive(Debug)]
pub enum Command {
    /// Mount.
    Mount(Config),
    /// Change the mount options of an existing mount.
    Remount {
        /// The mount point.
        mountpoint: PathBuf,
        /// The options to change: those that are `Some`.
        flags: MountFlags,
    },
    /// Ask the daemon of a mount to reload its options.
    Reload {
        /// The mount point.
        mountpoint: PathBuf,
        /// The mount namespace that it is in, as `--namespace` names it. `None`: this process's own.
        namespace: Option<OsString>,
    },
    /// List the mounts of this program.
    List {
        /// As JSON.
        json: bool,
    },
    /// Tell what is known of a mount.
    Stat {
        /// The mount point.
        mountpoint: PathBuf,
        /// As JSON.
        json: bool,
        /// The mount namespace that it is in, as `--namespace` names it. `None`: this process's own.
        namespace: Option<OsString>,
    },
    /// Tell what is known of a mount again and again.
    Watch {
        /// The mount point.
        mountpoint: PathBuf,
        /// As JSON.
        json: bool,
        /// The time from one to the next.
        interval: Duration,
        /// The mount namespace that it is in, as `--namespace` names it. `None`: this process's own.
        namespace: Option<OsString>,
    },
    /// Print metrics in the text format of Prometheus.
    Metrics {
        /// The mount point; `None`: all mounts of this program.
        mountpoint: Option<PathBuf>,
        /// The mount namespace that it is in, as `--namespace` names it. `None`: this process's own.
        namespace: Option<OsString>,
    },
    /// Explain the map in force at a mount.
    ExplainMounted {
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// Unmount a mount of this program.
    Umount {
        /// The mount point.
        mountpoint: PathBuf,
        /// Detach it while it is in use.
        lazy: bool,
        /// The mount namespace that it is in, as `--namespace` names it. `None`: this process's own.
        namespace: Option<OsString>,
    },
    /// Mount in a container that is being created.
    OciHook {
        /// The file that says what may be mounted. `None`: the default.
        config: Option<PathBuf>,
    },
    /// Print the help of this subcommand.
    HelpOf(&'static str),
    /// Check everything, mount nothing (`mount -f`).
    Fake(Config),
    /// Explain what would be mounted, check that it can be, and mount nothing.
    Explain(Config),
    /// Explain the options alone, without a source and a mount point.
    ExplainOptions(Config),
    /// Print the help.
    Help(Dialect),
    /// Print the version.
    Version(Dialect),
    /// Print the version of the FUSE protocol.
    FuseVersion,
    /// Print a generated file.
    Generate(Artifact),
}

/// A file that is generated from the option table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Artifact {
    /// The man page, shiftbind.8.
    Man,
    /// Completions for bash.
    Bash,
    /// Completions for zsh.
    Zsh,
    /// Completions for fish.
    Fish,
}

/// Parses an argument vector, whose first element is the program's name. Names are looked up in the system's database.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Command> {
    parse_with(argv, &SystemAccounts)
}

/// As [`parse`], with another user database.
pub fn parse_with(
    argv: impl IntoIterator<Item = OsString>,
    accounts: &dyn Accounts,
) -> Result<Command> {
    parse_again(argv, accounts, None)
}

/// As [`parse_with`], for a reload of a mount that keeps what it has found.
fn parse_again(
    argv: impl IntoIterator<Item = OsString>,
    accounts: &dyn Accounts,
    kept: Option<&Found>,
) -> Result<Command> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let mut command = command_in(argv.clone(), accounts, kept)?;
    if let Command::Mount(config) = &mut command {
        config.argv = argv;
    }
    Ok(command)
}

fn command_in(
    argv: Vec<OsString>,
    accounts: &dyn Accounts,
    kept: Option<&Found>,
) -> Result<Command> {
    let name = argv.first().cloned().unwrap_or_default();
    let dialect = Dialect::of(&name);
    if dialect::helper(&name).is_some() {
        let helper::HelperInvocation { invocation, fake } = helper::parse(argv)?;
        let Invocation { given, operands } = invocation;
        let mut settings = Settings::read(given, dialect, accounts, kept)?;
        settings.set_called_by_mount8();
        return command_of(settings, operands, fake);
    }
    let called_by_mount8 = is_from_mount_fuse(&argv);
    if dialect == Dialect::Shiftbind
        && let Some(definition) = subcommands::of(&argv)
    {
        return subcommands::parse(definition, argv, accounts);
    }
    let has_separator = argv.iter().any(|argument| argument == "--");
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
    if dialect == Dialect::Shiftbind && !called_by_mount8 && !has_separator {
        subcommands::check_source(&operands)?;
    }
    let mut settings = Settings::read(given, dialect, accounts, kept)?;
    if called_by_mount8 {
        settings.set_called_by_mount8();
    }
    if dialect == Dialect::Bindfs {
        settings.apply_bindfs_defaults();
    }
    command_of(settings, operands, false)
}

/// The command line and the configuration of a mount that an annotation asks for.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_hook(mount: &HookMount) -> Result<(Vec<OsString>, Config)> {
    let mut argv = vec![OsString::from("shiftbind"), "--mkdir".into()];
    argv.push(format!("--namespace={}", mount.pid).into());
    if !mount.options.is_empty() {
        argv.extend(["-o".into(), OsString::from(&mount.options)]);
    }
    argv.extend(["--".into(), mount.opened_path().into(), mount.target.clone().into()]);
    let Command::Mount(mut config) = parse(argv.clone())? else {
        return Err(Error::usage("oci-hook: the options ask for no mount"));
    };
    if config.process.foreground {
        return Err(Error::usage(
            "oci-hook: a mount in the foreground would keep the container from being created",
        ));
    }
    config.fsname.get_or_insert_with(|| mount.source.clone().into());
    for namespace in [&mut config.namespace, &mut config.found.target].into_iter().flatten() {
        namespace.root = Some(mount.root.clone());
    }
    Ok((argv, config))
}

/// Whether the arguments have the form that mount.fuse3(8) uses for mount(8): `PROGRAM SOURCE MOUNTPOINT -o rw,…`.
///
/// mount(8) always begins the list with `rw` or `ro`, and never passes that alone.
fn is_from_mount_fuse(argv: &[OsString]) -> bool {
    let [_, source, mountpoint, flag, list] = argv else { return false };
    let is_operand = |argument: &OsString| !argument.as_encoded_bytes().starts_with(b"-");
    let begins = [b"rw,", b"ro,"].iter().any(|word| list.as_encoded_bytes().starts_with(*word));
    flag == "-o" && is_operand(source) && is_operand(mountpoint) && begins
}

/// Parses `--reload MOUNTPOINT`, which takes no other options: the daemon evaluates those of its mount again.
fn reload_of(given: &[Given], operands: Vec<OsString>) -> Result<Command> {
    if let Some(other) = given.iter().find(|one| one.option.id != Opt::Reload) {
        return Err(Error::usage(format!(
            "option '{}': --reload takes no other options; the daemon reads its own again",
            other.option.long
        )));
    }
    match <[OsString; 1]>::try_from(operands) {
        Ok([mountpoint]) if !mountpoint.is_empty() => {
            Ok(Command::Reload { mountpoint: mountpoint.into(), namespace: None })
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
    if settings.is_explain() && paths.is_empty() {
        return Ok(Command::ExplainOptions(settings.into_config(PathBuf::new(), PathBuf::new())?));
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

/// The configuration of `shiftbind /a /m -o WORDS`.
#[cfg(test)]
pub(crate) fn config_of(words: &str) -> Config {
    match parse(["shiftbind", "/a", "/m", "-o", words].map(OsString::from)).unwrap() {
        Command::Mount(config) => config,
        other => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
