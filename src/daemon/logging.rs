//! The logger: writes to standard error until the mount answers or in the foreground, then to syslog.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::syslog::Syslog;

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    /// Also filters the records for syslog.
    stderr: env_logger::Logger,
    syslog: Syslog,
    /// Send records below warn to syslog only: the command that owns the terminal is about to return.
    quiet_stderr: bool,
    background: AtomicBool,
}

/// Installs the logger. `RUST_LOG` overrides `verbosity`.
///
/// Unless the daemon stays in the foreground, only warnings and errors go to standard error; other records go to syslog
/// from the start.
pub(super) fn install(verbosity: u8, foreground: bool) {
    let level = match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Trace,
    };
    let stderr = env_logger::Builder::new().filter_level(level).parse_default_env().build();
    let filter = stderr.filter();
    let logger = LOGGER.get_or_init(|| Logger {
        stderr,
        syslog: Syslog::new(),
        quiet_stderr: !foreground,
        background: AtomicBool::new(false),
    });
    // A program that links the library keeps its own logger.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(filter);
    }
}

/// Sends all further records to syslog: standard error leads to /dev/null from now on.
pub(super) fn to_syslog() {
    if let Some(logger) = LOGGER.get() {
        logger.background.store(true, Ordering::Relaxed);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.stderr.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let is_quiet = self.quiet_stderr && record.level() > Level::Warn;
        if !is_quiet && !self.background.load(Ordering::Relaxed) {
            self.stderr.log(record);
        } else if self.stderr.matches(record) {
            self.syslog.send(record);
        }
    }

    fn flush(&self) {
        self.stderr.flush();
    }
}
