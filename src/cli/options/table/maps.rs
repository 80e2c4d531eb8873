//! Options: id maps.

use super::super::{Category, Opt, OptionDef};
use super::{flag, one_of, value};

pub(super) const MAPS: &[OptionDef] = &[
    OptionDef {
        value: value("MAP"),
        default: "every id is shown as itself",
        ..flag(
            Opt::IdMap,
            "idmap",
            "idmap",
            Category::Maps,
            "Map uids and gids: [u:|g:|b:]SOURCE:MOUNT:COUNT",
            "Adds extents for users (u:), groups (g:) or both (b:, or no letter). A letter applies until the next one \
             in the same colon list, and may precede every extent. See MAPS.",
        )
    },
    OptionDef {
        value: value("MAP"),
        ..flag(
            Opt::UidMap,
            "uidmap",
            "uidmap",
            Category::Maps,
            "Map uids: SOURCE:MOUNT:COUNT, or identity",
            "Adds extents for users. A map for users alone is refused: add one for groups, or gidmap=identity. See \
             MAPS.",
        )
    },
    OptionDef {
        value: value("MAP"),
        ..flag(
            Opt::GidMap,
            "gidmap",
            "gidmap",
            Category::Maps,
            "Map gids: SOURCE:MOUNT:COUNT, or identity",
            "Adds extents for groups. A map for groups alone is refused: add one for users, or uidmap=identity. See \
             MAPS.",
        )
    },
    OptionDef {
        value: one_of("WORD:VALUE", crate::map_from::WORDS),
        ..flag(
            Opt::MapFrom,
            "map-from",
            "map_from",
            Category::Maps,
            "Take the map from a process, a container or /etc/subuid: pid:N, lxc:FILE and so on",
            "Adds the extents of a map that exists elsewhere, see Maps from elsewhere. A reload reads it again, but for that of a \
             user namespace.",
        )
    },
    flag(
        Opt::InvertMap,
        "invert-map",
        "invert_map",
        Category::Maps,
        "Exchange source and mount in what map-from reads",
        "Exchange source and mount in all extents that map-from reads.",
    ),
    OptionDef {
        value: value("USER[:GROUP]"),
        ..flag(
            Opt::OwnerAs,
            "owner-as",
            "owner_as",
            Category::Maps,
            "Show the owner of the source as USER; without a map, all other ids stay as they are",
            "Shows what belongs to the owner and the group of SOURCE itself as USER and GROUP, and stores as theirs what USER \
             and GROUP make at the mount. Names or numbers; the default GROUP is the login group of USER if the user database \
             knows USER, else the same number. All other ids pass through, unless unmapped or another map is given.\n\n\
             The mount is refused if SOURCE is replaced while it is made, and a reload keeps the owner that was found then.",
        )
    },
    OptionDef {
        value: value("ID[:GID]"),
        ..flag(
            Opt::RootAs,
            "root-as",
            "root_as",
            Category::Maps,
            "Store as ID what root makes at the mount, where no extent holds 0",
            "Stores as the source ids ID and GID what uid 0 and gid 0 of the mount make or give away, where no extent holds the \
             mount id 0. With the map of a container a program of the host's root can then make files in the container's tree; \
             without, that fails with EOVERFLOW. What is shown does not change. Where an extent holds 0, or without a map, \
             a warning says that the option does nothing. The default GID is that of unmapped=squash.",
        )
    },
    OptionDef {
        value: one_of("POLICY", &["deny", "pass", "squash="]),
        default: "deny; with map alone, and under the name bindfs, pass",
        ..flag(
            Opt::Unmapped,
            "unmapped",
            "unmapped",
            Category::Maps,
            "Unmapped ids: deny, pass or squash=UID[:GID]",
            "Selects how ids that no extent holds are translated.\n\n\
             deny: the rules of the kernel's idmapped mounts. Such an id is shown as the overflow id (65534) and owns \
             nothing, and storing one fails with EOVERFLOW.\n\n\
             pass: it is shown and stored unchanged. A mount id that an extent also maps then stands for two source \
             ids; it is stored as the extent says.\n\n\
             squash=UID[:GID]: it is shown as this mount id, and stored as the source id of this mount id. The default \
             GID is the login group of UID if the user database knows UID, else the same number. Names may stand for \
             numbers.",
        )
    },
];
