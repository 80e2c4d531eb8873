//! Options: maps of ids.

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
            "Adds extents for users (u:), groups (g:) or both (b:, or no letter). \
             A letter holds until the next one within the same colon list; it may stand before every extent. \
             See MAPS.",
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
            "Adds extents for users. A map for users alone is refused: give groups theirs as well, or gidmap=identity. \
             See MAPS.",
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
            "Adds extents for groups. A map for groups alone is refused: give users theirs as well, or uidmap=identity. \
             See MAPS.",
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
            "Ids without a counterpart: deny, pass or squash=UID[:GID]",
            "What becomes of ids that no extent holds.\n\n\
             deny: the rules of an idmapped mount of the kernel. Such an id is shown as the overflow id (65534), nobody \
             is its owner, and what would store one fails with EOVERFLOW.\n\n\
             pass: it is shown and stored as it is. An id that an extent shows as well then stands for two source ids; \
             on the way back the extent wins.\n\n\
             squash=UID[:GID]: it is shown as this mount id, and stored as what this mount id is stored as. Without a \
             GID it is the login group of UID if the user database knows UID, else the same number. Names may stand for \
             numbers.",
        )
    },
];
