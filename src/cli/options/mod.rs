//! The definition of an option, and lookup by name. `table` holds the options themselves.

mod engines;
mod subcommands;
mod table;

pub(super) use subcommands::{Name, SUBCOMMANDS, SubcommandDef};
pub(super) use table::OPTIONS;

/// Identifies an option for `settings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opt {
    UidMap,
    GidMap,
    IdMap,
    MapFrom,
    InvertMap,
    OwnerAs,
    RootAs,
    Unmapped,
    ForceUser,
    ForceGroup,
    Mirror,
    MirrorOnly,
    Map,
    MapPasswd,
    MapGroup,
    MapPasswdRev,
    MapGroupRev,
    UidOffset,
    GidOffset,
    CreateAsUser,
    CreateAsMounter,
    CreateForUser,
    CreateForGroup,
    CreateWithPerms,
    Perms,
    Umask,
    Fmask,
    Dmask,
    RealisticPermissions,
    ChownNormal,
    ChownIgnore,
    ChownDeny,
    ChgrpNormal,
    ChgrpIgnore,
    ChgrpDeny,
    ChmodNormal,
    ChmodIgnore,
    ChmodDeny,
    ChmodFilter,
    ChmodAllowX,
    XattrRw,
    XattrRo,
    XattrNone,
    DeleteDeny,
    RenameDeny,
    EnableIoctl,
    Exclude,
    FollowSource,
    HideHardLinks,
    ResolveSymlinks,
    ResolvedSymlinkDeletion,
    CtimeFromMtime,
    BlockDevicesAsFiles,
    ReadOnly,
    NoSuid,
    NoDev,
    NoExec,
    NoSymFollow,
    NoAtime,
    RelAtime,
    StrictAtime,
    NoDirAtime,
    Sync,
    DirSync,
    Remount,
    Namespace,
    Ids,
    MakeDir,
    AllowOther,
    AllowRoot,
    DefaultPermissions,
    Idmappable,
    AutoUnmount,
    FsName,
    Subtype,
    Engine,
    Cache,
    EntryTimeout,
    NegativeTimeout,
    AttrTimeout,
    Passthrough,
    DirectIo,
    ForwardOdirect,
    ReadRate,
    WriteRate,
    LockForwarding,
    MaxRead,
    Threads,
    SingleThread,
    OneFileSystem,
    Foreground,
    Debug,
    Verbose,
    PidFile,
    CloneFd,
    Config,
    Reload,
    Explain,
    Json,
    Lazy,
    HookConfig,
    Watch,
    Prometheus,
    Options,
    Help,
    Version,
    FuseVersion,
    Generate,
}

/// The heading of an option in `--help` and the man page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    Maps,
    Owners,
    Creation,
    Perms,
    Changes,
    View,
    Mount,
    Access,
    Cache,
    Process,
    Other,
    /// Options of subcommands, not of a mount.
    Commands,
    /// Not documented.
    Hidden,
}

impl Category {
    /// The documented categories, in order.
    pub(super) const SHOWN: [Self; 11] = [
        Self::Maps,
        Self::Owners,
        Self::Creation,
        Self::Perms,
        Self::Changes,
        Self::View,
        Self::Mount,
        Self::Access,
        Self::Cache,
        Self::Process,
        Self::Other,
    ];

    /// The heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Maps => "Maps",
            Self::Owners => "Owners, as in bindfs",
            Self::Creation => "New files",
            Self::Perms => "Permissions shown",
            Self::Changes => "Changes",
            Self::View => "What is shown",
            Self::Mount => "Mount options",
            Self::Access => "Access",
            Self::Cache => "Caching and speed",
            Self::Process => "Process",
            Self::Other => "Other",
            Self::Commands => "Options of commands",
            Self::Hidden => "Hidden",
        }
    }
}

/// What a shell offers as the option's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Completion {
    /// Nothing.
    None,
    /// Paths of files.
    File,
    /// One of these words.
    Words(&'static [&'static str]),
}

