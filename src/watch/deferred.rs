//! Marks on files, set by a thread of its own within a second after the kernel was sent their attributes.
//!
//! The mark of a directory does not report every change of a file in it. The kernel raises the event at the directory
//! through which the changing process reached the file (Linux `__fsnotify_parent`). That may be another one (a second
//! name, an open file whose name is gone, O_TMPFILE) or none at all: a file that is opened by handle while its name is
//! not in the kernel's dentry cache has no directory (Linux `d_obtain_alias`). nfsd and every shiftbind open files that
//! way. The mark of an inode reports all its changes. So the kernel may cache the attributes of a file for longer than a
//! second only if the file has a mark, or gets one within that second.
//!
//! A lookup does not wait for the mark: it puts the file into a queue, with the ctime that the kernel was sent. A thread
//! sets the marks of the whole queue twice a second. After it has set a mark, it reads the file's ctime again, and
//! invalidates the attributes if it differs. While a client walks a tree the queue only fills.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::inval_batch::InvalBatch;
use super::notifier::Notifier;
use super::{FILE_EVENTS, Watch};
use crate::error::errno_field;
use crate::source::{Inode, NodeId, SourceTree, proc_path};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys;

/// How long files gather before they get their marks. Chosen: a cold walk of some ten thousand files is over by then.
const DELAY: Duration = Duration::from_millis(500);
/// The most files that gather. Each costs the thread about 6 µs, so that those of one round take 0.2 s: a file waits for
/// that round, [`DELAY`] and its own round, which is less than a second. The attributes of further files are cached for a
/// second. Chosen.
const MAX_QUEUED: usize = 1 << 15;
/// The machine's memory in bytes for each file with a mark. A mark pins the file's inode in the kernel's memory, with
/// 1,200 bytes in all (measured on ext4, Linux 6.18), so that marks take 1 % of the memory at most.
const MEMORY_PER_MARK: u64 = 128 * 1024;
/// Changes at least so many nanoseconds apart have different ctimes even where these come from the coarse clock: twice
/// its longest tick, which is 10 ms with HZ=100.
const TWO_TICKS: i128 = 20_000_000;

/// A file's `stx_ctime`: seconds and nanoseconds.
type Ctime = (i64, u32);

/// A file that is to get a mark.
#[derive(Debug)]
struct Deferred {
    node: NodeId,
    /// Tells the inode from a later one with the same node id.
    serial: u64,
    /// The ctime that the kernel was sent.
    ctime: Ctime,
}

/// The queue of the files that are to get a mark. See the module's head.
#[derive(Debug, Default)]
pub(super) struct DeferredMarks {
    queue: Mutex<Vec<Deferred>>,
    wake: Condvar,
}

impl DeferredMarks {
    fn queue(&self) -> MutexGuard<'_, Vec<Deferred>> {
        self.queue.lock()
    }

    /// Locks the queue. `None`: there are [`MAX_QUEUED`].
    fn queue_with_room(&self) -> Option<MutexGuard<'_, Vec<Deferred>>> {
        let queue = self.queue();
        (queue.len() < MAX_QUEUED).then_some(queue)
    }

    /// Adds a file to the locked queue.
    fn push(&self, mut queue: MutexGuard<'_, Vec<Deferred>>, file: Deferred) {
        let was_empty = queue.is_empty();
        queue.push(file);
        drop(queue);
        if was_empty {
            self.wake.notify_one();
        }
    }

    /// Waits for files, lets more gather, and takes them all.
    fn take(&self) -> Vec<Deferred> {
        let mut queue = self.queue();
        while queue.is_empty() {
            queue = self.wake.wait(queue);
        }
        drop(queue);
        std::thread::sleep(DELAY);
        std::mem::take(&mut *self.queue())
    }
}

/// Returns how many files may have a mark on this machine.
pub(super) fn max_file_marks() -> usize {
    let info = rustix::system::sysinfo();
    let memory = (info.totalram as u64).saturating_mul(info.mem_unit.into());
    usize::try_from(memory / MEMORY_PER_MARK).unwrap_or(usize::MAX).clamp(4096, 1 << 20)
}

fn ctime_of(stat: &Statx) -> Ctime {
    (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec)
}

/// Whether any change from now on gives a file another ctime than this one, even by the coarse clock.
fn is_settled(ctime: Ctime) -> bool {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let nanoseconds = |sec: i64, nsec: i128| i128::from(sec) * 1_000_000_000 + nsec;
    let age = nanoseconds(now.tv_sec, now.tv_nsec.into()) - nanoseconds(ctime.0, ctime.1.into());
    age >= TWO_TICKS
}

