//! Options: configuration, information.

use super::super::{Category, Opt, OptionDef};
use super::{file, flag, one_of, value};

pub(super) const OTHER: &[OptionDef] = &[
    OptionDef {
        short: Some('o'),
        mount_option: None,
        value: value("OPTION[,OPTION...]"),
        ..flag(
            Opt::Options,
            "options",
            "",
            Category::Other,
            "Options as in fstab; every long option is allowed here",
            "A list of options as in fstab(5), separated by commas. Every other option except help, version, \
             fuse-version and reload is allowed in it, without its dashes. May be repeated; of values that contradict \
             each other the last one wins. A comma within a value is written \\, and any character may be written as a \
             backslash and three octal digits; a value in double quotes may contain commas as they are.",
        )
    },
    OptionDef {
        value: file("FILE"),
        ..flag(
            Opt::Config,
            "config",
            "config",
            Category::Other,
            "Read more options from FILE, one per line",
            "Reads more options from FILE, as if they were given at this position: one per line, NAME or NAME=VALUE, \
             spelled as within -o but without its escapes, so that a value extends to the end of the line. Blank lines \
             and lines that begin with # are ignored. It may be given once. FILE is a regular file of at most 64 MiB, or \
             a pipe without a name as of <(command). A reload reads FILE again by its path, which then cannot be that of an \
             open file of a process, such as /dev/stdin.",
        )
    },
    OptionDef {
        mount_option: None,
        ..flag(
            Opt::Reload,
            "reload",
            "",
            Category::Other,
            "Make the daemon of MOUNTPOINT reload its options",
            "shiftbind --reload MOUNTPOINT: makes the daemon that serves MOUNTPOINT reload its options. See Changing a \
             mount.",
        )
    },
    flag(
        Opt::Explain,
        "explain",
        "explain",
        Category::Other,
        "Explain what would be mounted, and mount nothing",
        "Explains the maps, the unmapped ids and their translation, which engine and cache would be used and why, and the \
         command of mount(8) for the same where the kernel could make the mount. Nothing is mounted, but all is checked: the \
         exit status, and the error, are those that the mount would have. Without SOURCE and MOUNTPOINT the maps alone are \
         explained.",
    ),
    OptionDef {
        short: Some('h'),
        mount_option: None,
        ..flag(Opt::Help, "help", "", Category::Other, "Print this help", "Print a short help.")
    },
    OptionDef {
        short: Some('V'),
        mount_option: None,
        ..flag(
            Opt::Version,
            "version",
            "",
            Category::Other,
            "Print the version",
            "Print the version.",
        )
    },
    OptionDef {
        mount_option: None,
        ..flag(
            Opt::FuseVersion,
            "fuse-version",
            "",
            Category::Other,
            "Print the version of the FUSE protocol",
            "Print the version of the FUSE protocol that is spoken with the kernel.",
        )
    },
    OptionDef {
        mount_option: None,
        value: one_of("WHAT", &["man", "bash", "zsh", "fish"]),
        ..flag(
            Opt::Generate,
            "generate",
            "",
            Category::Hidden,
            "Print the man page or a shell's completions",
            "Print the man page or the completions for a shell: man, bash, zsh or fish.",
        )
    },
];
