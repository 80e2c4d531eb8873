//! The filesystem's operations, by subject. No FUSE types: a request comes in as node ids, names and a [`Caller`], and
//! goes out as [`Entry`], [`Attr`] or an errno.
//!
//! The kernel has checked permissions on what we show (`default_permissions`) before a request arrives. What is left to
//! us is to act on the right inode, as the right user where something is created, and to translate ids.

mod attr;
mod caller;
mod create;
mod dir;
mod file;
mod handles;
mod ioctl;
mod lock;
mod lookup;
mod remove;
mod types;
mod xattr;

use rustix::io::Errno;

use crate::idmap::{IdView, SourceGid, SourceUid};
use crate::source::{Credentials, Found, SourceTree};

pub use dir::{DirEntry, OpenDir};
pub use file::{OpenFile, Opened};
pub use lock::{Conflict, LockKind, LockRange, LockRequest};
pub use types::{Attr, Caller, Entry, Result, SetAttr, SetTime, Timestamp, decode_dev, encode_dev};

/// One mount's filesystem.
#[derive(Debug)]
pub struct Fs {
    tree: SourceTree,
    ids: IdView,
    credentials: Credentials,
    files: handles::Handles<OpenFile>,
    dirs: handles::Handles<OpenDir>,
    locks: lock::Locks,
}

impl Fs {
    /// A filesystem that shows `tree` through `ids`.
    #[must_use]
    pub fn new(tree: SourceTree, ids: IdView) -> Self {
        Self {
            tree,
            ids,
            credentials: Credentials::of_process(),
            files: handles::Handles::default(),
            dirs: handles::Handles::default(),
            locks: lock::Locks::default(),
        }
    }

    /// The source tree.
    #[must_use]
    pub fn tree(&self) -> &SourceTree {
        &self.tree
    }

    /// The caller's ids on the source. EOVERFLOW when one has no counterpart there: he cannot own anything.
    fn source_ids(&self, caller: &Caller) -> Result<(SourceUid, SourceGid)> {
        let uid = self.ids.uid_to_source(caller.uid).ok_or(Errno::OVERFLOW)?;
        let gid = self.ids.gid_to_source(caller.gid).ok_or(Errno::OVERFLOW)?;
        Ok((uid, gid))
    }

    /// Acts as the caller's source ids, so that what is created belongs to him from its first instant.
    fn create_as(&self, caller: &Caller) -> Result<()> {
        let (uid, gid) = self.source_ids(caller)?;
        self.credentials.act_as(uid, gid)
    }

    /// Acts as the caller himself: reserved space is his or not, whatever he is on the source.
    fn write_as(&self, caller: &Caller) -> Result<()> {
        if !self.credentials.are_privileged() {
            return Ok(());
        }
        self.credentials.act_as_raw(caller.uid.raw(), caller.gid.raw())
    }

    fn entry(&self, found: &Found) -> Entry {
        let attr = Attr::shown(&found.inode, &found.stat, &self.ids);
        Entry { node: found.inode.node(), attr }
    }
}
