//! By which name the program was called, and so whose defaults hold: its own, or those of bindfs, in whose place it stands.

use std::ffi::OsStr;
use std::path::Path;

/// Whose words and defaults hold. What an option means does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Our own.
    Shiftbind,
    /// Those of bindfs.
    Bindfs,
}

/// The names by which mount(8) calls us, with whose defaults they stand for.
const HELPERS: [(&str, Dialect); 4] = [
    ("mount.shiftbind", Dialect::Shiftbind),
    ("mount.fuse.shiftbind", Dialect::Shiftbind),
    ("mount.bindfs", Dialect::Bindfs),
    ("mount.fuse.bindfs", Dialect::Bindfs),
];

impl Dialect {
    /// By the name of the program as it was called.
    #[must_use]
    pub fn of(argv0: &OsStr) -> Self {
        match helper(argv0) {
            Some(dialect) => dialect,
            None if Path::new(argv0).file_name().is_some_and(|name| name == "bindfs") => {
                Self::Bindfs
            }
            None => Self::Shiftbind,
        }
    }

    /// What stands before a message, and after `fuse.` in the type of the mount.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shiftbind => "shiftbind",
            Self::Bindfs => "bindfs",
        }
    }
}

/// Whose defaults hold, if the program was called as a helper of mount(8).
pub(super) fn helper(argv0: &OsStr) -> Option<Dialect> {
    let called = Path::new(argv0).file_name()?;
    HELPERS.iter().find(|(name, _)| called == *name).map(|(_, dialect)| *dialect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_name_selects_the_dialect_in_any_directory() {
        for (argv0, dialect, is_helper) in [
            ("shiftbind", Dialect::Shiftbind, false),
            ("/usr/bin/bindfs", Dialect::Bindfs, false),
            ("./bindfs", Dialect::Bindfs, false),
            ("/srv/bindfs/shiftbind", Dialect::Shiftbind, false),
            ("bindfs-old", Dialect::Shiftbind, false),
            ("/sbin/mount.bindfs", Dialect::Bindfs, true),
            ("/sbin/mount.fuse.bindfs", Dialect::Bindfs, true),
            ("/sbin/mount.fuse.shiftbind", Dialect::Shiftbind, true),
            ("", Dialect::Shiftbind, false),
        ] {
            let argv0 = OsStr::new(argv0);
            assert_eq!((Dialect::of(argv0), helper(argv0).is_some()), (dialect, is_helper));
        }
    }
}
