//! The fields of /proc/PID/status (proc_pid_status(5)).

use std::io;

/// Reads the status of a process or thread.
pub fn read(pid: u32) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
}

/// The fields of a status, each with its value.
pub fn fields(status: &str) -> impl Iterator<Item = (&str, &str)> {
    status.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim()))
}

/// The ids in the field `Uid` or `Gid`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The real id.
    pub real: Option<u32>,
    /// The effective id.
    pub effective: Option<u32>,
    /// The filesystem id.
    pub filesystem: Option<u32>,
}

impl Ids {
    /// Parses the value of such a field: real, effective, saved and filesystem id.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let mut ids = value.split_whitespace().map(|id| id.parse().ok());
        let mut next = || ids.next().flatten();
        let (real, effective, _saved) = (next(), next(), next());
        Self { real, effective, filesystem: next() }
    }

    /// Translates each id. One without a translation is not known.
    #[must_use]
    pub fn map(self, translate: impl Fn(u32) -> Option<u32>) -> Self {
        Self {
            real: self.real.and_then(&translate),
            effective: self.effective.and_then(&translate),
            filesystem: self.filesystem.and_then(&translate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_ids_are_told_apart() {
        let status = "Name:\ta:b\nUid:\t1\t2\t3\t4\n";
        let fields: Vec<_> = fields(status).collect();
        assert_eq!(fields, [("Name", "a:b"), ("Uid", "1\t2\t3\t4")]);
        let ids = Ids { real: Some(1), effective: Some(2), filesystem: Some(4) };
        assert_eq!(Ids::parse(fields[1].1), ids);
        assert_eq!(Ids::parse(""), Ids::default());
    }
}
