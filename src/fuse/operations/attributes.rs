//! GETATTR, SETATTR, STATFS, ACCESS and READLINK.

use std::sync::Arc;

use rustix::fs::Access;
use rustix::io::Errno;

use super::{Operations, attr_out};
use crate::fs::{Attr, Result};
use crate::fuse::convert::changes;
use crate::fuse::protocol::layout::{AccessIn, AttrOut, SetAttrIn, StatfsOut};
use crate::fuse::protocol::{Reply, Request};
use crate::view::Checks;

impl Operations {
    pub(super) fn getattr(&self, request: &Request<'_>) -> Result<AttrOut> {
        let attr = self.fs.getattr(&request.caller()?, self.node(request))?;
        Ok(self.attr_out(&attr))
    }

    pub(super) fn setattr(&self, request: &Request<'_>, reply: Reply) {
        let parts = request
            .argument::<SetAttrIn>()
            .and_then(|(asked, _)| Ok((request.caller()?, changes(&asked))));
        let (caller, (set, handle)) = match parts {
            Ok(parts) => parts,
            Err(e) => return reply.error(e),
        };
        let node = self.node(request);
        match self.fs.setattr(&caller, node, handle, &set, false) {
            Err(Errno::AGAIN) => {
                let (fs, ttls) = (Arc::clone(&self.fs), self.ttls.clone());
                let wait = move || fs.setattr(&caller, node, handle, &set, true);
                let done = move |attr: Result<Attr>| {
                    reply.out(attr.map(|attr| attr_out(&attr, &ttls)));
                };
                self.fs.wait_for_lease(&caller, request.header.unique, wait, done);
            }
            attr => reply.out(attr.map(|attr| self.attr_out(&attr))),
        }
    }

    pub(super) fn readlink(&self, request: &Request<'_>) -> Result<Vec<u8>> {
        self.fs.readlink(&request.caller()?, self.node(request))
    }

    pub(super) fn statfs(&self, request: &Request<'_>) -> Result<StatfsOut> {
        let stat = self.fs.statfs(&request.caller()?, self.node(request))?;
        Ok(StatfsOut {
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            bsize: stat.f_bsize as u32,
            namelen: stat.f_namemax as u32,
            frsize: stat.f_frsize as u32,
            ..StatfsOut::default()
        })
    }

    pub(super) fn access(&self, request: &Request<'_>) -> Result<()> {
        if self.fs.needs().checks == Checks::Kernel {
            // With default_permissions the kernel checks by itself. ENOSYS stops it from sending ACCESS again.
            return Err(Errno::NOSYS);
        }
        let (AccessIn { mask, .. }, _) = request.argument()?;
        let wanted = Access::from_bits_truncate(mask);
        self.fs.access(&request.caller()?, self.node(request), wanted)
    }
}
