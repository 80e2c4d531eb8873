//! Options: which users may use the mount, and the columns of the mount table.

use super::super::{Category, Opt, OptionDef};
use super::{flag, value};

pub(super) const ACCESS: &[OptionDef] = &[
    OptionDef {
        opposite: Some("no-allow-other"),
        opposite_short: Some('n'),
        default: "allow_other when root mounts, and under the name bindfs",
        ..flag(
            Opt::AllowOther,
            "allow-other",
            "allow_other",
            Category::Access,
            "Let every user use the mount, or only the user who mounted it",
            "Let every user reach the mount, as permissions allow, or only the user who mounted it. A user other than \
             root needs user_allow_other in /etc/fuse.conf for allow_other.",
        )
    },
    flag(
        Opt::AllowRoot,
        "allow-root",
        "allow_root",
        Category::Access,
        "Let root and the user who mounted it use the mount",
        "Let the user who mounted it and root reach the mount.",
    ),
    flag(
        Opt::DefaultPermissions,
        "default-permissions",
        "default_permissions",
        Category::Access,
        "Let the kernel check permissions (always on where possible)",
        "Let the kernel check permissions against what the mount shows. The kernel does so by default. With mirror, \
         mirror-only, chown-ignore, chgrp-ignore and chmod-ignore the daemon checks them, by the same rules. The \
         option is accepted for compatibility with mount.fuse3(8).",
    ),
    flag(
        Opt::Idmappable,
        "idmappable",
        "idmappable",
        Category::Access,
        "Let container managers put a map of their own on the mount",
        "Let the mount be idmapped: mount_setattr(2) with MOUNT_ATTR_IDMAP on a clone of it, as podman -v MOUNTPOINT:/data:idmap, \
         crun, runc, systemd-nspawn --bind=MOUNTPOINT:/data:idmap, LXC and Kubernetes with hostUsers: false do. Several \
         containers can have maps of their own on one mount. Needs Linux 6.12 and allow_other. The kernel checks all \
         permissions, and does not tell the daemon which user sends a request that creates nothing. So options that \
         depend on the caller are refused: mirror, mirror-only, chown-ignore, chgrp-ignore, chmod-ignore, \
         resolved-symlink-deletion, enable-ioctl and allow_root; so is a source on a FUSE or network filesystem, whose \
         server checks the caller's ids. doc/SEMANTICS.md says what else differs. --reload cannot change it.",
    ),
    OptionDef {
        value: value("NAME"),
        default: "SOURCE",
        ..flag(
            Opt::FsName,
            "fsname",
            "fsname",
            Category::Access,
            "The source column of the mount table",
            "What findmnt(8), df(1) and /proc/self/mountinfo show as the mount's source.",
        )
    },
    OptionDef {
        value: value("NAME"),
        default: "the name of the program: shiftbind or bindfs",
        ..flag(
            Opt::Subtype,
            "subtype",
            "subtype",
            Category::Access,
            "The filesystem type is shown as fuse.NAME",
            "The filesystem type is shown as fuse.NAME.",
        )
    },
];
