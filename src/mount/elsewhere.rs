//! Mounts in the mount namespace of a container: child processes make, attach and unmount them.
//!
//! - The **maker** (container mode) opens our /dev/fuse in the container's user namespace, then enters its mount namespace, and
//!   makes the filesystem, which belongs to the container. It uses no path there.
//! - The **attacher** enters the container's mount namespace, with our own ids, and attaches the mount to a descriptor of
//!   the mount point.
//!
//! Both are forked before the server starts its threads, and end when the mount is attached. Neither runs a program, and
//! what the container has put in its namespace is only reached through descriptors.
//!
//! Root of the container may enter every mount namespace that its user namespace owns, also one that exists for a moment, by
//! a file handle (open_by_handle_at(2)). So none of these may ever hold our own mounts: what is copied after entering the user
//! namespace is the container's.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, mkdirat, openat, statx};
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::fchdir;

use super::MountPlan;
use super::detached;
use super::subdir::{SubdirMethod, log_cost};
use super::table::MountIdentity;
use crate::config::TargetNamespace;
use crate::error::{Error, Result};
use crate::namespace::{
    Child, Failure, Link, Message, Namespace, Pinned, Users, error, failed, serve,
};
use crate::sys;
use crate::sys::mountinfo::MountInfo;
use crate::sys::namespace::{Kind, Owner, Unmount};

fn whole(e: Error) -> Failure {
    (e.to_string(), io::Error::from_raw_os_error(0))
}

/// A child that has made a mount of the container's user namespace.
#[derive(Debug)]
pub(super) struct Maker {
    child: Child,
    /// The device number of the filesystem.
    pub(super) device: (u32, u32),
    /// Whether a subdirectory can be attached in place of the root.
    pub(super) can_restrict: bool,
}

impl Maker {
    /// Makes the mount, attached nowhere. Returns the FUSE device to serve it on.
    pub(super) fn start(
        plan: &MountPlan,
        namespace: &Namespace,
        users: &Users,
    ) -> Result<(Self, OwnedFd)> {
        let child = Child::start(&namespace.fds(), |link| match make(plan, namespace, users) {
            Ok((mount, device)) => serve_maker(link, mount, device),
            Err(failure) => link.answer(Err(failure)),
        });
        let child = child.map_err(|e| Error::system("cannot fork", e))?;
        let Message { bytes, fds } = child.answer().map_err(error)?;
        let told = String::from_utf8_lossy(&bytes).into_owned();
        let words: Vec<u32> = told.split(' ').filter_map(|word| word.parse().ok()).collect();
        match (words.as_slice(), <[OwnedFd; 1]>::try_from(fds)) {
            ([major, minor, refused], Ok([device])) => {
                if let Some(code) = i32::try_from(*refused).ok().filter(|code| *code != 0) {
                    log_cost(&io::Error::from_raw_os_error(code));
                }
                let maker = Self { child, device: (*major, *minor), can_restrict: *refused == 0 };
                Ok((maker, device))
            }
            _ => Err(Error::refused("option 'namespace': a helper process answered nonsense")),
        }
    }

    /// Has the root's attributes requested; one byte, the errno, is then written to `answer`.
    pub(super) fn probe(&self, answer: BorrowedFd<'_>) -> io::Result<()> {
        self.child.send(b"probe", &[answer])
    }

    /// The process that waits for the attributes.
    pub(super) fn pid(&self) -> rustix::process::Pid {
        self.child.pid()
    }

    /// Replaces the mount by one of a subdirectory of its root.
    pub(super) fn restrict(&self, name: &OsStr) -> Result<()> {
        let message = [b"restrict ", name.as_bytes()].concat();
        self.child.ask(&message, &[]).map(drop).map_err(error)
    }

    /// The mount and its identity. The child ends.
    pub(super) fn finish(&self) -> Result<(OwnedFd, MountIdentity)> {
        let Message { bytes, fds } = self.child.ask(b"finish", &[]).map_err(error)?;
        let identity = MountIdentity::from_text(&String::from_utf8_lossy(&bytes));
        identity
            .zip(fds.into_iter().next())
            .map(|(identity, mount)| (mount, identity))
            .ok_or_else(|| Error::refused("option 'namespace': a helper process answered nonsense"))
    }
}

/// The maker's part: the mount, and the device.
fn make(
    plan: &MountPlan,
    namespace: &Namespace,
    users: &Users,
) -> std::result::Result<(OwnedFd, OwnedFd), Failure> {
    sys::namespace::enter(&users.fd, Kind::Users)
        .map_err(failed("cannot enter its user namespace"))?;
    // The kernel compares the user namespace of the process that opened the device with the filesystem's (`fuse_get_tree`).
    // The path is still one of ours.
    let device = detached::open_device().map_err(whole)?;
    let (uid, gid) = users.root().map_err(failed("its user namespace has no ids"))?;
    sys::namespace::become_user(uid, gid).map_err(failed("cannot become its root"))?;
    // fsopen(2) asks for CAP_SYS_ADMIN over the owner of the current mount namespace.
    sys::namespace::enter(&namespace.mounts, Kind::Mounts).map_err(failed("cannot enter it"))?;
    let mount = detached::create(plan, &device).map_err(whole)?;
    Ok((mount, device))
}

