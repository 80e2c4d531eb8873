//! What a mount that watches thousands of directories costs an unrelated process on the same filesystem, elsewhere
//! and in a watched directory, and what a watched directory costs in memory.
//!
//! The same loops run without the mount and with it, in turns. The figures are processor time of the thread that runs
//! the loop, which does not depend on the machine's other load.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, inotify, openat, statat, unlinkat};
use rustix::time::{ClockId, clock_gettime};

use crate::arguments::Arguments;
use crate::common::daemon::{Daemon, finish};
use crate::common::filesystem::Filesystem;
use crate::common::resources;
use crate::common::scratch_dir::ScratchDir;
use crate::figures::{Figures, Table, short, thousands};

/// Watched directories in one parent.
const PER_FOLDER: u64 = 100;

/// An operation that an unrelated process repeats on files of one directory.
struct Operation {
    name: &'static str,
    /// Iterations of one loop.
    iterations: u64,
    /// Runs `iterations` operations on an open file and in a directory.
    run: fn(file: &File, dir: &Path, iterations: u64) -> io::Result<()>,
}

const OPERATIONS: [Operation; 5] = [
    Operation {
        name: "pwrite of 1 byte",
        iterations: 20_000,
        run: |file, _, iterations| (0..iterations).try_for_each(|_| file.write_all_at(b"x", 0)),
    },
    Operation {
        name: "stat",
        iterations: 20_000,
        run: |_, dir, iterations| {
            let path = dir.join("file");
            (0..iterations)
                .try_for_each(|_| Ok(statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).map(drop)?))
        },
    },
    Operation {
        name: "open and close, to read",
        iterations: 10_000,
        run: |_, dir, iterations| {
            let path = dir.join("file");
            (0..iterations).try_for_each(|_| File::open(&path).map(drop))
        },
    },
    Operation {
        name: "open, write 1 byte, close",
        iterations: 5_000,
        run: |_, dir, iterations| {
            let path = dir.join("file");
            (0..iterations)
                .try_for_each(|_| OpenOptions::new().write(true).open(&path)?.write_all_at(b"x", 0))
        },
    },
    Operation {
        name: "create and unlink",
        iterations: 2_000,
        run: |_, dir, iterations| {
            let path = dir.join("new");
            (0..iterations).try_for_each(|_| {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(openat(CWD, &path, flags, Mode::from_raw_mode(0o600))?);
                Ok(unlinkat(CWD, &path, AtFlags::empty())?)
            })
        },
    },
];

/// The processor time of this thread.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Parts of a loop, of which the fastest counts: other processes that evict its cache lines lengthen even processor
/// time.
const CHUNKS: u64 = 10;

/// Nanoseconds per iteration of each operation.
fn time_operations(dir: &Path, quick: bool) -> io::Result<[f64; OPERATIONS.len()]> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("file"))?;
    let mut took = [0.0; OPERATIONS.len()];
    for (took, operation) in took.iter_mut().zip(OPERATIONS) {
        let iterations = if quick { operation.iterations / 50 } else { operation.iterations };
        // A short run fills the caches.
        (operation.run)(&file, dir, iterations / 20)?;
        *took = f64::INFINITY;
        for _ in 0..CHUNKS {
            let start = own_time();
            (operation.run)(&file, dir, iterations / CHUNKS)?;
            let each = (own_time() - start).as_nanos() as f64 / (iterations / CHUNKS) as f64;
            *took = took.min(each);
        }
    }
    Ok(took)
}

/// One round: nanoseconds per iteration without and with the mount.
struct Round {
    without: [f64; OPERATIONS.len()],
    /// Without the mount, with an inotify(7) watch of this process on an unused directory: most systems have such
    /// watches.
    inotify: [f64; OPERATIONS.len()],
    with: [f64; OPERATIONS.len()],
    watched: [f64; OPERATIONS.len()],
}

pub fn measure(
    scratch: &ScratchDir,
    filesystem: &Filesystem,
    arguments: &Arguments,
) -> io::Result<()> {
    let source = filesystem.root().join("watched");
    let elsewhere = filesystem.root().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    fs::create_dir(filesystem.root().join("unused"))?;
    for number in 0..arguments.directories {
        let dir = source.join(format!("{}/{}", number / PER_FOLDER, number % PER_FOLDER));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("file"), "x")?;
    }
    filesystem.sync()?;
    let mountpoint = scratch.path().join("watching");
    let mount = |policy: &str| -> io::Result<Daemon> {
        let mount = arguments.shiftbind.mount(&source, &mountpoint, &[policy])?;
        finish(Command::new("find").arg(mount.mountpoint()))?;
        Ok(mount)
    };
    let alone = || -> io::Result<[[f64; OPERATIONS.len()]; 2]> {
        let without = time_operations(&elsewhere, arguments.quick)?;
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(
            &inotify,
            filesystem.root().join("unused"),
            inotify::WatchFlags::CREATE,
        )?;
        Ok([without, time_operations(&elsewhere, arguments.quick)?])
    };
    let mut rounds = Vec::new();
    let mut events = Duration::ZERO;
    for number in 0..arguments.rounds {
        let mut without = None;
        if number % 2 == 0 {
            without = Some(alone()?);
        }
        let mount = mount("cache=coherent")?;
        let with = time_operations(&elsewhere, arguments.quick)?;
        let pid = mount.pid().to_string();
        let before = resources::processor_time(&pid, false)?;
        let watched = time_operations(&source.join("0/0"), arguments.quick)?;
        events += resources::processor_time(&pid, false)? - before;
        mount.stop()?;
        let [without, inotify] = match without {
            Some(without) => without,
            None => alone()?,
        };
        rounds.push(Round { without, inotify, with, watched });
    }
    report(&rounds, events, arguments);
    memory_of_watches(filesystem, arguments, &source, &mountpoint)
}

