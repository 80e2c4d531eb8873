//! Options: what the mount presents, besides owners and permissions.

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
            "Hides what GLOB matches, and everything below it: such a name is not listed, is not found (ENOENT), and \
             cannot be created. A GLOB (glob(7)) without a slash matches a name in any directory. One with a slash \
             matches a path from SOURCE, in which ** stands for any number of directories: the current path, at any \
             depth. Where the path cannot be determined, the name is hidden. May be given several times. LIMITS says \
             what a pattern does not hide.",
        )
    },
    flag(
        Opt::OneFileSystem,
        "one-file-system",
        "one_file_system",
        Category::View,
        "Hide filesystems that are mounted below the source",
        "Shows mount points below SOURCE as empty directories instead of the filesystems mounted there.",
    ),
    flag(
        Opt::FollowSource,
        "follow-source",
        "follow_source",
        Category::View,
        "When SOURCE is deleted and created again, show the new one",
        "When the directory SOURCE is deleted or renamed and another directory takes its name, show that directory. \
         Symbolic links on its path are followed if they belong to root or to the user who mounted. Without this \
         option the mount stays with the directory that it was made of.",
    ),
    flag(
        Opt::HideHardLinks,
        "hide-hard-links",
        "hide_hard_links",
        Category::View,
        "Show a link count of 1",
        "Shows a link count of 1 for every file.",
    ),
    flag(
        Opt::ResolveSymlinks,
        "resolve-symlinks",
        "resolve_symlinks",
        Category::View,
        "Show the targets of symbolic links in place of the links",
        "Shows the targets of symbolic links in place of the links, also targets outside the source. Broken links stay \
         links; symlink(2) fails with EPERM.",
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
            "Selects, with resolve-symlinks, what deleting a symbolic link of the source deletes: nothing (deny: \
             EPERM), the link (symlink-only), the link and then its target (symlink-first), or the target and then the \
             link (target-first). The target is deleted only if the caller may delete it where it is.",
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
        "Shows block devices as regular files with the size of the device, which can be read and written.",
    ),
];
