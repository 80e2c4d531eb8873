//! A child process that does one piece of work in other namespaces, and a socket to it.
//!
//! It is made while this process has a single thread. It ends when its work is done, when this process ends, or when it is
//! dropped.

use std::fmt::Display;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;
use crate::sys::descriptors::is_readable_within;
use crate::sys::process::{Fork, close_all_but, exit_now, forbid_tracing, fork, kill_and_reap};

/// How long a child may take for an answer. Chosen: well above any answer but that of a server in a container that hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest message, in bytes. A path has at most 4,096.
const MAX_MESSAGE: usize = 8192;

/// The most descriptors of a message.
const MAX_FDS: usize = 2;

/// What one end sends to the other.
#[derive(Debug, Default)]
pub struct Message {
    /// Data.
    pub bytes: Vec<u8>,
    /// Descriptors.
    pub fds: Vec<OwnedFd>,
}

/// What failed in a child, and the error of the system.
pub type Failure = (String, io::Error);

/// An error of a system call, with the words for what failed.
pub fn failed<E: Into<io::Error>>(what: impl Display) -> impl FnOnce(E) -> Failure {
    move |e| (what.to_string(), e.into())
}

/// What failed, as an error of this program. An error without a number has its whole text in the words.
#[must_use]
pub fn error((what, e): Failure) -> Error {
    let what = format!("option 'namespace': {what}");
    match e.raw_os_error() {
        Some(0) => Error::refused(what),
        _ => Error::mount(what, e),
    }
}

/// The child's end of the socket.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Waits for a message. `None`: the parent has closed its end.
    #[must_use]
    pub fn receive(&self) -> Option<Message> {
        receive(self.0.as_fd()).ok().filter(|message| !message.bytes.is_empty())
    }

    /// Answers with data and descriptors, or with what failed.
    pub fn answer(&self, answer: Result<(&[u8], &[BorrowedFd<'_>]), Failure>) {
        let (bytes, fds) = match &answer {
            Ok((bytes, fds)) => ([b"=", *bytes].concat(), *fds),
            Err((what, e)) => {
                let errno = e.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
                ([b"!", &errno[..], what.as_bytes()].concat(), &[][..])
            }
        };
        // A parent that has ended waits for nothing.
        let _ = send(self.0.as_fd(), &bytes, fds);
    }
}

/// A child at work.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    socket: OwnedFd,
}

impl Child {
    /// Forks. The child keeps no other descriptors than those of `keep`, runs `work`, and ends. No process of a container may
    /// trace it, whatever namespaces it enters. It logs nothing: for the time of a message the C library may open a file
    /// (localtime(3)), which would be one of the container.
    ///
    /// # Errors
    /// EBUSY if this process has several threads; EAGAIN, EMFILE.
    pub fn start(keep: &[RawFd], work: impl FnOnce(&Link)) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match fork()? {
            Fork::Parent(pid) => Ok(Self { pid, socket: ours }),
            Fork::Child => {
                if forbid_tracing().is_err() {
                    exit_now(1);
                }
                log::set_max_level(log::LevelFilter::Off);
                close_all_but(&[keep, &[theirs.as_raw_fd()]].concat());
                work(&Link(theirs));
                exit_now(0)
            }
        }
    }

    /// Sends a message, and waits for no answer.
    ///
    /// # Errors
    /// EPIPE if the child has ended.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        Ok(send(self.socket.as_fd(), bytes, fds)?)
    }

    /// Sends a message, and waits for the answer.
    ///
    /// # Errors
    /// Those of [`Self::answer`].
    pub fn ask(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Message, Failure> {
        self.send(bytes, fds).map_err(failed("a helper process has died"))?;
        self.answer()
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// What failed in the child; ETIMEDOUT, ECHILD if it died.
    pub fn answer(&self) -> Result<Message, Failure> {
        if !is_readable_within(&self.socket, TIMEOUT) {
            let _ = kill_process(self.pid, Signal::KILL);
            let e = io::Error::from_raw_os_error(libc::ETIMEDOUT);
            return Err(("no answer from a filesystem of the namespace".to_owned(), e));
        }
        let mut message = receive(self.socket.as_fd()).map_err(failed("a helper process"))?;
        match message.bytes.first() {
            Some(b'=') => {
                message.bytes.remove(0);
                Ok(message)
            }
            Some(b'!') if message.bytes.len() >= 5 => {
                let (errno, what) = message.bytes[1..].split_at(4);
                let errno = i32::from_ne_bytes(errno.try_into().unwrap_or_default());
                let what = String::from_utf8_lossy(what).into_owned();
                Err((what, io::Error::from_raw_os_error(errno)))
            }
            _ => {
                let e = io::Error::from_raw_os_error(libc::ECHILD);
                Err(("a helper process has died".to_owned(), e))
            }
        }
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended, or has nothing to do any more.
        kill_and_reap(self.pid);
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

fn receive(socket: BorrowedFd<'_>) -> Result<Message, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; MAX_MESSAGE];
    let length = loop {
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    bytes.truncate(length);
    let fds = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    Ok(Message { fds: fds.collect(), bytes })
}
