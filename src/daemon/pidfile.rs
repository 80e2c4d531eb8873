//! The pid file. The daemon holds a lock on it while it lives, which tells a stale file from one in use.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, OFlags, flock, ftruncate};

use crate::error::{Error, Result, errno_field};

/// A pid file that names this process.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Writes the file. A file that another daemon has locked is not changed.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let failed = |e: std::io::Error| Error::file(format!("--pidfile {}", path.display()), e);
        let mut file = loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                // O_NONBLOCK: opening a FIFO must not block. O_NOFOLLOW: a symbolic link must not redirect the write.
                .custom_flags(
                    i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits())
                        .unwrap_or_default(),
                )
                .open(&path)
                .map_err(failed)?;
            let here = file.metadata().map_err(failed)?;
            if !here.is_file() {
                return Err(failed(std::io::Error::other(
                    "this is not a regular file; name another",
                )));
            }
            flock(&file, FlockOperation::NonBlockingLockExclusive)
                .map_err(|_| in_use(&file, failed))?;
            // The previous owner may have removed the file between the open and the lock.
            match fs::symlink_metadata(&path) {
                Ok(now) if (now.dev(), now.ino()) == (here.dev(), here.ino()) => break file,
                _ => {}
            }
        };
        if !names_a_process(&file).map_err(failed)? {
            return Err(failed(std::io::Error::other(
                "this file exists and is not a pid file; name another, or remove it",
            )));
        }
        ftruncate(&file, 0).map_err(|e| failed(e.into()))?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path, file })
    }

    /// Removes the file if it is still this daemon's. A file that is not removed is unlocked when the process ends.
    pub(super) fn remove(&self) {
        let ours = self.file.metadata().map(|m| (m.dev(), m.ino())).ok();
        let there = fs::symlink_metadata(&self.path).map(|m| (m.dev(), m.ino())).ok();
        if ours.is_some()
            && ours == there
            && let Err(e) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove the pid file: path={:?} {}", self.path, errno_field(e));
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether a file is empty or holds one number, as pid files do. No other file may be overwritten.
fn names_a_process(file: &File) -> std::io::Result<bool> {
    // A pid has at most 7 digits (PID_MAX_LIMIT is 2^22); a longer content is no pid file.
    let mut content = [0; 16];
    let len = file.read_at(&mut content, 0)?;
    let text = content[..len].trim_ascii();
    Ok(len < content.len() && text.iter().all(u8::is_ascii_digit))
}

fn in_use(mut file: &File, failed: impl Fn(std::io::Error) -> Error) -> Error {
    let mut owner = String::new();
    // Without the owner's pid the message is less precise.
    let _ = file.read_to_string(&mut owner);
    failed(std::io::Error::other(format!(
        "process {} holds it; name another file, or stop that process",
        owner.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_names_this_process_and_is_removed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = PidFile::create(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_pid_file_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "123456789\n").unwrap();
        let _pidfile = PidFile::create(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_file_that_is_not_a_pid_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for content in ["127.0.0.1 localhost\n", "12 13\n", "1234567890123456", "x"] {
            fs::write(&path, content).unwrap();
            let error = PidFile::create(path.clone()).unwrap_err();
            assert_eq!(error.exit().code(), 16, "{content}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        for content in ["", "7\n", "4194304"] {
            fs::write(&path, content).unwrap();
            drop(PidFile::create(path.clone()).unwrap());
        }
    }

    #[test]
    fn a_pid_file_in_use_is_kept_and_the_error_names_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let _first = PidFile::create(path.clone()).unwrap();
        let error = PidFile::create(path.clone()).unwrap_err();
        assert_eq!(error.exit().code(), 16);
        assert!(
            error.to_string().contains(&format!("process {} holds it", std::process::id())),
            "{error}"
        );
        assert!(path.exists());
    }

    #[test]
    fn a_replacement_of_the_pid_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = PidFile::create(path.clone()).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(pidfile);
        assert!(path.exists());
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert_eq!(PidFile::create(path).unwrap_err().exit().code(), 16);
        assert!(!dir.path().join("elsewhere").exists());
    }
}
