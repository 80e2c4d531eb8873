//! What the options of a source's mount forbid, beyond owners and modes.
//!
//! The daemon's mount gets the options of the source's own mount, and the kernel enforces them. Mounts below the source
//! have options of their own. FUSE has no flags for a part of a mount, so the daemon enforces those for each file
//! (`fs/restricted.rs`).

use rustix::fs::StatFs;

/// `f_flags` of statfs(2) (linux/statfs.h).
const RDONLY: i64 = 0x0001;
const NOSUID: i64 = 0x0002;
const NODEV: i64 = 0x0004;
const NOEXEC: i64 = 0x0008;
const NOSYMFOLLOW: i64 = 0x2000;

/// The mount options that forbid something (mount(8)).
///
/// The options for access times are not among them: the daemon reads the source through its own mounts, where the
/// kernel applies them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Nothing can be written (`ro`).
    pub read_only: bool,
    /// Setuid and setgid bits and file capabilities have no effect.
    pub nosuid: bool,
    /// Devices cannot be opened.
    pub nodev: bool,
    /// Programs cannot be executed.
    pub noexec: bool,
    /// Symbolic links are not followed.
    pub nosymfollow: bool,
}

impl Restrictions {
    /// Nothing is forbidden.
    pub const NONE: Self =
        Self { read_only: false, nosuid: false, nodev: false, noexec: false, nosymfollow: false };

    /// Reads the restrictions from the result of statfs(2).
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

    /// The words of the mount table for them, which [`Self::of_options`] reads.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        let words = [
            (self.read_only, "ro"),
            (self.nosuid, "nosuid"),
            (self.nodev, "nodev"),
            (self.noexec, "noexec"),
            (self.nosymfollow, "nosymfollow"),
        ];
        words.into_iter().filter_map(|(is_given, word)| is_given.then_some(word)).collect()
    }

    /// Reads the restrictions from the options in the mount table (proc_pid_mountinfo(5)).
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
