//! Options: whom new files belong to, and with which permissions.

use super::super::{Category, Opt, OptionDef};
use super::{flag, value};

pub(super) const CREATION: &[OptionDef] = &[
    flag(
        Opt::CreateAsUser,
        "create-as-user",
        "create_as_user",
        Category::Creation,
        "New files belong to who makes them (the default)",
        "New files belong to who makes them, by the way of the map. This is the default, but for a normal user under the \
         name bindfs. Only root may ask for it.",
    ),
    flag(
        Opt::CreateAsMounter,
        "create-as-mounter",
        "create_as_mounter",
        Category::Creation,
        "New files belong to who mounted",
        "New files belong to who mounted, on the source; but what users and groups make whom the map names belongs to \
         their counterparts all the same.",
    ),
    OptionDef {
        value: value("USER"),
        ..flag(
            Opt::CreateForUser,
            "create-for-user",
            "create_for_user",
            Category::Creation,
            "New files belong to USER on the source",
            "New files belong to USER on the source, whoever makes them and whatever the map says. Only root may use it.",
        )
    },
    OptionDef {
        value: value("GROUP"),
        ..flag(
            Opt::CreateForGroup,
            "create-for-group",
            "create_for_group",
            Category::Creation,
            "New files belong to GROUP on the source",
            "New files belong to GROUP on the source, whoever makes them; in a directory with the setgid bit they get the \
             directory's group all the same. Only root may use it.",
        )
    },
    OptionDef {
        value: value("RULES"),
        ..flag(
            Opt::CreateWithPerms,
            "create-with-perms",
            "create_with_perms",
            Category::Creation,
            "Change the permissions of what is created: og-rwx:ug+X",
            "Changes the permissions with which files, directories and devices are created, after the umask of who makes \
             them. See PERMISSION RULES.",
        )
    },
];
