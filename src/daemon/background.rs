//! Going to the background: the parent waits until the daemon answers, and returns what became of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, chdir, setsid, waitpid};

use super::logging;
use crate::error::{Error, Exit, Result};
use crate::sys::process::{Fork, InheritedDescriptors, exit_now, fork, replace_stdio};

/// How the process that started us learns that the mount answers.
pub(super) enum ReadyNotifier {
    /// It does not: we are still in front.
    Foreground,
    /// Through a pipe to our parent. `None`: it has been told.
    Parent(Option<File>),
}

impl ReadyNotifier {
    /// The mount answers. In the background this lets go of the terminal, the pipes and the working directory first, so
    /// that whoever waits for these to close goes on when the parent returns.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        let Self::Parent(pipe) = self else { return Ok(()) };
        let null = File::options().read(true).write(true).open("/dev/null")?;
        chdir("/")?;
        replace_stdio(&null)?;
        logging::to_syslog();
        match pipe.take() {
            Some(mut pipe) => pipe.write_all(&[0]),
            None => Ok(()),
        }
    }

    fn failed(&mut self, error: &Error) {
        if let Self::Parent(Some(pipe)) = self {
            let mut message = vec![error.exit().code()];
            message.extend_from_slice(error.to_string().as_bytes());
            // If nobody reads it, nobody wants to know.
            let _ = pipe.write_all(&message);
        } else {
            log::error!("{error}");
        }
    }
}

/// Runs `daemon` in a process of its own. Returns in the parent only.
pub(super) fn run(
    inherited: InheritedDescriptors,
    daemon: impl FnOnce(&mut ReadyNotifier) -> Result<()>,
) -> Result<()> {
    let (from_daemon, to_parent) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::system("cannot make a pipe", e))?;
    match fork().map_err(|e| Error::system("cannot go to the background (fork)", e))? {
        Fork::Parent(child) => {
            drop(to_parent);
            outcome(from_daemon, child)
        }
        Fork::Child => {
            drop(from_daemon);
            inherited.close();
            let mut notifier = ReadyNotifier::Parent(Some(to_parent.into()));
            // Only a session leader can fail here, and a child is none.
            let _ = setsid();
            let status = match daemon(&mut notifier) {
                Ok(()) => 0,
                Err(e) => {
                    notifier.failed(&e);
                    e.exit().code()
                }
            };
            exit_now(status);
        }
    }
}

/// What the daemon reports: one byte, zero for success or the exit status, then the message.
fn outcome(from_daemon: OwnedFd, child: Pid) -> Result<()> {
    let mut report = Vec::new();
    File::from(from_daemon)
        .read_to_end(&mut report)
        .map_err(|e| Error::system("cannot hear from the background process", e))?;
    let Some((code, message)) = report.split_first() else {
        let how = match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => match status.terminating_signal() {
                Some(signal) => format!("signal {signal}"),
                None => format!("status {}", status.exit_status().unwrap_or_default()),
            },
            _ => "status unknown".to_owned(),
        };
        return Err(Error::reported(
            Exit::System,
            format!("the background process died before the mount answered ({how})"),
        ));
    };
    let message = || String::from_utf8_lossy(message).into_owned();
    match code {
        0 => Ok(()),
        1 => Err(Error::reported(Exit::Usage, message())),
        2 => Err(Error::reported(Exit::System, message())),
        16 => Err(Error::reported(Exit::File, message())),
        _ => Err(Error::reported(Exit::Mount, message())),
    }
}