/// The value of an option that takes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct ValueDef {
    /// The name of the value in the help.
    pub(super) placeholder: &'static str,
    /// What a shell offers for it.
    pub(super) completion: Completion,
    /// The value of the bare flag. `None`: a value must be given.
    pub(super) if_bare: Option<&'static str>,
}

impl ValueDef {
    /// What follows the flag in a usage line, with the placeholder between two marks of a markup.
    pub(super) fn suffix(&self, (begin, end): (&str, &str)) -> String {
        let placeholder = self.placeholder;
        match self.if_bare {
            None => format!("={begin}{placeholder}{end}"),
            Some(_) => format!("[={begin}{placeholder}{end}]"),
        }
    }
}

/// One option: everything that the parser, the help, the man page and the completions need.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionDef {
    pub(super) id: Opt,
    /// The long flag, without its dashes.
    pub(super) long: &'static str,
    /// The short flag.
    pub(super) short: Option<char>,
    /// The name within `-o`. `None`: not allowed there.
    pub(super) mount_option: Option<&'static str>,
    /// Further names, as long flags and within `-o`.
    pub(super) aliases: &'static [&'static str],
    /// Further names as long flags only: within `-o` they are options of mount(8).
    pub(super) long_aliases: &'static [&'static str],
    /// The name of the opposite, as a long flag and within `-o`.
    pub(super) opposite: Option<&'static str>,
    /// The short flag of the opposite.
    pub(super) opposite_short: Option<char>,
    /// `None`: a flag.
    pub(super) value: Option<ValueDef>,
    /// The default, for the help and the man page. Empty: not mentioned.
    pub(super) default: &'static str,
    pub(super) category: Category,
    /// One line, for `--help` and the shells.
    pub(super) help: &'static str,
    /// Whole sentences, for the man page.
    pub(super) about: &'static str,
}

impl OptionDef {
    /// Whether repeated uses add up.
    pub(super) fn accumulates(&self) -> bool {
        use Opt::{Exclude, GidMap, IdMap, MapFrom, Options, UidMap, Verbose};
        matches!(self.id, UidMap | GidMap | IdMap | MapFrom | Exclude | Options | Verbose)
    }

    /// Whether the option is one of a mount: `shiftbind SOURCE MOUNTPOINT` and a mount helper accept it.
    pub(super) fn is_of_mount(&self) -> bool {
        self.category != Category::Commands
    }

    /// Whether `--help` and the man page list it among the options of a mount.
    pub(super) fn is_shown(&self) -> bool {
        Category::SHOWN.contains(&self.category)
    }

    /// The name of the option, or of its opposite.
    pub(super) fn name(&self, is_on: bool) -> &'static str {
        match self.opposite {
            Some(opposite) if !is_on => opposite,
            _ => self.long,
        }
    }

    /// Every name as a long flag and within `-o`. The flag is `false` for the opposite.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let own = std::iter::once((self.long, true));
        let others = self.aliases.iter().map(|&name| (name, true));
        own.chain(others).chain(self.opposite.map(|name| (name, false)))
    }
}

impl Opt {
    /// Whether what the option does, `on` or its opposite, depends on which user sends a request that creates nothing.
    pub(super) fn needs_caller(self, on: bool) -> bool {
        match self {
            // The daemon checks permissions (`View::needs`).
            Self::Mirror
            | Self::MirrorOnly
            | Self::ChownIgnore
            | Self::ChgrpIgnore
            | Self::ChmodIgnore => true,
            // The daemon checks the caller's rights on the directory of the target.
            Self::ResolvedSymlinkDeletion => true,
            // The ioctl is made with the caller's ids and capabilities.
            Self::EnableIoctl => true,
            Self::AllowRoot => true,
            Self::AllowOther => !on,
            _ => false,
        }
    }
}

/// One option as the user gave it.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) option: &'static OptionDef,
    /// `false`: the opposite was given.
    pub(super) on: bool,
    /// Present exactly when the option takes a value.
    pub(super) value: Option<std::ffi::OsString>,
}

