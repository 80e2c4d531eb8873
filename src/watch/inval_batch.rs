//! Collects the invalidations for the events of one read(2), each once.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::dir_invals::DirInvals;
use super::notifier::Notifier;
use crate::source::NodeId;
use crate::sys::fanotify::Event;

/// Events by which names come and go in a directory.
const ENTRY_EVENTS: u64 =
    libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// Events by which a directory gets another path.
const MOVE_EVENTS: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// A set of invalidations. See the module's head.
#[derive(Debug, Default)]
pub(super) struct InvalBatch {
    names: HashSet<(NodeId, OsString)>,
    /// Names that stay, but are to be looked up again.
    expired: HashSet<(NodeId, OsString)>,
    /// Inodes that have changed.
    inodes: HashSet<NodeId>,
    listings: HashSet<NodeId>,
    directory_moved: bool,
    all: bool,
}

impl InvalBatch {
    pub(super) fn add_all(&mut self) {
        self.all = true;
    }

    /// Adds what an event says of a directory. `dir`: its node id, where the daemon knows it.
    pub(super) fn add(&mut self, event: &Event<'_>, dir: Option<NodeId>) {
        if event.mask & ENTRY_EVENTS != 0
            && let Some(dir) = dir
        {
            self.names.insert((dir, OsStr::from_bytes(event.name).to_owned()));
            self.listings.insert(dir);
        }
        self.directory_moved |= event.mask & MOVE_EVENTS != 0 && event.mask & libc::FAN_ONDIR != 0;
        // The directory itself.
        if event.name == b"." {
            self.inodes.extend(dir);
        }
    }

    /// Adds that the name in an event is to be looked up again. The kernel would not ask for its attributes.
    pub(super) fn add_expired(&mut self, event: &Event<'_>, dir: Option<NodeId>) {
        if let Some(dir) = dir.filter(|_| event.name != b".") {
            self.expired.insert((dir, OsStr::from_bytes(event.name).to_owned()));
        }
    }

    /// Adds that an inode has changed.
    pub(super) fn add_inode(&mut self, node: NodeId) {
        self.inodes.insert(node);
    }

    /// Sends the invalidations that do not block: attributes of inodes. Returns those that the kernel did not know: the
    /// answer to a lookup or a listing in any directory may be about to bring them to it.
    pub(super) fn send_inodes(&mut self, notifier: &impl Notifier) -> HashSet<NodeId> {
        self.inodes.extend(&self.listings);
        let mut unknown = std::mem::take(&mut self.inodes);
        unknown.retain(|node| !notifier.inval_inode(*node));
        if self.directory_moved {
            notifier.directory_moved();
        }
        unknown
    }

    /// Whether events were lost, so that all names and attributes are to be invalidated.
    pub(super) fn is_all(&self) -> bool {
        self.all
    }

    /// What is left to send, by directory.
    pub(super) fn into_dir_invals(self) -> HashMap<NodeId, DirInvals> {
        let mut by_dir: HashMap<NodeId, DirInvals> = HashMap::new();
        for (dir, name) in self.names {
            by_dir.entry(dir).or_default().names.insert(name);
        }
        for (dir, name) in self.expired {
            by_dir.entry(dir).or_default().expired.insert(name);
        }
        for dir in self.listings {
            by_dir.entry(dir).or_default().listing = true;
        }
        by_dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Log(RefCell<Vec<String>>);

    impl Notifier for Log {
        fn inval_entry(&self, dir: NodeId, name: &OsStr) -> bool {
            self.0.borrow_mut().push(format!("inval_entry {} {}", dir.0, name.display()));
            true
        }
        fn expire_entry(&self, dir: NodeId, name: &OsStr) -> bool {
            self.0.borrow_mut().push(format!("expire_entry {} {}", dir.0, name.display()));
            true
        }
        fn waits_for_lookups(&self) -> bool {
            true
        }
        fn barrier(&self, dir: NodeId) {
            self.0.borrow_mut().push(format!("barrier {}", dir.0));
        }
        fn inval_inode(&self, node: NodeId) -> bool {
            self.0.borrow_mut().push(format!("inval_inode {}", node.0));
            node.0 < 100
        }
        fn is_looked_up(&self, _: NodeId) -> bool {
            true
        }
        fn inval_readdir(&self, dir: NodeId) {
            self.0.borrow_mut().push(format!("inval_readdir {}", dir.0));
        }
        fn inval_all(&self) {
            self.0.borrow_mut().push("inval_all".into());
        }
    }

    fn event(mask: u64, name: &[u8]) -> Event<'_> {
        Event { mask, pid: 1, dir: None, name, child: None }
    }

