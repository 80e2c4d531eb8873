//! A child process that changes a mount of the kernel's engine in the mount namespace of a container: it clones the mount with
//! another map, and puts another tree in the mount's place.
//!
//! It has our own ids and capabilities. The mount is a descriptor, so that nothing of the container's names, which its root
//! may swap at any moment, decides which mount is cloned or detached. /proc is ours, opened before the child enters the
//! namespace: that of the container may be anything.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::process::fchdir;

use super::place::Place;
use super::table::MountIdentity;
use crate::error::{Error, Result};
use crate::namespace::{Child, Failure, Link, Message, Namespace, error, failed, serve};
use crate::sys::mountinfo::{self, MountInfo};
use crate::sys::open_tree_attr::clone_with_idmap;

/// How often the mount is detached until it is gone. A process of the container may mount something over it each time, which
/// is then detached in its place. Chosen.
const MAX_DETACHES: u32 = 100;

/// What has failed where the mount is covered or somewhere else.
const NOT_THERE: &str = "another mount has taken its place in the namespace";

fn not_there() -> Failure {
    (NOT_THERE.to_owned(), io::Error::from_raw_os_error(0))
}

/// The child.
#[derive(Debug)]
pub(super) struct Replacer(Child);

impl Replacer {
    /// Forks it. `point` is the root of the mount.
    ///
    /// # Errors
    /// EPERM without the right to enter the namespace.
    pub(super) fn start(
        namespace: &Namespace,
        point: BorrowedFd<'_>,
        is_dir: bool,
    ) -> Result<Self> {
        let mut keep = namespace.fds();
        keep.push(point.as_raw_fd());
        let child = Child::start(&keep, |link| match Here::enter(namespace, point, is_dir) {
            Ok(here) => {
                link.answer(Ok((b"", &[])));
                here.serve(link);
            }
            Err(failure) => link.answer(Err(failure)),
        });
        let child = child.map_err(|e| Error::system("cannot fork", e))?;
        child.answer().map_err(error)?;
        Ok(Self(child))
    }

    /// The mount table of the namespace, from its root.
    pub(super) fn table(&self) -> Result<Vec<MountInfo>> {
        let answer = self.0.ask(b"table", &[]).map_err(error)?;
        let file = answer.fds.into_iter().next().map(File::from);
        let read = |mut file: File| {
            let mut text = Vec::new();
            file.read_to_end(&mut text).map(|_| text)
        };
        let text = file.map_or_else(|| Err(io::Error::from_raw_os_error(libc::EIO)), read);
        let text = text.map_err(|e| Error::system("the mount table of the namespace", e))?;
        Ok(mountinfo::parse(&text))
    }

    /// A clone of the mount with all mounts below it, detached, with the map of a user namespace or none.
    ///
    /// # Errors
    /// Those of [`clone_with_idmap`].
    pub(super) fn clone_with_idmap(&self, map: Option<&OwnedFd>) -> io::Result<OwnedFd> {
        let fds: Vec<BorrowedFd<'_>> = map.iter().map(|fd| fd.as_fd()).collect();
        let answer = self.0.ask(b"clone", &fds).map_err(|(_, e)| e)?;
        let none = || io::Error::from_raw_os_error(libc::EIO);
        answer.fds.into_iter().next().ok_or_else(none)
    }

    /// Puts a tree in the place of the mount, whose path in the namespace is `path`, and detaches the mount.
    ///
    /// # Errors
    /// Another mount covers it, or the place cannot be opened; then the mount stays.
    pub(super) fn replace(&self, tree: &OwnedFd, path: &Path) -> Result<()> {
        let message = [b"replace ", path.as_os_str().as_bytes()].concat();
        self.0.ask(&message, &[tree.as_fd()]).map(drop).map_err(error)
    }
}

/// The child's part.
struct Here<'a> {
    /// The directory of this process in our /proc.
    proc: OwnedFd,
    point: BorrowedFd<'a>,
    is_dir: bool,
    identity: MountIdentity,
}

