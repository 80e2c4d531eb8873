//! A directory of a million entries compared with a small one: listing, looking up, creating and removing a name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, openat, statat};

use crate::Setup;
use crate::arguments::Arguments;
use crate::common::resources;
use crate::figures::{Figures, Table, micros, millis, short, thousands};

/// Entries of the small directory.
const SMALL: u64 = 1000;
/// Names that are looked up.
const PROBES: u64 = 500;

fn name(number: u64) -> String {
    format!("entry-{number:09}")
}

fn fill(dir: &Path, entries: u64) -> io::Result<()> {
    (0..entries).try_for_each(|number| File::create_new(dir.join(name(number))).map(drop))
}

/// Lists a directory: the time to the first entry, the time to the last, and the number of entries.
fn list(dir: &Path) -> io::Result<(Duration, Duration, u64)> {
    let start = Instant::now();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, dir, flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
    let mut seen = 0;
    let mut first = Duration::ZERO;
    while let Some(entry) = entries.next() {
        entry?;
        if seen == 0 {
            first = start.elapsed();
        }
        seen += 1;
    }
    Ok((first, start.elapsed(), seen))
}

/// The paths of names that are spread over the directory.
fn probes(dir: &Path, entries: u64) -> Vec<PathBuf> {
    let step = (entries / PROBES).max(1);
    (0..entries.min(PROBES)).map(|at| dir.join(name(at * step))).collect()
}

/// The median of one stat of each path, in microseconds.
fn stat_each(paths: &[PathBuf]) -> io::Result<f64> {
    let stat = |path: &PathBuf| {
        let start = Instant::now();
        statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(micros(start.elapsed()))
    };
    Ok(paths.iter().map(stat).collect::<io::Result<Figures>>()?.median())
}

fn missing_each(dir: &Path, round: usize) -> Figures {
    let ask = |at| {
        let path = dir.join(format!("missing-{round}-{at}"));
        let start = Instant::now();
        let _ = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW);
        micros(start.elapsed())
    };
    (0..PROBES).map(ask).collect()
}

/// The medians of creating and of removing a name, in microseconds.
fn make_and_remove(dir: &Path) -> io::Result<[f64; 2]> {
    let (mut made, mut gone) = (Vec::new(), Vec::new());
    for at in 0..PROBES {
        let path = dir.join(format!("new-{at}"));
        let start = Instant::now();
        drop(File::create_new(&path)?);
        made.push(micros(start.elapsed()));
        let start = Instant::now();
        fs::remove_file(&path)?;
        gone.push(micros(start.elapsed()));
    }
    Ok([made, gone].map(|figures| figures.into_iter().collect::<Figures>().median()))
}

/// The figures of all rounds, by what was measured.
#[derive(Default)]
struct Rounds(Vec<(&'static str, Vec<f64>)>);

impl Rounds {
    fn add(&mut self, what: &'static str, figure: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((what, vec![figure])),
        }
    }
}

pub fn measure(setup: &Setup<'_>, arguments: &Arguments) -> io::Result<()> {
    let sizes = [("small", SMALL.min(arguments.entries)), ("big", arguments.entries)];
    for (name, entries) in sizes {
        for dir in setup.both_dirs(name)? {
            fill(&dir, entries)?;
        }
    }
    setup.filesystem.sync()?;
    // Indexed by size and side.
    let mut rounds: [[Rounds; 2]; 2] = Default::default();
    let mut kept = String::new();
    for round in 0..arguments.rounds().min(3) {
        for (at, (name, entries)) in sizes.into_iter().enumerate() {
            let mount = setup.mount()?;
            let before = resources::anon_rss(mount.pid())?;
            for (side, dir) in setup.both(name).iter().enumerate() {
                let rounds = &mut rounds[at][side];
                // Runs before the listing: READDIRPLUS would fill the dentry cache.
                rounds.add("look a name up, not cached, µs", stat_each(&probes(dir, entries))?);
                let missing = missing_each(dir, round).median();
                rounds.add("look a missing name up, not cached, µs", missing);
                let (first, all, seen) = list(dir)?;
                if seen != entries + 2 {
                    return Err(io::Error::other(format!("{seen} of {entries} entries listed")));
                }
                rounds.add("list, to the first entry, ms", millis(first));
                rounds.add("list, all, µs an entry", micros(all) / entries as f64);
                let (first, all, _) = list(dir)?;
                rounds.add("list again, to the first entry, ms", millis(first));
                rounds.add("list again, all, µs an entry", micros(all) / entries as f64);
                rounds.add("look a name up, cached, µs", stat_each(&probes(dir, entries))?);
                let [made, gone] = make_and_remove(dir)?;
                rounds.add("make a name, µs", made);
                rounds.add("remove a name, µs", gone);
                let (_, all, _) = list(dir)?;
                rounds.add("list after a change, all, µs an entry", micros(all) / entries as f64);
            }
            let after = resources::anon_rss(mount.pid())?;
            kept = format!(
                "The daemon: {} KiB before, {} KiB and {} descriptors after.",
                thousands(before >> 10),
                thousands(after >> 10),
                resources::descriptors(mount.pid())?
            );
            mount.stop()?;
        }
    }
    let heading = format!("A directory of {} entries", thousands(arguments.entries));
    let [small, big] = sizes.map(|(_, entries)| thousands(entries));
    let mut table = Table::new(
        heading,
        &[
            "work",
            &format!("source, {small}"),
            &format!("source, {big}"),
            &format!("mount, {small}"),
            &format!("mount, {big}"),
        ],
    );
    for (at, (what, _)) in rounds[0][0].0.iter().enumerate() {
        let cell = |size: usize, side: usize| {
            let figures = &rounds[size][side].0[at].1;
            short(figures.iter().copied().collect::<Figures>().median())
        };
        table.row([(*what).to_owned(), cell(0, 0), cell(1, 0), cell(0, 1), cell(1, 1)]);
    }
    println!("{table}\n{kept}");
    Ok(())
}
