//! Extended attributes, ACLs among them.

use rustix::io::Errno;

use super::Operations;
use crate::fs::{Result, SetXattr};
use crate::fuse::protocol::layout::{
    GetXattrIn, GetXattrOut, SETXATTR_ACL_KILL_SGID, SetXattrExt, SetXattrIn,
};
use crate::fuse::protocol::{Reply, Request};

impl Operations {
    pub(super) fn setxattr(&self, request: &Request<'_>) -> Result<()> {
        let (SetXattrIn { size, flags }, mut rest) = request.argument()?;
        let mut kills_sgid = false;
        if self.hides_callers {
            let (SetXattrExt { setxattr_flags, .. }, after) = rest.argument()?;
            kills_sgid = setxattr_flags & SETXATTR_ACL_KILL_SGID != 0;
            rest = after;
        }
        let (name, rest) = rest.name()?;
        let set = SetXattr { name, value: rest.bytes(size)?, flags: flags as i32, kills_sgid };
        self.fs.setxattr(&request.caller()?, self.node(request), &set)
    }

    pub(super) fn getxattr(&self, request: &Request<'_>, reply: Reply) {
        let parts = request.argument::<GetXattrIn>();
        let value = parts.and_then(|(GetXattrIn { size, .. }, rest)| {
            let (name, _) = rest.name()?;
            Ok((size, self.fs.getxattr(&request.caller()?, self.node(request), name)?))
        });
        reply_value(reply, value);
    }

    pub(super) fn listxattr(&self, request: &Request<'_>, reply: Reply) {
        let parts = request.argument::<GetXattrIn>();
        let value = parts.and_then(|(GetXattrIn { size, .. }, _)| {
            Ok((size, self.fs.listxattr(&request.caller()?, self.node(request))?))
        });
        reply_value(reply, value);
    }

    pub(super) fn removexattr(&self, request: &Request<'_>) -> Result<()> {
        self.fs.removexattr(&request.caller()?, self.node(request), request.name()?)
    }
}

/// Replies with a value, or with its size when the client passed no buffer. ERANGE when the buffer is too small.
fn reply_value(reply: Reply, value: Result<(u32, Vec<u8>)>) {
    match value {
        Ok((0, value)) => {
            reply.out(Ok(GetXattrOut { size: value.len() as u32, padding: 0 }));
        }
        Ok((size, value)) if value.len() > size as usize => reply.error(Errno::RANGE),
        Ok((_, value)) => reply.bytes(&value),
        Err(e) => reply.error(e),
    }
}
