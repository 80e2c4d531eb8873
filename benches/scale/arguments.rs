//! The command line of the scale benchmark.

use std::time::Duration;

use crate::common::daemon::Shiftbind;
use crate::common::filesystem::Kind;

pub const HELP: &str = "\
Measures what becomes of time and memory with very many names, entries, open files, threads and mounts. Needs root.

cargo bench --bench scale -- [OPTIONS]

--names N         names in the tree (2000000)
--entries N       entries of the big directory (1000000)
--files N         files open at once (10000)
--threads N       client threads at once (64)
--mounts N        mounts at once (100)
--on KIND         xfs, ext4, btrfs (in a sparse image under target/) or tmpfs (xfs)
--only A,B,...    only these: tree directory files threads mounts
--walk-only       make the tree past the mount, walk it at its full size only, and throw it away with its filesystem
--quick           short loops: shows that everything works; the figures mean little
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

/// A section of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// A tree of millions of names.
    Tree,
    /// A directory of a million entries.
    Directory,
    /// Thousands of open files.
    Files,
    /// Many client threads.
    Threads,
    /// Many mounts.
    Mounts,
}

impl Section {
    const ALL: [Self; 5] = [Self::Tree, Self::Directory, Self::Files, Self::Threads, Self::Mounts];

    /// The name in `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Directory => "directory",
            Self::Files => "files",
            Self::Threads => "threads",
            Self::Mounts => "mounts",
        }
    }
}

/// The parameters of a run.
pub struct Arguments {
    /// Names in the tree.
    pub names: u64,
    /// Entries of the big directory.
    pub entries: u64,
    /// Files open at once.
    pub files: u64,
    /// Client threads.
    pub threads: usize,
    /// Mounts at once.
    pub mounts: usize,
    /// The source's filesystem.
    pub on: Kind,
    /// The sections to run.
    pub sections: Vec<Section>,
    /// Create the tree on the source, and skip creating and removing through the mount.
    pub walk_only: bool,
    /// Only show that everything works.
    pub quick: bool,
    /// The binary under test.
    pub shiftbind: Shiftbind,
}

impl Arguments {
    /// The duration of loops that end by the clock.
    pub fn time(&self) -> Duration {
        Duration::from_millis(if self.quick { 20 } else { 400 })
    }

    /// The number of rounds, each also on the bare source.
    pub fn rounds(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }
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
        names: 2_000_000,
        entries: 1_000_000,
        files: 10_000,
        threads: 64,
        mounts: 100,
        on: Kind::Xfs,
        sections: Section::ALL.to_vec(),
        walk_only: false,
        quick: false,
        shiftbind: Shiftbind::built(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            // `cargo bench` passes it to every benchmark.
            "--bench" => {}
            "-h" | "--help" => return Ok(Request::Help),
            "--names" => parsed.names = number(&argument, &value()?)?,
            "--entries" => parsed.entries = number(&argument, &value()?)?,
            "--files" => parsed.files = number(&argument, &value()?)?,
            "--threads" => parsed.threads = number(&argument, &value()?)? as usize,
            "--mounts" => parsed.mounts = number(&argument, &value()?)? as usize,
            "--on" => parsed.on = value()?.parse().map_err(|e| format!("--on {e}"))?,
            "--only" => parsed.sections = sections(&value()?)?,
            "--walk-only" => parsed.walk_only = true,
            "--quick" => parsed.quick = true,
            "--shiftbind" => parsed.shiftbind.binary = value()?.into(),
            "--options" => parsed.shiftbind.options = Some(value()?),
            other => return Err(format!("unknown argument {other}; --help lists them")),
        }
    }
    Ok(Request::Run(parsed))
}

fn number(option: &str, given: &str) -> Result<u64, String> {
    let number = given.parse().ok().filter(|n| (1..1 << 31).contains(n));
    number.ok_or_else(|| format!("{option} {given}: give a number of at least 1"))
}

fn sections(list: &str) -> Result<Vec<Section>, String> {
    let section = |name| {
        let section = Section::ALL.into_iter().find(|section| section.name() == name);
        section.ok_or_else(|| format!("--only {name}: no such part; --help lists them"))
    };
    list.split(',').map(section).collect()
}
