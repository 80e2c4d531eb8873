//! A name that a process on the source creates and removes as fast as a client opens it.
//!
//! open(2) with O_CREAT through the mount is LOOKUP ("missing"), then CREATE ("exists": ESTALE), and the kernel tries
//! that twice. CREATE waits for the directory's lock on the source, so it returns just when the process on the source
//! has created the file again, and the next LOOKUP always comes while it is gone: the two run in step, and the open
//! fails dozens of times in a row. A LOOKUP of such a name that finds nothing is therefore repeated after a random
//! delay.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::source::NodeId;

/// The longest delay in microseconds.
///
/// It spans several rounds of open(2) and unlink(2) on a local filesystem (5 to 20 µs each, measured on ext4).
const MAX_DELAY: u64 = 128;

/// The name that CREATE last found to exist.
#[derive(Debug, Default)]
pub(super) struct ContendedName(AtomicU64);

impl ContendedName {
    /// Records that CREATE has found the name on the source, which the kernel took for missing.
    pub(super) fn found(&self, dir: NodeId, name: &OsStr) {
        self.0.store(hash(dir, name), Ordering::Relaxed);
    }

    /// If CREATE last found this name, waits for up to 128 µs and returns true.
    pub(super) fn wait(&self, dir: NodeId, name: &OsStr) -> bool {
        let is_contended = self.0.load(Ordering::Relaxed) == hash(dir, name);
        if is_contended {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            thread::sleep(Duration::from_micros(u64::from(now.subsec_nanos()) / 7 % MAX_DELAY));
        }
        is_contended
    }
}

/// Never 0, which means no name.
fn hash(dir: NodeId, name: &OsStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (dir, name).hash(&mut hasher);
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_that_was_found_last_is_waited_for() {
        let contended = ContendedName::default();
        let (name, other) = (OsStr::new("n"), OsStr::new("o"));
        assert!(!contended.wait(NodeId::ROOT, name));
        contended.found(NodeId::ROOT, name);
        assert!(contended.wait(NodeId::ROOT, name));
        assert!(!contended.wait(NodeId::ROOT, other));
        contended.found(NodeId::ROOT, other);
        assert!(!contended.wait(NodeId::ROOT, name));
    }
}
