//! The time from a change on the source to its visibility at the mount.
//!
//! The kernel has everything cached with a timeout of ten minutes. The change is made on the source itself or through
//! another mount of the same source. The clock runs from the return of the changing call until the mount shows the
//! change; the loop checks 10 to 20 times a millisecond.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::changes::{CHANGES, Change, HeldFile};
use crate::common::filesystem::Filesystem;
use crate::common::scratch_dir::ScratchDir;
use crate::figures::{Figures, Table, millis, short};

/// A change that is not visible after this time is lost.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_micros(20);
/// Events of the preparation have reached all mounts after this time.
const SETTLE_TIME: Duration = Duration::from_millis(4);

/// One kind of change, made by one route: on the source or through another mount.
struct Trial {
    change: &'static Change,
    /// Where the change is made, and where it becomes visible.
    made: PathBuf,
    seen: PathBuf,
    kept: HeldFile,
    took: Vec<f64>,
}

impl Trial {
    fn run(&mut self, round: u64) -> io::Result<()> {
        let shows = || (self.change.shows)(&self.seen, round);
        for _ in 0..3 {
            sleep(SETTLE_TIME);
            if shows()? {
                return Err(io::Error::other(format!("{}: seen too soon", self.change.name)));
            }
        }
        (self.change.make)(&self.made, &mut self.kept, round)?;
        let start = Instant::now();
        while !shows()? {
            if start.elapsed() > TIMEOUT {
                return Err(io::Error::other(format!("{}: never seen", self.change.name)));
            }
            sleep(POLL_INTERVAL);
        }
        self.took.push(millis(start.elapsed()));
        Ok(())
    }
}

pub fn measure(
    scratch: &ScratchDir,
    filesystem: &Filesystem,
    arguments: &Arguments,
) -> io::Result<()> {
    let source = filesystem.root().join("changes");
    fs::create_dir(&source)?;
    let point = |name: &str| scratch.path().join(name);
    let mount = arguments.shiftbind.mount(&source, &point("mount"), &["cache=coherent"])?;
    let other = arguments.shiftbind.mount(&source, &point("other"), &["cache=coherent"])?;
    let routes = [source.as_path(), other.mountpoint()];
    let mut trials = Vec::new();
    for (number, change) in CHANGES.iter().enumerate() {
        for (route, made_in) in routes.into_iter().enumerate() {
            let name = format!("{number}-{route}");
            let dir = source.join(&name);
            fs::create_dir(&dir)?;
            if change.is_large {
                fill(&dir, arguments.entries)?;
            }
            (change.before)(&dir, arguments.changes)?;
            let seen = mount.mountpoint().join(&name);
            // Fills the kernel's cache.
            for entry in fs::read_dir(&seen)? {
                fs::symlink_metadata(entry?.path())?;
            }
            let (made, kept) = (made_in.join(&name), HeldFile::default());
            trials.push(Trial { change, made, seen, kept, took: Vec::new() });
        }
    }
    for round in 0..arguments.changes {
        for trial in &mut trials {
            trial.run(round)?;
        }
    }
    report(&trials, arguments);
    drop(trials);
    mount.stop()?;
    other.stop()?;
    Ok(())
}

fn fill(dir: &Path, entries: u64) -> io::Result<()> {
    (0..entries).try_for_each(|number| fs::write(dir.join(format!("entry-{number}")), ""))
}

fn report(trials: &[Trial], arguments: &Arguments) {
    let heading = format!(
        "From a change to its visibility at the mount, ms, {} of each kind; the large directory has {} entries",
        arguments.changes, arguments.entries,
    );
    let mut table = Table::new(
        heading,
        &[
            "change",
            "on the source: median",
            "p99",
            "max",
            "through another mount: median",
            "p99",
            "max",
        ],
    );
    for both in trials.chunks(2) {
        let mut cells = vec![both[0].change.name.to_owned()];
        for route in both {
            let took: Figures = route.took.iter().copied().collect();
            cells.extend([took.median(), took.percentile(99.0), took.max()].map(short));
        }
        table.cells(cells);
    }
    println!("{table}");
}
