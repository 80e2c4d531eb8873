//! Logs one line for each request and one for its reply, at level `trace` (`-d`, `-vv`).
//!
//! ```text
//! LOOKUP unique=14 nodeid=1 uid=1000 gid=1000 pid=4711 name="file"
//! LOOKUP unique=14 ok size=128 us=35
//! OPEN unique=16 nodeid=9 uid=1000 gid=1000 pid=4711 flags=0x8000
//! OPEN unique=16 errno=13 (Permission denied) us=12
//! ```
//!
//! doc/LOGGING.md tells how to read them. While requests are not logged, a request costs one comparison of the log level.

use std::fmt::Write;
use std::time::Instant;

use super::protocol::{Request, opcode};
use crate::error::strerror;

/// The log target of these lines, for `RUST_LOG=shiftbind::request=trace`.
const TARGET: &str = "shiftbind::request";

/// What is logged of a request's body.
#[derive(Debug, Clone, Copy)]
enum Fields {
    None,
    /// One name behind a structure of so many bytes.
    Name(usize),
    /// Two names behind a structure of so many bytes.
    Names(usize),
    /// The flags of open(2), the first word.
    Flags,
    /// The file handle, the first word of 64 bits.
    Handle,
    /// The file handle, then an offset and a size in bytes.
    Range,
}

/// A request that was logged, and whose reply is to be logged.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct LoggedRequest {
    name: &'static str,
    since: Instant,
}

impl LoggedRequest {
    /// Logs a request. `None` unless requests are logged.
    pub(in crate::fuse) fn new(request: &Request<'_>) -> Option<Self> {
        log::log_enabled!(target: TARGET, log::Level::Trace).then(|| {
            let (name, line) = describe(request);
            log::trace!(target: TARGET, "{name} {line}");
            Self { name, since: Instant::now() }
        })
    }

    /// Logs the reply: its size in bytes behind the header, or its errno, negated as `fuse_out_header` has it; and whether
    /// the kernel accepted it.
    pub(in crate::fuse) fn replied(self, unique: u64, error: i32, size: usize, was_accepted: bool) {
        let (name, time) = (self.name, self.since.elapsed().as_micros());
        let refused = if was_accepted { "" } else { " refused" };
        match error {
            0 => log::trace!(
                target: TARGET,
                "{name} unique={unique} ok size={size} us={time}{refused}"
            ),
            _ => log::trace!(
                target: TARGET,
                "{name} unique={unique} errno={} ({}) us={time}{refused}",
                -error,
                strerror(-error)
            ),
        }
    }
}

/// Logs the reply to a request that another thread still serves.
pub(in crate::fuse) fn log_abandoned(opcode: u32, unique: u64, error: i32) {
    let (name, _) = known(opcode);
    let text = strerror(-error);
    log::trace!(target: TARGET, "{name} unique={unique} errno={} ({text}) abandoned", -error);
}

/// The opcode's name, and the header's fields with those of the body.
fn describe(request: &Request<'_>) -> (&'static str, String) {
    let header = &request.header;
    let (name, fields) = known(header.opcode);
    let (unique, nodeid, pid) = (header.unique, header.nodeid, header.pid);
    let (uid, gid) = (header.uid, header.gid);
    let mut line = format!("unique={unique} nodeid={nodeid} uid={uid} gid={gid} pid={pid}");
    if name == UNKNOWN {
        let _ = write!(line, " opcode={}", header.opcode);
    }
    add(&mut line, request, fields);
    (name, line)
}

/// Adds the body's fields. A body that is cut short adds what it has.
fn add(line: &mut String, request: &Request<'_>, fields: Fields) {
    let body = request.rest();
    let word = |at: usize| body.get(at..at + 8).and_then(|word| word.try_into().ok());
    let long = |at| word(at).map(u64::from_ne_bytes);
    let short = |at: usize| {
        body.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes)
    };
    let names = |skip: usize, most: usize| {
        let names = body.get(skip..).unwrap_or_default();
        names.split(|byte| *byte == 0).take(most).map(String::from_utf8_lossy).collect::<Vec<_>>()
    };
    let written = match fields {
        Fields::None => Ok(()),
        Fields::Name(skip) => names(skip, 1).iter().try_for_each(|n| write!(line, " name={n:?}")),
        Fields::Names(skip) => names(skip, 2).iter().try_for_each(|n| write!(line, " name={n:?}")),
        Fields::Flags => short(0).map_or(Ok(()), |flags| write!(line, " flags={flags:#x}")),
        Fields::Handle => long(0).map_or(Ok(()), |fh| write!(line, " fh={fh}")),
        Fields::Range => match (long(0), long(8), short(16)) {
            (Some(fh), Some(offset), Some(size)) => {
                write!(line, " fh={fh} offset={offset} size={size}")
            }
            _ => Ok(()),
        },
    };
    // Writing to a string does not fail.
    let _ = written;
}

const UNKNOWN: &str = "UNKNOWN";

/// An opcode's name (`enum fuse_opcode`).
pub(super) fn name_of(opcode: u32) -> &'static str {
    known(opcode).0
}

