//! Attaching a directory of a new mount in place of the mount's root: how this kernel lets us.
//!
//! open_tree(2) with OPEN_TREE_CLONE makes a mount of a directory in another mount. Before Linux 6.15 it refuses a mount
//! that is attached nowhere (EINVAL from `__do_loopback`), as a new one is until it is in service. There a thread attaches
//! the new mount to `/` of a mount namespace that only this thread has, and clones the directory there. The namespace ends
//! with the thread, also when the daemon is killed; nothing of it reaches another namespace, since `/` is made private
//! first, and other users cannot enter it (setns(2) takes CAP_SYS_ADMIN).
//!
//! Which of the two a kernel and its security modules allow is tried on a tmpfs, before the server starts: the server
//! must know which directory it will be asked for.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsmount, fsopen, move_mount, open_tree,
};

use crate::sys;

/// How a directory of a mount that is attached nowhere becomes a mount of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubdirMethod {
    /// By open_tree(2) alone (Linux 6.15).
    Clone,
    /// While the mount is attached in a mount namespace of a thread.
    CloneInNamespace,
}

impl SubdirMethod {
    /// Finds one that works here, by trying. `None`: the mount's own root has to be attached.
    pub(super) fn probe() -> Option<Self> {
        let probed = probe_tmpfs().and_then(|(mount, name)| {
            let refused = match Self::Clone.detach(&mount, name) {
                Ok(_) => return Ok(Self::Clone),
                Err(e) => e,
            };
            log::debug!("cannot clone a part of a mount that is not attached: {refused}");
            Self::CloneInNamespace.detach(&mount, name).map(|_| Self::CloneInNamespace)
        });
        match probed {
            Ok(method) => Some(method),
            Err(e) => {
                log::info!(
                    "this kernel attaches no part of a new mount ({e}): a user who does not own the source's root costs a \
                     request for each path that begins there"
                );
                None
            }
        }
    }

    /// Makes a mount of the directory `name` in the root of `mount`, attached nowhere. `mount` is of no use afterwards.
    ///
    /// # Errors
    /// EINVAL where this kernel refuses it; what unshare(2), setns(2) or move_mount(2) say otherwise.
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
    // `/` may be a directory of a mount (chroot(2)), and only a mount's root can be made private. Entering the namespace
    // anew sets the thread's root to the namespace's own (Linux `mntns_install`).
    let namespace = openat(CWD, "/proc/thread-self/ns/mnt", OFlags::CLOEXEC, Mode::empty())?;
    sys::mount::enter_mounts(&namespace)?;
    let root = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    sys::mount::make_mount_private(&root)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &root, "", flags)?)
}

/// A tmpfs that is attached nowhere, and the name of a directory in it.
fn probe_tmpfs() -> io::Result<(OwnedFd, &'static OsStr)> {
    let name = OsStr::new("subdir");
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
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
        // Other tests of this process mount things in namespaces of their own only.
        assert_eq!(std::fs::read("/proc/self/mountinfo").unwrap(), table);
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