impl Watch {
    /// Queues a file to get a mark, unless it has one. Returns whether it has one or gets one within a second, so that
    /// the kernel may cache its attributes `stat` until they are invalidated.
    ///
    /// False for a file without a name, and if too many files have marks.
    pub fn ensure_mark_queued(&self, tree: &SourceTree, file: &Inode, stat: &Statx) -> bool {
        // The kernel removes the mark with the last name (Linux `fsnotify_inoderemove`).
        if stat.stx_nlink == 0 {
            return false;
        }
        if file.is_watched() {
            return true;
        }
        let ctime = ctime_of(stat);
        if !tree.is_watchable(file) || !(tree.is_multigrain(file) || is_settled(ctime)) {
            return false;
        }
        if file.is_deferred() {
            return true;
        }
        let Some(queue) = self.deferred.queue_with_room() else { return false };
        if self.files.load(Ordering::Relaxed) >= self.max_files {
            return false;
        }
        // Under the queue's lock, and only for a file that is queued: another request takes the flag as a promise.
        if !file.set_deferred(true) {
            self.files.fetch_add(1, Ordering::Relaxed);
            let (node, serial) = (file.node(), file.serial());
            self.deferred.push(queue, Deferred { node, serial, ctime });
        }
        true
    }

    /// Sets the marks of files that were looked up, until the mount ends.
    pub fn mark_files(&self, tree: &SourceTree, notifier: &impl Notifier) {
        loop {
            let files = self.deferred.take();
            let mut batch = InvalBatch::default();
            for file in files {
                if let Ok(inode) = tree.inode(file.node)
                    && inode.serial() == file.serial
                {
                    match self.mark_file(tree, &inode) {
                        Ok(ctime) if ctime == file.ctime => {}
                        Ok(_) | Err(_) => batch.add_inode(file.node),
                    }
                } else {
                    self.files.fetch_sub(1, Ordering::Relaxed);
                }
            }
            self.dispatcher.send(batch, notifier);
        }
    }

    /// Marks a file that is counted already. Returns its ctime, read after the mark was set.
    fn mark_file(&self, tree: &SourceTree, file: &Inode) -> Result<Ctime, Errno> {
        let result = {
            let _marking = self.marking(file.node());
            // Before the mark is set: a request that reads the attributes from here on queues the file again, with its ctime.
            file.set_deferred(false);
            self.mark_and_read_ctime(tree, file)
        };
        let (is_new, ctime) = match result {
            Ok((is_new, ctime)) => (is_new, Ok(ctime)),
            Err(e) => {
                log::debug!("cannot mark a file: nodeid={} {}", file.node(), errno_field(e));
                (false, Err(e))
            }
        };
        if !is_new {
            self.files.fetch_sub(1, Ordering::Relaxed);
        } else if !tree.has(file) {
            // The kernel forgot the file meanwhile, and that FORGET may not have seen the mark.
            self.forget(tree, file);
        }
        ctime
    }

    /// Marks a file unless it is marked. Returns whether the mark is new, and the file's ctime.
    fn mark_and_read_ctime(&self, tree: &SourceTree, file: &Inode) -> Result<(bool, Ctime), Errno> {
        let fd = tree.uncached_fd(file)?;
        let is_new = !file.is_watched();
        if is_new {
            sys::fanotify::mark(&self.group, true, FILE_EVENTS, &proc_path(&fd))?;
            file.set_watched(true);
        }
        let stat = statx(&*fd, c"", AtFlags::EMPTY_PATH, StatxFlags::CTIME);
        let ctime = stat.map(|stat| ctime_of(&stat)).unwrap_or_default();
        Ok((is_new, ctime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ctime_of_this_moment_may_be_the_next_changes_as_well() {
        let now = clock_gettime(ClockId::Realtime);
        assert!(!is_settled((now.tv_sec, now.tv_nsec as u32)));
        assert!(!is_settled((now.tv_sec + 5, 0)), "by a clock that was set back");
        assert!(is_settled((now.tv_sec - 1, now.tv_nsec as u32)));
    }

    #[test]
    fn no_more_files_are_queued_than_get_their_marks_within_a_second() {
        let marks = DeferredMarks::default();
        let push = |node| {
            let Some(queue) = marks.queue_with_room() else { return false };
            marks.push(queue, Deferred { node: NodeId(node), serial: node, ctime: (1, 2) });
            true
        };
        assert!((0..MAX_QUEUED as u64).all(push));
        assert!(!push(1 << 40));
        assert_eq!(marks.take().len(), MAX_QUEUED);
        assert!(push(1 << 40), "there is room again");
    }

    #[test]
    fn marks_take_a_small_part_of_the_memory() {
        let most = max_file_marks();
        assert!((4096..=1 << 20).contains(&most), "{most}");
    }
}
