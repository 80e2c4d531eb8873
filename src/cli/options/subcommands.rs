//! The table of subcommands, beside that of options: parser, help, man page and completions are made from both.

use super::{OPTIONS, Opt, OptionDef};

/// Which options of the table a subcommand takes.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Takes {
    /// These, and `--help`.
    These(&'static [Opt]),
    /// All options of a mount.
    OptionsOfMount,
}

/// Identifies a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Name {
    List,
    Stat,
    Explain,
    Reload,
    Umount,
    OciHook,
}

/// One subcommand: everything that the parser, the help, the man page and the completions need.
#[derive(Debug)]
pub(in crate::cli) struct SubcommandDef {
    pub(in crate::cli) id: Name,
    /// The word on the command line.
    pub(in crate::cli) name: &'static str,
    /// The names of the operands, in order.
    pub(in crate::cli) operands: &'static [&'static str],
    /// How many of the operands may be left out.
    pub(in crate::cli) optional: usize,
    takes: Takes,
    /// One line, for `--help` and the shells.
    pub(in crate::cli) help: &'static str,
    /// Whole sentences, for the man page.
    pub(in crate::cli) about: &'static str,
}

const MOUNTPOINT: &str = "MOUNTPOINT";

/// Every subcommand.
pub(in crate::cli) static SUBCOMMANDS: &[SubcommandDef] = &[
    SubcommandDef {
        id: Name::List,
        name: "list",
        operands: &[],
        optional: 0,
        takes: Takes::These(&[Opt::Json]),
        help: "List the mounts of this program",
        about: "Lists the mounts of both engines in this mount namespace, one a line: mount point, source, engine, map, \
                time since it was mounted, process id of the daemon. What is not known is written -.\n\n\
                Blanks, control characters and backslashes of a name are written as a backslash and three octal digits, \
                as in /proc/self/mountinfo. A user other than root sees the mounts that this user made.\n\n\
                A daemon that does not answer within two seconds delays no other: its mount is listed with what the mount \
                table says. A mount with another subtype than shiftbind is not listed, and a mount of the kernel's engine \
                only in the mount namespace that it was made in: a copy of that namespace has copies of the mounts, which \
                are not told from bind mounts. To root the mounts that were made in other namespaces are listed as well, with \
                the value of --namespace, a colon, and the mount point. The process id is printed where the process is one of the user who mounted.",
    },
    SubcommandDef {
        id: Name::Stat,
        name: "stat",
        operands: &[MOUNTPOINT],
        // Only with --prometheus.
        optional: 1,
        takes: Takes::These(&[Opt::Json, Opt::Watch, Opt::Prometheus, Opt::Namespace]),
        help: "Tell what is known of one mount",
        about: "Prints what is known of the mount at MOUNTPOINT, a fact a line: as list, and the options that were given, \
                the cache policy in force, reloads, requests, errors and latencies by kind (p50 and p99: so long half of the \
                answers and 99 % of them took at most, in steps of 25 %), bytes that the daemon itself has read and written, \
                invalidations, open files, backing files, hits of the daemon's caches, and the memory and descriptors of the \
                daemon. What the kernel answers from its own caches, or reads and writes by passthrough, never reaches the \
                daemon and is not counted. Root and the user who mounted may ask. A mount with another subtype is asked as well: it may be one \
                of another program, which then gets a request that it does not know.",
    },
    SubcommandDef {
        id: Name::Explain,
        name: "explain",
        operands: &["SOURCE", MOUNTPOINT],
        optional: 2,
        takes: Takes::OptionsOfMount,
        help: "Explain a mount, and mount nothing",
        about: "With SOURCE and MOUNTPOINT, or without operands: the same as --explain. With one operand, which is a mount of this program: \
                explains the map in force there.",
    },
    SubcommandDef {
        id: Name::Reload,
        name: "reload",
        operands: &[MOUNTPOINT],
        optional: 0,
        takes: Takes::These(&[Opt::Namespace]),
        help: "Evaluate the options of MOUNTPOINT again, and change it",
        about: "Evaluates the options of the mount at MOUNTPOINT again and changes it, see Changing a mount. The option \
                --reload does the same.",
    },
    SubcommandDef {
        id: Name::Umount,
        name: "umount",
        operands: &[MOUNTPOINT],
        optional: 0,
        takes: Takes::These(&[Opt::Lazy, Opt::Namespace]),
        help: "Unmount MOUNTPOINT, if it is a mount of this program",
        about: "Unmounts MOUNTPOINT, if the topmost mount there was made by this program, whichever engine made it, and \
                with it what the kernel's engine has taken along from below the source. Where other mounts are below it, or \
                a process uses a file or directory of it, nothing is unmounted. (A use that /proc does not show, as a loop \
                device of a file, is found too late: what was taken along is unmounted then.) With --lazy all that is mounted below it is detached as well, \
                as by umount -l. umount(8) does the same for a mount without others below it. No daemon is asked, unless \
                the subtype is another than shiftbind.\n\n\
                With --namespace, MOUNTPOINT is one of that namespace: a child process enters it and unmounts, no program of \
                the container is run. What is below a mount of the kernel's engine is then unmounted with --lazy only.",
    },
    SubcommandDef {
        id: Name::OciHook,
        name: "oci-hook",
        operands: &[],
        optional: 0,
        takes: Takes::These(&[Opt::HookConfig]),
        help: "Mount in a container that is being created, as its annotations say",
        about: "To be called by a container's runtime as a hook createRuntime (OCI runtime specification), with the state of \
                the container on standard input. For each annotation org.shiftbind.mount, or one with a suffix \
                (org.shiftbind.mount.data), whose value is SOURCE:TARGET or SOURCE:TARGET:OPTIONS, SOURCE is mounted on TARGET \
                in the container, with --namespace and --mkdir. A colon in one of them is written \\\\:. Which sources may be \
                mounted, and with which options, is said by /etc/shiftbind/oci-hook.conf, a file that root alone may write; \
                anything else is refused, and the container does not start. See Containers.",
    },
];

impl SubcommandDef {
    /// The options that it takes, in the table's order.
    pub(in crate::cli) fn options(&'static self) -> impl Iterator<Item = &'static OptionDef> {
        OPTIONS.iter().filter(|option| match self.takes {
            Takes::OptionsOfMount => option.is_of_mount(),
            Takes::These(ids) => option.id == Opt::Help || ids.contains(&option.id),
        })
    }

    /// The name and its operands, as in a usage line.
    pub(in crate::cli) fn usage(&self) -> String {
        let mut usage = self.name.to_owned();
        let required = self.operands.len() - self.optional;
        for (number, operand) in self.operands.iter().enumerate() {
            usage.push_str(&match number < required {
                true => format!(" {operand}"),
                false => format!(" [{operand}]"),
            });
        }
        usage
    }
}
