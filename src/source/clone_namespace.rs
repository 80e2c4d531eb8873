//! The mount namespace of a private clone, where the daemon detaches what the host has unmounted.
//!
//! The kernel detaches a single mount only in the mount namespace of the calling thread (`check_mnt`), and a clone of
//! open_tree(2) is in none. So a thread makes itself a namespace in which nothing but the clone is mounted. All of it is
//! private: no mount propagates into it or out of it, and no process can enter it without CAP_SYS_ADMIN in the user namespace
//! of the daemon. The thread must not end, since the kernel detaches the mounts of a namespace with its last thread.
//!
//! A clone that receives the host's unmounts (MS_SLAVE) would need no thread, but a descriptor that the daemon holds in
//! such a mount makes the host's umount(8) fail with EBUSY (`propagate_mount_busy`).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::process::{chdir, fchdir};

use super::descriptor::stat_dont_sync;
use super::path::walk;
use super::submounts::HostMounts;
use crate::sys;
use crate::sys::mountinfo::{MountInfo, find_mounts_below, read_open};

/// How often the mounts on the namespace's root are detached. Each round takes the topmost mount of each mount point.
const MAX_ROUNDS: usize = 64;

/// What identifies a mount of the host: a mount id alone may mean another mount later. As long as the clone has the
/// filesystem, no other one gets its device number.
type HostMount = (u64, (u32, u32), Vec<u8>);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct CloneNamespace {
    /// The mount table of the host's namespace.
    host: File,
    /// The mount table of this namespace.
    own: File,
    /// The id of the clone's topmost mount.
    clone_id: u64,
    /// The mounts of the clone by their ids, with those of the host that they were cloned from.
    cloned: Vec<(u64, HostMount)>,
}

/// The mount point of a mount of the clone.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory that contains the mount point.
    pub(super) dir: OwnedFd,
    /// The name of the mount point.
    pub(super) name: Vec<u8>,
}

impl CloneNamespace {
    /// Moves the calling thread into a mount namespace of its own and attaches the clone there.
    ///
    /// # Errors
    /// Those of unshare(2), setns(2), mount_setattr(2) and move_mount(2), and EBUSY if a mount of the host stays in the
    /// namespace. The clone is then still detached.
    pub(super) fn enter(clone: &OwnedFd, on_host: &HostMounts) -> io::Result<Self> {
        let host = File::open("/proc/thread-self/mountinfo")?;
        sys::mount::unshare_mounts()?;
        // Entering the namespace again sets the thread's root to the root of the namespace (Linux `mntns_install`).
        let namespace = File::open("/proc/thread-self/ns/mnt")?;
        sys::mount::enter_mounts(&namespace)?;
        let own = File::open("/proc/thread-self/mountinfo")?;
        let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // First of all: what is detached in a shared mount is detached on the host as well.
        let none = MountAttrFlags::empty();
        sys::mount::make_private(&root, none, none)?;
        detach_mounts_on(mount_id(&root)?, &own)?;
        let clone_id = mount_id(clone)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(clone, "", &root, "", flags)?;
        let mut entered = Self { host, own, clone_id, cloned: Vec::new() };
        // From here on the thread must go on: its end would detach the mounts below the clone.
        if let Err(e) = sys::mount::enter_mounts(&namespace).and_then(|()| entered.pair(on_host)) {
            log::warn!(
                "what is unmounted below the source stays in use: {}",
                crate::error::errno_field(e)
            );
        }
        Ok(entered)
    }

    /// Finds the mount of the host that each mount of the clone was cloned from.
    fn pair(&mut self, on_host: &HostMounts) -> io::Result<()> {
        self.cloned = pairs(self.submounts()?, on_host, &read_open(&self.host)?);
        Ok(())
    }

    fn submounts(&self) -> io::Result<Vec<MountInfo>> {
        Ok(find_mounts_below(read_open(&self.own)?, self.clone_id, b"/"))
    }

    /// Waits until the mount table of the host may have changed, for `time` or for ever.
    ///
    /// # Errors
    /// Those of poll(2) but EINTR.
    pub(super) fn wait(&self, time: Option<Duration>) -> Result<(), Errno> {
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = [PollFd::new(&self.host, PollFlags::PRI)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Returns the mounts of the clone whose counterparts on the host are gone, by mount id and those below others first.
    pub(super) fn gone(&self) -> io::Result<Vec<MountInfo>> {
        let host = read_open(&self.host)?;
        let is_there = |(id, device, root): &HostMount| {
            host.iter()
                .any(|mount| mount.id == *id && mount.device == *device && mount.root == *root)
        };
        let gone =
            |id: u64| self.cloned.iter().any(|(cloned, from)| *cloned == id && !is_there(from));
        if self.cloned.iter().all(|(_, from)| is_there(from)) {
            return Ok(Vec::new());
        }
        let mut mounts = self.submounts()?;
        mounts.retain(|mount| gone(mount.id));
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.mountpoint.len()));
        Ok(mounts)
    }

