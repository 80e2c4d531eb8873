//! Options: those of the subcommands (`shiftbind list` and its kin).

use super::super::{Category, Opt, OptionDef};
use super::{file, flag};

pub(super) const COMMANDS: &[OptionDef] = &[
    OptionDef {
        mount_option: None,
        ..flag(
            Opt::Json,
            "json",
            "",
            Category::Commands,
            "Print JSON, as doc/LIST.md describes it",
            "Print JSON, whose members doc/LIST.md describes.",
        )
    },
    OptionDef {
        short: Some('l'),
        mount_option: None,
        ..flag(
            Opt::Lazy,
            "lazy",
            "",
            Category::Commands,
            "Unmount although files are in use",
            "Detach the mount at once, although files of it are in use; it ends when the last of them is closed.",
        )
    },
    OptionDef {
        mount_option: None,
        value: file("FILE"),
        default: "/etc/shiftbind/oci-hook.conf",
        ..flag(
            Opt::HookConfig,
            "hook-config",
            "",
            Category::Commands,
            "The file that says what oci-hook may mount",
            "The file that says what oci-hook may mount. Only root may give another one.",
        )
    },
];
