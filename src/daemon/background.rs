//! Runs the daemon in the background. The parent waits until the mount answers, and returns the daemon's result.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, chdir, setsid, waitpid};

use super::logging;
use crate::error::{Error, Exit, Result};
use crate::sys::process::{Fork, InheritedDescriptors, exit_now, fork, replace_stdio};

/// How the daemon reports that the mount answers.
pub(super) enum ReadyNotifier {
    /// It does not: it runs in the foreground.
    Foreground,
    /// Through a pipe to the parent process. `None`: already reported.
    Parent(Option<File>),
}

impl ReadyNotifier {
    /// Reports that the mount answers.
    ///
    /// In the background the daemon first replaces standard input, output and error by /dev/null and leaves the working
    /// directory, so that a process that waits for the end of these streams continues when the parent returns.
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
            // Without a reader the report is useless: the parent has died.
            let _ = pipe.write_all(&message);
        } else {
            log::error!("{error}");
        }
    }
}

/// Runs `daemon` in a child process. Returns in the parent only.
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
            // setsid(2) fails only in a process group leader; a forked child is none.
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

/// Reads the daemon's report: one byte (0, or the exit status), then the message.
fn outcome(from_daemon: OwnedFd, child: Pid) -> Result<()> {
    let mut report = Vec::new();
    File::from(from_daemon)
        .read_to_end(&mut report)
        .map_err(|e| Error::system("cannot read the report of the background process", e))?;
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
    match *code {
        0 => Ok(()),
        code => {
            Err(Error::reported(Exit::from_code(code.into()), String::from_utf8_lossy(message)))
        }
    }
}
