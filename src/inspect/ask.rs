//! Asks the daemons of several mounts at once, for two seconds at most: one that does not answer delays no other.
//!
//! A child process asks. Once a FUSE server has read a request, no signal ends the thread that waits for the answer, nor does
//! its process end before: this program would not end either if it asked itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, geteuid, kill_process, set_parent_process_death_signal, waitpid,
};
use serde_json::{Map, Value};

use super::report::{Detail, accepted};
use crate::error::strerror;
use crate::fuse::fetch_report;
use crate::mount::{FoundMount, MadeBy};
use crate::sync::Mutex;
use crate::sys::process::{Fork, close_all_but, exit_now, fork, replace_stdio};

/// How long the daemons have to answer, all together. Chosen: an answer takes less than a millisecond.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long the child has to end after SIGKILL, before it is left to the init process. Chosen: it ends at once unless a
/// server keeps it.
const END: Duration = Duration::from_millis(100);

/// The longest answer that is read from the daemon of this user, in bytes. Chosen: the maps of 100,000 extents take 6 MiB.
const MAX_OWN: usize = 32 << 20;

/// The longest answer that is read from the daemon of another user, in bytes. Chosen: maps of 1,000 extents with all counts are shorter.
const MAX_OTHER: usize = 96 << 10;

/// How many bytes of answers from daemons of other users are taken in all. Chosen: a value takes up to 24 times its text.
const MAX_OTHERS: usize = 4 << 20;

/// The answer of a mount's daemon.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// No daemon is asked.
    NotAsked,
    /// What is taken from its report.
    Report(Arc<Map<String, Value>>),
    /// It did not answer in time.
    Silent,
    /// The question failed.
    Failed(Errno),
}

impl Answer {
    /// The word for the daemon's state in the output.
    pub(super) fn state(&self) -> &'static str {
        match self {
            Self::Report(_) => "serving",
            Self::Silent => "silent",
            Self::Failed(Errno::NOTCONN | Errno::CONNABORTED) => "dead",
            Self::NotAsked | Self::Failed(_) => "unknown",
        }
    }

    /// Why it is not known what the daemon does.
    pub(super) fn reason(&self) -> Option<String> {
        Some(match self {
            Self::Report(_) | Self::NotAsked => return None,
            Self::Silent => format!("no answer within {} seconds", TIMEOUT.as_secs()),
            Self::Failed(Errno::NOTCONN | Errno::CONNABORTED) => {
                "the daemon died; umount it".to_owned()
            }
            Self::Failed(Errno::ACCESS | Errno::PERM) => {
                "only the user who mounted may ask".to_owned()
            }
            Self::Failed(Errno::BUSY) => "another mount covers it".to_owned(),
            Self::Failed(Errno::NOTTY) => "its daemon is of an older version".to_owned(),
            Self::Failed(Errno::FBIG) => format!(
                "its answer is too long: at most {} KiB are read, and {} KiB from the daemon of another user",
                MAX_OWN >> 10,
                MAX_OTHER >> 10
            ),
            Self::Failed(Errno::NOBUFS) => {
                format!(
                    "the answers of other users' daemons are longer than {} KiB",
                    MAX_OTHERS >> 10
                )
            }
            Self::Failed(Errno::PROTO) => "its answer is no report".to_owned(),
            Self::Failed(e) => strerror(e.raw_os_error()),
        })
    }
}

/// Which mounts of FUSE are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Those whose type tells that they are of this program. A server of another program gets no request.
    OfOurType,
    /// All: the subtype may be chosen.
    Any,
}

/// The child process that asked last, if it has not ended: a server has read its request.
#[derive(Debug, Default)]
pub(super) struct LastChild(Option<Pid>);

impl LastChild {
    /// Whether the child is still there. Reaps it if it has ended.
    fn is_kept(&mut self) -> bool {
        self.0 =
            self.0.filter(|child| matches!(waitpid(Some(*child), WaitOptions::NOHANG), Ok(None)));
        self.0.is_some()
    }
}

