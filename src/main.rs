//! The program: parses the command line, runs the command, returns mount(8)'s exit status.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use shiftbind::SourceMounts;
use shiftbind::cli::{self, Command, Dialect};
use shiftbind::daemon::{Options, Origin};
use shiftbind::error::{Error, Result, one_line};
use shiftbind::inspect;

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let name = Dialect::of(argv.first().map_or(OsStr::new(""), OsString::as_os_str)).name();
    match run(argv, name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", one_line(&error.to_string()));
            ExitCode::from(error.exit().code())
        }
    }
}

fn run(argv: Vec<OsString>, name: &str) -> Result<()> {
    let command = cli::parse(argv.clone())?;
    if let Command::Mount(config)
    | Command::Fake(config)
    | Command::Explain(config)
    | Command::ExplainOptions(config) = &command
    {
        for warning in &config.warnings {
            eprintln!("{name}: warning: {}", one_line(warning));
        }
    }
    match command {
        Command::Mount(config) => {
            let options = cli::reload_options(argv, &config);
            shiftbind::daemon::run(config, Box::new(options))
        }
        Command::Fake(_) => Ok(()),
        Command::Reload { mountpoint, namespace: Some(value) } => {
            shiftbind::daemon::reload_in(&value, &mountpoint, &options_again)
        }
        Command::Reload { mountpoint, .. } => {
            shiftbind::daemon::reload(&mountpoint, &options_again)
        }
        Command::Remount { mountpoint, flags } => shiftbind::remount(&mountpoint, &flags),
        Command::Explain(config) => {
            let engine = shiftbind::engine_verdict(&config);
            let probed = cli::ProbeResults {
                by_kernel: engine.by_kernel,
                engine: Some(engine.text),
                cache: shiftbind::cache_verdict(&config),
                costs: shiftbind::daemon::kernel_traits()
                    .map_or(Vec::new(), |kernel| kernel.costs()),
                mount8_command: shiftbind::mount8_command(&config),
                mounts: SourceMounts::of(&config),
                passthrough: Some(shiftbind::may_register_backing_files()),
                uid_map: shiftbind::own_uid_map(),
                propagates: shiftbind::propagates(&config.mountpoint),
            };
            print(&cli::explain(&config, &probed))?;
            shiftbind::daemon::check(&config)
        }
        Command::ExplainOptions(config) => {
            let probed =
                cli::ProbeResults { uid_map: shiftbind::own_uid_map(), ..Default::default() };
            print(&cli::explain_options(&config, &probed))
        }
        Command::List { json } => print(&inspect::list(json)?),
        Command::Stat { mountpoint, json, namespace } => {
            print(&inspect::stat(&mountpoint, namespace.as_deref(), json)?)
        }
        Command::Metrics { mountpoint, namespace } => {
            print(&inspect::metrics(mountpoint.as_deref(), namespace.as_deref())?)
        }
        Command::Watch { mountpoint, json, interval, namespace } => {
            let watched = inspect::Watched::find(&mountpoint, namespace.as_deref())?;
            inspect::watch(watched, json, interval, &mut std::io::stdout())
        }
        Command::ExplainMounted { mountpoint } => {
            let ids = inspect::ids_of(&mountpoint)?;
            print(&cli::explain_ids_of(&mountpoint, &ids))
        }
        Command::Umount { mountpoint, lazy, namespace } => {
            inspect::umount(&mountpoint, namespace.as_deref(), lazy)
        }
        Command::OciHook { config } => run_hook(config.as_deref()),
        Command::HelpOf(name) => print(&cli::help_of(name)),
        Command::Help(dialect) => print(&cli::help(dialect)),
        Command::Version(dialect) => print(&cli::version(dialect)),
        Command::FuseVersion => print(&cli::fuse_version(shiftbind::PROTOCOL_VERSION)),
        Command::Generate(artifact) => print(&cli::generate(artifact)),
    }
}

/// Evaluates the options of a mount again that another process made.
fn options_again(origin: &Origin) -> Options {
    let source = Some(origin.source.clone());
    Box::new(cli::options_again(origin.argv.clone(), origin.has_file, source))
}

/// Mounts what the annotations of a container ask for. The state of the container is on standard input.
fn run_hook(config: Option<&Path>) -> Result<()> {
    for mount in shiftbind::hook_mounts(std::io::stdin().lock(), config)? {
        let (argv, config) = cli::parse_hook(&mount)?;
        let options = cli::reload_options(argv, &config);
        shiftbind::daemon::run(config, Box::new(options))?;
    }
    Ok(())
}

/// Writes to standard output. A reader that closes its end early (`| head`, EPIPE) is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::file("standard output", error))
        }
        _ => Ok(()),
    }
}
