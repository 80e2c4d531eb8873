//! The namespace of a mount that is in service, found again when it is needed. Nothing here keeps the namespace alive.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::Pid;

use super::{Name, Process, id_of, open_file};
use crate::config::{NamespaceId, TargetNamespace};
use crate::sys::mountinfo::{self, MountInfo};

/// A mount namespace, known by its numbers and by the process or path that the mount was made with.
#[derive(Debug)]
pub struct Pinned {
    id: NamespaceId,
    process: Option<Process>,
    path: Option<PathBuf>,
}

/// A mount namespace that was found again.
#[derive(Debug)]
pub struct Member {
    /// The namespace.
    pub mounts: OwnedFd,
    /// A process in it. `None`: none is known.
    process: Option<Process>,
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
    pub fn find(&self) -> io::Result<Member> {
        if let Some(mounts) = self.process.as_ref().and_then(|process| self.namespace_of(process)) {
            let pid = self.process.as_ref().and_then(|process| process.number().ok());
            return Ok(Member { mounts, process: pid.and_then(|pid| Process::open(pid).ok()) });
        }
        let by_path = self.path.as_ref().and_then(|path| open_file(path).ok().flatten());
        let by_path = by_path.filter(|file| self.is_same(file));
        let member = processes().find_map(|process| {
            Some(Member { mounts: self.namespace_of(&process)?, process: Some(process) })
        });
        match (member, by_path) {
            (Some(member), _) => Ok(member),
            (None, Some(mounts)) => Ok(Member { mounts, process: None }),
            (None, None) => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    fn namespace_of(&self, process: &Process) -> Option<OwnedFd> {
        let file = process.file("ns/mnt").ok().map(OwnedFd::from)?;
        self.is_same(&file).then_some(file)
    }

    fn is_same(&self, file: impl AsFd) -> bool {
        id_of(file).is_ok_and(|id| id == self.id)
    }
}

impl Member {
    /// The mount table of the namespace, as a process in it sees it.
    ///
    /// # Errors
    /// ESRCH without such a process.
    pub fn mounts(&self) -> io::Result<Vec<MountInfo>> {
        let process = self.process.as_ref().ok_or(rustix::io::Errno::SRCH)?;
        let mut table = Vec::new();
        process.file("mountinfo")?.read_to_end(&mut table)?;
        Ok(mountinfo::parse(&table))
    }
}

impl Process {
    /// Its process id, from its directory in /proc.
    fn number(&self) -> io::Result<Pid> {
        let mut status = String::new();
        self.file("status")?.read_to_string(&mut status)?;
        let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let pid = pid.and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw);
        pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// The processes that can be opened.
fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter_map(|pid| Process::open(pid).ok())
}
