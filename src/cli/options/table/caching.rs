//! Options: caching, and how data is transferred.

use super::super::{Category, Opt, OptionDef};
use super::{flag, one_of, value};

pub(super) const CACHING: &[OptionDef] = &[
    OptionDef {
        value: one_of("MODE", &["coherent", "none", "forever", "timeout=1s"]),
        default: "coherent",
        ..flag(
            Opt::Cache,
            "cache",
            "cache",
            Category::Cache,
            "How long the kernel may cache replies: coherent, none, forever or timeout=TIME",
            "How long the kernel may cache attributes, names and missing names without asking again.\n\n\
             coherent: as long as they are valid. The daemon watches the source and invalidates what other processes \
             change there within milliseconds. This requires root and a source on ext4, xfs, btrfs or tmpfs. Where \
             that is impossible, timeout=1s is used, or the mount is refused if cache=coherent was given.\n\n\
             timeout=TIME: for this time. Changes that other processes make on the source may be seen this much later.\n\n\
             none: not at all. Each component of each path costs a request.\n\n\
             forever: without a limit. For sources that are changed through this mount only.\n\n\
             A TIME is a number with ms, s, m, h or d; a number alone is seconds. Fractions are allowed.",
        )
    },
    OptionDef {
        value: value("TIME"),
        ..flag(
            Opt::EntryTimeout,
            "entry-timeout",
            "entry_timeout",
            Category::Cache,
            "How long names are cached",
            "How long names are cached, instead of the time of cache=timeout. Refused with cache=none and \
             cache=forever.",
        )
    },
    OptionDef {
        value: value("TIME"),
        ..flag(
            Opt::NegativeTimeout,
            "negative-timeout",
            "negative_timeout",
            Category::Cache,
            "How long missing names are cached",
            "How long missing names are cached, instead of the time of cache=timeout. 0 caches none. Refused with \
             cache=none and cache=forever.",
        )
    },
    OptionDef {
        value: value("TIME"),
        ..flag(
            Opt::AttrTimeout,
            "attr-timeout",
            "attr_timeout",
            Category::Cache,
            "How long attributes are cached",
            "How long attributes are cached, instead of the time of cache=timeout. Refused with cache=none and \
             cache=forever.",
        )
    },
    OptionDef {
        value: one_of("MODE", &["off", "auto"]),
        default: "auto",
        ..flag(
            Opt::Passthrough,
            "passthrough",
            "passthrough",
            Category::Cache,
            "Whether the kernel reads and writes the source's files directly: auto or off",
            "auto: the kernel reads and writes the source's regular files itself (FUSE passthrough, Linux 6.9 and \
             newer, root only), except files with setuid or setgid bits and files on network and FUSE filesystems; \
             where the kernel refuses, the daemon does it. If SOURCE is an overlay, the mount cannot be a layer of another \
             overlay (the kernel stacks two filesystems at most).\n\n\
             off: the daemon always does it, and the mount can be a layer of any overlay.",
        )
    },
    OptionDef {
        opposite: Some("no-direct-io"),
        ..flag(
            Opt::DirectIo,
            "direct-io",
            "direct_io",
            Category::Cache,
            "Send every read and write to the source, past the page cache, or not",
            "Every read and write goes through the daemon to the source, past the mount's page cache; only mapped \
             files have pages there. no-direct-io is the default.",
        )
    },
    OptionDef {
        value: value("ALIGN"),
        ..flag(
            Opt::ForwardOdirect,
            "forward-odirect",
            "forward_odirect",
            Category::Cache,
            "Forward O_DIRECT to the source",
            "Opens files on the source with O_DIRECT when a client does so at the mount, and transfers data through \
             buffers aligned to ALIGN bytes. Without it O_DIRECT applies at the mount only.",
        )
    },
    OptionDef {
        value: value("RATE"),
        ..flag(
            Opt::ReadRate,
            "read-rate",
            "read_rate",
            Category::Cache,
            "Read at most this many bytes per second: N[k|M|G|T]",
            "Limits reads by all clients together to RATE bytes per second. A RATE is a number, which may have a \
             fraction, with an optional k, M, G or T for powers of 1024. Data then passes through the daemon \
             (passthrough=off).",
        )
    },
    OptionDef {
        value: value("RATE"),
        ..flag(
            Opt::WriteRate,
            "write-rate",
            "write_rate",
            Category::Cache,
            "Write at most this many bytes per second: N[k|M|G|T]",
            "As read-rate, for writes.",
        )
    },
    OptionDef {
        opposite: Some("disable-lock-forwarding"),
        default: "enabled; under the name bindfs disabled",
        ..flag(
            Opt::LockForwarding,
            "enable-lock-forwarding",
            "enable_lock_forwarding",
            Category::Cache,
            "Take locks on the source, or within the mount only",
            "Locks (fcntl(2), flock(2)) are taken on the source, so that they exclude processes that use the source \
             directly, or within the mount only.",
        )
    },
    OptionDef {
        value: value("BYTES"),
        default: "the kernel's limit",
        ..flag(
            Opt::MaxRead,
            "max-read",
            "max_read",
            Category::Cache,
            "The largest read request in bytes",
            "The largest read request in bytes. 0 is the kernel's own limit.",
        )
    },
    OptionDef {
        value: value("N"),
        aliases: &["max-threads"],
        default: "one per processor, at least 2, at most 16",
        ..flag(
            Opt::Threads,
            "threads",
            "threads",
            Category::Cache,
            "The number of worker threads",
            "The number of threads that answer requests, 1 to 1024.",
        )
    },
    OptionDef {
        short: Some('s'),
        opposite: Some("multithreaded"),
        ..flag(
            Opt::SingleThread,
            "single-thread",
            "single_thread",
            Category::Cache,
            "Use one worker thread, or several (the default)",
            "The same as threads=1. multithreaded undoes it; several threads are the default.",
        )
    },
];
