//! Listings.

use rustix::io::Errno;

use super::Operations;
use crate::fs::Result;
use crate::fuse::convert::{entry_type, type_bits};
use crate::fuse::protocol::layout::{
    AttrPart, EntryOut, FSYNC_DATA_ONLY, FsyncIn, OpenOut, ReadIn, ReleaseIn,
};
use crate::fuse::protocol::{Listing, Request};

impl Operations {
    pub(super) fn opendir(&self, request: &Request<'_>) -> Result<OpenOut> {
        if self.keeps_listings {
            // Told so once, the kernel opens directories without us and keeps what they list.
            return Err(Errno::NOSYS);
        }
        let handle = self.fs.opendir(&request.caller()?, self.node(request))?;
        Ok(OpenOut { handle, ..OpenOut::default() })
    }

    pub(super) fn readdir(&self, request: &Request<'_>) -> Result<Listing> {
        let (ReadIn { handle, offset, size, .. }, _) = request.argument()?;
        let mut listing = Listing::new(size);
        self.fs.readdir(self.node(request), handle, offset, |entry| {
            listing.add(entry.ino, entry.cookie, entry_type(entry.kind), entry.name)
        })?;
        Ok(listing)
    }

    pub(super) fn readdirplus(&self, request: &Request<'_>) -> Result<Listing> {
        let (ReadIn { handle, offset, size, .. }, _) = request.argument()?;
        let mut listing = Listing::new(size);
        let caller = request.caller()?;
        let node = self.node(request);
        self.fs.readdirplus(&caller, node, handle, offset, |entry, found| {
            let answer = match found {
                Some(found) => self.entry_out(found),
                // Neither `.` nor `..` is looked up: the kernel takes only number and type from here.
                None => {
                    let mode = type_bits(entry.kind);
                    let attr = AttrPart { ino: entry.ino, mode, ..AttrPart::default() };
                    EntryOut { attr, ..EntryOut::default() }
                }
            };
            listing.add_plus(&answer, entry.cookie, answer.attr.mode >> 12, entry.name)
        })?;
        Ok(listing)
    }

    pub(super) fn releasedir(&self, request: &Request<'_>) -> Result<()> {
        let (ReleaseIn { handle, .. }, _) = request.argument()?;
        self.fs.releasedir(handle)
    }

    pub(super) fn fsyncdir(&self, request: &Request<'_>) -> Result<()> {
        let (FsyncIn { handle, flags, .. }, _) = request.argument()?;
        self.fs.fsyncdir(self.node(request), handle, flags & FSYNC_DATA_ONLY != 0)
    }
}