/// As [`ask_again_all`], for one question.
pub(super) fn ask_all(mounts: &[FoundMount], asked: Asked, detail: Detail) -> Vec<Answer> {
    ask_again_all(mounts, asked, detail, &mut LastChild::default())
}

/// Asks the daemon of each mount. Mounts of one daemon (bind mounts of the mount) get one answer. While the child of the last
/// question is kept by a server, none is asked and all are silent: else each question would leave a process behind.
///
/// To be called where the process has one thread.
pub(super) fn ask_again_all(
    mounts: &[FoundMount],
    asked: Asked,
    detail: Detail,
    child: &mut LastChild,
) -> Vec<Answer> {
    let is_asked = |mount: &FoundMount| {
        matches!(mount.made_by, MadeBy::Fuse { .. })
            && (asked == Asked::Any || mount.fs_type == "fuse.shiftbind")
    };
    let mut found: Vec<Answer> = mounts
        .iter()
        .map(|mount| if is_asked(mount) { Answer::Silent } else { Answer::NotAsked })
        .collect();
    let numbers: Vec<usize> = (0..mounts.len()).filter(|at| is_asked(&mounts[*at])).collect();
    if numbers.is_empty() || child.is_kept() {
        return found;
    }
    match ask_in_child(mounts, &numbers, detail, &mut found) {
        Ok(last) => *child = last,
        Err(e) => numbers.iter().for_each(|at| found[*at] = Answer::Failed(e)),
    }
    share(mounts, &mut found);
    found
}

fn ask_in_child(
    mounts: &[FoundMount],
    numbers: &[usize],
    detail: Detail,
    found: &mut [Answer],
) -> Result<LastChild, Errno> {
    let (answers, answered) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = match fork().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))? {
        Fork::Parent(child) => child,
        Fork::Child => {
            // The child may outlive this process: it keeps no file, terminal, pipe or directory in use meanwhile.
            close_all_but(&[answered.as_raw_fd()]);
            // A signal may end the parent before it ends the child.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let is_apart = File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .and_then(replace_stdio)
                .and_then(|()| std::env::set_current_dir("/"));
            if is_apart.is_ok() {
                ask_each(mounts, numbers, detail, File::from(answered));
            }
            exit_now(0)
        }
    };
    drop(answered);
    let is_whole = receive(File::from(answers), mounts, numbers.len(), found);
    Ok(end(child, is_whole))
}

/// The child's part: a thread for each mount writes the answer into the pipe.
fn ask_each(mounts: &[FoundMount], numbers: &[usize], detail: Detail, answered: File) {
    let own = geteuid().as_raw();
    let answered = Mutex::new(answered);
    // One answer at a time is parsed: values take more memory than their text.
    let parsing = Mutex::new(());
    let ask = |number: usize| {
        let mount = &mounts[number];
        let is_own = matches!(mount.made_by, MadeBy::Fuse { mounter } if mounter == Some(own));
        let limit = if is_own { MAX_OWN } else { MAX_OTHER };
        let text = mount.open_root().and_then(|root| fetch_report(root, limit));
        let _one = parsing.lock();
        let report = text.and_then(|text| serde_json::from_slice(&text).map_err(|_| Errno::PROTO));
        let frame = frame(number, report.map(|report| accepted(report, detail)));
        // A parent that waits no more kills this process.
        let _ = answered.lock().write_all(&frame);
    };
    let ask = &ask;
    thread::scope(|scope| {
        for number in numbers {
            let thread = thread::Builder::new().name("ask".to_owned());
            // Without a thread the mount counts as silent.
            let _ = thread.spawn_scoped(scope, move || ask(*number));
        }
    });
}

/// Number of the mount, errno or 0, length of the text: 32 bits each. Then the text.
const HEADER: usize = 12;

fn frame(number: usize, report: Result<Map<String, Value>, Errno>) -> Vec<u8> {
    let (errno, text) = match report {
        Ok(report) => (0, Value::Object(report).to_string()),
        Err(e) => (e.raw_os_error(), String::new()),
    };
    let header = [number as u32, errno.cast_unsigned(), text.len() as u32].map(u32::to_ne_bytes);
    [header.as_flattened(), text.as_bytes()].concat()
}

