//! What is to be taken out of the kernel's caches, gathered from the events that were read at once.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::pace::Work;
use crate::source::NodeId;
use crate::sys::fanotify::Event;

/// Who takes things out of the kernel's caches.
pub trait Notices {
    /// A name in a directory, whether it was there or not: whether the kernel knew it. What is there now needs only be
    /// looked up again.
    fn name(&self, dir: NodeId, name: &OsStr) -> bool;
    /// A name that is to be looked up when it is used next, and stays otherwise, with whatever is mounted on it: whether
    /// the kernel knew it, or nothing is to be done.
    fn look_up_again(&self, dir: NodeId, name: &OsStr) -> bool;
    /// Whether a notice about a name waits for the look-ups under way in its directory. If not, notices must be sent
    /// again until the kernel knows what they are about.
    fn wait_for_lookups(&self) -> bool;
    /// Waits for the look-ups that are under way in a directory: the kernel then knows the inodes that they found.
    fn settle(&self, dir: NodeId);
    /// The attributes of an inode, and its ACLs: whether the kernel knows the inode. If it does, answers that are under
    /// way are not believed either.
    fn attributes(&self, node: NodeId) -> bool;
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
    /// Names that stay but are to be looked up again.
    doubted: HashSet<(NodeId, OsString)>,
    /// What was done to an inode, with the directory whose look-ups may be about to find it.
    attributes: HashMap<NodeId, Option<NodeId>>,
    listings: HashSet<NodeId>,
    everything: bool,
}

impl Batch {
    pub(super) fn everything(&mut self) {
        self.everything = true;
    }

    /// Takes in what an event tells of a directory: `dir` is the kernel's node id for it, where it knows it.
    pub(super) fn add(&mut self, event: &Event<'_>, dir: Option<NodeId>) {
        if event.mask & NAMES != 0
            && let Some(dir) = dir
        {
            self.names.insert((dir, OsStr::from_bytes(event.name).to_owned()));
            self.listings.insert(dir);
        }
        // The directory itself.
        if event.name == b"." {
            self.attributes.extend(dir.map(|dir| (dir, None)));
        }
    }

    /// Takes in that what the event names is to be looked up again, since the kernel would not ask for its attributes.
    pub(super) fn look_up_again(&mut self, event: &Event<'_>, dir: Option<NodeId>) {
        if let Some(dir) = dir.filter(|_| event.name != b".") {
            self.doubted.insert((dir, OsStr::from_bytes(event.name).to_owned()));
        }
    }

    /// Takes in that something was done to an inode in a directory.
    pub(super) fn changed(&mut self, node: NodeId, dir: Option<NodeId>) {
        let known = self.attributes.entry(node).or_default();
        *known = dir.or(*known);
    }

    /// Sends what needs not wait: attributes of what the kernel knows already. What it does not know stays, for a
    /// look-up may be about to tell it.
    pub(super) fn send_attributes(&mut self, notices: &impl Notices) {
        self.attributes.retain(|node, dir| !notices.attributes(*node) && dir.is_some());
        for dir in &self.listings {
            notices.attributes(*dir);
        }
    }

    /// Whether something was missed, so that all names and attributes must go.
    pub(super) fn is_everything(&self) -> bool {
        self.everything
    }

    /// What is left to send, by directory.
    pub(super) fn into_works(self) -> HashMap<NodeId, Work> {
        let mut works: HashMap<NodeId, Work> = HashMap::new();
        for (dir, name) in self.names {
            works.entry(dir).or_default().names.insert(name);
        }
        for (dir, name) in self.doubted {
            works.entry(dir).or_default().doubted.insert(name);
        }
        for dir in self.listings {
            works.entry(dir).or_default().listing = true;
        }
        for (node, dir) in self.attributes {
            if let Some(dir) = dir {
                works.entry(dir).or_default().inodes.insert(node);
            }
        }
        works
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Log(RefCell<Vec<String>>);

    impl Notices for Log {
        fn name(&self, dir: NodeId, name: &OsStr) -> bool {
            self.0.borrow_mut().push(format!("name {} {}", dir.0, name.display()));
            true
        }
        fn look_up_again(&self, dir: NodeId, name: &OsStr) -> bool {
            self.0.borrow_mut().push(format!("look up {} {}", dir.0, name.display()));
            true
        }
        fn wait_for_lookups(&self) -> bool {
            true
        }
        fn settle(&self, dir: NodeId) {
            self.0.borrow_mut().push(format!("settle {}", dir.0));
        }
        fn attributes(&self, node: NodeId) -> bool {
            self.0.borrow_mut().push(format!("attributes {}", node.0));
            node.0 < 100
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

    /// What is sent at once, and what is left, by directory.
    fn sent(mut batch: Batch) -> (Vec<String>, HashMap<NodeId, Work>) {
        let log = Log::default();
        batch.send_attributes(&log);
        let mut sent = log.0.into_inner();
        sent.sort();
        (sent, batch.into_works())
    }

    fn names<const N: usize>(names: [&str; N]) -> HashSet<OsString> {
        names.map(OsString::from).into()
    }

    #[test]
    fn a_new_name_takes_the_name_the_listing_and_the_files_attributes() {
        let mut batch = Batch::default();
        for _ in 0..3 {
            batch.add(&event(libc::FAN_CREATE, b"n"), Some(NodeId(5)));
            batch.changed(NodeId(6), Some(NodeId(5)));
        }
        let (first, rest) = sent(batch);
        assert_eq!(first, ["attributes 5", "attributes 6"]);
        let work = Work { names: names(["n"]), listing: true, ..Work::default() };
        assert_eq!(rest, HashMap::from([(NodeId(5), work)]));
    }

    #[test]
    fn a_changed_file_takes_its_attributes_only() {
        let mut batch = Batch::default();
        batch.add(&event(libc::FAN_ATTRIB, b"n"), Some(NodeId(5)));
        batch.changed(NodeId(6), Some(NodeId(5)));
        batch.add(&event(libc::FAN_ATTRIB | libc::FAN_ONDIR, b"."), Some(NodeId(7)));
        let (first, rest) = sent(batch);
        assert_eq!(first, ["attributes 6", "attributes 7"]);
        assert!(rest.is_empty());
    }

    #[test]
    fn a_name_is_looked_up_again_by_its_directory() {
        let mut batch = Batch::default();
        for name in [&b"n"[..], b"."] {
            let event = event(libc::FAN_ATTRIB, name);
            batch.look_up_again(&event, Some(NodeId(5)));
            batch.look_up_again(&event, None);
        }
        let work = Work { doubted: names(["n"]), ..Work::default() };
        assert_eq!(sent(batch).1, HashMap::from([(NodeId(5), work)]));
    }

    #[test]
    fn an_overflow_takes_everything() {
        let mut batch = Batch::default();
        batch.add(&event(libc::FAN_CREATE, b"n"), Some(NodeId(5)));
        batch.everything();
        assert!(batch.is_everything());
    }

    #[test]
    fn an_inode_that_the_kernel_does_not_know_may_be_about_to_be_told_to_it() {
        let mut batch = Batch::default();
        batch.add(&event(libc::FAN_MODIFY, b"n"), Some(NodeId(5)));
        batch.changed(NodeId(600), Some(NodeId(5)));
        let (first, rest) = sent(batch);
        assert_eq!(first, ["attributes 600"]);
        let work = Work { inodes: [NodeId(600)].into(), ..Work::default() };
        assert_eq!(rest, HashMap::from([(NodeId(5), work)]), "once its look-up has ended");
    }
}
