//! Thousands of files open at once: the cost of opening, reading and closing one more.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use crate::Setup;
use crate::arguments::Arguments;
use crate::common::resources;
use crate::figures::{Figures, Table, micros, short, thousands};

/// Files that are opened one at a time.
const PROBES: u64 = 200;
const BLOCK: usize = 4096;

/// The medians of opening, reading and closing a probe, in microseconds.
fn probe(paths: &[PathBuf], rounds: usize) -> io::Result<[f64; 3]> {
    let mut took: [Vec<f64>; 3] = Default::default();
    let mut block = [0; BLOCK];
    for path in paths.iter().cycle().take(paths.len() * rounds) {
        let start = Instant::now();
        let file = File::open(path)?;
        took[0].push(micros(start.elapsed()));
        let start = Instant::now();
        file.read_exact_at(&mut block, 0)?;
        took[1].push(micros(start.elapsed()));
        let start = Instant::now();
        drop(file);
        took[2].push(micros(start.elapsed()));
    }
    Ok(took.map(|figures| figures.into_iter().collect::<Figures>().median()))
}

pub fn measure(setup: &Setup<'_>, arguments: &Arguments) -> io::Result<()> {
    for dir in setup.both_dirs("files")? {
        for number in 0..arguments.files + PROBES {
            fs::write(dir.join(number.to_string()), [b'x'; BLOCK])?;
        }
    }
    setup.filesystem.sync()?;
    let mount = setup.mount()?;
    let paths = |side: usize, from: u64, to: u64| -> Vec<PathBuf> {
        let dir = &setup.both("files")[side];
        (from..to).map(|number| dir.join(number.to_string())).collect()
    };
    let probes = [0, 1].map(|side| paths(side, arguments.files, arguments.files + PROBES));
    let rounds = arguments.rounds() * 2;
    // Indexed by side, with few and with many files open.
    let mut few: [Vec<[f64; 3]>; 2] = Default::default();
    let mut many: [Vec<[f64; 3]>; 2] = Default::default();
    let idle = (resources::anon_rss(mount.pid())?, resources::descriptors(mount.pid())?);
    let mut full = idle;
    let mut opened = [0.0; 2];
    for round in 0..arguments.rounds().min(3) {
        for side in 0..2 {
            // One file is open besides the probe, as in any program.
            let _one = File::open(&probes[side][0])?;
            few[side].push(probe(&probes[side][1..], rounds)?);
        }
        // One side after the other: RLIMIT_NOFILE may not suffice for both.
        for side in 0..2 {
            let start = Instant::now();
            let all = paths(side, 0, arguments.files);
            let _files = all.iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
            opened[side] = micros(start.elapsed()) / arguments.files as f64;
            many[side].push(probe(&probes[side][1..], rounds)?);
            if round == 0 {
                full = (resources::anon_rss(mount.pid())?, resources::descriptors(mount.pid())?);
            }
        }
    }
    let heading = format!("{} files open at once, µs", thousands(arguments.files));
    let open = thousands(arguments.files);
    let mut table = Table::new(
        heading,
        &[
            "work",
            "source, 1 open",
            &format!("source, {open} open"),
            "mount, 1 open",
            &format!("mount, {open} open"),
        ],
    );
    for (at, what) in ["open", "read 4 KiB", "close"].into_iter().enumerate() {
        let median = |rounds: &[[f64; 3]]| {
            short(rounds.iter().map(|round| round[at]).collect::<Figures>().median())
        };
        table.row([
            what.to_owned(),
            median(&few[0]),
            median(&many[0]),
            median(&few[1]),
            median(&many[1]),
        ]);
    }
    let [source, there] = opened.map(short);
    table.row(["open them all, each".into(), "–".into(), source, "–".into(), there]);
    println!("{table}");
    println!(
        "The daemon: {} KiB and {} descriptors with none open, {} KiB and {} with all of them.",
        thousands(idle.0 >> 10),
        idle.1,
        thousands(full.0 >> 10),
        full.1,
    );
    mount.stop()?;
    Ok(())
}
