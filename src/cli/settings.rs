//! Turns options in the order given into a [`Config`]: the last value of an option wins, maps add up.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::bindfs_map;
use super::dialect::Dialect;
use super::ids::IdOptions;
use super::input_file::InputFile;
use super::maps::IdKinds;
use super::mount_options;
use super::options::{Given, Opt, OptionDef};
use super::target::{self, TargetOptions};
use super::values::{self, CacheMode};
use super::view_options::ViewOptions;
use crate::accounts::Accounts;
use crate::config::{
    Access, Atime, CachePolicy, Config, DataPath, EngineChoice, Found, MountFlags, NamespaceMap,
    ProcessConfig,
};
use crate::error::{Error, Result};
use crate::idmap::{Kind, Translation};
use crate::map_from::{self, FoundMap};

/// The options that were read so far.
pub(super) struct Settings {
    dialect: Dialect,
    ids: IdOptions,
    view: ViewOptions,
    engine: Option<EngineChoice>,
    given: Vec<String>,
    daemon_options: Vec<&'static str>,
    flags: MountFlags,
    access: Option<Access>,
    idmappable: bool,
    /// Options that were given and that depend on the caller.
    caller_options: Vec<&'static str>,
    fsname: Option<OsString>,
    subtype: Option<String>,
    max_read: Option<u32>,
    cache: CacheMode,
    entry: Option<Duration>,
    negative: Option<Duration>,
    attr: Option<Duration>,
    data: DataPath,
    threads: Option<NonZeroUsize>,
    locks_on_source: Option<bool>,
    one_file_system: bool,
    follow_source: bool,
    options_file: Option<PathBuf>,
    warnings: Vec<String>,
    process: ProcessConfig,
    remount: bool,
    explain: bool,
    target: TargetOptions,
    /// What the running mount keeps through a reload.
    kept: Option<Found>,
    /// The maps of user namespaces that these options name.
    namespaces: Vec<NamespaceMap>,
}

/// The largest alignment of buffers, in bytes. Chosen: larger than any block size.
const MAX_ALIGNMENT: u32 = 1 << 24;

/// The timeout of replies where libfuse's timeout options are given without cache=timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// An option with its value, as the user gave it.
struct GivenOption {
    option: &'static OptionDef,
    on: bool,
    value: OsString,
}

impl GivenOption {
    /// Refuses an empty value, but where it is an empty list of rules.
    fn checked(Given { option, on, value }: Given) -> Result<Self> {
        let value = value.unwrap_or_default();
        let is_list = matches!(option.id, Opt::Perms | Opt::CreateWithPerms | Opt::ChmodFilter);
        let one = Self { option, on, value };
        match option.value.is_some() && one.value.is_empty() && !is_list {
            true => Err(one.refused("the value is empty")),
            false => Ok(one),
        }
    }

    /// The value of an option that is neither a path nor `fsname`: it must be UTF-8.
    fn text(&self) -> Result<&str> {
        self.value.to_str().ok_or_else(|| self.refused("the value is not valid UTF-8"))
    }

    /// The value, parsed.
    fn parse<T, E: Display>(
        &self,
        parse: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Result<T> {
        parse(self.text()?).map_err(|why| self.refused(why))
    }

    fn refused(&self, why: impl Display) -> Error {
        Error::usage(format!("option '{}': {why}", self.option.long))
    }
}

impl Settings {
    /// Reads the options in order. `kept` is what a running mount keeps; `None` if there is none.
    pub(super) fn read(
        given: Vec<Given>,
        dialect: Dialect,
        accounts: &dyn Accounts,
        kept: Option<&Found>,
    ) -> Result<Self> {
        let mut settings = Self {
            dialect,
            ids: IdOptions::default(),
            view: ViewOptions::default(),
            engine: None,
            given: Vec::new(),
            daemon_options: Vec::new(),
            flags: MountFlags::default(),
            access: None,
            idmappable: false,
            caller_options: Vec::new(),
            fsname: None,
            subtype: None,
            max_read: None,
            cache: CacheMode::Coherent { required: false },
            entry: None,
            negative: None,
            attr: None,
            data: DataPath::default(),
            threads: None,
            locks_on_source: None,
            one_file_system: false,
            follow_source: false,
            options_file: None,
            warnings: Vec::new(),
            process: ProcessConfig::default(),
            remount: false,
            explain: false,
            target: TargetOptions::default(),
            kept: kept.cloned(),
            namespaces: Vec::new(),
        };
        for one in given {
            settings.apply(one, accounts)?;
        }
        Ok(settings)
    }

