//! Time and memory at scale: millions of names, a directory of a million entries, thousands of open files, many
//! client threads, many mounts. Everything runs on the bare source as well, in turns, so that the filesystem's own
//! growth is not counted as the mount's.

mod arguments;
#[path = "../common/mod.rs"]
mod common;
mod directory;
mod files;
mod mounts;
mod threads;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{Arguments, Request, Section};
use common::daemon::{Daemon, Shiftbind};
use common::filesystem::Filesystem;
use common::scratch_dir::ScratchDir;
use common::{figures, namespace};

/// Set in the environment once this program runs in its own namespaces.
const INSIDE: &str = "SHIFTBIND_SCALE_INSIDE";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    match arguments::parse(std::env::args().skip(1)).map_err(io::Error::other)? {
        Request::Help => print!("{}", arguments::HELP),
        Request::Run(arguments) if std::env::var_os(INSIDE).is_some() => measure(&arguments)?,
        Request::Run(_) => return Err(namespace::enter_with_processes(INSIDE)),
    }
    Ok(())
}

/// The source, the mount point and a directory for comparison.
struct Setup<'a> {
    /// A directory on the same filesystem that no mount shows.
    bare: PathBuf,
    /// The directory that the mount shows.
    source: PathBuf,
    /// The mount point.
    mountpoint: PathBuf,
    filesystem: &'a Filesystem,
    shiftbind: &'a Shiftbind,
}

impl Setup<'_> {
    /// Mounts the source; the kernel and the daemon have nothing cached.
    fn mount(&self) -> io::Result<Daemon> {
        // Root stays root, so that root can do the same work on both sides.
        self.shiftbind.mount(&self.source, &self.mountpoint, &["idmap=0:0:1:1:100001:65535"])
    }

    /// The path of a name in the bare directory and at the mount.
    fn both(&self, name: impl AsRef<Path>) -> [PathBuf; 2] {
        [self.bare.join(&name), self.mountpoint.join(&name)]
    }

    /// Creates a directory on both sides, on the source itself.
    fn both_dirs(&self, name: &str) -> io::Result<[PathBuf; 2]> {
        let dirs = [self.bare.join(name), self.source.join(name)];
        dirs.iter().try_for_each(std::fs::create_dir)?;
        Ok(dirs)
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    raise_nofile_limit()?;
    let scratch = ScratchDir::new("scale")?;
    let names = 2 * arguments.names + 2 * arguments.entries + 4 * arguments.files + 100_000;
    let filesystem = Filesystem::new(&scratch, arguments.on, names)?;
    let setup = Setup {
        bare: filesystem.root().join("bare"),
        source: filesystem.root().join("source"),
        mountpoint: scratch.path().join("mount"),
        filesystem: &filesystem,
        shiftbind: &arguments.shiftbind,
    };
    std::fs::create_dir(&setup.bare)?;
    std::fs::create_dir(&setup.source)?;
    println!(
        "Linux {}, {} CPUs, source on {}, load average {}",
        rustix::system::uname().release().to_string_lossy(),
        std::thread::available_parallelism()?,
        arguments.on.name(),
        load()?,
    );
    for section in &arguments.sections {
        let start = std::time::Instant::now();
        match section {
            Section::Tree => tree::measure(&setup, arguments)?,
            Section::Directory => directory::measure(&setup, arguments)?,
            Section::Files => files::measure(&setup, arguments)?,
            Section::Threads => threads::measure(&setup, arguments)?,
            Section::Mounts => mounts::measure(&setup, arguments)?,
        }
        eprintln!("scale: {} took {:.0?}", section.name(), start.elapsed());
    }
    println!("\nload average {} at the end", load()?);
    Ok(())
}

fn load() -> io::Result<String> {
    let averages = std::fs::read_to_string("/proc/loadavg")?;
    Ok(averages.split(' ').next().unwrap_or_default().to_owned())
}

/// Raises the soft limit of descriptors to the hard one, for thousands of open files.
fn raise_nofile_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?)
}
