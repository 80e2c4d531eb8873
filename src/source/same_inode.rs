//! Compares two open descriptors: are they of one inode?
//!
//! Inode numbers do not suffice, since some filesystems give the same number to two files: a FUSE server with numbers
//! of its own, or an overlay whose hard links were split by a copy-up. The comparison uses the kernel's in-memory
//! inode: an inotify(7) instance has one watch for each inode, and adding a watch for the same inode again returns the
//! same watch (Linux `inotify_update_watch`).

use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::descriptor::proc_path;
use crate::error::errno_field;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::handle::{name_to_fid, name_to_handle};

/// How many inotify instances are kept for later comparisons. Chosen.
const MAX_IDLE: usize = 4;

/// Compares descriptors, with inotify instances.
///
/// A comparison has an instance of its own, and holds no lock: to add a watch, the kernel asks the server of the file for
/// the permission to read it (`inotify_find_inode`), and a server may never answer.
#[derive(Debug, Default)]
pub(super) struct InodeComparer {
    idle: Mutex<Vec<OwnedFd>>,
}

impl InodeComparer {
    /// Returns whether both descriptors are of one inode. In doubt, returns false.
    pub(super) fn is_same_inode(&self, one: &OwnedFd, other: &OwnedFd) -> bool {
        // A handle identifies an inode as long as it exists.
        if let (Ok((one, _)), Ok((other, _))) =
            (name_to_handle(one, c""), name_to_handle(other, c""))
        {
            return one == other;
        }
        self.have_same_watch(one, other).unwrap_or_else(|e| {
            log::debug!(
                "cannot compare two files by inotify watches, so their attributes count: {}",
                errno_field(e)
            );
            have_same_attributes(one, other)
        })
    }

    /// Compares by inotify watches. Fails if the process may not read the inode, or can create no inotify instance.
    fn have_same_watch(&self, one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
        let idle = self.idle().pop();
        let instance = match idle {
            Some(instance) => instance,
            None => inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
        };
        let result = Self::have_same_watch_in(&instance, one, other);
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(instance);
        }
        result
    }

    fn idle(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.idle.lock()
    }

    fn have_same_watch_in(
        instance: &OwnedFd,
        one: &OwnedFd,
        other: &OwnedFd,
    ) -> Result<bool, Errno> {
        // An event that comes at most once.
        let watch = |fd| inotify::add_watch(instance, &*proc_path(fd), WatchFlags::DELETE_SELF);
        let first = watch(one)?;
        let second = watch(other);
        let _ = inotify::remove_watch(instance, first);
        if let Ok(second) = second
            && second != first
        {
            let _ = inotify::remove_watch(instance, second);
        }
        // Each removed watch leaves an event (IN_IGNORED).
        let mut events = [0; 512];
        while rustix::io::read(instance, &mut events).is_ok_and(|len| len > 0) {}
        Ok(second? == first)
    }
}

/// Returns whether all attributes are equal. The fallback where inotify is not available.
fn have_same_attributes(one: &OwnedFd, other: &OwnedFd) -> bool {
    let stat_dont_sync = |fd: &OwnedFd| {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let stat = statx(fd, c"", AtFlags::EMPTY_PATH, mask)?;
        Ok::<_, Errno>((attributes(&stat), name_to_fid(fd, c"").ok()))
    };
    matches!((stat_dont_sync(one), stat_dont_sync(other)), (Ok(one), Ok(other)) if one == other)
}

/// Returns the attributes to compare: all but the access time.
fn attributes(stat: &Statx) -> impl PartialEq + use<> {
    let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    (
        (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, stat.stx_mnt_id),
        (stat.stx_mode, stat.stx_uid, stat.stx_gid, stat.stx_nlink),
        (stat.stx_rdev_major, stat.stx_rdev_minor, stat.stx_size, stat.stx_blocks),
        (time(&stat.stx_btime), time(&stat.stx_ctime), time(&stat.stx_mtime)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).expect("open")
    }

    #[test]
    fn each_method_tells_one_inode_from_two() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b"] {
            std::fs::write(at(name), "").expect("write");
        }
        std::fs::hard_link(at("a"), at("also a")).expect("link");
        std::os::unix::fs::symlink("a", at("link")).expect("symlink");
        let [a, b, also_a, link] = ["a", "b", "also a", "link"].map(|name| open(&at(name)));
        let comparer = InodeComparer::default();
        let by_watch =
            |one: &OwnedFd, other: &OwnedFd| comparer.have_same_watch(one, other).expect("compare");
        let by_any = |one: &OwnedFd, other: &OwnedFd| comparer.is_same_inode(one, other);
        type Means<'a> = &'a dyn Fn(&OwnedFd, &OwnedFd) -> bool;
        for is_same_inode in [&by_any as Means<'_>, &by_watch, &have_same_attributes] {
            assert!(
                is_same_inode(&a, &a) && is_same_inode(&a, &also_a) && is_same_inode(&link, &link)
            );
            assert!(
                !is_same_inode(&a, &b) && !is_same_inode(&link, &a) && !is_same_inode(&b, &also_a)
            );
        }
    }

    #[test]
    fn concurrent_comparisons_are_right_and_leave_no_watch() {
        let folder = tempfile::tempdir().expect("a directory");
        let fds: Vec<_> = (0..4)
            .map(|n| {
                let path = folder.path().join(n.to_string());
                std::fs::write(&path, "").expect("write");
                open(&path)
            })
            .collect();
        let comparer = InodeComparer::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..2000 {
                        let (one, other) = (n % 4, n / 4 % 4);
                        let result = comparer.have_same_watch(&fds[one], &fds[other]);
                        assert_eq!(result, Ok(one == other));
                    }
                });
            }
        });
        use std::os::fd::AsRawFd;
        let idle = comparer.idle();
        assert!((1..=MAX_IDLE).contains(&idle.len()), "{}", idle.len());
        for instance in idle.iter() {
            let info = format!("/proc/self/fdinfo/{}", instance.as_raw_fd());
            let info = std::fs::read_to_string(info).expect("read");
            assert!(!info.contains("inotify wd:"), "{info}");
        }
    }
}
