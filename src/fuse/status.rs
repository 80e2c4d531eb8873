//! The status ioctl on the mount's root. It changes nothing.
//!
//! By it `shiftbind --reload` finds the daemon, and learns the result of its reload.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::error::{Error, Exit};
use crate::sync::{Mutex, MutexGuard};
use crate::sys;

/// The size of the answer, in bytes.
const SIZE: usize = 1024;

/// The ioctl's number: `_IOR(0xbc, 0x73, [u8; 1024])`.
pub(super) const STATUS_IOCTL: u32 = 2 << 30 | (SIZE as u32) << 16 | 0xbc << 8 | 0x73;

/// Magic number at the start of an answer: another filesystem may use the same ioctl number.
const MAGIC: [u8; 8] = *b"shiftbnd";

/// Offset of the text, in bytes.
const TEXT_OFFSET: usize = 56;

/// The status of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The daemon's process id, in its own pid namespace.
    pub pid: u32,
    /// The inode number of that pid namespace; 0 where the daemon has no /proc.
    pub pid_namespace: u64,
    /// How many reloads have begun. A reload that begins later reads the options as they are then.
    pub begun: u64,
    /// How many of these have ended.
    pub ended: u64,
    /// Whether the kernel caches for a timeout of one second although `cache=coherent` was wanted, since the source cannot
    /// be watched.
    pub falls_back: bool,
    /// Why the last reload that has ended was refused: exit status and message. `None`: it was not.
    pub refused: Option<(Exit, String)>,
}

impl Status {
    /// Asks the daemon of a mount through the mount's root, which is open for reading. ENOTTY where it is no mount of
    /// shiftbind.
    pub fn ask(root: impl AsFd) -> Result<Self, Errno> {
        let mut answer = [0; SIZE];
        sys::file::ioctl(root, STATUS_IOCTL, &mut answer)?;
        Self::decode(&answer).ok_or(Errno::NOTTY)
    }

    fn encode(&self) -> Vec<u8> {
        let (code, text) = match &self.refused {
            None => (0, ""),
            Some((exit, text)) => (exit.code(), text.as_str()),
        };
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend(MAGIC);
        for number in [u64::from(self.pid), self.pid_namespace, self.begun, self.ended] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(u64::from(code).to_ne_bytes());
        bytes.extend(u64::from(self.falls_back).to_ne_bytes());
        // What does not fit is cut off; the daemon's log has the whole message.
        bytes.extend(text.bytes().take(SIZE - TEXT_OFFSET));
        bytes.resize(SIZE, 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = bytes.get(8 + 8 * at..16 + 8 * at)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let text = bytes.get(TEXT_OFFSET..)?.split(|byte| *byte == 0).next()?;
        let exit = match number(4)? {
            0 => None,
            code => Some(Exit::from_code(code)),
        };
        Some(Self {
            pid: u32::try_from(number(0)?).ok()?,
            pid_namespace: number(1)?,
            begun: number(2)?,
            ended: number(3)?,
            falls_back: number(5)? != 0,
            refused: exit.map(|exit| (exit, String::from_utf8_lossy(text).into_owned())),
        })
    }
}

/// The inode number of this process's pid namespace. Where it is equal, two processes mean the same process by an id.
/// `None` without /proc.
#[must_use]
pub fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}

/// Counts the reloads of a mount, and keeps the result of the last.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    begun: u64,
    ended: u64,
    refused: Option<(Exit, String)>,
    falls_back: bool,
}

impl Reloads {
    /// Creates the count of a mount that has not been reloaded. `falls_back`: see [`Status::falls_back`].
    pub(super) fn new(falls_back: bool) -> Self {
        Self(Mutex::new(Count { falls_back, ..Count::default() }))
    }

    /// Counts the begin of a reload. To be called before the options are read.
    pub fn begin(&self) {
        self.lock().begun += 1;
    }

