//! What the kernel is told without having asked (`enum fuse_notify_code`).

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::layout::{InvalEntryOut, InvalInodeOut, OutHeader};
use crate::fuse::device::Device;

/// A notice.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) enum Notice<'a> {
    /// The attributes of an inode are not to be believed, and pages of its data from an offset on; a negative offset
    /// spares them.
    Inode {
        /// The kernel's number of it.
        node: u64,
        /// In bytes.
        from: i64,
    },
    /// A name in a directory.
    Name {
        /// The kernel's number of the directory.
        parent: u64,
        /// The name.
        name: &'a OsStr,
        /// It is to be looked up again only, with all that is known below it (FUSE_EXPIRE_ONLY).
        stays: bool,
    },
    /// All names (Linux 6.16).
    Epoch,
}

impl Notice<'_> {
    /// Sends it. ENOENT when the kernel does not know what it is about; EINVAL when it does not know such notices.
    pub(in crate::fuse) fn send(self, device: &Device) -> Result<(), Errno> {
        match self {
            Notice::Inode { node, from } => {
                let body = InvalInodeOut { node, offset: from, len: 0 };
                send(device, 2, &[body.as_bytes(), &[], &[]])
            }
            Notice::Name { parent, name, stays } => {
                let name = name.as_bytes();
                let name_len = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
                let body = InvalEntryOut { parent, name_len, flags: u32::from(stays) };
                send(device, 3, &[body.as_bytes(), name, b"\0"])
            }
            Notice::Epoch => send(device, 8, &[&[], &[], &[]]),
        }
    }
}

fn send(device: &Device, code: i32, parts: &[&[u8]; 3]) -> Result<(), Errno> {
    let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = OutHeader { len: len as u32, error: code, unique: 0 };
    let [first, second, third] = parts.map(IoSlice::new);
    device.send(&[IoSlice::new(header.as_bytes()), first, second, third])
}
