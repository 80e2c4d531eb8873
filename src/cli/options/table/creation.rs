//! Options: owner, group and permissions of new files.

use super::super::{Category, Opt, OptionDef};
use super::{flag, value};

pub(super) const CREATION: &[OptionDef] = &[
    flag(
        Opt::CreateAsUser,
        "create-as-user",
        "create_as_user",
        Category::Creation,
        "New files belong to the user who creates them (the default)",
        "New files belong to the user who creates them, translated by the map. This is the default, except for a \
         normal user under the name bindfs. Only root may ask for it.",
    ),
    flag(
        Opt::CreateAsMounter,
        "create-as-mounter",
        "create_as_mounter",
        Category::Creation,
        "New files belong to the user who mounted",
        "New files belong, on the source, to the user who mounted. Files that a mapped user or group creates still \
         belong to the mapped source ids.",
    ),
    OptionDef {
        value: value("USER"),
        ..flag(
            Opt::CreateForUser,
            "create-for-user",
            "create_for_user",
            Category::Creation,
            "New files belong to USER on the source",
            "New files belong to USER on the source, regardless of their creator and of the map. Only root may use it.",
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
            "New files belong to GROUP on the source, regardless of their creator; in a directory with the setgid bit \
             they still get the directory's group. Only root may use it.",
        )
    },
    OptionDef {
        value: value("RULES"),
        ..flag(
            Opt::CreateWithPerms,
            "create-with-perms",
            "create_with_perms",
            Category::Creation,
            "Change the permissions of new files: og-rwx:ug+X",
            "Applies RULES to the permissions of new files, directories and devices, after the creator's umask. See \
             PERMISSION RULES.",
        )
    },
];
