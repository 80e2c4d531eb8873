//! Replies to requests.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::layout::OutHeader;
use super::{Request, RequestHead, opcode};
use crate::error::errno_field;
use crate::fs::Result;
use crate::fuse::device::Device;
use crate::fuse::request_log::{LoggedRequest, log_abandoned};

/// The right to reply to one request, once, from any thread. Dropped unused, it replies with EIO, so that no client
/// waits for ever.
///
/// The kernel refuses the reply when the request was abandoned (`interrupts.rs`) or the mount is gone. A lookup or an
/// open file in the reply must then be released.
#[derive(Debug)]
pub(in crate::fuse) struct Reply {
    /// The device that the request was read from, which the reply must go through.
    device: Arc<Device>,
    unique: u64,
    /// The opcode of the request whose answer is to be counted, and when the request was read.
    counted: Option<(u32, Instant)>,
    is_unanswered: bool,
    logged: Option<LoggedRequest>,
}

impl Reply {
    /// The reply to a request that was read from a device.
    pub(in crate::fuse) fn new(device: &Arc<Device>, unique: u64) -> Self {
        Self {
            device: Arc::clone(device),
            unique,
            counted: None,
            is_unanswered: true,
            logged: None,
        }
    }

    /// As [`Self::new`]; the request is counted and logged now, and the reply when it is sent.
    pub(in crate::fuse) fn logged(device: &Arc<Device>, request: &Request<'_>) -> Self {
        let mut reply = Self::new(device, request.header.unique);
        device.counts().request(request.header.opcode);
        reply.counted = Some((request.header.opcode, Instant::now()));
        reply.logged = LoggedRequest::new(request);
        reply
    }

    /// The device that the reply goes through.
    pub(in crate::fuse) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Replies with a `fuse_…_out` structure, or with an errno.
    pub(in crate::fuse) fn out<T: IntoBytes + Immutable>(self, result: Result<T>) {
        self.deliver(result.as_ref().map(T::as_bytes).map_err(|e| *e));
    }
    /// Replies with bytes, or with an errno. Returns whether the kernel accepted the reply.
    pub(in crate::fuse) fn deliver(self, result: Result<&[u8]>) -> bool {
        match result {
            Ok(bytes) => self.send(0, &[bytes]),
            Err(e) => self.send(-e.raw_os_error(), &[]),
        }
    }

    /// Replies with success and no payload, or with an errno.
    pub(in crate::fuse) fn ok(self, result: Result<()>) {
        match result {
            Ok(()) => self.bytes(&[]),
            Err(e) => self.error(e),
        }
    }

    /// Replies with bytes, or with an errno.
    pub(in crate::fuse) fn payload(self, result: Result<impl AsRef<[u8]>>) {
        self.deliver(result.as_ref().map(AsRef::as_ref).map_err(|e| *e));
    }

    /// Replies with bytes.
    pub(in crate::fuse) fn bytes(self, bytes: &[u8]) {
        self.send(0, &[bytes]);
    }

    /// Replies with a structure and the payload that follows it.
    pub(in crate::fuse) fn out_and_payload(self, head: &(impl IntoBytes + Immutable), rest: &[u8]) {
        self.send(0, &[head.as_bytes(), rest]);
    }

    /// Replies with an errno.
    pub(in crate::fuse) fn error(self, error: Errno) {
        self.send(-error.raw_os_error(), &[]);
    }

    fn answer(&self, error: i32, parts: &[&[u8]]) -> bool {
        let size = parts.iter().map(|part| part.len()).sum();
        if let Some((opcode, since)) = self.counted {
            // Before the client can see the answer and ask for the counts.
            let counts = self.device.counts();
            counts.answer(opcode, since.elapsed(), error != 0);
            if opcode == opcode::READ {
                counts.read(size);
            }
        }
        let was_accepted = send_reply(&self.device, self.unique, error, parts);
        if let Some(logged) = self.logged {
            logged.replied(self.unique, error, size, was_accepted);
        }
        was_accepted
    }

    fn send(mut self, error: i32, parts: &[&[u8]]) -> bool {
        self.is_unanswered = false;
        self.answer(error, parts)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.is_unanswered {
            self.answer(-Errno::IO.raw_os_error(), &[]);
        }
    }
}

/// Replies with EINTR in the place of the thread that serves the request.
///
/// Returns whether the kernel accepted the reply. It does not when the request was answered before.
pub(in crate::fuse) fn reply_interrupted(device: &Device, head: RequestHead) -> bool {
    let error = -Errno::INTR.raw_os_error();
    let was_accepted = send_reply(device, head.unique, error, &[]);
    if was_accepted {
        log_abandoned(head.opcode, head.unique, error);
    }
    was_accepted
}

/// Replies with an errno to a request that no thread has begun to serve. Logs the request as well.
pub(in crate::fuse) fn reply_unserved(device: &Arc<Device>, bytes: &[u8], error: Errno) {
    let reply = match Request::parse(bytes) {
        Some(request) => Reply::logged(device, &request),
        None => Reply::new(device, RequestHead::of(bytes).unique),
    };
    reply.error(error);
}

fn send_reply(device: &Device, unique: u64, error: i32, parts: &[&[u8]]) -> bool {
    let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    // The largest size that any request asks for is far below 4 GiB.
    let Ok(len) = u32::try_from(len) else { return send_reply(device, unique, -libc::EIO, &[]) };
    let header = OutHeader { len, error, unique };
    let mut slices = [IoSlice::new(header.as_bytes()), IoSlice::new(&[]), IoSlice::new(&[])];
    let mut count = 1;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        slices[count] = IoSlice::new(part);
        count += 1;
    }
    match device.send(&slices[..count]) {
        Ok(()) => true,
        // The client was interrupted and does not wait any more, or the mount is gone.
        Err(Errno::NOENT | Errno::NODEV) => false,
        Err(e) => {
            log::warn!("the kernel refused a reply: unique={unique} size={len} {}", errno_field(e));
            if error == 0 {
                // The request must get a reply.
                send_reply(device, unique, -libc::EIO, &[]);
            }
            false
        }
    }
}
