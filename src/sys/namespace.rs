//! Entering the namespaces of other processes (setns(2)). Each call here changes the calling process, so a child that has
//! a single thread makes it.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fstatfs, open};
use rustix::pipe::{PipeFlags, pipe_with};

use super::descriptors::{DescriptorPath, is_readable_within};
use super::process::{
    Fork, close_all_but, exit_now, forbid_tracing, fork_for_system_calls, kill_and_reap,
};

/// A type of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A mount namespace.
    Mounts,
    /// A user namespace.
    Users,
}

impl Kind {
    fn flag(self) -> libc::c_int {
        match self {
            Self::Mounts => libc::CLONE_NEWNS,
            Self::Users => libc::CLONE_NEWUSER,
        }
    }
}

/// Moves this process into a namespace. After a mount namespace its root and working directory are the namespace's root.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN in the user namespace that owns it; EINVAL if the process has several threads, is in that user
/// namespace already, or the descriptor is of another type.
pub fn enter(namespace: impl AsFd, kind: Kind) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call; memory and descriptors stay as they are.
    result(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), kind.flag()) })
}

/// Whether a descriptor is of a namespace of this type (ioctl_ns(2), NS_GET_NSTYPE).
#[must_use]
pub fn is_of(namespace: impl AsFd, kind: Kind) -> bool {
    /// `_IO(0xb7, 3)` of linux/nsfs.h.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument and writes no memory; other files refuse it (ENOTTY).
    unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_NSTYPE) == kind.flag() }
}

