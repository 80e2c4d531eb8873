//! Many client threads: the throughput of all of them, of a few and of one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, statat};

use crate::Setup;
use crate::arguments::Arguments;
use crate::figures::{Figures, Table, short};

const FILES: usize = 2000;
const BLOCK: usize = 4096;

/// One operation of a client thread, with the thread's number and the iteration.
type Operation =
    fn(dir: &Path, paths: &[PathBuf], thread: usize, iteration: usize) -> io::Result<()>;

const OPERATIONS: [(&str, Operation); 4] = [
    ("stat, cached", |_, paths, _, iteration| {
        statat(CWD, &paths[iteration % paths.len()], AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }),
    ("look a missing name up, not cached", |dir, _, thread, iteration| {
        let path = dir.join(format!("no-{thread}-{iteration}"));
        match statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(io::Error::other("a missing name was found")),
        }
    }),
    ("open, read 4 KiB, close", |_, paths, _, iteration| {
        File::open(&paths[iteration % paths.len()])?.read_exact_at(&mut [0; BLOCK], 0)
    }),
    ("create, unlink", |dir, _, thread, iteration| {
        let path = dir.join(format!("new-{thread}-{iteration}"));
        drop(File::create_new(&path)?);
        fs::remove_file(&path)
    }),
];

/// Operations per second of `threads` threads together.
fn rate(dir: &Path, threads: usize, time: Duration, operation: Operation) -> io::Result<f64> {
    let paths: Vec<PathBuf> = (0..FILES).map(|number| dir.join(number.to_string())).collect();
    let (done, start) = (AtomicU64::new(0), Barrier::new(threads));
    let (begun, failed) = (Instant::now(), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..threads {
            let (paths, done, start, failed) = (&paths, &done, &start, &failed);
            scope.spawn(move || {
                start.wait();
                let begun = Instant::now();
                let mut iterations = 0;
                // Each thread starts at another file, so that they do not access the same one at once.
                let offset = number * 97;
                while begun.elapsed() < time {
                    for _ in 0..8 {
                        if let Err(error) = operation(dir, paths, number, offset + iterations) {
                            eprintln!("scale: {error}");
                            failed.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                        iterations += 1;
                    }
                }
                done.fetch_add(iterations as u64, Ordering::Relaxed);
            });
        }
    });
    if failed.into_inner() > 0 {
        return Err(io::Error::other("a client failed"));
    }
    Ok(done.into_inner() as f64 / begun.elapsed().as_secs_f64())
}

pub fn measure(setup: &Setup<'_>, arguments: &Arguments) -> io::Result<()> {
    for dir in setup.both_dirs("threads")? {
        for number in 0..FILES {
            fs::write(dir.join(number.to_string()), [b'x'; BLOCK])?;
        }
    }
    let counts = [1, 4.min(arguments.threads), arguments.threads];
    let mount = setup.mount()?;
    let dirs = setup.both("threads");
    let heading = format!("{} client threads, thousands a second", arguments.threads);
    let head = |side: &str, at: usize| format!("{side}, {}", counts[at]);
    let mut table = Table::new(
        heading,
        &[
            "work",
            &head("source", 0),
            &head("source", 1),
            &head("source", 2),
            &head("mount", 0),
            &head("mount", 1),
            &head("mount", 2),
            &format!("mount: {} to {}", counts[2], counts[1]),
        ],
    );
    for (what, operation) in OPERATIONS {
        // Indexed by side and number of threads.
        let mut rates: [[Vec<f64>; 3]; 2] = Default::default();
        for _ in 0..arguments.rounds().min(3) {
            for (at, threads) in counts.into_iter().enumerate() {
                for (side, dir) in dirs.iter().enumerate() {
                    rates[side][at].push(rate(dir, threads, arguments.time(), operation)? / 1e3);
                }
            }
        }
        let rates =
            rates.map(|side| side.map(|rounds| rounds.into_iter().collect::<Figures>().median()));
        let [source, there] = rates;
        table.row([
            what.to_owned(),
            short(source[0]),
            short(source[1]),
            short(source[2]),
            short(there[0]),
            short(there[1]),
            short(there[2]),
            format!("×{}", short(there[2] / there[1])),
        ]);
    }
    println!("{table}");
    mount.stop()?;
    Ok(())
}
