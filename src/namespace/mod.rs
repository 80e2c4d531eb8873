//! The mount namespace of a container, named by a process or a path (`--namespace`), and its user namespace.
//!
//! A child process enters them; this process stays where it is. Nothing of the container is run, loaded or believed: its
//! mounts, its /proc and its names may be anything, and may change at any moment.

mod child;
mod found;
mod target;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::config::{NamespaceId, TargetNamespace, TargetUsers};
use crate::error::{Error, Result};
use crate::idmap::UserNamespaceIds;
use crate::sys;
use crate::sys::namespace::Kind;
pub use child::{Child, Failure, Link, Message, error, failed};
pub use found::Pinned;
pub use target::{Make, Resolved, Target, make_here, serve};

/// The umask of what is made in a namespace that no process names.
const DEFAULT_UMASK: u32 = 0o022;

/// An open mount namespace. It keeps the namespace alive.
#[derive(Debug)]
pub struct Namespace {
    pub(crate) mounts: OwnedFd,
    /// `None`: this program's own.
    pub(crate) users: Option<Users>,
    umask: u32,
    /// The root directory of the process that the namespace was named by.
    process_root: Option<OwnedFd>,
}

/// An open user namespace, and its ids.
#[derive(Debug)]
pub struct Users {
    pub(crate) fd: OwnedFd,
    ids: UserNamespaceIds,
}

impl Users {
    /// The uid and gid of its root, as it numbers them.
    pub(crate) fn root(&self) -> io::Result<(u32, u32)> {
        self.ids.root().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// What the value of `--namespace` names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Process(Pid),
    File(PathBuf),
}

impl Name {
    fn parse(value: &OsStr) -> std::result::Result<Self, String> {
        let text = value.to_string_lossy();
        if text.contains('/') {
            return Ok(Self::File(value.into()));
        }
        let pid = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        pid.and_then(Pid::from_raw).map(Self::Process).ok_or_else(|| {
            format!("'{text}' is neither a process id nor the path of a mount namespace, such as /proc/PID/ns/mnt")
        })
    }
}

/// A process, held by a pidfd and by its directory in /proc: neither comes to mean another process.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
    dir: OwnedFd,
}

impl Process {
    /// ESRCH if there is none.
    fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| match e {
            // A thread that is no process (pidfd_open(2)).
            Errno::INVAL => Errno::SRCH,
            e => e,
        })?;
        let path = format!("/proc/{}", pid.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty()).map_err(|_| Errno::SRCH)?;
        let process = Self { pidfd, dir };
        // The process that the pidfd names still has its number, so the directory is that of the same process.
        match process.is_alive() {
            true => Ok(process),
            false => Err(Errno::SRCH.into()),
        }
    }

    fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Opens a file of its directory in /proc.
    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.dir, name, flags, Mode::empty())?))
    }

    fn umask(&self) -> Option<u32> {
        let mut status = String::new();
        self.file("status").ok()?.read_to_string(&mut status).ok()?;
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(umask.trim(), 8).ok()
    }
}

impl Namespace {
    /// Opens the namespace that an option's value names. Its users are those of the user namespace that owns it.
    ///
    /// To be called where the process has a single thread.
    ///
    /// # Errors
    /// The value names none, or our own; there is no such process; the user may not look at it (ptrace(2)); the process is in
    /// another user namespace than the owner: any user of a container can make such a process, and be root there.
    pub fn open(value: &OsStr) -> std::result::Result<Self, String> {
        let (name, opened) = match Name::parse(value)? {
            Name::Process(pid) => {
                (format!("process {}", pid.as_raw_nonzero()), Self::of_process(pid)?)
            }
            Name::File(path) => (path.display().to_string(), Self::of_file(&path)?),
        };
        let own =
            std::fs::metadata("/proc/self/ns/mnt").map_err(|e| format!("{name}: {}", why(&e)))?;
        if opened.id().is_ok_and(|id| id.inode == own.ino()) {
            return Err(format!(
                "{name}: the mount namespace is the one that this program is in: leave the option out"
            ));
        }
        Ok(opened)
    }

