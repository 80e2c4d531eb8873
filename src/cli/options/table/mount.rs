//! Options: those of mount(8).

use super::super::{Category, Opt, OptionDef};
use super::{flag, one_of, value};

pub(super) const MOUNT: &[OptionDef] = &[
    OptionDef {
        value: one_of("ENGINE", &["auto", "fuse", "kernel"]),
        default: "auto; under the name bindfs fuse",
        ..flag(
            Opt::Engine,
            "engine",
            "engine",
            Category::Mount,
            "What makes the mount: the kernel where it can, the FUSE daemon, or the kernel alone",
            "What makes the mount. See ENGINES.\n\n\
             auto: the kernel where it can, else the FUSE daemon. --explain says which, and why.\n\n\
             kernel: the kernel. Where it cannot, the mount is refused and the message names the obstacle.\n\n\
             fuse: the FUSE daemon.",
        )
    },
    OptionDef {
        short: Some('r'),
        opposite: Some("rw"),
        ..flag(
            Opt::ReadOnly,
            "ro",
            "ro",
            Category::Mount,
            "Mount read-only, or read-write",
            "Mount read-only, or read-write. Like all options of mount(8) here, it is inherited from the source's own \
             mount when neither is given. mount(8) always passes one of the two.",
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
            "Ignore set-user-ID and set-group-ID bits and file capabilities when a program is executed, or honour \
             them.",
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
            "Refuse to run programs from the mount, or allow it. When neither is given, the mount is also noexec if a \
             filesystem mounted below the source is noexec.",
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
            "Do not follow symbolic links of the mount when a path is resolved (creating and reading them still \
             works), or follow them.",
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
            "Write every change (data, names, attributes, extended attributes) through to the disk before the call returns, \
             or let the source's filesystem decide. Data then passes through the daemon (passthrough=off); stores to a \
             shared mapping are written by msync(2). --reload changes it for files opened afterwards, a remount cannot.",
        )
    },
    OptionDef {
        short: Some('N'),
        value: value("PID|NSPATH"),
        ..flag(
            Opt::Namespace,
            "namespace",
            "namespace",
            Category::Mount,
            "Mount in the mount namespace of a process (a container's)",
            "Mount in another mount namespace: that of the process PID, or the one that NSPATH names, such as \
             /proc/PID/ns/mnt. MOUNTPOINT is resolved within the root of that namespace: a symbolic link or .. leads to its \
             root at most, and links of /proc lead nowhere. SOURCE is one of this namespace. No program of the container is \
             run. Nothing of the daemon is in the container, and it ends when the namespace does. See Containers.",
        )
    },
    OptionDef {
        value: one_of("WHOSE", &["container", "host"]),
        ..flag(
            Opt::Ids,
            "ids",
            "ids",
            Category::Mount,
            "With --namespace: whose numbers the mount's ids are",
            "With --namespace: whose numbers the mount's ids are.\n\n\
             container: those of the container's user namespace, to which the filesystem then belongs. Without a map, the \
             source's ids are those of the container; to a user without privilege, the user's own alone. Set-user-ID and file capabilities are valid in the container alone, \
             devices cannot be opened, and no process outside can use the mount. It is the default where the container has a \
             user namespace of its own.\n\n\
             host: those of this program's user namespace, as for a mount that is made here. Without a map, the source's \
             ids are shown as they are, of which the container sees those that it has.",
        )
    },
    flag(
        Opt::MakeDir,
        "mkdir",
        "mkdir",
        Category::Mount,
        "Make the mount point where there is none",
        "Make MOUNTPOINT, and the directories above it, where they do not exist; an empty file if SOURCE is a file. With \
         --namespace they belong to the container's root.",
    ),
    flag(
        Opt::DirSync,
        "dirsync",
        "dirsync",
        Category::Mount,
        "Write every change of a directory through at once",
        "Write every name that is created, linked, renamed or removed through to the disk before the call returns. \
         --reload can change it, a remount cannot.",
    ),
    flag(
        Opt::Remount,
        "remount",
        "remount",
        Category::Mount,
        "Change the mount options of an existing mount",
        "Changes the mount options (ro, nosuid and so on) of MOUNTPOINT, which is mounted already. SOURCE may be \
         omitted. All other settings, maps included, stay as they are: options other than mount options are accepted, \
         because mount(8) repeats those of fstab, and have no effect.",
    ),
];
