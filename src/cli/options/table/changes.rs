//! Options: which changes pass, which are ignored, which are refused.

use super::super::{Category, Opt, OptionDef};
use super::{flag, value};

pub(super) const CHANGES: &[OptionDef] = &[
    flag(
        Opt::ChownNormal,
        "chown-normal",
        "chown_normal",
        Category::Changes,
        "Owners can be changed (the default)",
        "chown(2) changes the owner, as the map has it. The default.",
    ),
    flag(
        Opt::ChownIgnore,
        "chown-ignore",
        "chown_ignore",
        Category::Changes,
        "Changing an owner succeeds and does nothing",
        "Changing an owner succeeds for everybody and does nothing. The daemon then checks permissions itself, since the \
         kernel would refuse strangers.",
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
        "chown(2) changes the group, as the map has it. The default.",
    ),
    flag(
        Opt::ChgrpIgnore,
        "chgrp-ignore",
        "chgrp_ignore",
        Category::Changes,
        "Changing a group succeeds and does nothing",
        "Changing a group succeeds for everybody and does nothing, as with chown-ignore.",
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
        "Changing permissions succeeds for everybody and does nothing, as with chown-ignore.",
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
            "Change the permissions that a chmod asks for",
            "Changes what chmod(2) asks for before it is stored, where chmod is neither ignored nor refused. See PERMISSION \
             RULES.",
        )
    },
    flag(
        Opt::ChmodAllowX,
        "chmod-allow-x",
        "chmod_allow_x",
        Category::Changes,
        "Where chmod is ignored or refused: let execute bits of files change",
        "With chmod-ignore, the bits to execute a regular file are changed all the same, and no others. With chmod-deny, a \
         change of nothing but these bits succeeds.",
    ),
    flag(
        Opt::XattrRw,
        "xattr-rw",
        "xattr_rw",
        Category::Changes,
        "Extended attributes can be read and changed (the default)",
        "Extended attributes, and so access control lists, can be read and changed. The default.",
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
        "There are no extended attributes",
        "There are no extended attributes, and no access control lists: every call for one fails with EOPNOTSUPP. \
         Permissions go by the mode alone then, which can be more than a list on the source grants.",
    ),
    flag(
        Opt::DeleteDeny,
        "delete-deny",
        "delete_deny",
        Category::Changes,
        "Deleting fails with EPERM",
        "Deleting a file or directory fails with EPERM, also by renaming another over it.",
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
        "Pass every ioctl on to the source",
        "Passes every ioctl(2) on a file on to the source, without a check of ours: as the caller, with the capabilities \
         that the caller has. A caller without a counterpart on the source acts as a user who owns nothing, and makes no \
         subvolumes. Those of lsattr(1) and chattr(1) are passed without this option.",
    ),
];
