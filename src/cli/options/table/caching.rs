//! Options: caching, and how data is moved.

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
            "How long the kernel may keep answers: coherent, none, forever or timeout=TIME",
            "How long the kernel may keep attributes, names, and names known to be missing, without asking again.\n\n\
             coherent: for as long as they are true. What others change on the source is watched for and taken out of the \
             kernel's caches within milliseconds. It takes root and a source on ext4, xfs, btrfs or tmpfs; without this \
             option timeout=1s is used where it cannot be, with it the mount is refused.\n\n\
             timeout=TIME: this long. What others change on the source meanwhile may be seen this much later.\n\n\
             none: not at all. Every path costs a question for each of its parts.\n\n\
             forever: as long as the kernel likes. For sources that nobody changes but through this mount.\n\n\
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
            "How long names are kept",
            "How long names are kept, in place of cache=timeout's. Refused with cache=none and cache=forever.",
        )
    },
    OptionDef {
        value: value("TIME"),
        ..flag(
            Opt::NegativeTimeout,
            "negative-timeout",
            "negative_timeout",
            Category::Cache,
            "How long missing names are kept",
            "How long it is remembered that a name is missing, in place of cache=timeout's. 0 keeps none. Refused with \
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
            "How long attributes are kept",
            "How long attributes are kept, in place of cache=timeout's. Refused with cache=none and cache=forever.",
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
             newer, root only), but for those with setuid or setgid bits and those of network and FUSE file systems; \
             where it refuses, the daemon does it.\n\n\
             off: the daemon always does it.",
        )
    },
    OptionDef {
        opposite: Some("no-direct-io"),
        ..flag(
            Opt::DirectIo,
            "direct-io",
            "direct_io",
            Category::Cache,
            "Pass every read and write to the source, past the page cache, or not",
            "Every read and write goes to the source by way of the daemon, past the mount's page cache; only mappings of \
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
            "Open files on the source with O_DIRECT where they are here",
            "Keeps O_DIRECT when a file is opened with it, and reads and writes the source from buffers aligned to ALIGN \
             bytes. Without it O_DIRECT holds for the mount only.",
        )
    },
    OptionDef {
        value: value("RATE"),
        ..flag(
            Opt::ReadRate,
            "read-rate",
            "read_rate",
            Category::Cache,
            "Read at most so many bytes per second: N[k|M|G|T]",
            "Lets all users of the mount together read at most RATE bytes per second. A RATE is a number, which may have a \
             fraction, and k, M, G or T for powers of 1024. Data then goes by way of the daemon (passthrough=off).",
        )
    },
    OptionDef {
        value: value("RATE"),
        ..flag(
            Opt::WriteRate,
            "write-rate",
            "write_rate",
            Category::Cache,
            "Write at most so many bytes per second: N[k|M|G|T]",
            "As read-rate, for writing.",
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
            "Hold locks on the source, or within the mount only",
            "Locks (fcntl(2), flock(2)) are held on the source, so that they exclude its other users too, or within the \
             mount only.",
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
            "How many threads answer requests",
            "How many threads answer requests, 1 to 1024.",
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
            "Answer with one thread, or with several (the default)",
            "The same as threads=1. multithreaded takes it back; several threads are the default.",
        )
    },
];
