//! Writes log lines to syslog: one datagram per line to /dev/log (RFC 3164, also read by journald), without blocking.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, Record};

use crate::sync::Mutex;
use crate::sys::process::local_time;

const SOCKET: &str = "/dev/log";

/// `LOG_DAEMON`.
const FACILITY: u8 = 3;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A connection to syslog, opened on the first line, and again after syslog was restarted.
pub(super) struct Syslog {
    path: PathBuf,
    socket: Mutex<Option<UnixDatagram>>,
}

impl Syslog {
    pub(super) fn new() -> Self {
        Self { path: PathBuf::from(SOCKET), socket: Mutex::new(None) }
    }

    /// Sends a record. The line is lost if syslog is not running or its buffer is full: a worker must not block on it.
    pub(super) fn send(&self, record: &Record<'_>) {
        let line = line(record.level(), record.target(), &record.args().to_string());
        let mut socket = self.socket.lock();
        if let Some(open) = &*socket {
            match open.send(line.as_bytes()) {
                Ok(_) => return,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => *socket = None,
            }
        }
        if let Ok(open) = self.connect() {
            let _ = open.send(line.as_bytes());
            *socket = Some(open);
        }
    }

    fn connect(&self) -> std::io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

fn line(level: Level, target: &str, message: &str) -> String {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let priority = FACILITY * 8 + severity;
    let time = timestamp().unwrap_or_default();
    let pid = std::process::id();
    // The program's own modules are left out; the name of a library is shown.
    let target =
        if target.starts_with("shiftbind") { String::new() } else { format!("{target}: ") };
    let message = message.replace('\n', " ");
    format!("<{priority}>{time}shiftbind[{pid}]: {target}{message}")
}

fn timestamp() -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let [month, day, hour, minute, second] = local_time(i64::try_from(now).ok()?)?;
    let month = MONTHS.get(usize::try_from(month).ok()?)?;
    Some(format!("{month} {day:2} {hour:02}:{minute:02}:{second:02} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logger(path: PathBuf) -> Syslog {
        Syslog { path, socket: Mutex::new(None) }
    }

    fn warn(syslog: &Syslog, text: &str) {
        syslog.send(
            &Record::builder()
                .level(Level::Warn)
                .target("shiftbind::x")
                .args(format_args!("{text}"))
                .build(),
        );
    }

    fn received(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 500];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_line_has_priority_time_name_and_pid_and_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let reader = UnixDatagram::bind(&path).unwrap();
        warn(&logger(path), "two\nlines");
        let line = received(&reader);
        let rest = line.strip_prefix("<28>").unwrap();
        assert!(MONTHS.contains(&&rest[..3]), "{line}");
        assert_eq!(&rest[16..], format!("shiftbind[{}]: two lines", std::process::id()));
    }

    #[test]
    fn lines_reach_a_restarted_syslog() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let first = UnixDatagram::bind(&path).unwrap();
        let syslog = logger(path.clone());
        warn(&syslog, "one");
        assert!(received(&first).ends_with("one"));
        drop(first);
        std::fs::remove_file(&path).unwrap();
        warn(&syslog, "lost");
        let second = UnixDatagram::bind(&path).unwrap();
        warn(&syslog, "two");
        assert!(received(&second).ends_with("two"));
    }

    #[test]
    fn a_full_syslog_socket_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _reader = UnixDatagram::bind(&path).unwrap();
        let syslog = logger(path);
        for _ in 0..10_000 {
            warn(&syslog, "more than the socket holds");
        }
    }
}
