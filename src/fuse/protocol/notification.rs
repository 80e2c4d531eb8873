//! What the kernel is told without having asked (`enum fuse_notify_code`).

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::layout::{InvalEntryOut, InvalInodeOut, OutHeader};
use crate::fuse::device::Device;

/// Codes of `enum fuse_notify_code`.
const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;
const INC_EPOCH: i32 = 8;

/// A notice.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) enum Notification<'a> {
    /// The attributes of an inode are not to be believed, and pages of its data from an offset on; a negative offset
    /// spares them.
    InvalInode {
        /// The kernel's number of it.
        nodeid: u64,
        /// In bytes.
        offset: i64,
    },
    /// A name in a directory.
    InvalEntry {
        /// The kernel's number of the directory.
        parent: u64,
        /// The name.
        name: &'a OsStr,
        /// It is to be looked up again only, with all that is known below it (FUSE_EXPIRE_ONLY).
        expire_only: bool,
    },
    /// All names (Linux 6.16).
    IncEpoch,
}

impl Notification<'_> {
    /// Sends it. ENOENT when the kernel does not know what it is about; EINVAL when it does not know such notices.
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
        }
    }
}

fn send(device: &Device, code: i32, parts: &[&[u8]; 3]) -> Result<(), Errno> {
    let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = OutHeader { len: len as u32, error: code, unique: 0 };
    let [first, second, third] = parts.map(IoSlice::new);
    device.send(&[IoSlice::new(header.as_bytes()), first, second, third])
}