    /// Counts the end of a reload, and keeps its result.
    pub fn end(&self, result: &Result<(), Error>) {
        let mut count = self.lock();
        count.ended = count.begun;
        count.refused = result.as_ref().err().map(|e| (e.exit(), e.to_string()));
    }

    /// How many have begun and ended, and why the last one was refused.
    #[must_use]
    pub fn state(&self) -> (u64, u64, Option<(Exit, String)>) {
        let count = self.lock();
        (count.begun, count.ended, count.refused.clone())
    }

    /// The answer to [`STATUS_IOCTL`].
    ///
    /// `in_full`: with the message of a refusal, which may quote an options file that only the mounter can read.
    pub(super) fn answer(&self, in_full: bool) -> Vec<u8> {
        let count = self.lock();
        let status = Status {
            pid: std::process::id(),
            pid_namespace: pid_namespace().unwrap_or(0),
            begun: count.begun,
            ended: count.ended,
            falls_back: count.falls_back,
            refused: count.refused.clone().map(|(exit, text)| match in_full {
                true => (exit, text),
                false => (exit, "refused; the daemon's log says why".to_owned()),
            }),
        };
        drop(count);
        status.encode()
    }

    /// The count in JSON, for the mounter and root.
    pub(super) fn describe(&self) -> Value {
        let count = self.lock();
        let refused = count.refused.as_ref().map(|(_, text)| text);
        json!({ "begun": count.begun, "ended": count.ended, "refused": refused })
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(reloads: &Reloads) -> Status {
        Status::decode(&reloads.answer(true)).unwrap()
    }

    #[test]
    fn the_status_names_the_daemon_and_the_result_of_the_last_reload() {
        let reloads = Reloads::default();
        let at_first = asked(&reloads);
        assert_eq!((at_first.pid, at_first.begun, at_first.ended), (std::process::id(), 0, 0));
        assert_eq!(Some(at_first.pid_namespace), pid_namespace());
        reloads.begin();
        assert_eq!((asked(&reloads).begun, asked(&reloads).ended), (1, 0));
        reloads.end(&Err(Error::usage("option 'ünknown'")));
        assert_eq!(asked(&reloads).refused, Some((Exit::Usage, "option 'ünknown'".to_owned())));
        reloads.begin();
        reloads.end(&Ok(()));
        assert_eq!((asked(&reloads).ended, asked(&reloads).refused), (2, None));
    }

    #[test]
    fn a_daemon_tells_that_it_cannot_watch_the_source() {
        for falls_back in [false, true] {
            let reloads = Reloads::new(falls_back);
            reloads.begin();
            reloads.end(&Err(Error::refused("why")));
            let status = asked(&reloads);
            assert_eq!(status.falls_back, falls_back);
            assert_eq!(status.refused, Some((Exit::Mount, "why".to_owned())));
        }
    }

    #[test]
    fn a_long_message_is_cut_and_an_answer_always_has_its_size() {
        let reloads = Reloads::default();
        reloads.begin();
        reloads.end(&Err(Error::refused("x".repeat(5000))));
        assert_eq!(reloads.answer(true).len(), SIZE);
        assert_eq!(asked(&reloads).refused, Some((Exit::Mount, "x".repeat(SIZE - TEXT_OFFSET))));
    }

    #[test]
    fn only_the_mounter_and_root_read_the_text_of_a_refusal() {
        let reloads = Reloads::default();
        reloads.begin();
        reloads.end(&Err(Error::usage("line 3: secret")));
        let restricted = Status::decode(&reloads.answer(false)).unwrap().refused.unwrap();
        assert_eq!(restricted, (Exit::Usage, "refused; the daemon's log says why".to_owned()));
    }

    #[test]
    fn another_filesystems_answer_is_not_taken_for_a_status() {
        assert_eq!(Status::decode(&[0; SIZE]), None);
        assert_eq!(Status::decode(b"shiftbnd"), None);
        assert_eq!(Status::decode(&[]), None);
    }
}
