//! Walks, stat, missing names and attribute changes: work without file content.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RawDir, Uid, chmod, chownat, fstat, lgetxattr, lstat, openat,
    statat,
};
use rustix::io::Errno;

use super::{Effort, RunContext, Warmup, Workload};
use crate::stopwatch::{Stopwatch, in_threads, repeat_for};

use crate::area::Area;

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        Workload {
            fresh_mount: true,
            times: 7,
            ..Workload::new("cold walk", Some(0.25), Area::tree, cold_walk)
        },
        Workload::new("warm walk", Some(0.85), Area::tree, warm_walk),
        Workload::new("stat, one file", Some(0.95), Area::tree, stat_one),
        Workload::new("stat, many files", Some(0.95), Area::tree, stat_many),
        Workload::new("stat, many files, 4 threads", Some(0.95), Area::tree, stat_threads),
        Workload {
            warmup: Some(Warmup { run: stat_all, delay: a_minute }),
            ..Workload::new("stat, many files, a minute later", Some(0.95), Area::tree, stat_later)
        },
        Workload::new("ENOENT, repeated", Some(0.85), super::nothing, missing),
        Workload::new("getxattr of a missing name", Some(0.10), Area::small_files, missing_xattr),
        Workload::new("chmod", Some(0.13), super::nothing, change_mode),
        Workload::new("chown", Some(0.12), super::nothing, change_owner),
    ]
}

/// Opens and reads every directory and stats every entry, as nftw(3); returns the number of entries.
fn walk(directory: &Path) -> io::Result<u64> {
    fn below(parent: rustix::fd::BorrowedFd<'_>, name: &[u8]) -> io::Result<u64> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(parent, name, flags, Mode::empty())?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut seen = 0;
        let mut folders = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                folders.push(name.to_owned());
            }
            seen += 1;
        }
        for folder in folders {
            seen += below(std::os::fd::AsFd::as_fd(&directory), folder.to_bytes())?;
        }
        Ok(seen)
    }
    below(CWD, directory.as_os_str().as_bytes())
}

fn cold_walk(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    // Fills the source's caches: the workload measures the mount's first walk and not the disk's.
    walk(&context.area.source().join("tree"))?;
    watch.time(|| walk(&context.root.join("tree")))
}

fn warm_walk(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let tree = context.root.join("tree");
    walk(&tree)?;
    watch.time(|| {
        // Twice, so that it takes more than a few milliseconds.
        Ok(walk(&tree)? + walk(&tree)?)
    })
}

fn names(paths: &[PathBuf]) -> io::Result<Vec<CString>> {
    paths.iter().map(|path| Ok(CString::new(path.as_os_str().as_bytes())?)).collect()
}

fn tree_names(context: &RunContext<'_>) -> io::Result<Vec<CString>> {
    names(&context.all(&context.area.tree_paths()))
}

fn stat_one(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let names = tree_names(context)?;
    let name = &names[names.len() / 2];
    lstat(name.as_c_str())?;
    watch.time(|| repeat_for(context.effort.time(), || Ok(lstat(name.as_c_str()).map(drop)?)))
}

/// Stats one file after the other, in a cycle.
fn stat_round(names: &[CString], time: Duration) -> io::Result<u64> {
    let mut next = names.iter().cycle();
    repeat_for(time, || {
        if let Some(name) = next.next() {
            lstat(name.as_c_str())?;
        }
        Ok(())
    })
}

fn stat_each(names: &[CString]) -> io::Result<u64> {
    for name in names {
        lstat(name.as_c_str())?;
    }
    Ok(names.len() as u64)
}

fn stat_all(context: &RunContext<'_>) -> io::Result<()> {
    stat_each(&tree_names(context)?).map(drop)
}

fn stat_many(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let names = tree_names(context)?;
    stat_each(&names)?;
    watch.time(|| stat_round(&names, context.effort.time()))
}

fn stat_threads(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let names = tree_names(context)?;
    stat_each(&names)?;
    let time = context.effort.time();
    watch.time(|| {
        let part = names.len() / 4;
        in_threads(names.chunks(part).map(|names| move || stat_round(names, time)).collect())
    })
}

fn a_minute(effort: Effort) -> Duration {
    match effort {
        Effort::Full => Duration::from_secs(60),
        Effort::Little => Duration::from_millis(1500),
    }
}

fn stat_later(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let names = tree_names(context)?;
    watch.time(|| stat_each(&names))
}

fn missing(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let name = CString::new(context.scratch.join("no-such-name").as_os_str().as_bytes())?;
    watch.time(|| {
        repeat_for(context.effort.time(), || match lstat(name.as_c_str()) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(io::Error::other("a missing name was found")),
        })
    })
}

fn missing_xattr(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let names = names(&context.all(&context.area.small_paths()))?;
    let name = &names[0];
    lstat(name.as_c_str())?;
    let mut value = [0; 64];
    watch.time(|| {
        repeat_for(context.effort.time(), || {
            match lgetxattr(name.as_c_str(), c"user.no-such-name", &mut value) {
                Err(Errno::NODATA) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(_) => Err(io::Error::other("a missing attribute was found")),
            }
        })
    })
}

fn one_file(context: &RunContext<'_>) -> io::Result<CString> {
    let path = context.scratch.join("file");
    std::fs::write(&path, b"content")?;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn change_mode(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let file = one_file(context)?;
    let mut modes = [0o600, 0o644].into_iter().cycle();
    watch.time(|| {
        repeat_for(context.effort.time(), || {
            let mode = Mode::from_raw_mode(modes.next().unwrap_or_default());
            Ok(chmod(file.as_c_str(), mode)?)
        })
    })
}

fn change_owner(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let file = one_file(context)?;
    let mut users = [context.user, 0].into_iter().cycle();
    watch.time(|| {
        repeat_for(context.effort.time(), || {
            let user = users.next().unwrap_or_default();
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(user)));
            Ok(chownat(CWD, file.as_c_str(), user, group, AtFlags::SYMLINK_NOFOLLOW)?)
        })
    })?;
    // The change must have reached the source, or its rate means nothing.
    chownat(CWD, file.as_c_str(), Some(Uid::from_raw(context.user)), None, AtFlags::empty())?;
    let seen = context.scratch.strip_prefix(context.root).map_err(io::Error::other)?;
    let on_source = openat(
        CWD,
        context.area.source().join(seen).join("file"),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match fstat(&on_source)?.st_uid {
        1 => Ok(()),
        other => Err(io::Error::other(format!("the source stores user {other} in place of 1"))),
    }
}