impl<'a> Here<'a> {
    fn enter(
        namespace: &Namespace,
        point: BorrowedFd<'a>,
        is_dir: bool,
    ) -> std::result::Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = openat(CWD, "/proc/self", flags, Mode::empty()).map_err(failed("/proc"))?;
        namespace.enter_mounts().map_err(failed("cannot enter it"))?;
        let identity = MountIdentity::of_descriptor(point).map_err(failed("the mount's id"))?;
        Ok(Self { proc, point, is_dir, identity })
    }

    fn serve(&self, link: &Link) {
        serve(link, |Message { bytes, fds }| {
            let done = match (bytes.as_slice(), fds.first()) {
                (b"table", _) => self.table().map(Some),
                (b"clone", map) => clone_with_idmap(self.point, map)
                    .map(Some)
                    .map_err(failed("cannot clone the mount")),
                (message, Some(tree)) => match message.strip_prefix(b"replace ") {
                    Some(path) => {
                        self.replace(tree, Path::new(OsStr::from_bytes(path))).map(|()| None)
                    }
                    None => return false,
                },
                _ => return false,
            };
            match done {
                Ok(Some(fd)) => link.answer(Ok((b"", &[fd.as_fd()]))),
                Ok(None) => link.answer(Ok((b"", &[]))),
                Err(failure) => link.answer(Err(failure)),
            }
            true
        });
    }

    /// The kernel shows the mount namespace and the root that this process has when it opens the file.
    fn table(&self) -> std::result::Result<OwnedFd, Failure> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(&self.proc, "mountinfo", flags, Mode::empty()).map_err(failed("its mount table"))
    }

    /// Whether the mount is still in the namespace.
    fn is_attached(&self) -> std::result::Result<bool, Failure> {
        let mut text = Vec::new();
        File::from(self.table()?).read_to_end(&mut text).map_err(failed("its mount table"))?;
        Ok(mountinfo::parse(&text).iter().any(|line| line.id == self.identity.id()))
    }

    /// Mounts the tree beneath the mount and detaches that. Before Linux 6.5, and where the kernel cannot do that here (EINVAL),
    /// the mount is detached first.
    fn replace(&self, tree: &OwnedFd, path: &Path) -> std::result::Result<(), Failure> {
        let place = Place::open(path).map_err(failed("the mount's directory"))?;
        let top = place.topmost().map_err(failed("the mount's directory"))?;
        if !top.is_same_as(&self.identity) {
            return Err(not_there());
        }
        let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
            | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
            | MoveMountFlags::MOVE_MOUNT_BENEATH;
        match move_mount(tree, "", self.point, "", beneath) {
            Ok(()) => self.detach(&place),
            Err(Errno::INVAL) => self.replace_detached(tree, &place),
            Err(e) => Err(failed("cannot mount beneath the old mount")(e)),
        }
    }

    fn replace_detached(&self, tree: &OwnedFd, place: &Place) -> std::result::Result<(), Failure> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let old = open_tree(self.point, c"", flags).map_err(failed("cannot keep the old mount"))?;
        self.detach(place)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        // A symbolic link that a process of the container puts there is not followed.
        let point = place.open_here().map_err(failed("the directory below the mount"))?;
        let Err(e) = move_mount(tree, "", &point, "", flags) else { return Ok(()) };
        match move_mount(&old, "", &point, "", flags) {
            Ok(()) => Err(failed("cannot attach the new mount")(e)),
            Err(again) => {
                Err(failed(format!("cannot attach the new mount, nor the old one ({again})"))(e))
            }
        }
    }

    /// Detaches the mount. The working directory is its root, where that is a directory: the kernel finds the mount by it, or
    /// what covers it.
    fn detach(&self, place: &Place) -> std::result::Result<(), Failure> {
        let failed = |e: io::Error| failed("the old mount cannot be detached")(e);
        let name: OsString = match self.is_dir {
            true => {
                fchdir(self.point).map_err(|e| failed(e.into()))?;
                ".".into()
            }
            false => {
                place.enter().map_err(failed)?;
                place.name().to_owned()
            }
        };
        for _ in 0..MAX_DETACHES {
            unmount(PathBuf::from(&name), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .map_err(|e| failed(e.into()))?;
            if !self.is_attached()? {
                return Ok(());
            }
        }
        Err(not_there())
    }
}
