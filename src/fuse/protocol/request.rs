//! Parses requests from the bytes that the kernel sent.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::layout::InHeader;
use super::opcode;
use crate::fs::{Caller, Result, user_of_thread};
use crate::idmap::{MountGid, MountUid};

/// One request.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Request<'a> {
    /// The header.
    pub(in crate::fuse) header: InHeader,
    body: &'a [u8],
    /// The kernel does not tell the caller's ids (FUSE_ALLOW_IDMAP).
    hides_caller: bool,
}

impl<'a> Request<'a> {
    /// Parses a buffer. `None` when its length is not that in the header, which the kernel never does.
    pub(in crate::fuse) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = InHeader::read_from_prefix(bytes).ok()?;
        (header.len as usize == bytes.len()).then_some(Self { header, body, hides_caller: false })
    }

    /// The request, as one of a connection with FUSE_ALLOW_IDMAP if `hides_caller`.
    pub(in crate::fuse) fn with_hidden_caller(self, hides_caller: bool) -> Self {
        Self { hides_caller, ..self }
    }

    /// The caller's ids. EOVERFLOW for 4294967295, which the kernel sends only with FUSE_ALLOW_IDMAP.
    ///
    /// With it, the ids in a request that creates an inode are those of the new inode, and all other requests have none
    /// (`fuse_get_req` in Linux).
    pub(in crate::fuse) fn caller(&self) -> Result<Caller> {
        let InHeader { uid, gid, pid, .. } = self.header;
        let ids = MountUid::new(uid).zip(MountGid::new(gid));
        if self.hides_caller {
            return Ok(Caller { ids: None, creates_as: ids, pid });
        }
        let (uid, gid) = ids.ok_or(Errno::OVERFLOW)?;
        Ok(Caller::known(uid, gid, pid))
    }

    /// The structure at the start of the body, and what follows it. EIO when the body is too short.
    pub(in crate::fuse) fn argument<T>(&self) -> Result<(T, Arguments<'a>)>
    where
        T: FromBytes + Immutable + KnownLayout,
    {
        Arguments(self.body).argument()
    }

    /// The body, which follows the header.
    pub(in crate::fuse) fn body(&self) -> Arguments<'a> {
        Arguments(self.body)
    }

    /// The body's bytes.
    pub(in crate::fuse) fn rest(&self) -> &'a [u8] {
        self.body
    }

    /// The name that is all of the body. EIO when its NUL is missing.
    pub(in crate::fuse) fn name(&self) -> Result<&'a OsStr> {
        Arguments(self.body).name().map(|(name, _)| name)
    }
}

/// The user of a request whose caller the kernel does not tell. No user has this uid.
pub(in crate::fuse) const UNKNOWN_USER: u32 = u32::MAX;

/// The part of a request's header that a worker needs before it serves the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) struct RequestHead {
    pub(in crate::fuse) opcode: u32,
    /// The request's number.
    pub(in crate::fuse) unique: u64,
    /// The node id.
    pub(in crate::fuse) nodeid: u64,
    /// The caller's filesystem uid, or [`UNKNOWN_USER`].
    pub(in crate::fuse) uid: u32,
    /// The caller's thread id; 0 if it has none in the daemon's pid namespace.
    pub(in crate::fuse) pid: u32,
}

impl RequestHead {
    /// The head of the request in a buffer. All fields are 0 if it is too short, which the kernel's requests never are.
    pub(in crate::fuse) fn of(bytes: &[u8]) -> Self {
        let header = InHeader::read_from_prefix(bytes).ok().map(|(header, _)| header);
        header.map_or(Self { opcode: 0, unique: 0, nodeid: 0, uid: 0, pid: 0 }, |header| {
            let InHeader { opcode, unique, nodeid, uid, pid, .. } = header;
            Self { opcode, unique, nodeid, uid, pid }
        })
    }

    /// The user whose limits count: the caller's or, if that is unknown, the one that /proc shows of the thread.
    pub(in crate::fuse) fn user(&self) -> u32 {
        match self.uid {
            UNKNOWN_USER => user_of_thread(self.pid).unwrap_or(UNKNOWN_USER),
            uid => uid,
        }
    }

