//! Options: the rest.

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
            "Options as in fstab; every long option can stand here",
            "A list of options as in fstab(5), separated by commas. Every other option here but help and version can \
             stand in it, without its dashes. May be repeated; of values that contradict each other the last one wins. \
             A comma within a value is written \\, and any character may be written as a backslash and three octal \
             digits; a value that begins and ends with a double quote may hold commas as they are.",
        )
    },
    OptionDef {
        value: file("FILE"),
        ..flag(
            Opt::Config,
            "config",
            "config",
            Category::Other,
            "Read more options from FILE, one a line as within -o",
            "Reads more options from FILE, as if they stood in this place: one a line, NAME or NAME=VALUE, spelled as within \
             -o but without its escapes, so that a value is all that follows up to the end of the line. Blank lines and \
             lines that begin with # are passed over. It may be given once.",
        )
    },
    OptionDef {
        mount_option: None,
        ..flag(
            Opt::Reload,
            "reload",
            "",
            Category::Other,
            "Have the daemon of MOUNTPOINT read its options again",
            "shiftbind --reload MOUNTPOINT: has the daemon that serves MOUNTPOINT read its options again. See Changing a \
             mount.",
        )
    },
    flag(
        Opt::Explain,
        "explain",
        "explain",
        Category::Other,
        "Say what would be mounted, in words, and mount nothing",
        "Print the maps in words, which ids are unmapped and what becomes of them, which engine and which cache would \
         be used and why. Nothing is mounted.",
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
            "Print the version of the FUSE library",
            "Print the version of the FUSE library.",
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
