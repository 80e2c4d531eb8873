//! TARGET in another mount namespace: resolved within the namespace's root, made where that is asked for.
//!
//! The kernel resolves it (openat2(2), RESOLVE_IN_ROOT): absolute symbolic links and `..` lead to the namespace's root at
//! most, whatever a process of the container does to the path meanwhile, and links of /proc (RESOLVE_NO_MAGICLINKS) nowhere.
//! What was found is held by a descriptor: a name that is changed afterwards changes nothing.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, mkdirat, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;

use super::Namespace;
use super::child::{Child, Failure, Link, failed};
use crate::sys;

/// Where to mount in a namespace.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The directory that the path is resolved in. `None`: the namespace's root.
    pub root: Option<&'a Path>,
    /// The path in it.
    pub path: &'a Path,
    /// What to make where nothing is (`--mkdir`).
    pub make: Option<Make>,
}

/// What is made where TARGET does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// A target that was found.
#[derive(Debug)]
pub struct Resolved {
    /// Holds it (O_PATH).
    pub fd: OwnedFd,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Its path below the root that it was resolved in, absolute and without symbolic links, as the kernel told it then.
    pub path: PathBuf,
}

/// What the child has found.
struct Found {
    fd: OwnedFd,
    is_dir: bool,
    path: PathBuf,
}

impl Namespace {
    /// Resolves a path in the namespace, in a child process that has the ids of the namespace's root user.
    ///
    /// # Errors
    /// ENOENT; ELOOP for a link of /proc; EPERM without the right to enter the namespace; ETIMEDOUT if a filesystem there
    /// does not answer within ten seconds.
    pub fn resolve(&self, target: Target<'_>) -> Result<Resolved, Failure> {
        let child = Child::start(&self.fds(), |link| match self.resolve_here(target) {
            Ok(Found { fd, is_dir, path }) => {
                let bytes = [&[u8::from(is_dir)], path.as_os_str().as_bytes()].concat();
                link.answer(Ok((&bytes, &[fd.as_fd()])));
            }
            Err(failure) => link.answer(Err(failure)),
        });
        let answer = child.map_err(failed("cannot fork"))?.answer()?;
        let (is_dir, path) = answer.bytes.split_first().unwrap_or((&0, b""));
        let (is_dir, path) = (*is_dir == 1, OsStr::from_bytes(path).into());
        match answer.fds.into_iter().next() {
            Some(fd) => Ok(Resolved { fd, is_dir, path }),
            None => Err(("a helper process".to_owned(), io::Error::from_raw_os_error(libc::EIO))),
        }
    }

    /// The child's part.
    fn resolve_here(&self, target: Target<'_>) -> Result<Found, Failure> {
        // Ours: that of the namespace may be anything.
        let own = openat(CWD, "/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let is_user = self.enter_mounts().map_err(failed("cannot enter it"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(CWD, "/", flags, Mode::empty()).map_err(failed("its root"))?;
        let root = target.root.unwrap_or(Path::new("/"));
        let root = openat(CWD, root, flags, Mode::empty()).map_err(failed(root.display()))?;
        if let Some(users) = self.users.as_ref() {
            if !is_user {
                sys::namespace::enter(&users.fd, sys::namespace::Kind::Users)
                    .map_err(failed("cannot enter its user namespace"))?;
            }
            let (uid, gid) = users.root().map_err(failed("its user namespace has no ids"))?;
            sys::namespace::become_user(uid, gid).map_err(failed("cannot become its root"))?;
        }
        let top = Place::of(&top).map_err(failed("its root"))?;
        if let Some(own) = &self.process_root
            && Place::of(own).map_err(failed("the process's root"))? != top
        {
            return Err(refused(
                "the process is in a chroot of its mount namespace: name one that is not"
                    .to_owned(),
            ));
        }
        rustix::process::umask(Mode::from_raw_mode(self.umask));
        let name = target.path.display();
        if let Some(make) = target.make {
            make_path(&root, target.path, make).map_err(failed(format!("cannot make {name}")))?;
        }
        let fd = open_in(root.as_fd(), target.path).map_err(failed(name))?;
        // No server is asked: it may be one of the container.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat =
            statx(&fd, c"", flags, StatxFlags::TYPE).map_err(failed(target.path.display()))?;
        // A mount there could not be undone: each path of the namespace's processes begins below it.
        let found = Place::of(&fd).map_err(failed(target.path.display()))?;
        if found == top || found == Place::of(&root).map_err(failed("its root"))? {
            return Err(refused(format!(
                "{}: this is the root of the namespace or of the container; name a directory below it",
                target.path.display()
            )));
        }
        let path = own
            .and_then(|own| path_in(&own, &fd, &root))
            .unwrap_or_else(|_| Path::new("/").join(target.path));
        Ok(Found { is_dir: FileType::from_raw_mode(stat.stx_mode.into()).is_dir(), fd, path })
    }
}

/// The path of a descriptor below a root, absolute. `own` is this process's /proc/self/fd, whose links begin at the root that
/// the process has. ENOENT if it is not below it any more.
fn path_in(own: &OwnedFd, fd: &OwnedFd, root: &OwnedFd) -> Result<PathBuf, Errno> {
    let link = |fd: &OwnedFd| {
        let text = readlinkat(own, fd.as_raw_fd().to_string(), Vec::new())?;
        Ok::<PathBuf, Errno>(OsStr::from_bytes(text.as_bytes()).into())
    };
    let (path, root) = (link(fd)?, link(root)?);
    match path.strip_prefix(&root) {
        Ok(rest) if root.is_absolute() => Ok(Path::new("/").join(rest)),
        _ => Err(Errno::NOENT),
    }
}

fn refused(why: String) -> Failure {
    (why, io::Error::from_raw_os_error(0))
}

/// A directory or file in a mount.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    mount: u64,
    inode: u64,
}

