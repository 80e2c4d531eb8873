//! What is to be taken out of the kernel's caches, gathered from the events that were read at once.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::source::NodeId;
use crate::sys::fanotify::Event;

/// Who takes things out of the kernel's caches.
pub trait Notices {
    /// A name in a directory, whether it was there or not.
    fn name(&self, dir: NodeId, name: &OsStr);
    /// Waits for the look-ups that are under way in a directory: the kernel then knows the inodes that they found.
    fn settle(&self, dir: NodeId);
    /// The attributes of an inode, and its ACLs.
    fn attributes(&self, node: NodeId);
    /// The attributes of a directory and its cached listing.
    fn listing(&self, dir: NodeId);
    /// All names and all attributes: something was missed.
    fn everything(&self);
}

/// The names of directories come and go with these.
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Batch {
    names: HashSet<(NodeId, OsString)>,
    parents: HashSet<NodeId>,
    attributes: HashSet<NodeId>,
    listings: HashSet<NodeId>,
    everything: bool,
}

impl Batch {
    pub(super) fn everything(&mut self) {
        self.everything = true;
    }

    /// Takes in what an event tells. `dir` and `child` are the kernel's node ids for what it names, where it knows them.
    pub(super) fn add(&mut self, event: &Event<'_>, dir: Option<NodeId>, child: Option<NodeId>) {
        if event.mask & NAMES != 0
            && let Some(dir) = dir
        {
            self.names.insert((dir, OsStr::from_bytes(event.name).to_owned()));
            self.listings.insert(dir);
        }
        if let Some(child) = child {
            self.attributes.insert(child);
            self.parents.extend(dir);
        }
        // The directory itself.
        if event.name == b"." {
            self.attributes.extend(dir);
        }
    }

    /// Sends what needs not wait: attributes of what the kernel knows already.
    pub(super) fn send_attributes(&self, notices: &impl Notices) {
        for node in self.attributes.union(&self.listings) {
            notices.attributes(*node);
        }
    }

    /// Sends it all.
    pub(super) fn send(self, notices: &impl Notices) {
        if self.everything {
            return notices.everything();
        }
        for (dir, name) in &self.names {
            notices.name(*dir, name);
        }
        for dir in &self.listings {
            notices.listing(*dir);
        }
        // Taking a name has waited for the directory already.
        for dir in self.parents.difference(&self.listings) {
            notices.settle(*dir);
        }
        for node in self.attributes.difference(&self.listings) {
            notices.attributes(*node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Log(RefCell<Vec<String>>);

    impl Notices for Log {
        fn name(&self, dir: NodeId, name: &OsStr) {
            self.0.borrow_mut().push(format!("name {} {}", dir.0, name.display()));
        }
        fn settle(&self, dir: NodeId) {
            self.0.borrow_mut().push(format!("settle {}", dir.0));
        }
        fn attributes(&self, node: NodeId) {
            self.0.borrow_mut().push(format!("attributes {}", node.0));
        }
        fn listing(&self, dir: NodeId) {
            self.0.borrow_mut().push(format!("listing {}", dir.0));
        }
        fn everything(&self) {
            self.0.borrow_mut().push("everything".into());
        }
    }

    fn event(mask: u64, name: &[u8]) -> Event<'_> {
        Event { mask, pid: 1, dir: None, name, child: None }
    }

    fn sent(batch: Batch) -> Vec<String> {
        let log = Log::default();
        batch.send(&log);
        let mut sent = log.0.into_inner();
        sent.sort();
        sent
    }

    #[test]
    fn a_new_name_takes_the_name_the_listing_and_the_files_attributes() {
        let mut batch = Batch::default();
        for _ in 0..3 {
            batch.add(&event(libc::FAN_CREATE, b"n"), Some(NodeId(5)), Some(NodeId(6)));
        }
        assert_eq!(sent(batch), ["attributes 6", "listing 5", "name 5 n"]);
    }

    #[test]
    fn a_changed_file_takes_its_attributes_only() {
        let mut batch = Batch::default();
        batch.add(&event(libc::FAN_ATTRIB, b"n"), Some(NodeId(5)), Some(NodeId(6)));
        batch.add(&event(libc::FAN_ATTRIB | libc::FAN_ONDIR, b"."), Some(NodeId(7)), None);
        assert_eq!(sent(batch), ["attributes 6", "attributes 7", "settle 5"]);
    }

    #[test]
    fn an_overflow_takes_everything() {
        let mut batch = Batch::default();
        batch.add(&event(libc::FAN_CREATE, b"n"), Some(NodeId(5)), None);
        batch.everything();
        assert_eq!(sent(batch), ["everything"]);
    }
}
