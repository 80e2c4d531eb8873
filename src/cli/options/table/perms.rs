//! Options: how permission bits are presented.

use super::super::{Category, Opt, OptionDef};
use super::{flag, value};

pub(super) const PERMS: &[OptionDef] = &[
    OptionDef {
        short: Some('p'),
        value: value("RULES"),
        ..flag(
            Opt::Perms,
            "perms",
            "perms",
            Category::Perms,
            "Show other permissions: og-x:og+rD:u=rwX, or 0644:a+X",
            "Shows permission bits changed by RULES. The kernel checks the bits that are shown. Symbolic links keep \
             theirs. See PERMISSION RULES.",
        )
    },
    OptionDef {
        value: value("OCTAL"),
        ..flag(
            Opt::Umask,
            "umask",
            "umask",
            Category::Perms,
            "Show all permissions except those in OCTAL",
            "Shows every file with the permissions 0777 without the bits in OCTAL, regardless of the source and of \
             perms: umask=022 shows files and directories as 0755. It does not apply to new files; use \
             create-with-perms for these.",
        )
    },
    OptionDef {
        value: value("OCTAL"),
        ..flag(
            Opt::Fmask,
            "fmask",
            "fmask",
            Category::Perms,
            "As umask, for everything except directories",
            "Replaces umask for everything except directories.",
        )
    },
    OptionDef {
        value: value("OCTAL"),
        ..flag(
            Opt::Dmask,
            "dmask",
            "dmask",
            Category::Perms,
            "As umask, for directories",
            "Replaces umask for directories.",
        )
    },
    flag(
        Opt::RealisticPermissions,
        "realistic-permissions",
        "realistic_permissions",
        Category::Perms,
        "Hide permissions that the mounting user does not have",
        "Removes the read, write or execute permission from all classes where the user who mounted does not have it on \
         the source.",
    ),
];