/// Opens a file of a namespace, of whatever type. `None`: the path names something else, which is not opened: that may wait,
/// or act.
///
/// # Errors
/// Those of open(2).
pub fn open_file(path: &Path) -> io::Result<Option<OwnedFd>> {
    /// NSFS_MAGIC of linux/magic.h.
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    let named = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if u64::try_from(fstatfs(&named)?.f_type) != Ok(NSFS_MAGIC) {
        return Ok(None);
    }
    let own = DescriptorPath::of(&named);
    Ok(Some(open(own.absolute(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
}

/// The user namespace that owns a namespace (ioctl_ns(2), NS_GET_USERNS).
///
/// # Errors
/// EPERM if it is not in the caller's user namespace or below.
pub fn owner_of(namespace: impl AsFd) -> io::Result<OwnedFd> {
    /// `_IO(0xb7, 1)` of linux/nsfs.h.
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: the request takes no argument.
    let fd = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) };
    result(fd)?;
    // SAFETY: the kernel has just made this descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Becomes a user of the user namespace that this process has entered: real, effective and filesystem ids, without
/// supplementary groups. No process of the container may trace this one afterwards ([`forbid_tracing`]), if none might before.
///
/// # Errors
/// EINVAL for an id that the namespace does not map.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: these calls change only the credentials of this process, which has a single thread: the C library's functions
    // would look for others, and take locks. setgroups(2) fails where the namespace denies it, with no effect.
    unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
        result_of_syscall(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        result_of_syscall(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    // The kernel has set it anew, to what the sysctl fs.suid_dumpable says.
    forbid_tracing()
}

/// Which mount is to be unmounted in another mount namespace.
#[derive(Debug)]
pub struct Unmount<'a> {
    /// The directory of the mount point, from the namespace's root.
    pub parent: &'a CStr,
    /// The name of the mount point in it.
    pub name: &'a CStr,
    /// The mount id (statx(2), stx_mnt_id) and the device that are expected there.
    pub expected: (u64, (u32, u32)),
    /// Detach it while it is in use (MNT_DETACH).
    pub lazy: bool,
}

/// The user namespace that owns a mount namespace.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The namespace.
    pub fd: BorrowedFd<'a>,
    /// Its root, as it numbers them.
    pub root: Option<(u32, u32)>,
}

/// How an unmounting child has the right to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// With the caller's ids, and its capabilities where these suffice.
    Caller,
    /// As root of the user namespace: a mount above it may be one that only its users may look at.
    Root(u32, u32),
}

/// How long an unmounting child may take. Chosen, as for other helpers: a server of the container may hang.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Unmounts a mount in another mount namespace, if it is the expected one. A child process enters the namespace; it has the
/// caller's credentials, or those of the namespace's root where a filesystem there refuses the caller, and follows no
/// symbolic link.
///
/// May be called by a process with several threads: the child makes system calls only. `owner` owns the namespace: the child
/// enters it where the caller's capabilities do not suffice.
///
/// # Errors
/// ESTALE if another mount is there, or none; ETIMEDOUT if a filesystem there does not answer within ten seconds; those of
/// setns(2), openat2(2) and umount2(2).
pub fn unmount_in(
    namespace: BorrowedFd<'_>,
    owner: Option<Owner<'_>>,
    what: &Unmount<'_>,
) -> io::Result<()> {
    match (unmount_as(As::Caller, namespace, owner, what), owner.and_then(|owner| owner.root)) {
        (Err(e), Some((uid, gid))) if e.raw_os_error() == Some(libc::EACCES) => {
            unmount_as(As::Root(uid, gid), namespace, owner, what)
        }
        (done, _) => done,
    }
}

fn unmount_as(
    who: As,
    namespace: BorrowedFd<'_>,
    owner: Option<Owner<'_>>,
    what: &Unmount<'_>,
) -> io::Result<()> {
    let (answer, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let owner_fd = owner.map_or(-1, |owner| owner.fd.as_raw_fd());
    // SAFETY: the child makes system calls on values that exist already, and ends by `exit_now`.
    let child = match unsafe { fork_for_system_calls() }? {
        Fork::Child => {
            close_all_but(&[namespace.as_raw_fd(), owner_fd, tell.as_raw_fd()]);
            let code = match unmount_here(who, namespace, owner, what) {
                Ok(()) => 0i32,
                Err(errno) => errno,
            };
            let _ = rustix::io::write(&tell, &code.to_ne_bytes());
            exit_now(0)
        }
        Fork::Parent(child) => child,
    };
    drop(tell);
    let mut code = [0; 4];
    let read = match is_readable_within(&answer, TIMEOUT) {
        true => File::from(answer).read_exact(&mut code),
        false => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
    };
    // It has answered and ends, or hangs.
    kill_and_reap(child);
    read?;
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Enters the namespace that is to be unmounted in. Returns the errno of what failed.
fn enter_to_unmount(
    who: As,
    namespace: BorrowedFd<'_>,
    owner: Option<Owner<'_>>,
) -> Result<(), i32> {
    let number = |e: io::Error| e.raw_os_error().unwrap_or(libc::EIO);
    forbid_tracing().map_err(number)?;
    match (who, owner) {
        (As::Root(uid, gid), Some(owner)) => {
            enter(owner.fd, Kind::Users).map_err(number)?;
            become_user(uid, gid).map_err(number)?;
            return enter(namespace, Kind::Mounts).map_err(number);
        }
        (As::Root(..), None) => return Err(libc::EINVAL),
        (As::Caller, _) => {}
    }
    match (enter(namespace, Kind::Mounts).map_err(number), owner) {
        (Err(libc::EPERM), Some(owner)) => {
            enter(owner.fd, Kind::Users).map_err(number)?;
            enter(namespace, Kind::Mounts).map_err(number)
        }
        (entered, _) => entered,
    }
}

/// The child's part. It allocates nothing. Returns the errno of what failed.
fn unmount_here(
    who: As,
    namespace: BorrowedFd<'_>,
    owner: Option<Owner<'_>>,
    what: &Unmount<'_>,
) -> Result<(), i32> {
    /// `struct open_how` of linux/openat2.h.
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    let ok = |value: libc::c_long| if value < 0 { Err(errno()) } else { Ok(value) };
    enter_to_unmount(who, namespace, owner)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let how = OpenHow {
        flags: u64::from(flags.unsigned_abs()),
        mode: 0,
        resolve: libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_IN_ROOT,
    };
    // SAFETY: the paths are NUL-terminated and live, the structs have the sizes that are passed along, and the kernel
    // writes to `stat` alone.
    unsafe {
        let root = ok(libc::open(c"/".as_ptr(), flags).into())?;
        let size = size_of::<OpenHow>();
        let parent = what.parent.as_ptr();
        let dir = ok(libc::syscall(libc::SYS_openat2, root, parent, &raw const how, size))?;
        ok(libc::syscall(libc::SYS_fchdir, dir))?;
        let mut stat: libc::statx = std::mem::zeroed();
        let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
        // A FUSE filesystem answers a request for nothing also to users that it does not serve (`fuse_getattr`).
        let name = what.name.as_ptr();
        ok(libc::statx(libc::AT_FDCWD, name, flags, 0, &raw mut stat).into())?;
        let found = (stat.stx_mnt_id, (stat.stx_dev_major, stat.stx_dev_minor));
        if found != what.expected {
            return Err(libc::ESTALE);
        }
        let detach = if what.lazy { libc::MNT_DETACH } else { 0 };
        ok(libc::umount2(name, libc::UMOUNT_NOFOLLOW | detach).into()).map(drop)
    }
}

fn result_of_syscall(value: libc::c_long) -> io::Result<()> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn result(value: libc::c_int) -> io::Result<()> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_and_the_type_of_a_namespace_are_known() {
        let mounts = File::open("/proc/self/ns/mnt").unwrap();
        assert!(is_of(&mounts, Kind::Mounts) && !is_of(&mounts, Kind::Users));
        assert!(is_of(owner_of(&mounts).unwrap(), Kind::Users));
        assert!(!is_of(File::open("/dev/null").unwrap(), Kind::Mounts));
    }

    #[test]
    fn another_mount_than_the_expected_is_not_unmounted() {
        let mounts = File::open("/proc/self/ns/mnt").unwrap();
        let unmount = |parent, name, expected| {
            let what = Unmount { parent, name, expected, lazy: false };
            unmount_in(mounts.as_fd(), None, &what).unwrap_err().raw_os_error()
        };
        assert_eq!(unmount(c"/", c"proc", (u64::MAX, (0, 0))), Some(libc::ESTALE));
        assert_eq!(unmount(c"/no/such", c"proc", (1, (0, 0))), Some(libc::ENOENT));
        assert_eq!(unmount(c"/proc/self", c"fd", (1, (0, 0))), Some(libc::ELOOP));
    }
}
