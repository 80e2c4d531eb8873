//! File handles (`fh`) of open files and directories.
//!
//! The handle 0 is never used: it stands for a directory that the kernel opened without a request (no_opendir).

use std::sync::Arc;

use rustix::io::Errno;

use crate::sync::{Mutex, MutexGuard};

const SHARDS: usize = 16;

/// A sharded slab of open files. A handle is reused after it was released.
#[derive(Debug)]
pub(super) struct Handles<T> {
    shards: Vec<Mutex<Slab<T>>>,
}

#[derive(Debug)]
struct Slab<T> {
    slots: Vec<Option<Arc<T>>>,
    free: Vec<usize>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        let empty = || Mutex::new(Slab { slots: Vec::new(), free: Vec::new() });
        Self { shards: (0..SHARDS).map(|_| empty()).collect() }
    }
}

impl<T> Handles<T> {
    /// Stores `open` and returns its handle.
    ///
    /// `spread` is any number that differs between opens, so that they use different shards.
    pub(super) fn insert(&self, open: Arc<T>, spread: u64) -> u64 {
        let shard = spread as usize % SHARDS;
        let mut slab = self.lock(shard);
        let at = match slab.free.pop() {
            Some(at) => {
                slab.slots[at] = Some(open);
                at
            }
            None => {
                slab.slots.push(Some(open));
                slab.slots.len() - 1
            }
        };
        (at * SHARDS + shard) as u64 + 1
    }

    /// Returns what a handle stands for. EBADF if it was released.
    pub(super) fn get(&self, number: u64) -> Result<Arc<T>, Errno> {
        let (at, shard) = slot_and_shard(number)?;
        self.lock(shard).slots.get(at).and_then(Option::clone).ok_or(Errno::BADF)
    }

    /// Releases a handle. EBADF if it was released before.
    pub(super) fn remove(&self, number: u64) -> Result<Arc<T>, Errno> {
        let (at, shard) = slot_and_shard(number)?;
        let mut slab = self.lock(shard);
        let open = slab.slots.get_mut(at).and_then(Option::take).ok_or(Errno::BADF)?;
        slab.free.push(at);
        Ok(open)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Slab<T>> {
        self.shards[shard].lock()
    }
}

/// Splits a handle into slot and shard.
fn slot_and_shard(number: u64) -> Result<(usize, usize), Errno> {
    let index = number.checked_sub(1).ok_or(Errno::BADF)? as usize;
    Ok((index / SHARDS, index % SHARDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_valid_until_its_release_and_then_reused() {
        let handles = Handles::default();
        let one = handles.insert(Arc::new("one"), 5);
        let two = handles.insert(Arc::new("two"), 5);
        assert_eq!(*handles.get(one).unwrap(), "one");
        assert_eq!(*handles.remove(one).unwrap(), "one");
        assert_eq!(handles.get(one), Err(Errno::BADF));
        assert_eq!(handles.remove(one), Err(Errno::BADF));
        assert_eq!(handles.insert(Arc::new("three"), 5), one);
        assert_eq!(*handles.get(two).unwrap(), "two");
        assert_eq!(handles.get(u64::MAX), Err(Errno::BADF));
        assert_eq!(handles.get(0), Err(Errno::BADF));
    }
}
