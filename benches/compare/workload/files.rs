//! Opens, reads, creates, removes and renames small files.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{RunContext, Workload};
use crate::area::Area;
use crate::stopwatch::{Stopwatch, in_threads, repeat_for};

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        Workload::new("open + close", Some(0.12), Area::small_files, open_close),
        Workload::new("open + close, 4 threads", Some(0.20), Area::small_files, open_close_threads),
        Workload::new("open + read 4 KiB + close", Some(0.25), Area::small_files, open_read_close),
        Workload::new("create 4 KiB files", Some(0.80), super::nothing, create),
        Workload::new("create 4 KiB files, 4 threads", Some(0.90), super::nothing, create_threads),
        Workload::new("rename", Some(0.20), super::nothing, rename),
        Workload::new("unlink", Some(0.20), super::nothing, unlink),
    ]
}

const THREADS: usize = 4;

fn open_close(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let paths = context.all(&context.area.small_paths());
    let mut next = paths.iter().cycle();
    watch.time(|| repeat_for(context.effort.time(), || next.next().map_or(Ok(()), open)))
}

fn open_close_threads(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let paths = context.all(&context.area.small_paths());
    let time = context.effort.time();
    watch.time(|| {
        let parts = paths.chunks(paths.len() / THREADS).map(|paths| {
            move || {
                let mut next = paths.iter().cycle();
                repeat_for(time, || next.next().map_or(Ok(()), open))
            }
        });
        in_threads(parts.collect())
    })
}

fn open(path: &PathBuf) -> io::Result<()> {
    File::open(path).map(drop)
}

fn open_read_close(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let paths = context.all(&context.area.small_paths());
    let mut buffer = vec![0; 4096];
    for path in &paths {
        File::open(path)?.read_exact(&mut buffer)?;
    }
    let mut next = paths.iter().cycle();
    watch.time(|| {
        repeat_for(context.effort.time(), || {
            next.next().map_or(Ok(()), |path| File::open(path)?.read_exact(&mut buffer))
        })
    })
}

/// Creates files of 4 KiB with new names in one directory.
fn fill(directory: &Path, count: u64) -> io::Result<u64> {
    let content = [b'y'; 4096];
    for i in 0..count {
        File::create_new(directory.join(i.to_string()))?.write_all(&content)?;
    }
    Ok(count)
}

fn create(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    watch.time(|| fill(context.scratch, context.effort.count()))
}

fn create_threads(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let folders: Vec<PathBuf> =
        (0..THREADS).map(|thread| context.scratch.join(format!("thread-{thread}"))).collect();
    for folder in &folders {
        fs::create_dir(folder)?;
    }
    let each = context.effort.count() / THREADS as u64;
    watch.time(|| in_threads(folders.iter().map(|folder| move || fill(folder, each)).collect()))
}

fn rename(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let (mut from, mut to) = (context.scratch.join("one"), context.scratch.join("two"));
    fs::write(&from, b"content")?;
    watch.time(|| {
        repeat_for(context.effort.time(), || {
            fs::rename(&from, &to)?;
            std::mem::swap(&mut from, &mut to);
            Ok(())
        })
    })
}

fn unlink(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let count = context.effort.count();
    let paths: Vec<PathBuf> = (0..count).map(|i| context.scratch.join(i.to_string())).collect();
    for path in &paths {
        File::create_new(path)?;
    }
    watch.time(|| {
        paths.iter().try_for_each(fs::remove_file)?;
        Ok(count)
    })
}
