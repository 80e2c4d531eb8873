//! Many mounts at once: the start-up time of each, and the resources of an idle daemon.

use std::fs;
use std::io;
use std::time::Instant;

use crate::Setup;
use crate::arguments::Arguments;
use crate::common::resources;
use crate::figures::{Figures, Table, micros, millis, short, thousands};

/// Mounts in one row of the table.
const GROUP: usize = 10;

pub fn measure(setup: &Setup<'_>, arguments: &Arguments) -> io::Result<()> {
    let [_, source] = setup.both_dirs("mounts")?;
    for number in 0..100 {
        fs::write(source.join(number.to_string()), "content")?;
    }
    let folder = setup.mountpoint.with_file_name("points");
    fs::create_dir(&folder)?;
    let mut daemons = Vec::new();
    for number in 0..arguments.mounts {
        let mountpoint = folder.join(number.to_string());
        let daemon =
            setup.shiftbind.mount(&source, &mountpoint, &["idmap=0:0:1:1:100001:65535"])?;
        daemons.push(daemon);
    }
    // Daemons have done their work after start-up by then.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let heading = format!("{} mounts at once", arguments.mounts);
    let mut table = Table::new(
        heading,
        &[
            "mounts",
            "start-up, ms (median, max)",
            "idle daemon, KiB (median, max)",
            "threads",
            "descriptors",
            "stat of 100 files for the first time, µs each",
        ],
    );
    let mut first = 1;
    for group in daemons.chunks(GROUP) {
        let startup_time: Figures =
            group.iter().map(|daemon| millis(daemon.startup_time)).collect();
        let figure = |of: &dyn Fn(u32) -> io::Result<f64>| -> io::Result<Figures> {
            group.iter().map(|daemon| of(daemon.pid())).collect()
        };
        let idle = figure(&|pid| Ok(resources::anon_rss(pid)? as f64 / 1024.0))?;
        let threads = figure(&|pid| Ok(resources::threads(pid)? as f64))?;
        let descriptors = figure(&|pid| Ok(resources::descriptors(pid)? as f64))?;
        let stats = group.iter().map(|daemon| {
            let start = Instant::now();
            for number in 0..100 {
                fs::symlink_metadata(daemon.mountpoint().join(number.to_string()))?;
            }
            Ok(micros(start.elapsed()) / 100.0)
        });
        let stats = stats.collect::<io::Result<Figures>>()?;
        table.row([
            format!("{first} to {}", first + group.len() - 1),
            format!("{}, {}", short(startup_time.median()), short(startup_time.max())),
            format!("{}, {}", thousands(idle.median() as u64), thousands(idle.max() as u64)),
            threads.median().to_string(),
            descriptors.median().to_string(),
            short(stats.median()),
        ]);
        first += group.len();
    }
    let [alone, last] =
        [daemons.first(), daemons.last()].map(|daemon| daemon.map(|d| millis(d.startup_time)));
    println!("{table}");
    println!(
        "The first took {} ms to start, the last {} ms.",
        short(alone.unwrap_or(f64::NAN)),
        short(last.unwrap_or(f64::NAN)),
    );
    let start = Instant::now();
    let ends = daemons.into_iter().map(|daemon| daemon.stop().map(millis));
    let ends = ends.collect::<io::Result<Figures>>()?;
    println!(
        "Unmounting all of them one after the other took {} ms, each {} ms (median).",
        short(millis(start.elapsed())),
        short(ends.median()),
    );
    Ok(())
}
