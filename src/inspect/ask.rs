//! Asks the daemons of several mounts at once, for two seconds at most: one that does not answer delays no other.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::Value;

use crate::error::strerror;
use crate::fuse::fetch_report;
use crate::mount::{FoundMount, MadeBy};

/// How long the daemons have to answer, all together. Chosen: an answer takes less than a millisecond.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The answer of a mount's daemon.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// No daemon is asked.
    NotAsked,
    /// Its report.
    Report(Value),
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
            Self::Failed(e) => strerror(e.raw_os_error()),
        })
    }
}

/// Asks the daemon of each mount. Mounts of one daemon (bind mounts of the mount) get one answer.
pub(super) fn ask_all(mounts: &[FoundMount]) -> Vec<Answer> {
    let (answered, answers) = channel();
    let mut waiting = 0;
    for (number, mount) in mounts.iter().enumerate() {
        if !matches!(mount.made_by, MadeBy::Fuse { .. }) {
            continue;
        }
        let (mount, answered) = (mount.clone(), answered.clone());
        // A thread that waits for a daemon for ever ends with this process.
        let asked = thread::Builder::new().name("ask".to_owned()).spawn(move || {
            // The receiver is gone when this took too long.
            let _ = answered.send((number, mount.open_root().and_then(fetch_report)));
        });
        waiting += usize::from(asked.is_ok());
    }
    drop(answered);
    let mut found = vec![Answer::Silent; mounts.len()];
    let end = Instant::now() + TIMEOUT;
    while waiting > 0 {
        match answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((number, answer)) => {
                found[number] = answer.map_or_else(Answer::Failed, Answer::Report);
                waiting -= 1;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    share(mounts, &mut found);
    found
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
