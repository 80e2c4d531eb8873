//! Notifications: messages to the kernel that answer no request (`enum fuse_notify_code`).

use std::ffi::OsStr;
use std::fmt;
use std::io::IoSlice;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::layout::{InvalEntryOut, InvalInodeOut, OutHeader, PruneOut};
use crate::fuse::device::Device;

/// Codes of `enum fuse_notify_code`.
const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;
const INC_EPOCH: i32 = 8;
const PRUNE: i32 = 9;

/// The notifications that are sent, with their names.
pub(in crate::fuse) const NOTIFICATIONS: [(i32, &str); 4] = [
    (INVAL_INODE, "INVAL_INODE"),
    (INVAL_ENTRY, "INVAL_ENTRY"),
    (INC_EPOCH, "INC_EPOCH"),
    (PRUNE, "PRUNE"),
];

/// A notification.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) enum Notification<'a> {
    /// FUSE_NOTIFY_INVAL_INODE: invalidates an inode's attributes and ACLs, and pages of its data.
    InvalInode {
        /// The inode.
        nodeid: u64,
        /// Where the pages begin, in bytes; none are invalidated if negative.
        offset: i64,
    },
    /// FUSE_NOTIFY_INVAL_ENTRY: invalidates a dentry.
    InvalEntry {
        /// The directory.
        parent: u64,
        /// The name.
        name: &'a OsStr,
        /// Only expire the dentry: look it up again at its next use, and keep what is below it (FUSE_EXPIRE_ONLY).
        expire_only: bool,
    },
    /// FUSE_NOTIFY_INC_EPOCH: invalidates all dentries (Linux 6.16).
    IncEpoch,
    /// FUSE_NOTIFY_PRUNE: evicts inodes that are not in use (Linux 6.18).
    Prune {
        /// The inodes.
        nodeids: &'a [u64],
    },
}

/// As the log names it: the constant of `enum fuse_notify_code`, and what it is about.
impl fmt::Display for Notification<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalInode { nodeid, offset } => {
                write!(f, "INVAL_INODE nodeid={nodeid} offset={offset}")
            }
            Self::InvalEntry { parent, name, expire_only } => {
                write!(f, "INVAL_ENTRY nodeid={parent} name={name:?} expire_only={expire_only}")
            }
            Self::IncEpoch => f.write_str("INC_EPOCH"),
            Self::Prune { nodeids } => write!(f, "PRUNE nodeids={nodeids:?}"),
        }
    }
}

impl Notification<'_> {
    /// Sends the notification.
    ///
    /// # Errors
    /// ENOENT when the kernel does not have the inode or the dentry; EINVAL when it does not know this notification;
    /// ENODEV when the mount is gone.
    pub(in crate::fuse) fn send(self, device: &Device) -> Result<(), Errno> {
        match self {
            Notification::InvalInode { nodeid, offset } => {
                let body = InvalInodeOut { ino: nodeid, off: offset, len: 0 };
                send(device, INVAL_INODE, &[body.as_bytes(), &[], &[]])
            }
            Notification::InvalEntry { parent, name, expire_only } => {
                let name = name.as_bytes();
                let namelen = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
                let body = InvalEntryOut { parent, namelen, flags: u32::from(expire_only) };
                send(device, INVAL_ENTRY, &[body.as_bytes(), name, b"\0"])
            }
            Notification::IncEpoch => send(device, INC_EPOCH, &[&[], &[], &[]]),
            Notification::Prune { nodeids } => {
                let count = u32::try_from(nodeids.len()).map_err(|_| Errno::INVAL)?;
                let body = PruneOut { count, ..PruneOut::default() };
                send(device, PRUNE, &[body.as_bytes(), nodeids.as_bytes(), &[]])
            }
        }
    }
}

fn send(device: &Device, code: i32, parts: &[&[u8]; 3]) -> Result<(), Errno> {
    let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = OutHeader { len: len as u32, error: code, unique: 0 };
    let [first, second, third] = parts.map(IoSlice::new);
    let sent = device.send(&[IoSlice::new(header.as_bytes()), first, second, third]);
    if let Ok(()) | Err(Errno::NOENT) = sent {
        device.counts().notification(code, sent.is_ok());
    }
    sent
}
