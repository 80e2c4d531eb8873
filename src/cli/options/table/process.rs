//! Options: how the daemon's process runs.

use super::super::{Category, Opt, OptionDef};
use super::{file, flag};

pub(super) const PROCESS: &[OptionDef] = &[
    OptionDef {
        short: Some('f'),
        ..flag(
            Opt::Foreground,
            "foreground",
            "foreground",
            Category::Process,
            "Stay in the foreground",
            "Stay in the foreground and log to standard error. Without this option the program returns when the mount \
             answers, and a process in the background serves it.",
        )
    },
    OptionDef {
        short: Some('d'),
        ..flag(
            Opt::Debug,
            "debug",
            "debug",
            Category::Process,
            "Stay in the foreground and log every request",
            "Stay in the foreground and log every request: foreground and verbose twice.",
        )
    },
    OptionDef {
        short: Some('v'),
        ..flag(
            Opt::Verbose,
            "verbose",
            "verbose",
            Category::Process,
            "Log more; twice: every request",
            "Log what happens, not only what fails. Given twice, log every request.",
        )
    },
    OptionDef {
        value: file("FILE"),
        ..flag(
            Opt::PidFile,
            "pidfile",
            "pidfile",
            Category::Process,
            "Write the process id of the background process to FILE",
            "Write the process id of the process that serves the mount to FILE.",
        )
    },
    flag(
        Opt::AutoUnmount,
        "auto-unmount",
        "auto_unmount",
        Category::Process,
        "Unmount when the process dies",
        "Unmount when the process that serves the mount ends, for whatever reason.",
    ),
    flag(
        Opt::CloneFd,
        "clone-fd",
        "clone_fd",
        Category::Process,
        "Use one descriptor of /dev/fuse per thread (always on for root)",
        "Each thread reads requests from its own descriptor of /dev/fuse. This is always on where root mounts with \
         several threads; the option is accepted for compatibility with mount.fuse3(8).",
    ),
];
