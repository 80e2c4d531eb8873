//! File handles (`fh`) of open files and directories.
//!
//! The handle 0 is never used: it stands for a directory that the kernel opened without a request (no_opendir). No handle
//! is used twice: a request may still be served when the kernel has closed its file, since a client that is killed does
//! not wait for it (`fuse/interrupts.rs`), and must not reach the file that is opened next.

use std::sync::Arc;

use rustix::io::Errno;

use crate::sync::{Mutex, MutexGuard};

const SHARDS: usize = 16;

/// Bits of a handle that number slot and shard. Those above count how often the slot was used before.
const INDEX_BITS: u32 = 32;

/// A sharded slab of open files.
#[derive(Debug)]
pub(super) struct Handles<T> {
    shards: Vec<Mutex<Slab<T>>>,
}

#[derive(Debug)]
struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot<T> {
    open: Option<Arc<T>>,
    /// How often the slot was used before.
    uses: u32,
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
        let open = Some(open);
        let at = match slab.free.pop() {
            Some(at) => {
                slab.slots[at].open = open;
                at
            }
            None => {
                slab.slots.push(Slot { open, uses: 0 });
                slab.slots.len() - 1
            }
        };
        let uses = u64::from(slab.slots[at].uses);
        (uses << INDEX_BITS | (at * SHARDS + shard) as u64) + 1
    }

    /// Returns what a handle stands for. EBADF if it was released.
    pub(super) fn get(&self, number: u64) -> Result<Arc<T>, Errno> {
        let (at, shard, uses) = parts(number)?;
        let slab = self.lock(shard);
        let slot = slab.slots.get(at).filter(|slot| slot.uses == uses);
        slot.and_then(|slot| slot.open.clone()).ok_or(Errno::BADF)
    }

    /// Releases a handle. EBADF if it was released before.
    pub(super) fn remove(&self, number: u64) -> Result<Arc<T>, Errno> {
        let (at, shard, uses) = parts(number)?;
        let mut slab = self.lock(shard);
        let slot = slab.slots.get_mut(at).filter(|slot| slot.uses == uses).ok_or(Errno::BADF)?;
        let open = slot.open.take().ok_or(Errno::BADF)?;
        // A slot whose count is used up stays empty.
        if let Some(uses) = uses.checked_add(1) {
            slot.uses = uses;
            slab.free.push(at);
        }
        Ok(open)
    }

    /// The number of handles that are not released.
    pub(super) fn len(&self) -> usize {
        let of_slab = |slab: &Mutex<Slab<T>>| {
            slab.lock().slots.iter().filter(|slot| slot.open.is_some()).count()
        };
        self.shards.iter().map(of_slab).sum()
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Slab<T>> {
        self.shards[shard].lock()
    }
}

/// Splits a handle into slot, shard and the count of the slot's uses.
fn parts(number: u64) -> Result<(usize, usize, u32), Errno> {
    let number = number.checked_sub(1).ok_or(Errno::BADF)?;
    let index = number as u32 as usize;
    Ok((index / SHARDS, index % SHARDS, (number >> INDEX_BITS) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_valid_until_its_release_and_never_used_again() {
        let handles = Handles::default();
        let one = handles.insert(Arc::new("one"), 5);
        let two = handles.insert(Arc::new("two"), 5);
        assert_eq!(*handles.get(one).unwrap(), "one");
        assert_eq!(*handles.remove(one).unwrap(), "one");
        assert_eq!(handles.get(one), Err(Errno::BADF));
        assert_eq!(handles.remove(one), Err(Errno::BADF));
        let three = handles.insert(Arc::new("three"), 5);
        assert_eq!((three - one, handles.get(one)), (1 << INDEX_BITS, Err(Errno::BADF)));
        assert_eq!((*handles.get(three).unwrap(), handles.len()), ("three", 2));
        assert_eq!(handles.remove(one), Err(Errno::BADF));
        assert_eq!(*handles.get(two).unwrap(), "two");
        assert_eq!(handles.get(u64::MAX), Err(Errno::BADF));
        assert_eq!(handles.get(0), Err(Errno::BADF));
    }
}