fn serve_maker(link: &Link, mount: OwnedFd, device: OwnedFd) {
    let subdir = SubdirMethod::probe_here();
    let refused = subdir.as_ref().err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
    let subdir = subdir.ok();
    let stat = statx(&mount, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE);
    let stat = match stat.map_err(failed("the mount's device number")) {
        Ok(stat) => stat,
        Err(failure) => return link.answer(Err(failure)),
    };
    let (major, minor) = (stat.stx_dev_major, stat.stx_dev_minor);
    let told = format!("{major} {minor} {refused}");
    link.answer(Ok((told.as_bytes(), &[device.as_fd()])));
    // The server alone may hold the device: the kernel ends the connection when it is closed.
    drop(device);
    let mut mount = mount;
    serve(link, |Message { bytes, fds }| {
        match (bytes.as_slice(), fds.first(), subdir) {
            (b"probe", Some(answer), _) => {
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
                let code = match statx(&mount, c"", flags, StatxFlags::BASIC_STATS) {
                    Ok(_) => 0,
                    Err(e) => u8::try_from(e.raw_os_error()).unwrap_or(u8::MAX),
                };
                let _ = rustix::io::write(answer, &[code]);
            }
            (b"finish", _, _) => {
                let identity = MountIdentity::of_descriptor(&mount);
                match identity.map_err(failed("the mount's id")) {
                    Ok(identity) => {
                        link.answer(Ok((identity.to_text().as_bytes(), &[mount.as_fd()])));
                    }
                    Err(failure) => link.answer(Err(failure)),
                }
                return false;
            }
            (restrict, _, Some(method)) => {
                let name = restrict.strip_prefix(b"restrict ").unwrap_or_default();
                match method.detach_here(&mount, OsStr::from_bytes(name)) {
                    Ok(subdir) => {
                        mount = subdir;
                        link.answer(Ok((b"", &[])));
                    }
                    Err(e) => {
                        link.answer(Err(failed("cannot make a mount of the source's root")(e)));
                    }
                }
            }
            _ => return false,
        }
        true
    });
}

/// A child that waits for a mount, and attaches it in the container's mount namespace.
#[derive(Debug)]
pub(super) struct Attacher(Child);

impl Attacher {
    /// Forks it. `point` is the mount point, a directory if `is_dir`. `locks`: see [`locked`].
    pub(super) fn start(
        namespace: &Namespace,
        point: BorrowedFd<'_>,
        is_dir: bool,
        locks: bool,
    ) -> Result<Self> {
        let mut keep = namespace.fds();
        keep.push(point.as_raw_fd());
        let child = Child::start(&keep, |link| {
            let Some(mount) = link.receive().and_then(|message| message.fds.into_iter().next())
            else {
                return;
            };
            match attach(namespace, mount, point, locks.then_some(is_dir)) {
                Ok(identity) => link.answer(Ok((identity.to_text().as_bytes(), &[]))),
                Err(failure) => link.answer(Err(failure)),
            }
        });
        child.map(Self).map_err(|e| Error::system("cannot fork", e))
    }

    /// Attaches a mount. Returns its identity, as far as a process outside may know it.
    pub(super) fn attach(&self, mount: &OwnedFd) -> Result<MountIdentity> {
        let answer = self.0.ask(b"attach", &[mount.as_fd()]).map_err(error)?;
        MountIdentity::from_text(&String::from_utf8_lossy(&answer.bytes))
            .ok_or_else(|| Error::refused("option 'namespace': a helper process answered nonsense"))
    }
}

/// The attacher's part. `locks`: whether the mount is a directory, if its attributes are to be locked.
fn attach(
    namespace: &Namespace,
    mount: OwnedFd,
    point: BorrowedFd<'_>,
    locks: Option<bool>,
) -> std::result::Result<MountIdentity, Failure> {
    let mount = match (locks, &namespace.users) {
        (Some(is_dir), Some(users)) => locked(&mount, namespace, users, is_dir)?,
        _ => mount,
    };
    let identity = MountIdentity::of_descriptor(&mount).map_err(failed("the mount's id"))?;
    namespace.enter_mounts().map_err(failed("cannot enter it"))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", point, "", flags).map_err(failed("cannot attach the mount"))?;
    Ok(identity)
}

