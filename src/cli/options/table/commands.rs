//! Options: those of the subcommands (`shiftbind list` and its kin).

use super::super::{Category, Completion, Opt, OptionDef, ValueDef};
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
    OptionDef {
        mount_option: None,
        value: Some(ValueDef {
            placeholder: "SECONDS",
            completion: Completion::None,
            if_bare: Some("2"),
        }),
        ..flag(
            Opt::Watch,
            "watch",
            "",
            Category::Commands,
            "Go on: what happened in each interval, by default 2 seconds",
            "Go on until the mount is gone or the program is interrupted, and print every SECONDS (by default 2, at least 0.1) \
             what happened since the last time: requests and bytes per second, and latencies of the requests of the \
             interval. In a terminal each view replaces the last one; elsewhere an empty line is between two of them. With \
             --json each is a line with a document as of stat --json.",
        )
    },
    OptionDef {
        mount_option: None,
        ..flag(
            Opt::Prometheus,
            "prometheus",
            "",
            Category::Commands,
            "Print the text format of Prometheus, of all mounts without MOUNTPOINT",
            "Print the text format of Prometheus, for example for the textfile collector of node_exporter: of the mount at \
             MOUNTPOINT, or without it of all mounts that list lists. doc/LIST.md describes each metric.",
        )
    },
];
