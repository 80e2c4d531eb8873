//! Options: what is shown of the source, beside owners and permissions.

use super::super::{Category, Opt, OptionDef};
use super::{flag, one_of, value};

pub(super) const VIEW: &[OptionDef] = &[
    OptionDef {
        value: value("GLOB"),
        ..flag(
            Opt::Exclude,
            "exclude",
            "exclude",
            Category::View,
            "Hide names or paths that match GLOB; may be repeated",
            "What GLOB matches is not there: not listed, not found (ENOENT), and not to be created; nor is what lies below \
             it. A GLOB (glob(7)) without a slash is a name in any directory; one with a slash is a path from SOURCE, in \
             which ** stands for any number of directories. May be given several times.",
        )
    },
    flag(
        Opt::OneFileSystem,
        "one-file-system",
        "one_file_system",
        Category::View,
        "Hide what is mounted below the source",
        "Show the directories below SOURCE on which other filesystems are mounted as empty, instead of what is mounted \
         there.",
    ),
    flag(
        Opt::FollowSource,
        "follow-source",
        "follow_source",
        Category::View,
        "When SOURCE is deleted and made again, show the new one",
        "When the directory SOURCE is deleted or renamed and another one takes its name, show that one. A symbolic link \
         on the way there is followed if it is root's or of who mounted. Otherwise the mount stays with the directory \
         that it was made of.",
    ),
    flag(
        Opt::HideHardLinks,
        "hide-hard-links",
        "hide_hard_links",
        Category::View,
        "Show everything with one link",
        "Shows a link count of 1 for everything.",
    ),
    flag(
        Opt::ResolveSymlinks,
        "resolve-symlinks",
        "resolve_symlinks",
        Category::View,
        "Show what symbolic links lead to in place of them",
        "Shows what symbolic links lead to in place of the links, also outside the source. Broken links stay links; \
         symlink(2) fails with EPERM.",
    ),
    OptionDef {
        value: one_of("HOW", &["deny", "symlink-only", "symlink-first", "target-first"]),
        default: "symlink-only",
        ..flag(
            Opt::ResolvedSymlinkDeletion,
            "resolved-symlink-deletion",
            "resolved_symlink_deletion",
            Category::View,
            "What deleting a resolved link deletes",
            "What is deleted with resolve-symlinks when a name is deleted that is a symbolic link on the source: nothing \
             (deny: EPERM), the link (symlink-only), the link and then what it leads to (symlink-first), or the other way \
             round (target-first). What it leads to goes only if who deletes may delete it where it is.",
        )
    },
    flag(
        Opt::CtimeFromMtime,
        "ctime-from-mtime",
        "ctime_from_mtime",
        Category::View,
        "Show the modification time as the change time",
        "Shows the modification time as the change time as well.",
    ),
    flag(
        Opt::BlockDevicesAsFiles,
        "block-devices-as-files",
        "block_devices_as_files",
        Category::View,
        "Show block devices as regular files",
        "Shows block devices as regular files of the device's size, which can be read and written as such.",
    ),
];
