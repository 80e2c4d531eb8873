//! The one table of options. Parser, `--help`, man page and completions are made from it; nothing else lists options.

use super::{Category, Completion, Opt, OptionDef, ValueDef};

const fn flag(
    id: Opt,
    long: &'static str,
    word: &'static str,
    category: Category,
    help: &'static str,
    about: &'static str,
) -> OptionDef {
    OptionDef {
        id,
        long,
        short: None,
        word: Some(word),
        aliases: &[],
        opposite: None,
        value: None,
        default: "",
        category,
        help,
        about,
    }
}

const fn value(placeholder: &'static str) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::None })
}

const fn file(placeholder: &'static str) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::File })
}

const fn one_of(placeholder: &'static str, words: &'static [&'static str]) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::Words(words) })
}

/// Every option.
pub(in crate::cli) static OPTIONS: &[OptionDef] = &[
    // Maps.
    OptionDef {
        value: value("MAP"),
        default: "every id is shown as itself",
        ..flag(
            Opt::IdMap,
            "idmap",
            "idmap",
            Category::Maps,
            "Map uids and gids: [u:|g:|b:]SOURCE:MOUNT:COUNT",
            "Adds extents for users (u:), groups (g:) or both (b:, or no letter). \
             A letter holds until the next one within the same colon list; it may stand before every extent. \
             See MAPS.",
        )
    },
    OptionDef {
        value: value("MAP"),
        ..flag(
            Opt::UidMap,
            "uidmap",
            "uidmap",
            Category::Maps,
            "Map uids: SOURCE:MOUNT:COUNT, or identity",
            "Adds extents for users. A map for users alone is refused: give groups theirs as well, or gidmap=identity. \
             See MAPS.",
        )
    },
    OptionDef {
        value: value("MAP"),
        ..flag(
            Opt::GidMap,
            "gidmap",
            "gidmap",
            Category::Maps,
            "Map gids: SOURCE:MOUNT:COUNT, or identity",
            "Adds extents for groups. A map for groups alone is refused: give users theirs as well, or uidmap=identity. \
             See MAPS.",
        )
    },
    OptionDef {
        value: one_of("POLICY", &["deny", "pass", "squash="]),
        default: "deny",
        ..flag(
            Opt::Unmapped,
            "unmapped",
            "unmapped",
            Category::Maps,
            "Ids without a counterpart: deny, pass or squash=UID[:GID]",
            "What becomes of ids that no extent holds.\n\n\
             deny: the rules of an idmapped mount of the kernel. Such an id is shown as the overflow id (65534), nobody \
             is its owner, and what would store one fails with EOVERFLOW.\n\n\
             pass: it is shown and stored as it is. An id that an extent shows as well then stands for two source ids; \
             on the way back the extent wins.\n\n\
             squash=UID[:GID]: it is shown as this mount id, and stored as what this mount id is stored as. Without a \
             GID it is the login group of UID if the user database knows UID, else the same number. Names may stand for \
             numbers.",
        )
    },
    // Mount options.
    OptionDef {
        short: Some('r'),
        opposite: Some("rw"),
        ..flag(
            Opt::ReadOnly,
            "ro",
            "ro",
            Category::Mount,
            "Mount read-only, or read-write",
            "Mount read-only, or read-write. As for all of mount(8)'s options here, when neither is given the mount is \
             as the source's own mount is. mount(8) always gives one of the two.",
        )
    },
    OptionDef {
        opposite: Some("suid"),
        ..flag(
            Opt::NoSuid,
            "nosuid",
            "nosuid",
            Category::Mount,
            "Ignore set-user-ID, set-group-ID and file capabilities, or not",
            "Ignore set-user-ID and set-group-ID bits and file capabilities when a program is run, or honour them.",
        )
    },
    OptionDef {
        opposite: Some("dev"),
        ..flag(
            Opt::NoDev,
            "nodev",
            "nodev",
            Category::Mount,
            "Refuse to open device nodes, or not",
            "Refuse to open device nodes, or allow it.",
        )
    },
    OptionDef {
        opposite: Some("exec"),
        ..flag(
            Opt::NoExec,
            "noexec",
            "noexec",
            Category::Mount,
            "Refuse to run programs, or not",
            "Refuse to run programs from the mount, or allow it.",
        )
    },
    OptionDef {
        opposite: Some("symfollow"),
        ..flag(
            Opt::NoSymFollow,
            "nosymfollow",
            "nosymfollow",
            Category::Mount,
            "Do not follow symbolic links, or do",
            "Do not follow symbolic links of the mount when a path is resolved (they can still be made and read), or \
             follow them.",
        )
    },
    OptionDef {
        opposite: Some("atime"),
        ..flag(
            Opt::NoAtime,
            "noatime",
            "noatime",
            Category::Mount,
            "Never update access times, or as the kernel does by default",
            "Never update access times, or update them as the kernel does by default, which is relatime.",
        )
    },
    OptionDef {
        opposite: Some("norelatime"),
        ..flag(
            Opt::RelAtime,
            "relatime",
            "relatime",
            Category::Mount,
            "Update access times once a day or after a change",
            "Update an access time when it is a day old or older than the last change. norelatime asks for the \
             kernel's default, which is the same.",
        )
    },
    OptionDef {
        opposite: Some("nostrictatime"),
        ..flag(
            Opt::StrictAtime,
            "strictatime",
            "strictatime",
            Category::Mount,
            "Update access times on every read, or as the kernel does by default",
            "Update access times on every read, or as the kernel does by default.",
        )
    },
    OptionDef {
        opposite: Some("diratime"),
        ..flag(
            Opt::NoDirAtime,
            "nodiratime",
            "nodiratime",
            Category::Mount,
            "Never update access times of directories, or do",
            "Never update access times of directories, or update them as those of files.",
        )
    },
    OptionDef {
        opposite: Some("async"),
        default: "async",
        ..flag(
            Opt::Sync,
            "sync",
            "sync",
            Category::Mount,
            "Write every change through to the disk at once, or not",
            "Write every change through to the disk before a call returns, or let the source's filesystem decide.",
        )
    },
    flag(
        Opt::DirSync,
        "dirsync",
        "dirsync",
        Category::Mount,
        "Write every change of a directory through at once",
        "Write every change of a directory through to the disk before a call returns.",
    ),
    flag(
        Opt::Remount,
        "remount",
        "remount",
        Category::Mount,
        "Change the mount options of a mount that is there",
        "Change the mount options (ro, nosuid and so on) of MOUNTPOINT, which is mounted already. SOURCE may be left \
         out. Everything else, maps included, stays as it is: options other than mount options are accepted, because \
         mount(8) repeats those of fstab, and have no effect.",
    ),
    // Access and appearance.
    OptionDef {
        opposite: Some("no-allow-other"),
        default: "allow_other when root mounts",
        ..flag(
            Opt::AllowOther,
            "allow-other",
            "allow_other",
            Category::Access,
            "Let everyone use the mount, or only who mounted it",
            "Let every user reach the mount, as permissions allow, or only the user who mounted it. A user other than \
             root needs user_allow_other in /etc/fuse.conf for allow_other.",
        )
    },
    flag(
        Opt::AllowRoot,
        "allow-root",
        "allow_root",
        Category::Access,
        "Let who mounted it and root use the mount",
        "Let the user who mounted it and root reach the mount.",
    ),
    flag(
        Opt::DefaultPermissions,
        "default-permissions",
        "default_permissions",
        Category::Access,
        "Let the kernel check permissions (always so)",
        "Let the kernel check permissions against what the mount shows. This is always so; the option is accepted for \
         mount.fuse3(8)'s sake.",
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
        default: "shiftbind",
        ..flag(
            Opt::Subtype,
            "subtype",
            "subtype",
            Category::Access,
            "The filesystem type is shown as fuse.NAME",
            "The filesystem type is shown as fuse.NAME.",
        )
    },
    flag(
        Opt::OneFileSystem,
        "one-file-system",
        "one_file_system",
        Category::Access,
        "Hide what is mounted below the source",
        "Show the directories below SOURCE on which other filesystems are mounted as empty, instead of what is mounted \
         there.",
    ),
    // Caching and speed.
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
             newer, root only), but for those with setuid or setgid bits; where it refuses, the daemon does it.\n\n\
             off: the daemon always does it.",
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
        ..flag(
            Opt::SingleThread,
            "single-thread",
            "single_thread",
            Category::Cache,
            "Answer with one thread: threads=1",
            "The same as threads=1.",
        )
    },
    // Process.
    OptionDef {
        short: Some('f'),
        ..flag(
            Opt::Foreground,
            "foreground",
            "foreground",
            Category::Process,
            "Stay in the foreground",
            "Stay in the foreground and log to standard error. Otherwise the program returns when the mount answers, \
             and a process in the background serves it.",
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
        "Unmount when the process that serves the mount dies, however it dies.",
    ),
    // Other.
    OptionDef {
        short: Some('o'),
        word: None,
        value: value("OPTION[,OPTION...]"),
        ..flag(
            Opt::Words,
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
        word: None,
        ..flag(Opt::Help, "help", "", Category::Other, "Print this help", "Print a short help.")
    },
    OptionDef {
        short: Some('V'),
        word: None,
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
        word: None,
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