    /// Detaches a mount of the clone, with what is mounted below it. `top`: the clone's root.
    ///
    /// # Errors
    /// ESTALE if something else is mounted or named there by now; those of openat2(2) and umount(2).
    pub(super) fn detach(&self, top: &OwnedFd, mount: &MountInfo) -> io::Result<Place> {
        let path = &mount.mountpoint[..];
        let slash = path.iter().rposition(|byte| *byte == b'/').ok_or(Errno::INVAL)?;
        let name = &path[slash + 1..];
        let dir = walk(top, path[..slash].strip_prefix(b"/").unwrap_or_default())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = rustix::fs::openat(&dir, OsStr::from_bytes(name), flags, Mode::empty())?;
        let (stat, kind) = stat_dont_sync(&at)?;
        if stat.stx_mnt_id != mount.id {
            return Err(Errno::STALE.into());
        }
        let result = match kind.is_dir() {
            // By the descriptor, so that no name can be replaced in between.
            true => fchdir(&at).and_then(|()| unmount(".", UnmountFlags::DETACH)),
            false => fchdir(&dir).and_then(|()| {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                unmount(OsStr::from_bytes(name), flags)
            }),
        };
        // The working directory would keep the mount.
        chdir("/")?;
        result?;
        Ok(Place { dir, name: name.to_vec() })
    }

    /// Returns the ids of the mounts that the clone had at the last call and has no more.
    ///
    /// The kernel detaches a mount with the one that it is on, and when its mount point is removed.
    pub(super) fn take_detached(&mut self) -> io::Result<Vec<u64>> {
        let left: HashSet<u64> = self.submounts()?.iter().map(|mount| mount.id).collect();
        let detached = self.cloned.iter().map(|(id, _)| *id).filter(|id| !left.contains(id));
        let detached = detached.collect();
        self.cloned.retain(|(id, _)| left.contains(id));
        Ok(detached)
    }
}

/// Pairs each mount of a clone with the one that was at the same place on the host when the source was cloned.
///
/// One that was mounted just then is not listed: it is paired with one of the same filesystem and directory in the host's
/// present table, or with none, as a mount that is gone.
fn pairs(
    clones: Vec<MountInfo>,
    on_host: &HostMounts,
    host: &[MountInfo],
) -> Vec<(u64, HostMount)> {
    let mut below: Vec<&MountInfo> = on_host.below.iter().collect();
    let mut pair = |clone: MountInfo| {
        let is = |it: &MountInfo| (it.device, &it.root) == (clone.device, &clone.root);
        let is_at = |it: &&MountInfo| {
            is(it) && it.mountpoint.strip_prefix(&on_host.path[..]) == Some(&clone.mountpoint[..])
        };
        let id = match below.iter().position(is_at) {
            Some(at) => below.swap_remove(at).id,
            // Mount ids are never 0.
            None => host.iter().find(|it| is(it)).map_or(0, |it| it.id),
        };
        (clone.id, (id, clone.device, clone.root))
    };
    clones.into_iter().map(&mut pair).collect()
}

fn mount_id(fd: impl AsFd) -> Result<u64, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(fd, c"", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Detaches all that is mounted on the mount `root` of the calling thread's own namespace. EBUSY if something is left.
fn detach_mounts_on(root: u64, table: &File) -> io::Result<()> {
    for _ in 0..MAX_ROUNDS {
        let mut mounts = read_open(table)?;
        mounts.retain(|mount| mount.parent == root);
        if mounts.is_empty() {
            return Ok(());
        }
        // A mount on top of one of them is detached first, by the same path, and this one in the next round.
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        let detach = |mount: &MountInfo| unmount(OsStr::from_bytes(&mount.mountpoint), flags);
        // A user namespace may lock the mounts that it was given (EINVAL).
        if mounts.iter().filter(|mount| detach(mount).is_ok()).count() == 0 {
            break;
        }
    }
    Err(Errno::BUSY.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo::parse;

    #[test]
    fn a_clone_is_paired_with_the_mount_at_its_place_or_with_its_filesystem_or_with_none() {
        let clones = parse(
            br"90 80 0:50 / /a rw - tmpfs t rw
91 90 0:51 / /a/b rw - tmpfs t rw
92 80 0:52 /dir /c rw - tmpfs t rw
93 80 0:53 / /d rw - tmpfs t rw",
        );
        let host = parse(
            br"20 1 8:1 / / rw - ext4 /dev/x rw
25 20 0:50 / /other rw - tmpfs t rw
30 20 0:50 / /src/a rw - tmpfs t rw
31 30 0:51 / /src/a/b rw - tmpfs t rw
32 20 0:52 / /src/c rw - tmpfs t rw
33 20 0:53 / /moved rw - tmpfs t rw",
        );
        let below = find_mounts_below(host.clone(), 20, b"/src");
        let on_host = HostMounts { path: b"/src".to_vec(), below };
        let paired = pairs(clones, &on_host, &host);
        let ids: Vec<_> = paired.iter().map(|(clone, from)| (*clone, from.0)).collect();
        assert_eq!(ids, [(90, 30), (91, 31), (92, 0), (93, 33)]);
    }
}
