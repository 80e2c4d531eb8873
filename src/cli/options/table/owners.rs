//! Options: owners, as in bindfs.

use super::super::{Category, Opt, OptionDef};
use super::{file, flag, value};

pub(super) const OWNERS: &[OptionDef] = &[
    OptionDef {
        short: Some('u'),
        aliases: &["owner", "uid"],
        long_aliases: &["user"],
        value: value("USER"),
        ..flag(
            Opt::ForceUser,
            "force-user",
            "force_user",
            Category::Owners,
            "Show everything as owned by USER",
            "Shows every file as owned by USER, a name or an id. New files and chown(2) are not affected: the map, \
             create-for-user and chown-ignore apply to them. Within -o, user, and owner without a value, are options \
             of fstab(5) and have no effect here.",
        )
    },
    OptionDef {
        short: Some('g'),
        aliases: &["group", "gid"],
        value: value("GROUP"),
        ..flag(
            Opt::ForceGroup,
            "force-group",
            "force_group",
            Category::Owners,
            "Show everything as belonging to GROUP",
            "Shows every file as belonging to GROUP, a name or an id, as force-user does for owners. Within -o, group \
             without a value is an option of fstab(5) and has no effect here.",
        )
    },
    OptionDef {
        short: Some('m'),
        value: value("USERS"),
        ..flag(
            Opt::Mirror,
            "mirror",
            "mirror",
            Category::Owners,
            "Show every file to these users, and to members of @groups, as their own",
            "Shows every file to each of USERS, and to each member of a group written @GROUP, as their own. Entries \
             are separated by commas or colons. The daemon then checks permissions itself, against what each caller \
             sees, and the kernel caches no attributes. Sticky bits of directories are honoured but not shown, setuid \
             bits of files are not shown, and devices cannot be opened, because the kernel would check them against \
             the attributes that it fetched last. Group membership is read when the mount is made and again on \
             SIGUSR1.",
        )
    },
    OptionDef {
        short: Some('M'),
        value: value("USERS"),
        ..flag(
            Opt::MirrorOnly,
            "mirror-only",
            "mirror_only",
            Category::Owners,
            "As mirror, and other users except root have no permissions",
            "As mirror; all other users except root see files without any permission and have no access. Refused \
             together with mirror.",
        )
    },
    OptionDef {
        value: value("PAIRS"),
        ..flag(
            Opt::Map,
            "map",
            "map",
            Category::Owners,
            "Map single ids or ranges: USER1/USER2:@GROUP1/@GROUP2:1000-1999/5000",
            "Shows USER1 of the source as USER2, and stores files of USER2 as USER1's; the same for groups, which are \
             written with @. Names, ids, and ranges of ids are allowed: 1000-1999/5000, or 1000-1999/5000-5999. Pairs \
             are separated by colons or commas. Each id may appear once on each side; a pair that maps an id to itself \
             is ignored. Ids that are not listed pass through (unmapped=pass), unless uidmap, gidmap or idmap is given \
             as well: then all extents add up, and unmapped applies to all other ids. The last map given replaces \
             earlier ones. Only root may use it.",
        )
    },
    OptionDef {
        value: file("FILE"),
        ..flag(
            Opt::MapPasswd,
            "map-passwd",
            "map_passwd",
            Category::Owners,
            "Map the uids in a passwd(5) file to those of the same names here",
            "For each line NAME:x:UID of FILE, which has the format of passwd(5), shows UID as the uid of NAME on this \
             machine. Names that are unknown on this machine are skipped with a warning; blank lines and lines that \
             begin with # are ignored. Otherwise it works like map, and adds to it. Only root may use it. FILE is a regular \
             file of at most 64 MiB, or a pipe without a name as of <(command).",
        )
    },
    OptionDef {
        value: file("FILE"),
        ..flag(
            Opt::MapGroup,
            "map-group",
            "map_group",
            Category::Owners,
            "Map the gids in a group(5) file to those of the same names here",
            "As map-passwd, for groups and a file in the format of group(5).",
        )
    },
    OptionDef {
        value: file("FILE"),
        ..flag(
            Opt::MapPasswdRev,
            "map-passwd-rev",
            "map_passwd_rev",
            Category::Owners,
            "Map uids of this machine to those in a passwd(5) file",
            "As map-passwd in the opposite direction: the uid of NAME on this machine is shown as UID.",
        )
    },
    OptionDef {
        value: file("FILE"),
        ..flag(
            Opt::MapGroupRev,
            "map-group-rev",
            "map_group_rev",
            Category::Owners,
            "Map gids of this machine to those in a group(5) file",
            "As map-passwd-rev, for groups and a file in the format of group(5).",
        )
    },
    OptionDef {
        value: value("OFFSET"),
        ..flag(
            Opt::UidOffset,
            "uid-offset",
            "uid_offset",
            Category::Owners,
            "Add OFFSET to every uid that is shown",
            "Adds OFFSET, which may be negative, to every uid that is shown, after the map if there is one, and \
             subtracts it from every uid that is stored. An id that would leave the range 0 to 4294967294 is unmapped. \
             Refused together with map; map-passwd and its kin are allowed. Only root may use it.",
        )
    },
    OptionDef {
        value: value("OFFSET"),
        ..flag(
            Opt::GidOffset,
            "gid-offset",
            "gid_offset",
            Category::Owners,
            "Add OFFSET to every gid that is shown",
            "As uid-offset, for groups.",
        )
    },
];
