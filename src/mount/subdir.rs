//! Attaches a subdirectory of a new mount in place of the mount's root.
//!
//! open_tree(2) with OPEN_TREE_CLONE makes a mount of a directory in another mount. Before Linux 6.15 it refuses a
//! detached mount (EINVAL from `__do_loopback`), and a new mount is detached until it is in service. There, a thread
//! attaches the new mount to `/` of a mount namespace of its own, and clones the directory in it. The namespace ends
//! with the thread, also if the daemon is killed. The mount is visible in no other namespace, since `/` is made private
//! first, and other users cannot enter this one (setns(2) needs CAP_SYS_ADMIN in the user namespace that owns it). A process
//! that has entered a container's user namespace makes no copy of our own mount namespace: the container would own it.
//!
//! A tmpfs is used to probe which of the two methods the kernel and its security modules allow. This happens before the
//! server starts, because the server must know which directory is the root.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::detached;
use crate::error::errno_field;
use crate::sys;

/// How a subdirectory of a detached mount becomes a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubdirMethod {
    /// With open_tree(2) alone (Linux 6.15).
    Clone,
    /// With open_tree(2) while the mount is attached in the mount namespace of a thread.
    CloneInNamespace,
}

impl SubdirMethod {
    /// Probes for a method. `None`: the mount's own root has to be attached.
    pub(super) fn probe() -> Option<Self> {
        Self::probe_by(|method, mount, name| method.detach(mount, name)).inspect_err(log_cost).ok()
    }

    /// Probes as [`Self::probe`], by [`Self::detach_here`].
    ///
    /// # Errors
    /// What the last method failed with.
    pub(super) fn probe_here() -> io::Result<Self> {
        Self::probe_by(|method, mount, name| method.detach_here(mount, name))
    }

    fn probe_by(
        detach: impl Fn(Self, BorrowedFd<'_>, &OsStr) -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        let (mount, name) = probe_tmpfs()?;
        match detach(Self::Clone, mount.as_fd(), name) {
            Ok(_) => return Ok(Self::Clone),
            Err(e) => {
                let errno = errno_field(e);
                log::debug!("cannot clone a subdirectory of a detached mount: {errno}");
            }
        }
        detach(Self::CloneInNamespace, mount.as_fd(), name).map(|_| Self::CloneInNamespace)
    }

    /// Makes a detached mount of the directory `name` in the root of `mount`. `mount` must not be used afterwards.
    ///
    /// # Errors
    /// EINVAL where the kernel refuses it; the errors of unshare(2), setns(2) and move_mount(2).
    pub(super) fn detach(self, mount: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
        let mount = mount.as_fd();
        match self {
            Self::Clone => Ok(clone_subdir(mount, name)?),
            Self::CloneInNamespace => sys::process::run_in_thread("clone-subdir", || {
                attach_in_own_namespace(mount)?;
                Ok(clone_subdir(mount, name)?)
            }),
        }
    }

    /// Does [`Self::detach`] in a process with a single thread that has entered a container's mount namespace, and that goes
    /// on in a copy of it: nothing but the container's own mounts is in a namespace that the container may enter. /proc is not
    /// used, which may be anything there.
    ///
    /// # Errors
    /// Those of [`Self::detach`].
    pub(super) fn detach_here(self, mount: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
        let mount = mount.as_fd();
        if self == Self::CloneInNamespace {
            sys::mount::unshare_mounts()?;
            // setns(2) has set `/` to the root of a mount.
            attach_to_root(mount)?;
        }
        Ok(clone_subdir(mount, name)?)
    }
}

/// Says what it costs that only a mount's own root can be attached.
pub(super) fn log_cost(e: &io::Error) {
    log::info!(
        "cannot attach a subdirectory of a new mount: users other than the owner of the source's root cost a request for \
         each path lookup that begins there: errno={}",
        e.raw_os_error().unwrap_or(libc::EIO)
    );
}

fn clone_subdir(mount: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(mount, name, flags)
}

/// Moves the calling thread into a mount namespace of its own and attaches `mount` to `/` there.
fn attach_in_own_namespace(mount: BorrowedFd<'_>) -> io::Result<()> {
    sys::mount::unshare_mounts()?;
    // Only the root of a mount can be made private, and `/` may be a directory in a mount (chroot(2)). Entering the
    // namespace again sets the thread's root to the root of the namespace (Linux `mntns_install`).
    let namespace = openat(CWD, "/proc/thread-self/ns/mnt", OFlags::CLOEXEC, Mode::empty())?;
    sys::mount::enter_mounts(&namespace)?;
    attach_to_root(mount)
}

/// Attaches a mount to `/`, which is the root of a mount in a mount namespace of this process alone.
fn attach_to_root(mount: BorrowedFd<'_>) -> io::Result<()> {
    let root = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    sys::mount::make_mount_private(&root)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &root, "", flags)?)
}

/// Makes a detached tmpfs with a directory, and returns the directory's name.
fn probe_tmpfs() -> io::Result<(OwnedFd, &'static OsStr)> {
    let name = OsStr::new("subdir");
    let mount = detached::tmpfs()?;
    mkdirat(&mount, name, Mode::RWXU)?;
    Ok((mount, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, StatxFlags, statx};

    #[test]
    fn a_subdirectory_is_cloned_in_a_private_namespace_without_a_trace() {
        let (mount, name) = probe_tmpfs().expect("root makes a tmpfs");
        let marked = openat(&mount, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        mkdirat(marked.unwrap(), "inner", Mode::RWXU).unwrap();
        let table = std::fs::read("/proc/self/mountinfo").unwrap();
        let subdir = SubdirMethod::CloneInNamespace.detach(&mount, name).unwrap();
        let stat = statx(&subdir, "inner", AtFlags::empty(), StatxFlags::TYPE);
        assert!(stat.is_ok(), "the directory is the mount's root");
        // Other tests of this process mount in namespaces of their own only.
        assert_eq!(std::fs::read("/proc/self/mountinfo").unwrap(), table);
    }

    #[test]
    fn a_process_that_may_leave_its_namespace_clones_more_than_once() {
        let cloned = sys::process::run_in_thread("clone-here", || {
            sys::mount::unshare_mounts()?;
            let own = openat(CWD, "/proc/thread-self/ns/mnt", OFlags::CLOEXEC, Mode::empty())?;
            sys::mount::enter_mounts(&own)?;
            for _ in 0..2 {
                let (mount, name) = probe_tmpfs()?;
                mkdirat(&mount, "subdir/inner", Mode::RWXU)?;
                let subdir = SubdirMethod::CloneInNamespace.detach_here(&mount, name)?;
                statx(&subdir, "inner", AtFlags::empty(), StatxFlags::TYPE)?;
            }
            Ok(())
        });
        cloned.expect("both are cloned");
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error_and_not_a_mount() {
        for method in [SubdirMethod::Clone, SubdirMethod::CloneInNamespace] {
            let (mount, _) = probe_tmpfs().expect("root makes a tmpfs");
            assert!(method.detach(&mount, OsStr::new("missing")).is_err(), "{method:?}");
        }
    }

    #[test]
    fn this_kernel_can_attach_a_subdirectory() {
        assert!(SubdirMethod::probe().is_some());
    }
}
