//! Options: owners, in bindfs's words.

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
            "Everything is shown as owned by USER, a name or an id, whatever the source says. What is created and what \
             chown(2) stores is not affected: the map, create-for-user and chown-ignore decide about that. Within -o, owner without a value is fstab's word and means nothing here, and so is user.",
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
            "Everything is shown as belonging to GROUP, a name or an id, as force-user does it for owners. Within -o, \
             group without a value is fstab's word and means nothing here.",
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
            "These users, and members of @groups, see themselves as owners of everything",
            "Each of USERS sees himself as the owner of everything, and each member of a group written @GROUP. They are \
             separated by commas or colons. The daemon then checks permissions itself, for each caller with what he \
             sees, and the kernel keeps no attributes. Sticky bits of directories are heeded but not shown, setuid bits \
             of files are not shown, and devices cannot be opened: the kernel would judge by who looked last. Who is a \
             member of a group is read when the mount is made and again on SIGUSR1.",
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
            "As mirror, and nobody else but root has any permission",
            "As mirror; all others but root see everything without any permission, and so may do nothing. Refused \
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
            "Shows USER1 of the source as USER2, and stores as USER1 what USER2 makes; likewise for groups, which have a \
             @. Names, ids, and ranges of ids: 1000-1999/5000, or 1000-1999/5000-5999. Pairs are separated by colons or \
             commas. Each id may stand once on each side; a pair of one id and itself is left out. Ids that are not \
             listed stay as they are (unmapped=pass), unless uidmap, gidmap or idmap is given as well: then all extents \
             add up, and unmapped says what becomes of the others. Given again, it replaces what was given before. \
             Only root may use it.",
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
            "For each line NAME:x:UID of FILE, which has the form of passwd(5), UID is shown as the uid that NAME has on \
             this machine. Names that nobody has here are passed over with a warning; blank lines and lines that begin \
             with # are passed over. Otherwise as map, with which it adds up. Only root may use it.",
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
            "As map-passwd, for groups and a file in the form of group(5).",
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
            "As map-passwd, the other way round: the uid that NAME has on this machine is shown as UID.",
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
            "As map-passwd-rev, for groups and a file in the form of group(5).",
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
            "Every uid is shown as itself and OFFSET, which may be negative, after the map if there is one; the way back \
             subtracts it. An id that would leave 0 to 4294967294 is unmapped. Refused together with map; map-passwd \
             and its kin may be given. Only root may use it.",
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