impl Place {
    /// No server is asked.
    fn of(fd: &OwnedFd) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = statx(fd, c"", flags, wanted)?;
        match StatxFlags::from_bits_retain(stat.stx_mask).contains(wanted) {
            true => Ok(Self { mount: stat.stx_mnt_id, inode: stat.stx_ino }),
            false => Err(Errno::OPNOTSUPP),
        }
    }
}

/// Opens a path, absolute or relative, within a directory.
fn open_in(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel gives up where a directory was renamed during the walk (openat2(2)).
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

/// Makes what is missing of a path, as `mkdir -p`. What is there stays.
fn make_path(root: &OwnedFd, path: &Path, make: Make) -> Result<(), Errno> {
    let names: Vec<Component<'_>> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .collect();
    let mut done = PathBuf::from("/");
    for (at, part) in names.iter().enumerate() {
        let parent = done.clone();
        done.push(part);
        match open_in(root.as_fd(), &done) {
            Err(Errno::NOENT) => {}
            found => {
                found?;
                continue;
            }
        }
        let Component::Normal(name) = part else { return Err(Errno::NOENT) };
        let parent = open_in(root.as_fd(), &parent)?;
        let is_last = at + 1 == names.len();
        match make_name(&parent, name, if is_last { make } else { Make::Directory }) {
            // Another process was faster; a symbolic link that leads nowhere is found when the path is resolved.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes one name. Neither call follows a symbolic link of that name.
fn make_name(dir: &OwnedFd, name: &OsStr, make: Make) -> Result<(), Errno> {
    match make {
        Make::Directory => mkdirat(dir, name, Mode::from_raw_mode(0o755)),
        Make::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(dir, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

/// Makes a mount point in this process's own mount namespace, as `mkdir -p`.
///
/// # Errors
/// Those of mkdir(2) and open(2).
pub fn make_here(path: &Path, make: Make) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    match make {
        Make::Directory => std::fs::create_dir_all(path),
        Make::File => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::File::create_new(path).map(drop)
        }
    }
}

impl Namespace {
    /// The descriptors that a child needs to enter it.
    pub(crate) fn fds(&self) -> Vec<i32> {
        let users = self.users.as_ref().map(|users| users.fd.as_raw_fd());
        let root = self.process_root.as_ref().map(AsRawFd::as_raw_fd);
        std::iter::once(self.mounts.as_raw_fd()).chain(users).chain(root).collect()
    }

    /// Moves this process into the mount namespace. Where its own capabilities do not suffice, it enters the user namespace
    /// first: its user may own that. Returns whether it did.
    ///
    /// # Errors
    /// EPERM without the right.
    pub(crate) fn enter_mounts(&self) -> io::Result<bool> {
        use sys::namespace::{Kind, enter};
        match (enter(&self.mounts, Kind::Mounts), &self.users) {
            (Err(e), Some(users)) if e.raw_os_error() == Some(libc::EPERM) => {
                enter(&users.fd, Kind::Users)?;
                enter(&self.mounts, Kind::Mounts).map(|()| true)
            }
            (entered, _) => entered.map(|()| false),
        }
    }
}

/// Answers every message of the parent by a function, until the parent closes the socket or the function is done.
pub fn serve(link: &Link, mut answer: impl FnMut(super::Message) -> bool) {
    while let Some(message) = link.receive() {
        if !answer(message) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn a_path_stays_within_the_root() {
        let (dir, fd) = root();
        std::fs::create_dir_all(dir.path().join("a/tmp")).unwrap();
        symlink("/a", dir.path().join("absolute")).unwrap();
        symlink("../../../../a", dir.path().join("a/up")).unwrap();
        for path in ["/a", "a", "absolute/tmp/..", "a/up", "../../a", "/absolute"] {
            let found = open_in(fd.as_fd(), Path::new(path)).unwrap();
            let (found, expected) =
                (rustix::fs::fstat(&found), rustix::fs::stat(dir.path().join("a")));
            assert_eq!(found.unwrap().st_ino, expected.unwrap().st_ino, "{path}");
        }
        assert_eq!(open_in(fd.as_fd(), Path::new("/etc")).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn what_is_missing_is_made_within_the_root_and_no_link_is_followed_out() {
        let (dir, fd) = root();
        symlink("/outside", dir.path().join("link")).unwrap();
        make_path(&fd, Path::new("/x/../y/z"), Make::Directory).unwrap();
        make_path(&fd, Path::new("f/g"), Make::File).unwrap();
        make_path(&fd, Path::new("f/g"), Make::File).unwrap();
        assert!(dir.path().join("y/z").is_dir() && dir.path().join("x").is_dir());
        assert!(dir.path().join("f/g").is_file());
        // The link leads to a name in the root that is not there: nothing is made in its place.
        assert_eq!(make_path(&fd, Path::new("link/in"), Make::Directory), Err(Errno::NOENT));
        assert!(!Path::new("/outside").exists());
    }

    /// `SHIFTBIND_TEST_ESCAPES`: how often the race is tried.
    #[test]
    fn no_swap_of_a_name_leads_out_of_the_root() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let tries = std::env::var("SHIFTBIND_TEST_ESCAPES").ok().and_then(|text| text.parse().ok());
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let root = base.join("root");
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::create_dir_all(base.join("outside/c")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, &root, flags, Mode::empty()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let links = ["../../outside", "/../outside", "/proc/self/root", "../a/b"];
                for target in links.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    // Any of these may find what the other thread has made.
                    let (link, name) = (root.join("new"), root.join("t"));
                    let _ = symlink(target, &link);
                    let _ = std::fs::rename(&link, &name);
                    // A directory that is moved out while the walk is below it, and back.
                    let _ = std::fs::rename(root.join("a/b"), base.join("outside/b"));
                    let _ = std::fs::remove_dir_all(root.join("a/b"));
                    let _ = std::fs::rename(base.join("outside/b"), root.join("a/b"));
                    let _ = std::fs::remove_file(&name);
                    let _ = std::fs::create_dir(&name);
                    let _ = std::fs::remove_dir_all(&name);
                }
            });
            let paths =
                ["t", "t/c", "a/b/../../../outside", "a/b/c/../../../outside/c", "/t/../t/c"];
            let (mut found, mut refused) = (0, 0);
            for at in 0..tries.unwrap_or(100_000) {
                let path = Path::new(paths[at % paths.len()]);
                if at % 7 == 0 {
                    let _ = make_path(&fd, &path.join("made"), Make::Directory);
                }
                match open_in(fd.as_fd(), path) {
                    Ok(opened) => {
                        let own = format!("/proc/self/fd/{}", opened.as_raw_fd());
                        let at = std::fs::read_link(own).unwrap();
                        // A directory of the root may be moved out after it was opened.
                        let moved = at.starts_with(base.join("outside/b"));
                        assert!(
                            at.starts_with(&root) || moved,
                            "{}: {}",
                            path.display(),
                            at.display()
                        );
                        found += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(
                found > 0 && refused > 0,
                "the race was none: {found} found, {refused} refused"
            );
            assert!(!base.join("outside/made").exists() && !base.join("outside/c/made").exists());
        });
    }
}
