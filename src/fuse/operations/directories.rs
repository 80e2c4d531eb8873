//! OPENDIR, READDIR, READDIRPLUS, RELEASEDIR and FSYNCDIR.

use rustix::io::Errno;

use super::Operations;
use crate::fs::Result;
use crate::fuse::convert::{dirent_type, type_bits};
use crate::fuse::protocol::layout::{
    EntryOut, FSYNC_FDATASYNC, FsyncIn, FuseAttr, OpenOut, ReadIn, ReleaseIn,
};
use crate::fuse::protocol::{DirentBuffer, Request};

impl Operations {
    pub(super) fn opendir(&self, request: &Request<'_>) -> Result<OpenOut> {
        if self.caches_readdir {
            // After ENOSYS the kernel opens directories without a request and caches their listings
            // (FUSE_NO_OPENDIR_SUPPORT).
            return Err(Errno::NOSYS);
        }
        let handle = self.fs.opendir(&request.caller()?, self.node(request))?;
        Ok(OpenOut { fh: handle, ..OpenOut::default() })
    }

    pub(super) fn readdir(&self, request: &Request<'_>) -> Result<DirentBuffer> {
        let (ReadIn { fh: handle, offset, size, .. }, _) = request.argument()?;
        let mut buffer = DirentBuffer::new(size);
        let caller = request.caller()?;
        self.fs.readdir(&caller, self.node(request), handle, offset, |entry| {
            buffer.add(entry.ino, entry.cookie, dirent_type(entry.kind), entry.name)
        })?;
        Ok(buffer)
    }

    pub(super) fn readdirplus(&self, request: &Request<'_>) -> Result<DirentBuffer> {
        let (ReadIn { fh: handle, offset, size, .. }, _) = request.argument()?;
        let mut buffer = DirentBuffer::new(size);
        let caller = request.caller()?;
        let node = self.node(request);
        self.fs.readdirplus(&caller, node, handle, offset, |entry, found| {
            let answer = match found {
                Some(found) => self.listed_out(found),
                // `.`, `..` and another server's mount are not looked up: the kernel takes only the number and the type
                // from here.
                None => {
                    let mode = type_bits(entry.kind);
                    let attr = FuseAttr { ino: entry.ino, mode, ..FuseAttr::default() };
                    EntryOut { attr, ..EntryOut::default() }
                }
            };
            buffer.add_plus(&answer, entry.cookie, answer.attr.mode >> 12, entry.name)
        })?;
        Ok(buffer)
    }

    pub(super) fn releasedir(&self, request: &Request<'_>) -> Result<()> {
        let (ReleaseIn { fh: handle, .. }, _) = request.argument()?;
        self.fs.releasedir(handle)
    }

    pub(super) fn fsyncdir(&self, request: &Request<'_>) -> Result<()> {
        let (FsyncIn { fh: handle, flags, .. }, _) = request.argument()?;
        let data_only = flags & FSYNC_FDATASYNC != 0;
        self.fs.fsyncdir(&request.caller()?, self.node(request), handle, data_only)
    }
}