    /// Notes that mount(8) started this process.
    pub(super) fn set_called_by_mount8(&mut self) {
        self.process.called_by_mount8 = true;
    }

    /// Whether the command changes an existing mount.
    pub(super) fn is_remount(&self) -> bool {
        self.remount
    }

    /// Whether the command only explains the mount.
    pub(super) fn is_explain(&self) -> bool {
        self.explain
    }

    /// The mount options alone.
    pub(super) fn into_flags(self) -> MountFlags {
        self.flags
    }

    /// Applies bindfs's defaults nosuid and nodev, which hold unless it is called as a mount helper.
    pub(super) fn apply_bindfs_defaults(&mut self) {
        self.flags.nosuid.get_or_insert(true);
        self.flags.nodev.get_or_insert(true);
    }

    fn apply(&mut self, given: Given, accounts: &dyn Accounts) -> Result<()> {
        let one = GivenOption::checked(given)?;
        let (id, name) = (one.option.id, one.option.long);
        if id.needs_daemon(one.on) && !self.daemon_options.contains(&name) {
            self.daemon_options.push(name);
        }
        if id.needs_caller(one.on) {
            self.caller_options.push(one.option.name(one.on));
        }
        self.given.extend(spelled(one.option, one.on, &one.value));
        let is_applied = self.apply_to_maps(&one, accounts)?
            || self.apply_to_mount(&one)?
            || self.apply_to_data(&one)?
            || self.apply_to_process(&one, accounts)?;
        if !is_applied {
            let text = if one.option.value.is_some() { one.text()? } else { "" };
            self.view.apply(id, text, accounts).map_err(|why| one.refused(why))?;
        }
        Ok(())
    }

