//! Options: which changes reach the source, which are ignored, which are refused.

use super::super::{Category, Opt, OptionDef};
use super::{flag, value};

pub(super) const CHANGES: &[OptionDef] = &[
    flag(
        Opt::ChownNormal,
        "chown-normal",
        "chown_normal",
        Category::Changes,
        "Owners can be changed (the default)",
        "chown(2) changes the owner on the source, translated by the map. The default.",
    ),
    flag(
        Opt::ChownIgnore,
        "chown-ignore",
        "chown_ignore",
        Category::Changes,
        "Changing an owner succeeds and does nothing",
        "Changing an owner succeeds for every user and does nothing. The daemon then checks permissions itself, since \
         the kernel would refuse users other than the owner.",
    ),
    flag(
        Opt::ChownDeny,
        "chown-deny",
        "chown_deny",
        Category::Changes,
        "Changing an owner fails with EPERM",
        "Changing an owner fails with EPERM.",
    ),
    flag(
        Opt::ChgrpNormal,
        "chgrp-normal",
        "chgrp_normal",
        Category::Changes,
        "Groups can be changed (the default)",
        "chown(2) changes the group on the source, translated by the map. The default.",
    ),
    flag(
        Opt::ChgrpIgnore,
        "chgrp-ignore",
        "chgrp_ignore",
        Category::Changes,
        "Changing a group succeeds and does nothing",
        "Changing a group succeeds for every user and does nothing, as with chown-ignore.",
    ),
    flag(
        Opt::ChgrpDeny,
        "chgrp-deny",
        "chgrp_deny",
        Category::Changes,
        "Changing a group fails with EPERM",
        "Changing a group fails with EPERM.",
    ),
    flag(
        Opt::ChmodNormal,
        "chmod-normal",
        "chmod_normal",
        Category::Changes,
        "Permissions can be changed (the default)",
        "chmod(2) changes the permissions on the source. The default.",
    ),
    flag(
        Opt::ChmodIgnore,
        "chmod-ignore",
        "chmod_ignore",
        Category::Changes,
        "Changing permissions succeeds and does nothing",
        "Changing permissions succeeds for every user and does nothing, as with chown-ignore.",
    ),
    flag(
        Opt::ChmodDeny,
        "chmod-deny",
        "chmod_deny",
        Category::Changes,
        "Changing permissions fails with EPERM",
        "Changing permissions fails with EPERM.",
    ),
    OptionDef {
        value: value("RULES"),
        ..flag(
            Opt::ChmodFilter,
            "chmod-filter",
            "chmod_filter",
            Category::Changes,
            "Change the permissions that chmod(2) requests",
            "Applies RULES to the permissions that chmod(2) requests before they are stored. It has no effect with \
             chmod-ignore or chmod-deny. See PERMISSION RULES.",
        )
    },
    flag(
        Opt::ChmodAllowX,
        "chmod-allow-x",
        "chmod_allow_x",
        Category::Changes,
        "With chmod-ignore or chmod-deny: let execute bits of files change",
        "With chmod-ignore, a change of a regular file's execute bits is stored, and no other. With chmod-deny, a \
         change of nothing but these bits succeeds.",
    ),
    flag(
        Opt::XattrRw,
        "xattr-rw",
        "xattr_rw",
        Category::Changes,
        "Extended attributes can be read and changed (the default)",
        "Extended attributes, and with them access control lists, can be read and changed. The default.",
    ),
    flag(
        Opt::XattrRo,
        "xattr-ro",
        "xattr_ro",
        Category::Changes,
        "Extended attributes can be read only",
        "Extended attributes can be read; changing one fails with EACCES.",
    ),
    flag(
        Opt::XattrNone,
        "xattr-none",
        "xattr_none",
        Category::Changes,
        "Extended attributes do not exist",
        "Extended attributes and access control lists do not exist at the mount: every call for one fails with \
         EOPNOTSUPP. Permissions are then checked by the mode alone, which can grant more than an access control list \
         on the source.",
    ),
    flag(
        Opt::DeleteDeny,
        "delete-deny",
        "delete_deny",
        Category::Changes,
        "Deleting fails with EPERM",
        "Deleting a file or directory fails with EPERM, as does a rename that replaces one.",
    ),
    flag(
        Opt::RenameDeny,
        "rename-deny",
        "rename_deny",
        Category::Changes,
        "Renaming fails with EPERM",
        "Renaming a file or directory fails with EPERM.",
    ),
    flag(
        Opt::EnableIoctl,
        "enable-ioctl",
        "enable_ioctl",
        Category::Changes,
        "Forward every ioctl to the source",
        "Forwards every ioctl(2) on a file to the source without checking it: as the caller, with the caller's \
         capabilities. An unmapped caller acts as a user who owns nothing, and cannot create subvolumes. The requests \
         of lsattr(1) and chattr(1) are forwarded without this option.",
    ),
];