fn report(rounds: &[Round], events: Duration, arguments: &Arguments) {
    let heading = format!(
        "What {} watched directories cost unrelated processes on the filesystem, processor time of a call in ns, {} rounds",
        thousands(arguments.directories),
        arguments.rounds,
    );
    let mut table = Table::new(
        heading,
        &[
            "work",
            "no mount",
            "one inotify watch, no mount: slower than without, %",
            "elsewhere",
            "slower than that, %",
            "slower than without, % (quartiles)",
            "in a watched directory",
            "slower than without, % (quartiles)",
        ],
    );
    for (at, operation) in OPERATIONS.iter().enumerate() {
        let figures = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).collect::<Figures>();
        let median = |of: &dyn Fn(&Round) -> f64| short(figures(of).median());
        // Computed for each round by itself, since both figures of a round share its conditions.
        let slower = |than: &dyn Fn(&Round) -> f64, of: &dyn Fn(&Round) -> f64| {
            let more = figures(&|round| (of(round) / than(round) - 1.0) * 100.0);
            let [low, middle, high] = [25.0, 50.0, 75.0].map(|part| short(more.percentile(part)));
            format!("{middle} ({low} to {high})")
        };
        table.row([
            operation.name.to_owned(),
            median(&|round| round.without[at]),
            slower(&|round| round.without[at], &|round| round.inotify[at]),
            median(&|round| round.with[at]),
            slower(&|round| round.inotify[at], &|round| round.with[at]),
            slower(&|round| round.without[at], &|round| round.with[at]),
            median(&|round| round.watched[at]),
            slower(&|round| round.without[at], &|round| round.watched[at]),
        ]);
    }
    println!("{table}");
    let per_round = events.as_secs_f64() * 1e3 / rounds.len() as f64;
    let iterations: u64 = OPERATIONS.iter().map(|operation| operation.iterations).sum();
    println!(
        "In the watched directory, {} calls a round make the daemon work for {} ms.",
        thousands(if arguments.quick { iterations / 50 } else { iterations }),
        short(per_round),
    );
}

/// Compares the memory per directory of a mount that watches with that of one that does not. Both first walk a part
/// of the tree, so that memory which a daemon needs only once is not counted.
fn memory_of_watches(
    filesystem: &Filesystem,
    arguments: &Arguments,
    source: &Path,
    mountpoint: &Path,
) -> io::Result<()> {
    let kinds = ["fanotify_mark", "fsnotify_mark_connector", filesystem.kind.inode_cache()];
    let folders = fs::read_dir(source)?.count() as u64;
    let part = folders.div_ceil(5);
    let count = (arguments.directories - (part * PER_FOLDER).min(arguments.directories)).max(1);
    let kept = |policy| -> io::Result<(f64, [f64; 3])> {
        let mount = arguments.shiftbind.mount(source, mountpoint, &[policy])?;
        let state = |folders: std::ops::Range<u64>| -> io::Result<(u64, [u64; 3])> {
            for folder in folders {
                finish(Command::new("find").arg(mount.mountpoint().join(folder.to_string())))?;
            }
            let slabs = kinds.map(|kind| resources::slab(kind).unwrap_or_default().objects);
            Ok((resources::anon_rss(mount.pid())?, slabs))
        };
        let (own_before, before) = state(0..part)?;
        let (own, after) = state(part..folders)?;
        mount.stop()?;
        let each = |more: u64, less: u64| more.saturating_sub(less) as f64 / count as f64;
        Ok((each(own, own_before), [0, 1, 2].map(|at| each(after[at], before[at]))))
    };
    // A first walk fills the caches that both later walks find.
    kept("cache=timeout=600s")?;
    let (plain, plain_slabs) = kept("cache=timeout=600s")?;
    let (watching, slabs) = kept("cache=coherent")?;
    let size = |at: usize| resources::slab(kinds[at]).unwrap_or_default().size;
    println!(
        "\nA watched directory takes {} bytes of the daemon's memory (with its inode and that of the one file in it {}), and \
         of the kernel's {} marks of {} bytes and {} connectors of {} bytes. A mark keeps the source's inode ({} bytes) in \
         memory for as long as the kernel caches the directory at the mount.",
        short(watching - plain),
        short(watching),
        short(slabs[0] - plain_slabs[0]),
        size(0),
        short(slabs[1] - plain_slabs[1]),
        size(1),
        size(2),
    );
    Ok(())
}