    /// Applies an option on maps. Returns whether it is one.
    fn apply_to_maps(&mut self, one: &GivenOption, accounts: &dyn Accounts) -> Result<bool> {
        match one.option.id {
            Opt::UidMap => {
                self.ids.add_map(one.option.long, IdKinds::Users, one.text()?, accounts)?
            }
            Opt::GidMap => {
                self.ids.add_map(one.option.long, IdKinds::Groups, one.text()?, accounts)?
            }
            Opt::IdMap if one.value.as_encoded_bytes().starts_with(b"/") => {
                let found =
                    self.map_of_namespace(one, || map_from::of_namespace(Path::new(&one.value)))?;
                self.ids.add_found(found);
            }
            Opt::MapFrom => {
                let read = || map_from::read(&one.value, accounts);
                let found = match map_from::is_of_namespace(&one.value) {
                    true => self.map_of_namespace(one, read)?,
                    false => read().map_err(|why| one.refused(why))?,
                };
                self.ids.add_map_from(found);
            }
            Opt::OwnerAs => {
                self.ids.set_owner_as(one.parse(|text| values::user_and_group(text, accounts))?);
            }
            Opt::RootAs => {
                self.ids.set_root_as(one.parse(|text| values::user_and_group(text, accounts))?);
            }
            Opt::InvertMap => self.ids.invert_map_from(),
            Opt::IdMap => {
                self.ids.add_map(one.option.long, IdKinds::Both, one.text()?, accounts)?
            }
            Opt::Unmapped => {
                self.ids.set_unmapped(one.parse(|text| values::unmapped(text, accounts))?);
            }
            Opt::Map => {
                self.ids.set_bindfs_map(one.parse(|text| bindfs_map::parse_map(text, accounts))?)
            }
            Opt::MapPasswd | Opt::MapGroup | Opt::MapPasswdRev | Opt::MapGroupRev => {
                self.ids.set_accounts_file(
                    one.option.id,
                    one.option.long,
                    InputFile { path: Path::new(&one.value), is_reload: self.kept.is_some() },
                    accounts,
                    &mut self.warnings,
                )?;
            }
            Opt::UidOffset | Opt::GidOffset => {
                self.ids.set_offset(one.option.id, one.parse(bindfs_map::parse_offset)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The map of the user namespace that an option names: the one that the running mount has for the same value, else the
    /// one that is found now.
    fn map_of_namespace(
        &mut self,
        one: &GivenOption,
        read: impl FnOnce() -> map_from::Result<FoundMap>,
    ) -> Result<FoundMap> {
        let is_same =
            |kept: &&NamespaceMap| kept.option == one.option.long && kept.value == one.value;
        let found = match self.kept.iter().flat_map(|kept| &kept.namespaces).find(is_same) {
            Some(kept) => FoundMap { uids: kept.uids.clone(), gids: kept.gids.clone() },
            None => read().map_err(|why| one.refused(why))?,
        };
        self.namespaces.push(NamespaceMap {
            option: one.option.long.to_owned(),
            value: one.value.clone(),
            uids: found.uids.clone(),
            gids: found.gids.clone(),
        });
        Ok(found)
    }

    /// Applies an option of mount(8), or one that says how the mount is made. Returns whether it is one.
    fn apply_to_mount(&mut self, one: &GivenOption) -> Result<bool> {
        match one.option.id {
            Opt::ReadOnly => self.flags.read_only = Some(one.on),
            Opt::NoSuid => self.flags.nosuid = Some(one.on),
            Opt::NoDev => self.flags.nodev = Some(one.on),
            Opt::NoExec => self.flags.noexec = Some(one.on),
            Opt::NoSymFollow => self.flags.nosymfollow = Some(one.on),
            Opt::NoAtime if one.on => self.flags.atime = Some(Atime::Never),
            Opt::StrictAtime if one.on => self.flags.atime = Some(Atime::Strict),
            // atime, norelatime and nostrictatime ask for the kernel's default, which is relatime.
            Opt::NoAtime | Opt::StrictAtime | Opt::RelAtime => {
                self.flags.atime = Some(Atime::Relative);
            }
            Opt::NoDirAtime => self.flags.nodiratime = Some(one.on),
            Opt::Sync => self.flags.sync = one.on,
            Opt::DirSync => self.flags.dirsync = one.on,
            Opt::Remount => self.remount = true,
            Opt::AllowOther if one.on => self.access = Some(Access::Everyone),
            Opt::AllowOther => self.access = Some(Access::Owner),
            Opt::AllowRoot => self.access = Some(Access::OwnerAndRoot),
            Opt::Idmappable => self.idmappable = true,
            Opt::DefaultPermissions | Opt::CloneFd => {}
            Opt::FsName => self.fsname = Some(one.value.clone()),
            Opt::Subtype => self.subtype = Some(one.text()?.to_owned()),
            Opt::Engine => self.engine = Some(one.parse(values::engine)?),
            Opt::Namespace => self.target.set_namespace(&one.value),
            Opt::Ids => self.target.set_container(one.parse(values::ids)?),
            Opt::MakeDir => self.target.make_dir = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Applies an option on caches, data and workers. Returns whether it is one.
    fn apply_to_data(&mut self, one: &GivenOption) -> Result<bool> {
        match one.option.id {
            Opt::Cache => self.cache = one.parse(values::cache_mode)?,
            Opt::EntryTimeout => self.entry = Some(one.parse(values::duration)?),
            Opt::NegativeTimeout => self.negative = Some(one.parse(values::duration)?),
            Opt::AttrTimeout => self.attr = Some(one.parse(values::duration)?),
            Opt::Passthrough => self.data.passthrough = one.parse(values::passthrough)?,
            Opt::DirectIo => self.data.direct_io = one.on,
            Opt::ForwardOdirect => {
                let align = one.parse(|text| values::number(text, 1, MAX_ALIGNMENT))?;
                self.data.forward_odirect = usize::try_from(align).ok().and_then(NonZeroUsize::new);
            }
            Opt::ReadRate => self.data.read_rate = Some(one.parse(values::rate)?),
            Opt::WriteRate => self.data.write_rate = Some(one.parse(values::rate)?),
            Opt::LockForwarding => self.locks_on_source = Some(one.on),
            Opt::MaxRead => {
                let bytes = one.parse(|text| values::number(text, 0, u32::MAX))?;
                self.max_read = Some(bytes).filter(|bytes| *bytes > 0);
            }
            Opt::Threads => {
                let threads = one.parse(|text| values::number(text, 1, 1024))?;
                self.threads = usize::try_from(threads).ok().and_then(NonZeroUsize::new);
            }
            Opt::SingleThread if one.on => self.threads = Some(NonZeroUsize::MIN),
            Opt::SingleThread => self.threads = self.threads.filter(|n| *n > NonZeroUsize::MIN),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Applies an option on the source or the process, or one that the grammars handle. Returns whether it is one.
    fn apply_to_process(&mut self, one: &GivenOption, accounts: &dyn Accounts) -> Result<bool> {
        match one.option.id {
            Opt::AutoUnmount => self.process.auto_unmount = true,
            Opt::OneFileSystem => self.one_file_system = true,
            Opt::FollowSource => self.follow_source = true,
            Opt::Foreground => self.process.foreground = true,
            Opt::Debug => {
                self.process.foreground = true;
                self.process.verbosity = 2;
            }
            Opt::Verbose => self.process.verbosity = (self.process.verbosity + 1).min(2),
            Opt::PidFile => self.process.pidfile = Some(PathBuf::from(&one.value)),
            Opt::Explain => self.explain = true,
            Opt::Config => self.read_file(PathBuf::from(&one.value), accounts)?,
            // The grammars handle these.
            Opt::Options | Opt::Help | Opt::Version | Opt::FuseVersion => {}
            Opt::Generate | Opt::Reload | Opt::Json | Opt::Lazy | Opt::HookConfig => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Applies the options of a file.
    fn read_file(&mut self, path: PathBuf, accounts: &dyn Accounts) -> Result<()> {
        if self.options_file.is_some() {
            return Err(Error::usage("option 'config' can be given once, and not within its file"));
        }
        let file = InputFile { path: &path, is_reload: self.kept.is_some() };
        let given = mount_options::parse_file(file)?;
        // The path must stay valid after the daemon leaves the working directory.
        let whole = std::path::absolute(&path)
            .map_err(|e| Error::unreadable(format!("option 'config': {}", path.display()), e))?;
        self.options_file = Some(whole);
        for one in given {
            self.apply(one, accounts)
                .map_err(|e| Error::usage(format!("option 'config': {}: {e}", path.display())))?;
        }
        Ok(())
    }

    /// Builds the configuration of a mount.
    pub(super) fn into_config(mut self, source: PathBuf, mountpoint: PathBuf) -> Result<Config> {
        let cache = self.cache_policy()?;
        if let Some(option) = self.caller_options.first().filter(|_| self.idmappable) {
            return Err(Error::usage(format!(
                "option '{option}' depends on the caller, which the kernel does not tell with option 'idmappable'; leave \
                 one of them out"
            )));
        }
        self.warnings.extend(self.view.take_warnings());
        let root_only = self.ids.root_only().chain(self.view.root_only()).collect();
        let names_by_unmapped = self.ids.has_offset();
        let owner = self.ids.find_owner(&source, self.kept.as_ref().and_then(|kept| kept.owner))?;
        let has_root_as = self.ids.has_root_as();
        let kept = self.kept.as_ref().and_then(|kept| kept.target.as_ref());
        let namespace = self.target.find(kept, &self.process)?;
        target::apply(namespace.as_ref(), &mut self.flags, &mut self.ids, self.idmappable)?;
        let ids = self.ids.finish(self.dialect)?;
        if has_root_as {
            self.warnings
                .extend(idle_root_as(&ids.uids).into_iter().chain(idle_root_as(&ids.gids)));
        }
        let mut view = self.view.finish(ids, self.dialect)?;
        view.changes.names_by_unmapped = names_by_unmapped;
        let is_bindfs = self.dialect == Dialect::Bindfs;
        Ok(Config {
            source,
            mountpoint,
            namespace: namespace.clone(),
            mkdir: self.target.make_dir,
            view,
            engine: self.engine.unwrap_or(self.dialect.default_engine()),
            argv: Vec::new(),
            given: self.given,
            daemon_options: self.daemon_options,
            flags: self.flags,
            // bindfs implies allow_other, also for a normal user.
            access: self.access.or(is_bindfs.then_some(Access::Everyone)),
            idmappable: self.idmappable,
            fsname: self.fsname,
            subtype: self.subtype.unwrap_or_else(|| self.dialect.name().to_owned()),
            max_read: self.max_read,
            cache,
            data: self.data,
            locks_on_source: self.locks_on_source.unwrap_or(!is_bindfs),
            threads: self.threads.unwrap_or_else(default_threads),
            one_file_system: self.one_file_system,
            follow_source: self.follow_source,
            options_file: self.options_file,
            root_only,
            warnings: self.warnings,
            process: self.process,
            found: Found { owner, namespaces: self.namespaces, target: namespace },
        })
    }

    fn cache_policy(&self) -> Result<CachePolicy> {
        let parts = [
            ("entry-timeout", self.entry),
            ("negative-timeout", self.negative),
            ("attr-timeout", self.attr),
        ];
        let part = parts.iter().find(|(_, time)| time.is_some()).map(|(name, _)| name);
        let no_timeouts = |policy, mode| match part {
            None => Ok(policy),
            Some(name) => Err(Error::usage(format!(
                "option '{name}' contradicts cache={mode}; use cache=timeout=TIME with it"
            ))),
        };
        match self.cache {
            // libfuse's timeout options select timeouts.
            CacheMode::Coherent { required: false } if part.is_some() => {
                Ok(self.timeouts_or(DEFAULT_TIMEOUT))
            }
            CacheMode::Coherent { required } => {
                no_timeouts(CachePolicy::Coherent { required }, "coherent")
            }
            CacheMode::None => no_timeouts(CachePolicy::None, "none"),
            CacheMode::Forever => no_timeouts(CachePolicy::Forever, "forever"),
            CacheMode::Timeout(all) => Ok(self.timeouts_or(all)),
        }
    }

    fn timeouts_or(&self, all: Duration) -> CachePolicy {
        CachePolicy::Timeouts {
            entry: self.entry.unwrap_or(all),
            negative: self.negative.unwrap_or(all),
            attr: self.attr.unwrap_or(all),
        }
    }
}

/// A warning where `root-as` has no effect.
fn idle_root_as<K: Kind>(ids: &Translation<K>) -> Option<String> {
    let why = match (ids.root_as(), ids.map().is_identity()) {
        (Some(_), _) => return None,
        (None, true) => "without a map, every id is shown as itself",
        (None, false) => "an extent holds the mount id 0",
    };
    Some(format!("option 'root-as' does nothing for {}s: {why}", K::WORD))
}

/// An option as within `-o`. `None`: it says nothing about the mount.
fn spelled(option: &OptionDef, on: bool, value: &OsStr) -> Option<String> {
    let name = match on {
        true => option.mount_option.filter(|_| option.id != Opt::Explain)?,
        false => option.opposite?,
    };
    Some(match option.value {
        Some(_) => format!("{name}={}", value.to_string_lossy()),
        None => name.to_owned(),
    })
}

/// The default number of worker threads: one per processor, at least 2 and at most 16.
///
/// With two, one blocked worker does not stop the mount. The number stays the same for the life of the process, so that
/// a reload does not see a change of `threads` when processors come or go.
fn default_threads() -> NonZeroUsize {
    static THREADS: OnceLock<NonZeroUsize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        NonZeroUsize::new(cores.clamp(2, 16)).unwrap_or(NonZeroUsize::MIN)
    })
}
