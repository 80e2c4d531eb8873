//! A scratch directory below cargo's temporary directory, removed when dropped. The next run removes what a killed
//! run left.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The parent of the scratch directories of this and of earlier runs.
const PARENT: &str = env!("CARGO_TARGET_TMPDIR");

/// A scratch directory with a lock.
pub struct ScratchDir {
    path: PathBuf,
    /// Holds flock(2) while the directory is in use, so that another run does not remove it.
    _lock: File,
}

impl ScratchDir {
    /// Creates an empty directory for the benchmark of this name and removes those of killed runs.
    pub fn new(benchmark: &str) -> io::Result<Self> {
        let prefix = format!("{benchmark}-");
        fs::create_dir_all(PARENT)?;
        for entry in fs::read_dir(PARENT)?.flatten() {
            let left = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with(&prefix);
            if ours && lock(&left).is_ok() {
                fs::remove_dir_all(&left)?;
            }
        }
        // Process ids are no unique names: each run may have a PID namespace of its own.
        let path = (0u32..)
            .map(|number| Path::new(PARENT).join(format!("{prefix}{number}")))
            .find(|path| fs::create_dir(path).is_ok())
            .ok_or_else(|| io::Error::other("cannot create a scratch directory"))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a directory in it.
    pub fn dir(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = File::create(folder.join("lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}
