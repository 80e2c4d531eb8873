//! What a mount of the source forbids, beyond its files' owners and modes.
//!
//! The options of the source's own mount are given to ours when it is made, and the kernel enforces them. A file system
//! mounted below has options of its own, which FUSE has no word for: its files are judged one by one (`fs/restricted.rs`).

use rustix::fs::StatFs;

/// `f_flags` of statfs(2), as the kernel has them (linux/statfs.h).
const RDONLY: i64 = 0x0001;
const NOSUID: i64 = 0x0002;
const NODEV: i64 = 0x0004;
const NOEXEC: i64 = 0x0008;
const NOSYMFOLLOW: i64 = 0x2000;

/// The options of a mount that forbid something (mount(8)). Times of access are not among them: the source is reached
/// through the mount itself, and its kernel keeps them as the mount says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Nothing can be written there (`ro`).
    pub read_only: bool,
    /// Setuid and setgid bits and file capabilities have no effect there.
    pub nosuid: bool,
    /// Devices cannot be opened there.
    pub nodev: bool,
    /// Programs are not run there.
    pub noexec: bool,
    /// Symbolic links are not followed there.
    pub nosymfollow: bool,
}

impl Restrictions {
    /// It forbids nothing.
    pub const NONE: Self =
        Self { read_only: false, nosuid: false, nodev: false, noexec: false, nosymfollow: false };

    /// Those of the mount that statfs(2) was asked about.
    #[must_use]
    pub fn of(mount: &StatFs) -> Self {
        let has = |flag| mount.f_flags & flag != 0;
        Self {
            read_only: has(RDONLY),
            nosuid: has(NOSUID),
            nodev: has(NODEV),
            noexec: has(NOEXEC),
            nosymfollow: has(NOSYMFOLLOW),
        }
    }

    /// Those among the options of a mount in the mount table (proc_pid_mountinfo(5)).
    #[must_use]
    pub fn of_options(options: &[u8]) -> Self {
        let has = |word: &str| options.split(|byte| *byte == b',').any(|o| o == word.as_bytes());
        Self {
            read_only: has("ro"),
            nosuid: has("nosuid"),
            nodev: has("nodev"),
            noexec: has("noexec"),
            nosymfollow: has("nosymfollow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_whole_words() {
        let options = Restrictions::of_options(b"rw,nosuid,noexec,relatime");
        let expected = Restrictions { nosuid: true, noexec: true, ..Restrictions::NONE };
        assert_eq!(options, expected);
        assert_eq!(Restrictions::of_options(b"rorx,xnodev"), Restrictions::NONE);
    }
}
