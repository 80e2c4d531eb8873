//! The namespace of a mount that is in service, found again when it is needed. Nothing here keeps the namespace alive.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::process::Pid;

use super::{Name, Process, id_of};
use crate::config::{NamespaceId, TargetNamespace};
use crate::sys::mountinfo::{self, MountInfo};
use crate::sys::namespace::open_file;

/// The most processes whose mount tables are read. Chosen: most see the same.
const MAX_MEMBERS: usize = 64;

/// A mount namespace, known by its numbers and by the process or path that the mount was made with.
#[derive(Debug)]
pub struct Pinned {
    id: NamespaceId,
    process: Option<Process>,
    path: Option<PathBuf>,
}

impl Pinned {
    /// Pins the namespace of a configuration. A process that has ended since is not found again; others of the namespace are.
    #[must_use]
    pub fn of(config: &TargetNamespace) -> Self {
        let (process, path) = match Name::parse(&config.value) {
            Ok(Name::Process(pid)) => (Process::open(pid).ok(), None),
            Ok(Name::File(path)) => (None, std::path::absolute(path).ok()),
            Err(_) => (None, None),
        };
        Self { id: config.mounts, process, path }
    }

    /// Opens the namespace: by the process, by the path, or by any process that is in it.
    ///
    /// # Errors
    /// ESRCH if none is found. A descriptor or a mount may keep the namespace alive that this program cannot see.
    pub fn find(&self) -> io::Result<OwnedFd> {
        let by_name = self.process.as_ref().and_then(|process| self.namespace_of(process));
        let by_path = || {
            let file = self.path.as_ref().and_then(|path| open_file(path).ok().flatten());
            file.filter(|file| self.is_same(file))
        };
        let by_member = || processes().find_map(|process| self.namespace_of(&process));
        let found = by_name.or_else(by_path).or_else(by_member);
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }

    /// The mount points of the mounts that `is_it` picks, as processes of the namespace see them: paths in each one's root,
    /// which may be a chroot. The same path comes once.
    pub fn mountpoints(&self, is_it: impl Fn(&MountInfo) -> bool) -> Vec<PathBuf> {
        let members = processes().filter(|process| self.namespace_of(process).is_some());
        let mut found = Vec::new();
        for table in members.take(MAX_MEMBERS).filter_map(|process| table_of(&process).ok()) {
            for line in table.into_iter().filter(|line| is_it(line)) {
                let path = PathBuf::from(OsString::from_vec(line.mountpoint));
                if !found.contains(&path) {
                    found.push(path);
                }
            }
        }
        found
    }

    fn namespace_of(&self, process: &Process) -> Option<OwnedFd> {
        let file = process.file("ns/mnt").ok().map(OwnedFd::from)?;
        self.is_same(&file).then_some(file)
    }

    fn is_same(&self, file: impl AsFd) -> bool {
        id_of(file).is_ok_and(|id| id == self.id)
    }
}

/// The mount table that a process sees.
fn table_of(process: &Process) -> io::Result<Vec<MountInfo>> {
    let mut table = Vec::new();
    process.file("mountinfo")?.read_to_end(&mut table)?;
    Ok(mountinfo::parse(&table))
}

/// The processes that can be opened.
fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter_map(|pid| Process::open(pid).ok())
}
