//! Where log lines go: to standard error while somebody looks at it, then to syslog.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::syslog::Syslog;

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    /// Filters for both.
    stderr: env_logger::Logger,
    syslog: Syslog,
    /// What is no warning is for the log alone: the terminal is that of a command which returns soon.
    quiet_stderr: bool,
    background: AtomicBool,
}

/// Installs the logger. `RUST_LOG` wins over `verbosity`. Unless the daemon stays `foreground`, only warnings and errors go to
/// standard error, and the rest to syslog from the start.
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
    // A program that installed a logger of its own keeps it.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(filter);
    }
}

/// From now on nobody sees standard error.
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
