//! The error type of the library: one line that says what went wrong, and mount(8)'s exit status for it.

use std::fmt;

/// The exit status of mount(8) that an error maps to (mount(8), EXIT STATUS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 1: incorrect invocation or permissions.
    Usage,
    /// 2: system error (out of memory, cannot fork, no /dev/fuse).
    System,
    /// 16: problems writing or locking the pid file.
    File,
    /// 32: mount failure.
    Mount,
}

impl Exit {
    /// The number of the exit status.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 1,
            Self::System => 2,
            Self::File => 16,
            Self::Mount => 32,
        }
    }

    /// The exit status with this number, which is not 0. [`Self::Mount`] for one that this program does not have.
    pub(crate) fn from_code(code: u64) -> Self {
        let known = [Self::Usage, Self::System, Self::File];
        known.into_iter().find(|exit| u64::from(exit.code()) == code).unwrap_or(Self::Mount)
    }
}

/// An error of the library. Its text is one line: the option or path, what is wrong, what to do.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    source: Option<std::io::Error>,
}

/// The oldest supported kernel, named in the message when the running kernel lacks a feature.
const OLDEST_KERNEL: &str = "6.1";

/// The result type of the library.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An incorrect invocation, or a missing permission of the invoking user.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), source: None }
    }

    /// A file named by the user could not be read. The text is `message: source`.
    pub fn unreadable(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), source: Some(source.into()) }
    }

    /// A system call failed. The text is `message: source`.
    pub fn system(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::System, message: message.into(), source: Some(source.into()) }
    }

    /// A file of the daemon could not be written. The text is `message: source`.
    pub fn file(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::File, message: message.into(), source: Some(source.into()) }
    }

    /// The mount could not be made. The text is `message: source`.
    pub fn mount(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { exit: Exit::Mount, message: message.into(), source: Some(source.into()) }
    }

    /// The mount was refused by a check of this program, not by a system call.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Mount, message: message.into(), source: None }
    }

    /// An error reported by another process of this program: its exit status and message.
    pub fn reported(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None }
    }

    /// The error number of the system call that failed. `None`: none did.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(std::io::Error::raw_os_error)
    }

    /// The exit status for this error.
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
                // The kernel lacks the system call, or the version of the FUSE protocol.
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

/// The text of an errno as in strerror(3), without std's suffix "(os error N)".
pub(crate) fn strerror(code: i32) -> String {
    let text = std::io::Error::from_raw_os_error(code).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// An error as a field of a log message (doc/LOGGING.md): `errno=13 (Permission denied)`. Its text where it has no errno.
pub(crate) fn errno_field(error: impl Into<std::io::Error>) -> String {
    let error = error.into();
    match error.raw_os_error() {
        Some(code) => format!("errno={code} ({})", strerror(code)),
        None => format!("error={:?}", error.to_string()),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

/// Whether a terminal shows a character as none or lets it change what is around it: control characters, and those of Unicode
/// without width and for the direction of text.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    c.is_control() || is_invisible
}

/// Escapes control characters (`\n`, `\u{1b}`), so that the text stays one line and a terminal does not interpret it.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