    /// What is sent at once, and what is left, by directory.
    fn sent(mut batch: InvalBatch) -> (Vec<String>, HashMap<NodeId, DirInvals>) {
        let log = Log::default();
        batch.send_inodes(&log);
        let mut sent = log.0.into_inner();
        sent.sort();
        (sent, batch.into_dir_invals())
    }

    fn names<const N: usize>(names: [&str; N]) -> HashSet<OsString> {
        names.map(OsString::from).into()
    }

    #[test]
    fn a_created_name_invalidates_the_entry_the_listing_and_the_files_attributes() {
        let mut batch = InvalBatch::default();
        for _ in 0..3 {
            batch.add(&event(libc::FAN_CREATE, b"n"), Some(NodeId(5)));
            batch.add_inode(NodeId(6));
        }
        let (first, rest) = sent(batch);
        assert_eq!(first, ["inval_inode 5", "inval_inode 6"]);
        let invals = DirInvals { names: names(["n"]), listing: true, ..DirInvals::default() };
        assert_eq!(rest, HashMap::from([(NodeId(5), invals)]));
    }

    #[test]
    fn a_changed_file_invalidates_its_attributes_only() {
        let mut batch = InvalBatch::default();
        batch.add(&event(libc::FAN_ATTRIB, b"n"), Some(NodeId(5)));
        batch.add_inode(NodeId(6));
        batch.add(&event(libc::FAN_ATTRIB | libc::FAN_ONDIR, b"."), Some(NodeId(7)));
        let (first, rest) = sent(batch);
        assert_eq!(first, ["inval_inode 6", "inval_inode 7"]);
        assert!(rest.is_empty());
    }

    #[test]
    fn an_expired_name_is_queued_for_its_directory() {
        let mut batch = InvalBatch::default();
        for name in [&b"n"[..], b"."] {
            let event = event(libc::FAN_ATTRIB, name);
            batch.add_expired(&event, Some(NodeId(5)));
            batch.add_expired(&event, None);
        }
        let invals = DirInvals { expired: names(["n"]), ..DirInvals::default() };
        assert_eq!(sent(batch).1, HashMap::from([(NodeId(5), invals)]));
    }

    #[test]
    fn an_overflow_invalidates_everything() {
        let mut batch = InvalBatch::default();
        batch.add(&event(libc::FAN_CREATE, b"n"), Some(NodeId(5)));
        batch.add_all();
        assert!(batch.is_all());
    }

    #[test]
    fn inodes_that_the_kernel_does_not_know_are_left_to_be_sent_again() {
        let mut batch = InvalBatch::default();
        for event in [event(libc::FAN_ATTRIB, b"n"), event(libc::FAN_ATTRIB, b".")] {
            batch.add(&event, Some(NodeId(700)));
        }
        batch.add(&event(libc::FAN_ATTRIB, b"n"), None);
        batch.add_inode(NodeId(600));
        batch.add_inode(NodeId(6));
        let unknown = batch.send_inodes(&Log::default());
        assert_eq!(unknown, [NodeId(600), NodeId(700)].into(), "whichever directory has told");
    }
}