/// An opcode's name (`enum fuse_opcode`) and the fields of its body that are logged.
fn known(opcode: u32) -> (&'static str, Fields) {
    match opcode {
        opcode::LOOKUP => ("LOOKUP", Fields::Name(0)),
        opcode::FORGET => ("FORGET", Fields::None),
        opcode::GETATTR => ("GETATTR", Fields::None),
        opcode::SETATTR => ("SETATTR", Fields::None),
        opcode::READLINK => ("READLINK", Fields::None),
        opcode::SYMLINK => ("SYMLINK", Fields::Names(0)),
        opcode::MKNOD => ("MKNOD", Fields::Name(16)),
        opcode::MKDIR => ("MKDIR", Fields::Name(8)),
        opcode::UNLINK => ("UNLINK", Fields::Name(0)),
        opcode::RMDIR => ("RMDIR", Fields::Name(0)),
        opcode::RENAME => ("RENAME", Fields::Names(8)),
        opcode::LINK => ("LINK", Fields::Name(8)),
        opcode::OPEN => ("OPEN", Fields::Flags),
        opcode::READ => ("READ", Fields::Range),
        opcode::WRITE => ("WRITE", Fields::Range),
        opcode::STATFS => ("STATFS", Fields::None),
        opcode::RELEASE => ("RELEASE", Fields::Handle),
        opcode::FSYNC => ("FSYNC", Fields::Handle),
        opcode::SETXATTR => ("SETXATTR", Fields::Name(8)),
        opcode::GETXATTR => ("GETXATTR", Fields::Name(8)),
        opcode::LISTXATTR => ("LISTXATTR", Fields::None),
        opcode::REMOVEXATTR => ("REMOVEXATTR", Fields::Name(0)),
        opcode::FLUSH => ("FLUSH", Fields::Handle),
        opcode::OPENDIR => ("OPENDIR", Fields::Flags),
        opcode::READDIR => ("READDIR", Fields::Range),
        opcode::RELEASEDIR => ("RELEASEDIR", Fields::Handle),
        opcode::FSYNCDIR => ("FSYNCDIR", Fields::Handle),
        opcode::GETLK => ("GETLK", Fields::Handle),
        opcode::SETLK => ("SETLK", Fields::Handle),
        opcode::SETLKW => ("SETLKW", Fields::Handle),
        opcode::ACCESS => ("ACCESS", Fields::None),
        opcode::CREATE => ("CREATE", Fields::Name(16)),
        opcode::INTERRUPT => ("INTERRUPT", Fields::None),
        opcode::DESTROY => ("DESTROY", Fields::None),
        opcode::IOCTL => ("IOCTL", Fields::Handle),
        opcode::BATCH_FORGET => ("BATCH_FORGET", Fields::None),
        opcode::FALLOCATE => ("FALLOCATE", Fields::Handle),
        opcode::READDIRPLUS => ("READDIRPLUS", Fields::Range),
        opcode::RENAME2 => ("RENAME2", Fields::Names(16)),
        opcode::LSEEK => ("LSEEK", Fields::Handle),
        opcode::COPY_FILE_RANGE => ("COPY_FILE_RANGE", Fields::Handle),
        opcode::TMPFILE => ("TMPFILE", Fields::None),
        _ => (UNKNOWN, Fields::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(opcode: u32, body: &[u8]) -> String {
        let mut bytes = Vec::new();
        bytes.extend((40 + body.len() as u32).to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(77u64.to_ne_bytes());
        bytes.extend(5u64.to_ne_bytes());
        for word in [1000u32, 100, 4242, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(body);
        let (name, line) = describe(&Request::parse(&bytes).unwrap());
        format!("{name} {line}")
    }

    const HEADER: &str = "unique=77 nodeid=5 uid=1000 gid=100 pid=4242";

    #[test]
    fn names_and_handles_are_logged_with_the_callers_ids() {
        assert_eq!(described(opcode::LOOKUP, b"a\0"), format!("LOOKUP {HEADER} name=\"a\""));
        let rename = [&9u64.to_ne_bytes()[..], b"old\0new\0"].concat();
        let names = "name=\"old\" name=\"new\"";
        assert_eq!(described(opcode::RENAME, &rename), format!("RENAME {HEADER} {names}"));
        let read = [7u64.to_ne_bytes(), 4096u64.to_ne_bytes(), 512u64.to_ne_bytes()].concat();
        let range = "fh=7 offset=4096 size=512";
        assert_eq!(described(opcode::READ, &read), format!("READ {HEADER} {range}"));
        assert_eq!(described(4711, b""), format!("UNKNOWN {HEADER} opcode=4711"));
    }

    #[test]
    fn a_name_cannot_write_lines_of_its_own() {
        let line = described(opcode::UNLINK, b"a\nWRITE \x1b[2J\0");
        assert_eq!(line, format!("UNLINK {HEADER} name=\"a\\nWRITE \\u{{1b}}[2J\""));
    }

    #[test]
    fn a_body_that_is_cut_short_is_logged_as_far_as_it_goes() {
        for opcode in 0..60 {
            for len in [0, 3, 7, 9] {
                assert!(described(opcode, &vec![1; len]).contains(HEADER));
            }
        }
    }
}