/// Takes a frame from the begin of the bytes.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(usize, Result<Vec<u8>, Errno>)> {
    let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (mount, errno, len) = (number(0)?, number(4)?, number(8)? as usize);
    let text = bytes.get(HEADER..HEADER + len)?.to_vec();
    bytes.drain(..HEADER + len);
    let errno = errno.cast_signed();
    let text = if errno == 0 { Ok(text) } else { Err(Errno::from_raw_os_error(errno)) };
    Some((mount as usize, text))
}

/// Takes answers from the pipe until the time is over. Returns whether all have come.
fn receive(
    mut answers: File,
    mounts: &[FoundMount],
    mut waiting: usize,
    found: &mut [Answer],
) -> bool {
    let own = geteuid().as_raw();
    let end = Instant::now() + TIMEOUT;
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let mut of_others = 0;
    while waiting > 0 {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        let mut ready = [PollFd::from_borrowed_fd(answers.as_fd(), PollFlags::IN)];
        match poll(&mut ready, Some(&left)) {
            Ok(0) => return false,
            Err(Errno::INTR) => continue,
            Err(_) => return false,
            Ok(_) => {}
        }
        match answers.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(count) => bytes.extend(&buffer[..count]),
        }
        while let Some((number, text)) = take_frame(&mut bytes) {
            waiting = waiting.saturating_sub(1);
            let Some(mount) = mounts.get(number) else { continue };
            let is_own = matches!(mount.made_by, MadeBy::Fuse { mounter } if mounter == Some(own));
            let len = text.as_ref().map_or(0, Vec::len);
            of_others += if is_own { 0 } else { len };
            let text = if !is_own && of_others > MAX_OTHERS { Err(Errno::NOBUFS) } else { text };
            let report =
                text.and_then(|text| serde_json::from_slice(&text).map_err(|_| Errno::PROTO));
            found[number] =
                report.map_or_else(Answer::Failed, |report| Answer::Report(Arc::new(report)));
        }
    }
    true
}

/// Ends the child, and waits for its end unless a server keeps it.
fn end(child: Pid, is_whole: bool) -> LastChild {
    if !is_whole {
        let _ = kill_process(child, Signal::KILL);
    }
    let end = Instant::now() + END;
    let mut last = LastChild(Some(child));
    while last.is_kept() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    last
}

/// Gives the answer of a daemon to all its mounts, also to those that are covered or whose root is below the daemon's.
fn share(mounts: &[FoundMount], found: &mut [Answer]) {
    let reports: HashMap<(u32, u32), Answer> = mounts
        .iter()
        .zip(&*found)
        .filter(|(_, answer)| matches!(answer, Answer::Report(_)))
        .map(|(mount, answer)| (mount.device(), answer.clone()))
        .collect();
    for (mount, answer) in mounts.iter().zip(found) {
        match (&mount.made_by, reports.get(&mount.device())) {
            (MadeBy::Kernel { .. }, _) => *answer = Answer::NotAsked,
            (_, Some(report)) => answer.clone_from(report),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole_and_in_order() {
        let report = Map::from_iter([("a".to_owned(), 1.into())]);
        let mut bytes =
            [frame(3, Ok(report)), frame(4, Err(Errno::NOTCONN)), frame(5, Ok(Map::new()))]
                .concat();
        let last = bytes.pop().unwrap();
        assert_eq!(take_frame(&mut bytes), Some((3, Ok(br#"{"a":1}"#.to_vec()))));
        assert_eq!(take_frame(&mut bytes), Some((4, Err(Errno::NOTCONN))));
        assert_eq!(take_frame(&mut bytes), None);
        bytes.push(last);
        assert_eq!(take_frame(&mut bytes), Some((5, Ok(b"{}".to_vec()))));
        assert_eq!(take_frame(&mut bytes), None);
    }
}
