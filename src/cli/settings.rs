//! Turns options in the order given into a [`Config`]: the last value of an option wins, maps add up.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::bindfs_map;
use super::dialect::Dialect;
use super::ids::IdOptions;
use super::maps::IdKinds;
use super::mount_options;
use super::options::{Given, Opt, OptionDef};
use super::values::{self, CacheMode};
use super::view_options::ViewOptions;
use crate::accounts::Accounts;
use crate::config::{
    Access, Atime, CachePolicy, Config, DataPath, EngineChoice, MountFlags, ProcessConfig,
};
use crate::error::{Error, Result};
use crate::map_from;

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
}

/// The largest alignment of buffers, in bytes. Chosen: larger than any block size.
const MAX_ALIGNMENT: u32 = 1 << 24;

/// The timeout of replies where libfuse's timeout options are given without cache=timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

impl Settings {
    /// Reads the options in order.
    pub(super) fn read(
        given: Vec<Given>,
        dialect: Dialect,
        accounts: &dyn Accounts,
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

    #[expect(clippy::too_many_lines, reason = "an arm for each option")]
    fn apply(&mut self, given: Given, accounts: &dyn Accounts) -> Result<()> {
        let Given { option, on, value } = given;
        let name = option.long;
        let value = value.unwrap_or_default();
        // An empty list of rules is valid.
        let is_list = matches!(option.id, Opt::Perms | Opt::CreateWithPerms | Opt::ChmodFilter);
        if option.value.is_some() && value.is_empty() && !is_list {
            return Err(Error::usage(format!("option '{name}': the value is empty")));
        }
        // Values must be UTF-8, except paths and fsname.
        let text = || {
            let problem = || Error::usage(format!("option '{name}': the value is not valid UTF-8"));
            value.to_str().ok_or_else(problem)
        };
        let bad = |why| Error::usage(format!("option '{name}': {why}"));
        let bad_text = |why: String| Error::usage(format!("option '{name}': {why}"));
        if option.id.needs_daemon(on) && !self.daemon_options.contains(&name) {
            self.daemon_options.push(name);
        }
        self.given.extend(spelled(option, on, &value));
        match option.id {
            Opt::UidMap => self.ids.add_map(name, IdKinds::Users, text()?, accounts)?,
            Opt::GidMap => self.ids.add_map(name, IdKinds::Groups, text()?, accounts)?,
            Opt::IdMap if value.as_encoded_bytes().starts_with(b"/") => {
                self.ids.add_found(map_from::of_namespace(Path::new(&value)).map_err(bad_text)?);
            }
            Opt::MapFrom => {
                self.ids.add_map_from(map_from::read(&value, accounts).map_err(bad_text)?);
            }
            Opt::OwnerAs => {
                self.ids.set_owner_as(values::user_and_group(text()?, accounts).map_err(bad)?);
            }
            Opt::RootAs => {
                self.ids.set_root_as(values::user_and_group(text()?, accounts).map_err(bad)?);
            }
            Opt::InvertMap => self.ids.invert_map_from(),
            Opt::IdMap => self.ids.add_map(name, IdKinds::Both, text()?, accounts)?,
            Opt::Unmapped => {
                self.ids.set_unmapped(values::unmapped(text()?, accounts).map_err(bad)?);
            }
            Opt::Map => {
                self.ids.set_bindfs_map(bindfs_map::parse_map(text()?, accounts).map_err(bad)?)
            }
            Opt::MapPasswd | Opt::MapGroup | Opt::MapPasswdRev | Opt::MapGroupRev => {
                let path = PathBuf::from(value);
                self.ids.set_accounts_file(option.id, name, &path, accounts, &mut self.warnings)?;
            }
            Opt::UidOffset | Opt::GidOffset => {
                self.ids.set_offset(option.id, bindfs_map::parse_offset(text()?).map_err(bad)?);
            }
            Opt::ReadOnly => self.flags.read_only = Some(on),
            Opt::NoSuid => self.flags.nosuid = Some(on),
            Opt::NoDev => self.flags.nodev = Some(on),
            Opt::NoExec => self.flags.noexec = Some(on),
            Opt::NoSymFollow => self.flags.nosymfollow = Some(on),
            Opt::NoAtime if on => self.flags.atime = Some(Atime::Never),
            Opt::StrictAtime if on => self.flags.atime = Some(Atime::Strict),
            // atime, norelatime and nostrictatime ask for the kernel's default, which is relatime.
            Opt::NoAtime | Opt::StrictAtime | Opt::RelAtime => {
                self.flags.atime = Some(Atime::Relative);
            }
            Opt::NoDirAtime => self.flags.nodiratime = Some(on),
            Opt::Sync => self.flags.sync = on,
            Opt::DirSync => self.flags.dirsync = on,
            Opt::Remount => self.remount = true,
            Opt::AllowOther if on => self.access = Some(Access::Everyone),
            Opt::AllowOther => self.access = Some(Access::Owner),
            Opt::AllowRoot => self.access = Some(Access::OwnerAndRoot),
            Opt::DefaultPermissions | Opt::CloneFd => {}
            Opt::AutoUnmount => self.process.auto_unmount = true,
            Opt::FsName => self.fsname = Some(value),
            Opt::Subtype => self.subtype = Some(text()?.to_owned()),
            Opt::Engine => self.engine = Some(values::engine(text()?).map_err(bad)?),
            Opt::Cache => self.cache = values::cache_mode(text()?).map_err(bad)?,
            Opt::EntryTimeout => self.entry = Some(values::duration(text()?).map_err(bad)?),
            Opt::NegativeTimeout => self.negative = Some(values::duration(text()?).map_err(bad)?),
            Opt::AttrTimeout => self.attr = Some(values::duration(text()?).map_err(bad)?),
            Opt::Passthrough => {
                self.data.passthrough = values::passthrough(text()?).map_err(bad)?
            }
            Opt::DirectIo => self.data.direct_io = on,
            Opt::ForwardOdirect => {
                let align = values::number(text()?, 1, MAX_ALIGNMENT).map_err(bad)?;
                self.data.forward_odirect = usize::try_from(align).ok().and_then(NonZeroUsize::new);
            }
            Opt::ReadRate => self.data.read_rate = Some(values::rate(text()?).map_err(bad)?),
            Opt::WriteRate => self.data.write_rate = Some(values::rate(text()?).map_err(bad)?),
            Opt::LockForwarding => self.locks_on_source = Some(on),
            Opt::MaxRead => {
                let bytes = values::number(text()?, 0, u32::MAX).map_err(bad)?;
                self.max_read = Some(bytes).filter(|bytes| *bytes > 0);
            }
            Opt::Threads => {
                let threads = values::number(text()?, 1, 1024).map_err(bad)?;
                self.threads = usize::try_from(threads).ok().and_then(NonZeroUsize::new);
            }
            Opt::SingleThread if on => self.threads = Some(NonZeroUsize::MIN),
            Opt::SingleThread => self.threads = self.threads.filter(|n| *n > NonZeroUsize::MIN),
            Opt::OneFileSystem => self.one_file_system = true,
            Opt::FollowSource => self.follow_source = true,
            Opt::Foreground => self.process.foreground = true,
            Opt::Debug => {
                self.process.foreground = true;
                self.process.verbosity = 2;
            }
            Opt::Verbose => self.process.verbosity = (self.process.verbosity + 1).min(2),
            Opt::PidFile => self.process.pidfile = Some(PathBuf::from(value)),
            Opt::Explain => self.explain = true,
            Opt::Config => self.read_file(PathBuf::from(value), accounts)?,
            // The grammars handle these.
            Opt::Options | Opt::Help | Opt::Version | Opt::FuseVersion => {}
            Opt::Generate | Opt::Reload | Opt::Json | Opt::Lazy => {}
            other => {
                let text = if option.value.is_some() { text()? } else { "" };
                self.view.apply(other, text, accounts).map_err(bad)?;
            }
        }
        Ok(())
    }

    /// Applies the options of a file.
    fn read_file(&mut self, path: PathBuf, accounts: &dyn Accounts) -> Result<()> {
        if self.options_file.is_some() {
            return Err(Error::usage("option 'config' can be given once, and not within its file"));
        }
        let given = mount_options::parse_file(&path)?;
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
        self.warnings.extend(self.view.take_warnings());
        let root_only = self.ids.root_only().chain(self.view.root_only()).collect();
        let names_by_unmapped = self.ids.has_offset();
        self.ids.find_owner(&source)?;
        let ids = self.ids.finish(self.dialect)?;
        let mut view = self.view.finish(ids, self.dialect)?;
        view.changes.names_by_unmapped = names_by_unmapped;
        let is_bindfs = self.dialect == Dialect::Bindfs;
        Ok(Config {
            source,
            mountpoint,
            view,
            engine: self.engine.unwrap_or(EngineChoice::Fuse),
            given: self.given,
            daemon_options: self.daemon_options,
            flags: self.flags,
            // bindfs implies allow_other, also for a normal user.
            access: self.access.or(is_bindfs.then_some(Access::Everyone)),
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
