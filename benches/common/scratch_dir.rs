//! A folder under the build's target folder, removed when dropped; what a killed run has left is removed by the next.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Where the folders of this and of earlier runs lie.
const PARENT: &str = env!("CARGO_TARGET_TMPDIR");

/// See the module's head.
pub struct ScratchDir {
    path: PathBuf,
    /// Held as long as the folder is in use.
    _lock: File,
}

impl ScratchDir {
    /// An empty one for the benchmark of this name.
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
        // Ids of processes are no names here: each run may count them from 1.
        let path = (0u32..)
            .map(|number| Path::new(PARENT).join(format!("{prefix}{number}")))
            .find(|path| fs::create_dir(path).is_ok())
            .ok_or_else(|| io::Error::other("no room for a folder"))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory in it.
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