/// Finds an option by a name within `-o`, where `-` and `_` are equal. The flag is `false` for the opposite.
pub(super) fn by_mount_option(name: &str) -> Option<(&'static OptionDef, bool)> {
    let same = |one: &str| {
        one.len() == name.len() && one.bytes().map(underscored).eq(name.bytes().map(underscored))
    };
    OPTIONS.iter().filter(|option| option.mount_option.is_some()).find_map(|option| {
        option.names().find(|(one, _)| same(one)).map(|(_, is_on)| (option, is_on))
    })
}

fn underscored(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

/// The row of an option.
pub(super) fn by_id(id: Opt) -> &'static OptionDef {
    let row = OPTIONS.iter().find(|option| option.id == id);
    row.expect("each option has a row in the table")
}

/// Every name within `-o`, as documented.
pub(super) fn mount_option_names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().flat_map(|option| {
        option.mount_option.into_iter().chain(
            option
                .names()
                .map(|(name, _)| name)
                .filter(move |&name| option.mount_option.is_some() && name != option.long),
        )
    })
}

/// Every documented long flag of these options, without dashes.
pub(super) fn long_flags(
    options: impl Iterator<Item = &'static OptionDef>,
) -> impl Iterator<Item = &'static str> {
    options.filter(|option| option.category != Category::Hidden).flat_map(|option| {
        option.names().map(|(name, _)| name).chain(option.long_aliases.iter().copied())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_options_share_a_name_or_a_letter() {
        let mut names = HashSet::new();
        let mut letters = HashSet::new();
        for option in OPTIONS {
            let flags = option.long_aliases.iter().copied();
            for name in option.names().map(|(name, _)| name).chain(flags) {
                assert!(names.insert(name.replace('_', "-")), "{name} twice");
            }
            for letter in option.short.into_iter().chain(option.opposite_short) {
                assert!(letters.insert(letter), "-{letter} twice");
            }
        }
    }

    #[test]
    fn every_option_has_both_spellings_but_those_that_cannot() {
        for option in OPTIONS {
            use Opt::{FuseVersion, Generate, Help, Options, Reload, Version};
            let only_a_flag = !option.is_of_mount()
                || matches!(option.id, Help | Version | FuseVersion | Options | Generate | Reload);
            assert_eq!(option.mount_option.is_none(), only_a_flag, "{}", option.long);
            if let Some(word) = option.mount_option {
                assert_eq!(word.replace('_', "-"), option.long);
                assert!(std::ptr::eq(by_mount_option(word).unwrap().0, option));
            }
        }
    }

    #[test]
    fn every_option_id_is_in_the_table_once() {
        // The last variant's number is the count less one, so that a variant missing in the table is found.
        let ids: HashSet<usize> = OPTIONS.iter().map(|option| option.id as usize).collect();
        assert_eq!(ids.len(), OPTIONS.len());
        assert_eq!(ids.len(), Opt::Generate as usize + 1);
    }

    #[test]
    fn every_option_has_a_help_line_and_a_description() {
        for option in OPTIONS {
            assert!(!option.help.is_empty() && !option.help.ends_with('.'), "{}", option.long);
            assert!(option.help.len() <= 100, "{}: a line, not a text", option.long);
            assert!(option.about.ends_with('.'), "{}", option.long);
        }
    }

    #[test]
    fn only_flags_have_opposites() {
        for option in OPTIONS {
            assert!(option.opposite.is_none() || option.value.is_none(), "{}", option.long);
        }
    }

    #[test]
    fn dashes_and_underscores_are_the_same_within_o() {
        assert_eq!(by_mount_option("allow-other").unwrap().0.id, Opt::AllowOther);
        assert_eq!(by_mount_option("one_file_system").unwrap().0.id, Opt::OneFileSystem);
        assert!(!by_mount_option("no_allow_other").unwrap().1);
        assert!(by_mount_option("allow.other").is_none());
    }
}