    fn of_process(pid: Pid) -> std::result::Result<Self, String> {
        let pid_number = pid.as_raw_nonzero();
        let failed = |e: io::Error| format!("process {pid_number}: {}", why(&e));
        let process = Process::open(pid).map_err(failed)?;
        let mounts = process.file("ns/mnt").map_err(failed)?;
        let (users, owner) = (process.file("ns/user"), sys::namespace::owner_of(&mounts));
        let (users, owner) = (users.map_err(failed)?, owner.map_err(failed)?);
        let inode =
            |fd: BorrowedFd<'_>| fstat(fd).map(|stat| stat.st_ino).map_err(|e| failed(e.into()));
        let (own, owning) = (inode(users.as_fd())?, inode(owner.as_fd())?);
        if own != owning {
            return Err(format!(
                "process {pid_number}: it is in the user namespace user:[{own}], but its mount namespace belongs to \
                 user:[{owning}]: name a process that is in both"
            ));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            openat(&process.dir, "root", flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let umask = process.umask().unwrap_or(DEFAULT_UMASK);
        Self::of(mounts.into(), owner, umask, Some(root)).map_err(failed)
    }

    fn of_file(path: &Path) -> std::result::Result<Self, String> {
        let failed = |e: io::Error| format!("{}: {}", path.display(), why(&e));
        let file = sys::namespace::open_file(path).map_err(failed)?;
        let mounts = file.filter(|file| sys::namespace::is_of(file, Kind::Mounts));
        let mounts =
            mounts.ok_or_else(|| format!("{}: this is no mount namespace", path.display()))?;
        let users = sys::namespace::owner_of(&mounts).map_err(failed)?;
        Self::of(mounts, users, DEFAULT_UMASK, None).map_err(failed)
    }

    fn of(
        mounts: OwnedFd,
        users: OwnedFd,
        umask: u32,
        process_root: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let own = std::fs::metadata("/proc/self/ns/user")?;
        let stat = fstat(&users)?;
        if (stat.st_dev, stat.st_ino) == (own.dev(), own.ino()) {
            return Ok(Self { mounts, users: None, umask, process_root });
        }
        let (uids, gids) = sys::user_namespace::maps_of_namespace(&users)?;
        let ids = UserNamespaceIds::parse(&uids, &gids)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let users = Some(Users { fd: users, ids });
        Ok(Self { mounts, users, umask, process_root })
    }

    /// Opens the namespace of a configuration again.
    ///
    /// # Errors
    /// Those of [`Self::open`]; the value names another namespace by now, or one with another map.
    pub fn of_config(config: &TargetNamespace) -> Result<Self> {
        let refused = |why: String| Error::refused(format!("option 'namespace': {why}"));
        let namespace = Self::open(&config.value).map_err(refused)?;
        match namespace.is_described_by(config) {
            true => Ok(namespace),
            false => Err(refused(format!(
                "{} has come to name another namespace meanwhile",
                config.value.to_string_lossy()
            ))),
        }
    }

    /// What a configuration keeps of it. `is_container`: see [`TargetNamespace`].
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn described(&self, value: &OsStr, is_container: bool) -> io::Result<TargetNamespace> {
        Ok(TargetNamespace {
            value: value.to_owned(),
            mounts: self.id()?,
            users: self.users.as_ref().map(Users::described).transpose()?,
            root: None,
            is_container,
        })
    }

    fn is_described_by(&self, config: &TargetNamespace) -> bool {
        let users = self.users.as_ref().map(Users::described).transpose();
        users.is_ok_and(|users| users == config.users)
            && self.id().is_ok_and(|id| id == config.mounts)
    }

    /// Whether its user namespace is another than this program's.
    #[must_use]
    pub fn has_other_users(&self) -> bool {
        self.users.is_some()
    }

    /// What tells the mount namespace from all others.
    pub(crate) fn id(&self) -> io::Result<NamespaceId> {
        id_of(&self.mounts)
    }
}

impl Users {
    fn described(&self) -> io::Result<TargetUsers> {
        Ok(TargetUsers { inode: fstat(&self.fd)?.st_ino, ids: self.ids.clone() })
    }
}

/// What tells a mount namespace from all others.
pub(crate) fn id_of(mounts: impl AsFd) -> io::Result<NamespaceId> {
    let inode = fstat(mounts.as_fd())?.st_ino;
    Ok(NamespaceId { inode, unique: sys::mount::namespace_id(mounts).ok() })
}

/// An error of the system, in words.
fn why(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::ESRCH) => "there is no such process".to_owned(),
        Some(libc::EPERM | libc::EACCES) => {
            "not permitted; this takes root, or CAP_SYS_ADMIN in its user namespace".to_owned()
        }
        Some(code) => crate::error::strerror(code),
        None => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_process_id_or_a_path() {
        let parse = |text: &str| Name::parse(OsStr::new(text));
        assert_eq!(parse("7"), Ok(Name::Process(Pid::from_raw(7).unwrap())));
        assert_eq!(parse("/run/x"), Ok(Name::File("/run/x".into())));
        for text in ["", "0", "-1", "+7", "x", "99999999999", "mnt"] {
            assert!(parse(text).unwrap_err().contains("neither a process id"), "{text}");
        }
    }

    #[test]
    fn what_is_no_mount_namespace_is_refused_without_opening_it() {
        let open = |text: &str| Namespace::open(OsStr::new(text)).map(drop);
        for path in ["/dev/null", "/proc/self/ns/user", "/", "/proc/self/ns/pid"] {
            assert_eq!(open(path), Err(format!("{path}: this is no mount namespace")));
        }
        assert_eq!(open("4194304"), Err("process 4194304: there is no such process".to_owned()));
        assert!(open("/no/such").unwrap_err().starts_with("/no/such: No such file"));
    }

    #[test]
    fn our_own_namespace_is_refused_and_has_our_own_users() {
        for value in ["/proc/self/ns/mnt".to_owned(), std::process::id().to_string()] {
            let error = Namespace::open(OsStr::new(&value)).unwrap_err();
            assert!(error.contains("leave the option out"), "{error}");
        }
        let own = |kind: &str| File::open(format!("/proc/self/ns/{kind}")).unwrap().into();
        let own = Namespace::of(own("mnt"), own("user"), DEFAULT_UMASK, None).unwrap();
        assert!(!own.has_other_users());
        let config = own.described(OsStr::new("7"), false).unwrap();
        assert!(own.is_described_by(&config));
        let other = TargetNamespace { mounts: NamespaceId { inode: 1, ..config.mounts }, ..config };
        assert!(!own.is_described_by(&other));
    }
}
