//! Whether a process uses a mount, as far as /proc tells: fuser(1) looks at the same.

use std::fs;
use std::path::Path;

use super::table::MountIdentity;

/// Whether a process has its working directory, its root directory, or a file that is open or mapped on one of these mounts.
/// What the kernel itself uses is not found, nor is a process that this one may not look at.
pub(super) fn is_in_use(ids: &[u64]) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let is_process = |name: &std::ffi::OsStr| {
        name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    processes.flatten().filter(|entry| is_process(&entry.file_name())).any(|process| {
        let dir = process.path();
        let mut files = ["fd", "map_files"]
            .into_iter()
            .flat_map(|name| fs::read_dir(dir.join(name)).into_iter().flatten().flatten());
        ["cwd", "root"].iter().any(|name| is_on(&dir.join(name), ids))
            || files.any(|file| is_on(&file.path(), ids))
    })
}

fn is_on(link: &Path, ids: &[u64]) -> bool {
    MountIdentity::behind(link).is_ok_and(|identity| ids.contains(&identity.id()))
}