/// A copy of a mount whose attributes (`ro`, `nodev`, `nosuid`, `noexec`) the container's root cannot take away.
///
/// The kernel locks the attributes of mounts that a less privileged mount namespace is made with (`lock_mnt_tree`), and a
/// copy of such a mount keeps the locks. A mount that is only moved into the namespace has none.
pub(super) fn locked(
    mount: &OwnedFd,
    namespace: &Namespace,
    users: &Users,
    is_dir: bool,
) -> std::result::Result<OwnedFd, Failure> {
    let mut keep = namespace.fds();
    keep.push(mount.as_raw_fd());
    let child = Child::start(&keep, |link| match lock_here(mount, namespace, users, is_dir) {
        Ok(copy) => link.answer(Ok((b"", &[copy.as_fd()]))),
        Err(e) => link.answer(Err(failed("cannot lock the mount's options")(e))),
    });
    let answer = child.map_err(failed("cannot fork"))?.answer()?;
    let none = || ("a helper process".to_owned(), io::Error::from_raw_os_error(libc::EIO));
    answer.fds.into_iter().next().ok_or_else(none)
}

/// Copies the container's mount namespace twice: the first copy is of our user namespace, and gets the mount on a tmpfs of
/// ours; the second is of the container's, and has its locks. Our own mounts are in neither.
fn lock_here(
    mount: &OwnedFd,
    namespace: &Namespace,
    users: &Users,
    is_dir: bool,
) -> io::Result<OwnedFd> {
    let (place, name) = (detached::tmpfs()?, c"mount");
    match is_dir {
        true => mkdirat(&place, name, Mode::RWXU)?,
        false => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&place, name, flags, Mode::RUSR).map(drop)?;
        }
    }
    // With our own capabilities: a namespace of the container's would lock nothing.
    sys::namespace::enter(&namespace.mounts, Kind::Mounts)?;
    sys::mount::unshare_mounts()?;
    // setns(2) has set `/` to the root of a mount.
    let root = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let none = MountAttrFlags::empty();
    sys::mount::make_private(&root, none, none)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&place, "", &root, "", flags | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)?;
    move_mount(mount, "", &place, name, flags)?;
    // A copy of the namespace takes the working directory along (`copy_mnt_ns`).
    fchdir(&place)?;
    drop((place, root));
    sys::namespace::enter(&users.fd, Kind::Users)?;
    let (uid, gid) = users.root()?;
    sys::namespace::become_user(uid, gid)?;
    sys::mount::unshare_mounts()?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, name, flags)?)
}

/// Where a mount in another namespace is.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pinned: Pinned,
    /// The mount point, as it was given.
    point: PathBuf,
    /// The ids of the root of the namespace's users, as these number them.
    root: Option<(u32, u32)>,
}

impl Elsewhere {
    pub(super) fn new(config: &TargetNamespace, point: &Path) -> Self {
        let root = config.users.as_ref().and_then(|users| users.ids.root());
        Self { pinned: Pinned::of(config), point: point.to_owned(), root }
    }

    /// Unmounts a mount in the namespace.
    ///
    /// # Errors
    /// ESRCH if the namespace is not found, ESTALE if the mount is not there any more or another one covers it, EBUSY.
    pub(super) fn unmount(&self, identity: &MountIdentity, lazy: bool) -> io::Result<()> {
        let namespace = self.pinned.find()?;
        match self.unmount_at(&namespace, &self.point, identity, lazy) {
            Err(e) if is_not_there(&e) => {}
            done => return done,
        }
        // A process of the container may be in a chroot, and so see a path that means another place or none. The kernel says
        // which mount is there.
        let is_it = |line: &MountInfo| MountIdentity::of_line(line).has_number_of(identity);
        let mut failed = io::Error::from_raw_os_error(libc::ESTALE);
        for path in self.pinned.mountpoints(is_it) {
            match self.unmount_at(&namespace, &path, identity, lazy) {
                Err(e) if is_not_there(&e) => {}
                Err(e) if e.raw_os_error() != Some(libc::EBUSY) => failed = e,
                done => return done,
            }
        }
        Err(failed)
    }

    /// Where the filesystem is mounted in the namespace.
    pub(super) fn mountpoints(&self, identity: &MountIdentity) -> Vec<PathBuf> {
        self.pinned.mountpoints(|line| line.device == identity.device())
    }

    /// Unmounts a mount at a path, if it is this one.
    ///
    /// # Errors
    /// EINVAL for a path without a name; those of [`sys::namespace::unmount_in`].
    fn unmount_at(
        &self,
        namespace: &OwnedFd,
        path: &Path,
        identity: &MountIdentity,
        lazy: bool,
    ) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let (parent, name) =
            (CString::new(parent.as_os_str().as_bytes())?, CString::new(name.as_bytes())?);
        let users = sys::namespace::owner_of(namespace).ok();
        let owner = users.as_ref().map(|users| Owner { fd: users.as_fd(), root: self.root });
        let what = Unmount {
            parent: &parent,
            name: &name,
            expected: (identity.id(), identity.device()),
            lazy,
        };
        sys::namespace::unmount_in(namespace.as_fd(), owner, &what)
    }
}

/// Whether an error says that a path does not lead to the mount.
fn is_not_there(e: &io::Error) -> bool {
    let code = e.raw_os_error();
    matches!(
        code,
        Some(
            libc::ESTALE | libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EINVAL | libc::EXDEV
        )
    )
}
