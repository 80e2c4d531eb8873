//! The command line of the coherence benchmark.

use crate::common::daemon::Shiftbind;
use crate::common::filesystem::Kind;

pub const HELP: &str = "\
Measures how soon changes on the source are seen at the mount, and what watching for them costs unrelated processes. Needs root.

cargo bench --bench coherence -- [OPTIONS]

--changes N       changes of each kind (200)
--entries N       entries of the large directory (10000)
--directories N   watched directories (10000)
--rounds N        rounds, each with and without the mount (15)
--on KIND         xfs, ext4, btrfs (in a sparse image under target/) or tmpfs (xfs)
--changes-only    without the overhead for unrelated processes
--overhead-only  only the overhead for unrelated processes
--quick           few changes, short loops: shows that everything works; the figures mean little
--shiftbind FILE  another binary in place of the one just built
--options OPTS    more -o options for shiftbind
";

/// What the command line asks for.
pub enum Request {
    /// To print the help.
    Help,
    /// To run the benchmark.
    Run(Arguments),
}

/// The parameters of a run.
pub struct Arguments {
    /// Changes of each kind.
    pub changes: u64,
    /// Entries of the large directory.
    pub entries: u64,
    /// Watched directories.
    pub directories: u64,
    /// Rounds, each with and without the mount.
    pub rounds: u64,
    /// The source's filesystem.
    pub on: Kind,
    /// Skip the overhead for unrelated processes.
    pub changes_only: bool,
    /// Measure only the overhead for unrelated processes.
    pub overhead_only: bool,
    /// Only show that everything works.
    pub quick: bool,
    /// The binary under test.
    pub shiftbind: Shiftbind,
}

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Request, String> {
    let mut arguments = arguments.into_iter().peekable();
    // `cargo bench` passes at least --bench. `cargo test --all-targets` passes nothing and must not start minutes of
    // work.
    if arguments.peek().is_none() {
        return Ok(Request::Help);
    }
    let mut parsed = Arguments {
        changes: 0,
        entries: 10_000,
        directories: 10_000,
        rounds: 0,
        on: Kind::Xfs,
        changes_only: false,
        overhead_only: false,
        quick: false,
        shiftbind: Shiftbind::built(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // `cargo bench` passes it to every benchmark.
            "--bench" => {}
            "-h" | "--help" => return Ok(Request::Help),
            "--changes" => parsed.changes = number(&argument, &value()?)?,
            "--entries" => parsed.entries = number(&argument, &value()?)?,
            "--directories" => parsed.directories = number(&argument, &value()?)?,
            "--rounds" => parsed.rounds = number(&argument, &value()?)?,
            "--on" => parsed.on = value()?.parse().map_err(|e| format!("--on {e}"))?,
            "--changes-only" => parsed.changes_only = true,
            "--overhead-only" => parsed.overhead_only = true,
            "--quick" => parsed.quick = true,
            "--shiftbind" => parsed.shiftbind.binary = value()?.into(),
            "--options" => parsed.shiftbind.options = Some(value()?),
            other => return Err(format!("unknown argument {other}; --help lists them")),
        }
    }
    let unless_given = |given: u64, full, quick| match given {
        0 if parsed.quick => quick,
        0 => full,
        given => given,
    };
    parsed.changes = unless_given(parsed.changes, 200, 5);
    parsed.rounds = unless_given(parsed.rounds, 15, 2);
    Ok(Request::Run(parsed))
}

fn number(option: &str, given: &str) -> Result<u64, String> {
    let number = given.parse().ok().filter(|n| (1..1 << 31).contains(n));
    number.ok_or_else(|| format!("{option} {given}: give a number of at least 1"))
}
