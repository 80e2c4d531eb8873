//! Real source files to unpack, copy and compile: crates that cargo has unpacked on this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Copies about `wanted` files into `to` and returns how many. Without crates it copies this project's own,
/// repeatedly.
pub fn copy(to: &Path, wanted: u64) -> io::Result<u64> {
    let mut copied = 0;
    for folder in crates() {
        if copied >= wanted {
            break;
        }
        let name = folder.file_name().unwrap_or_default().to_owned();
        copied += copy_folder(&folder, &to.join(name))?;
    }
    let mut round = 0;
    while copied < wanted {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        copied += copy_folder(&own, &to.join(format!("own-{round}")))?;
        round += 1;
    }
    Ok(copied)
}

fn crates() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let Some(home) = home else { return Vec::new() };
    let mut found: Vec<PathBuf> = children(&home.join("registry/src"))
        .iter()
        .flat_map(|registry| children(registry))
        .collect();
    found.sort();
    found
}

fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Copies regular files and directories with their modes and times; returns the number of files.
fn copy_folder(from: &Path, to: &Path) -> io::Result<u64> {
    fs::create_dir_all(to)?;
    let mut copied = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copied += copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
            let modified = entry.metadata()?.modified()?;
            fs::File::options().write(true).open(&target)?.set_modified(modified)?;
            copied += 1;
        }
    }
    Ok(copied)
}
