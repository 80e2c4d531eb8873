//! The name that the program was called by selects the defaults: shiftbind's, or those of bindfs, which it can replace.

use std::ffi::OsStr;
use std::path::Path;

use crate::config::EngineChoice;

/// Which defaults apply. The meaning of an option does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// shiftbind's defaults.
    Shiftbind,
    /// bindfs's defaults.
    Bindfs,
}

/// The names by which mount(8) starts its helpers, and the dialect of each.
const HELPERS: [(&str, Dialect); 4] = [
    ("mount.shiftbind", Dialect::Shiftbind),
    ("mount.fuse.shiftbind", Dialect::Shiftbind),
    ("mount.bindfs", Dialect::Bindfs),
    ("mount.fuse.bindfs", Dialect::Bindfs),
];

impl Dialect {
    /// The dialect for the name that the program was called by.
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

    /// The prefix of messages, and the default subtype of the mount.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shiftbind => "shiftbind",
            Self::Bindfs => "bindfs",
        }
    }

    /// What makes the mount where the option `engine` is not given. bindfs has always had a daemon.
    pub(super) fn default_engine(self) -> EngineChoice {
        match self {
            Self::Shiftbind => EngineChoice::Auto,
            Self::Bindfs => EngineChoice::Fuse,
        }
    }
}

/// The dialect, if mount(8) called the program by the name of a mount helper.
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
