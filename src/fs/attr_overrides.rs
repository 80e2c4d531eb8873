//! Attribute overrides that take system calls: sizes of block devices, and permissions that the daemon's user has.

use rustix::fs::{Access, AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::{Attr, CacheValidity, Fs, Result};
use crate::source::{Inode, proc_path, reopen};
use crate::sys;
use crate::view::AttrOverrides;

/// The unit of `st_blocks` in bytes.
const BLOCK: u64 = 512;

impl Fs {
    /// Applies the overrides to an inode's attributes.
    ///
    /// An attribute that cannot be determined stays as it is, so that stat(2) does not fail.
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
            // No event reports a new size of a device.
            attr.validity = attr.validity.min(CacheValidity::Timeout);
        }
        attr.mode &= !self.denied_to_mounter(overrides, inode);
        attr
    }

    /// Returns the permission bits to hide from all callers, because the daemon's user lacks the permission
    /// (realistic-permissions).
    pub(super) fn denied_to_mounter(&self, overrides: &AttrOverrides, inode: &Inode) -> u16 {
        match overrides.realistic_permissions && inode.kind() != FileType::Symlink {
            true => self.mounter_lacks(inode).unwrap_or(0),
            false => 0,
        }
    }

    /// Returns the size of a block device in bytes.
    fn device_size(&self, inode: &Inode) -> Result<u64> {
        let fd = self.tree.fd(inode)?;
        let device = reopen(&fd, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        sys::file::device_size(&device)
    }

    /// Returns the bits, for all classes, of the permissions that the daemon's user lacks.
    fn mounter_lacks(&self, inode: &Inode) -> Result<u16> {
        let fd = self.tree.fd(inode)?;
        let path = proc_path(&fd);
        let (dir, name) = path.relative();
        self.credentials.as_self(|| {
            let lacks = |access| {
                let asked = rustix::fs::accessat(dir, name, access, AtFlags::EACCESS);
                // Any other error says nothing about permissions.
                matches!(asked, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS))
            };
            [(Access::READ_OK, 0o444), (Access::WRITE_OK, 0o222), (Access::EXEC_OK, 0o111)]
                .into_iter()
                .filter(|(access, _)| lacks(*access))
                .fold(0, |bits, (_, more)| bits | more)
        })
    }
}
