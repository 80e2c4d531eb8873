//! What of an inode's looks takes system calls: the size of a block device that is shown as a file, and which permissions
//! the mounter has himself.

use rustix::fs::{Access, AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::{Attr, CacheValidity, Fs, Result};
use crate::source::{Inode, proc_path, reopen};
use crate::sys;
use crate::view::AttrOverrides;

/// What goes by the blocks of 512 bytes.
const BLOCK: u64 = 512;

impl Fs {
    /// An inode's attributes with what takes system calls to tell. What cannot be told is left as it is: nothing here
    /// makes a stat fail.
    pub(super) fn apply_overrides(
        &self,
        overrides: &AttrOverrides,
        inode: &Inode,
        mut attr: Attr,
    ) -> Attr {
        if overrides.block_devices_as_files && inode.kind() == FileType::BlockDevice {
            attr.size = self.device_size(inode).unwrap_or(0);
            attr.blocks = attr.size / BLOCK;
            attr.rdev = 0;
            // Nobody tells that a device has another size.
            if attr.validity == CacheValidity::WhileWatched {
                attr.validity = CacheValidity::Timeout;
            }
        }
        attr.mode &= !self.denied_to_mounter(overrides, inode);
        attr
    }

    /// The permissions of an inode that are shown to nobody, because the mounter lacks them.
    pub(super) fn denied_to_mounter(&self, overrides: &AttrOverrides, inode: &Inode) -> u16 {
        match overrides.realistic_permissions && inode.kind() != FileType::Symlink {
            true => self.mounter_lacks(inode).unwrap_or(0),
            false => 0,
        }
    }

    /// The size of a block device in bytes.
    fn device_size(&self, inode: &Inode) -> Result<u64> {
        let fd = self.tree.fd(inode)?;
        let device = reopen(&fd, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        sys::file::device_size(&device)
    }

    /// The permission bits that would say, to all classes, what the mounter himself may not do.
    fn mounter_lacks(&self, inode: &Inode) -> Result<u16> {
        let fd = self.tree.fd(inode)?;
        let path = proc_path(&fd);
        let (dir, name) = path.relative();
        self.credentials.as_self(|| {
            let lacks = |access| {
                let asked = rustix::fs::accessat(dir, name, access, AtFlags::EACCESS);
                // Whatever else goes wrong says nothing about rights.
                matches!(asked, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS))
            };
            [(Access::READ_OK, 0o444), (Access::WRITE_OK, 0o222), (Access::EXEC_OK, 0o111)]
                .into_iter()
                .filter(|(access, _)| lacks(*access))
                .fold(0, |bits, (_, more)| bits | more)
        })
    }
}
