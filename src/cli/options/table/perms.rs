//! Options: how permission bits are shown.

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
            "Shows other permission bits than the source has, and the kernel goes by what is shown. Symbolic links stay \
             as they are. See PERMISSION RULES.",
        )
    },
    OptionDef {
        value: value("OCTAL"),
        ..flag(
            Opt::Umask,
            "umask",
            "umask",
            Category::Perms,
            "Show the permissions that this mask leaves of 0777",
            "Shows everything with the permissions that OCTAL, taken from 0777, leaves, whatever the source says and \
             after perms: umask=022 shows files and directories as 0755. It is not about new files: create-with-perms is.",
        )
    },
    OptionDef {
        value: value("OCTAL"),
        ..flag(
            Opt::Fmask,
            "fmask",
            "fmask",
            Category::Perms,
            "As umask, for all but directories",
            "As umask, for everything but directories, in place of it.",
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
            "As umask, for directories, in place of it.",
        )
    },
    flag(
        Opt::RealisticPermissions,
        "realistic-permissions",
        "realistic_permissions",
        Category::Perms,
        "Show no permission that the mounter does not have",
        "Takes from the permissions shown, for all classes, the right to read, write or execute where who mounted does not \
         have it on the source.",
    ),
];
