//! The command line of the comparison.

use std::path::PathBuf;

use crate::contender::{Kind, Shiftbind};

pub const HELP: &str = "\
Compares shiftbind with the bare source and with other ways to show a directory elsewhere. Needs root.

cargo bench --bench compare -- [OPTIONS] [FILTER]...

FILTER            only workloads whose name contains one of these
--list            name the workloads
--quick           small data, short loops, 1 run: shows that everything works; the figures mean little
--runs N          interleaved rounds (5)
--with A,B,...    only these contenders: idmapped bindfs bindfs-mt fuse-overlayfs shiftbind-kernel shiftbind
--csv FILE        write medians, spread and request counts
--plot FILE       write an SVG
--shiftbind FILE  another binary in place of the one just built
--options OPTS    more -o options for shiftbind
";

/// What the command line asks for.
pub enum Request {
    /// To print the help.
    Help,
    /// To list the workloads.
    List,
    /// To run the comparison.
    Run(Arguments),
}

/// The parameters of a run.
pub struct Arguments {
    /// Substrings of workload names; empty for all workloads.
    pub filters: Vec<String>,
    /// Only show that everything works.
    pub quick: bool,
    /// The number of rounds.
    pub runs: usize,
    /// The contenders; the source is always first.
    pub contenders: Vec<Kind>,
    /// The file for the CSV table.
    pub csv: Option<PathBuf>,
    /// The file for the SVG.
    pub plot: Option<PathBuf>,
    /// The binary under test.
    pub shiftbind: Shiftbind,
}

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Request, String> {
    let mut arguments = arguments.into_iter().peekable();
    // `cargo bench` passes at least --bench. `cargo test --all-targets` passes nothing and must not start an hour of
    // work.
    if arguments.peek().is_none() {
        return Ok(Request::Help);
    }
    let mut runs = None;
    let mut parsed = Arguments {
        filters: Vec::new(),
        quick: false,
        runs: 5,
        contenders: Kind::ALL.to_vec(),
        csv: None,
        plot: None,
        shiftbind: Shiftbind {
            binary: PathBuf::from(env!("CARGO_BIN_EXE_shiftbind")),
            options: None,
        },
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // `cargo bench` passes it to every benchmark.
            "--bench" => {}
            "-h" | "--help" => return Ok(Request::Help),
            "--list" => return Ok(Request::List),
            "--quick" => parsed.quick = true,
            "--runs" => {
                let given = value()?;
                let number = given.parse().ok().filter(|n| *n > 0);
                runs = Some(number.ok_or(format!("--runs {given}: give a number of at least 1"))?);
            }
            "--with" => parsed.contenders = contenders(&value()?)?,
            "--csv" => parsed.csv = Some(value()?.into()),
            "--plot" => parsed.plot = Some(value()?.into()),
            "--shiftbind" => parsed.shiftbind.binary = value()?.into(),
            "--options" => parsed.shiftbind.options = Some(value()?),
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}; --help lists them"));
            }
            filter => parsed.filters.push(filter.to_lowercase()),
        }
    }
    parsed.runs = runs.unwrap_or(if parsed.quick { 1 } else { 5 });
    Ok(Request::Run(parsed))
}

fn contenders(list: &str) -> Result<Vec<Kind>, String> {
    let mut kinds = vec![Kind::Source];
    for name in list.split(',') {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.ok_or(format!("--with {name}: no such contender; --help lists them"))?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}
