//! The one error that leaves the library: what went wrong, in one line, and mount(8)'s exit status for it.

use std::fmt;

/// Which of mount(8)'s exit statuses an error ends with (mount(8), EXIT STATUS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 1: incorrect invocation or permissions.
    Usage,
    /// 2: system error (out of memory, cannot fork, no /dev/fuse).
    System,
    /// 16: problems writing or locking a file of ours (pid file).
    File,
    /// 32: mount failure.
    Mount,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 1,
            Self::System => 2,
            Self::File => 16,
            Self::Mount => 32,
        }
    }
}

/// An error of the library. Its text is one line that names the option or path, what is wrong and what to do.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    source: Option<std::io::Error>,
}

/// The oldest kernel that is supported, as told when the one that runs lacks something.
const OLDEST_KERNEL: &str = "6.1";

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A wrong invocation, or a right that the caller lacks.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), source: None }
    }

    /// A file that the user named cannot be read: `message: source`.
    pub fn unreadable(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), source: Some(source.into()) }
    }

    /// A failure of the system: `message: source`.
    pub fn system(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::System, message: message.into(), source: Some(source.into()) }
    }

    /// A file of ours could not be written: `message: source`.
    pub fn file(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::File, message: message.into(), source: Some(source.into()) }
    }

    /// The mount could not be made: `message: source`.
    pub fn mount(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::Mount, message: message.into(), source: Some(source.into()) }
    }

    /// The mount was refused for a reason that no system call gave.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Mount, message: message.into(), source: None }
    }

    /// An error that another process of ours has met and put into words.
    pub fn reported(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None }
    }

    /// The exit status that goes with it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => match source.raw_os_error() {
                // A system call, or a version of FUSE's protocol, that the kernel does not have.
                Some(code @ (libc::ENOSYS | libc::EPROTONOSUPPORT)) => write!(
                    f,
                    ": {} (is this kernel older than Linux {OLDEST_KERNEL}, which is needed?)",
                    strerror(code)
                ),
                Some(code) => write!(f, ": {}", strerror(code)),
                None => write!(f, ": {source}"),
            },
            None => Ok(()),
        }
    }
}

/// The system's words for an errno, without std's "(os error N)", which tells a user nothing.
pub(crate) fn strerror(code: i32) -> String {
    let text = std::io::Error::from_raw_os_error(code).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
/// A text with its control characters written out (`\n`, `\u{1b}`), so that it stays one line and no terminal obeys it.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
