//! Lists directories whose listings the kernel has cached.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};

use super::{Effort, RunContext, Workload};
use crate::area::Area;
use crate::stopwatch::Stopwatch;

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        Workload::new("list 1,000 entries again", Some(0.95), Area::short_directory, short),
        Workload::new("list 100,000 entries again", Some(0.95), Area::long_directory, long),
    ]
}

/// Reads a directory to its end, as ls(1) without options; returns the number of entries.
fn list(directory: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut seen = 0;
    while let Some(entry) = entries.next() {
        entry?;
        seen += 1;
    }
    Ok(seen)
}

fn again(directory: &Path, times: u32, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    // The kernel's cached listing is complete only after the second listing.
    list(directory)?;
    list(directory)?;
    watch.time(|| {
        for _ in 0..times {
            list(directory)?;
        }
        Ok(u64::from(times))
    })
}

fn short(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let times = if context.effort == Effort::Full { 300 } else { 20 };
    again(&context.root.join("short"), times, watch)
}

fn long(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let times = if context.effort == Effort::Full { 5 } else { 1 };
    again(&context.root.join("long"), times, watch)
}