    /// Whether the kernel expects a reply.
    pub(in crate::fuse) fn needs_reply(&self) -> bool {
        !matches!(self.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT)
    }

    /// Whether requests with this opcode usually wait for a disk, or copy much data.
    pub(in crate::fuse) fn is_usually_slow(&self) -> bool {
        matches!(
            self.opcode,
            opcode::FSYNC | opcode::FSYNCDIR | opcode::FALLOCATE | opcode::COPY_FILE_RANGE
        )
    }
}

/// The rest of a request's body.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    /// A structure, and what follows it. EIO when the body is too short.
    pub(in crate::fuse) fn argument<T>(self) -> Result<(T, Self)>
    where
        T: FromBytes + Immutable + KnownLayout,
    {
        let (argument, rest) = T::read_from_prefix(self.0).map_err(|_| Errno::IO)?;
        Ok((argument, Self(rest)))
    }

    /// A name up to its NUL, and what follows it. EIO when there is no NUL.
    pub(in crate::fuse) fn name(self) -> Result<(&'a OsStr, Self)> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::IO)?;
        Ok((OsStr::from_bytes(&self.0[..end]), Self(&self.0[end + 1..])))
    }

    /// The next `len` bytes. EIO when there are fewer.
    pub(in crate::fuse) fn bytes(self, len: u32) -> Result<&'a [u8]> {
        self.0.get(..len as usize).ok_or(Errno::IO)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::RenameIn;
    use super::*;
    use proptest::prelude::*;

    fn request(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((40 + body.len() as u32).to_ne_bytes());
        bytes.extend(12u32.to_ne_bytes());
        bytes.extend(77u64.to_ne_bytes());
        bytes.extend(5u64.to_ne_bytes());
        for id in [1000u32, 100, 4242, 0] {
            bytes.extend(id.to_ne_bytes());
        }
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_rename_is_read() {
        let mut body = 9u64.to_ne_bytes().to_vec();
        body.extend(b"old\0new\0");
        let bytes = request(&body);
        let request = Request::parse(&bytes).unwrap();
        assert_eq!((request.header.unique, request.header.nodeid), (77, 5));
        let caller = request.caller().unwrap();
        let ids = caller.ids.map(|(uid, gid)| (uid.raw(), gid.raw()));
        assert_eq!((ids, caller.creates_as, caller.pid), (Some((1000, 100)), caller.ids, 4242));
        let hidden = request.with_hidden_caller(true).caller().unwrap();
        assert_eq!((hidden.ids, hidden.creates_as), (None, caller.ids));
        let (argument, rest) = request.argument::<RenameIn>().unwrap();
        let (old, rest) = rest.name().unwrap();
        let (new, _) = rest.name().unwrap();
        assert_eq!((argument.newdir, old, new), (9, OsStr::new("old"), OsStr::new("new")));
    }

    #[test]
    fn the_user_that_the_kernel_does_not_tell_is_that_of_the_thread() {
        let head = |uid, pid| RequestHead { opcode: 0, unique: 1, nodeid: 1, uid, pid };
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(head(UNKNOWN_USER, std::process::id()).user(), own);
        assert_eq!(head(UNKNOWN_USER, u32::MAX).user(), UNKNOWN_USER, "no such thread");
        assert_eq!(head(1000, std::process::id()).user(), 1000);
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let bytes = request(b"name without an end");
        let read = Request::parse(&bytes).unwrap();
        assert_eq!(read.name().unwrap_err(), Errno::IO);
        assert_eq!(read.body().bytes(100).unwrap_err(), Errno::IO);
        assert_eq!(request(b"").len(), 40);
        assert!(Request::parse(&bytes[..bytes.len() - 1]).is_none());
        assert!(Request::parse(&bytes[..39]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let len = bytes.len() as u32;
            let mut bytes = bytes;
            if len >= 4 {
                bytes[..4].copy_from_slice(&len.to_ne_bytes());
            }
            if let Some(request) = Request::parse(&bytes) {
                let _ = request.name();
                let _ = request.argument::<RenameIn>().and_then(|(_, rest)| rest.name());
            }
        }
    }
}
