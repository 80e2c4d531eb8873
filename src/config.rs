//! The configuration of one mount: the typed form of the command line. `cli` builds it; every other module reads it.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fd::AsFd;
use rustix::fs::Stat;
use rustix::mount::MountAttrFlags;

use crate::error::{Error, Result};
use crate::idmap::{Extent, Group, User, UserNamespaceIds};
use crate::view::View;

/// The largest read or write request in bytes: 256 pages of 4 KiB, the kernel's default limit
/// (fs.fuse.max_pages_limit).
pub const MAX_REQUEST: u32 = 1 << 20;

/// The largest request with `forward-odirect`, in bytes: half of the kernel's default read-ahead of 128 KiB.
const MAX_ALIGNED_REQUEST: u32 = 64 << 10;

/// Requests are sized in multiples of this many bytes: the smallest page size of the supported architectures.
const PAGE: u32 = 4096;

/// The configuration of one mount.
#[derive(Debug, Clone)]
pub struct Config {
    /// The source directory or file, as typed.
    pub source: PathBuf,
    /// The mount point, as typed.
    pub mountpoint: PathBuf,
    /// The mount namespace that the mount point is in. `None`: this process's own.
    pub namespace: Option<TargetNamespace>,
    /// Make the mount point where nothing is (`mkdir`).
    pub mkdir: bool,
    /// How ids, permissions and attributes are translated, and which changes reach the source.
    pub view: View,
    /// Which engine makes the mount.
    pub engine: EngineChoice,
    /// The command line, for a reload.
    pub argv: Vec<OsString>,
    /// The options as they were given, in order, spelled as within `-o`.
    pub given: Vec<String>,
    /// Options that were given and that only the FUSE daemon can serve.
    pub daemon_options: Vec<&'static str>,
    /// The standard mount options.
    pub flags: MountFlags,
    /// Which users may use the mount. `None`: all users when a process with CAP_SYS_ADMIN mounts, else only the owner
    /// (`mount::access` decides).
    pub access: Option<Access>,
    /// Whether container managers may idmap the mount (FUSE_ALLOW_IDMAP). The kernel then does not tell callers.
    pub idmappable: bool,
    /// The source column of the mount table. `None`: the source's real path.
    pub fsname: Option<OsString>,
    /// The filesystem type is shown as `fuse.SUBTYPE`.
    pub subtype: String,
    /// The largest read request in bytes (`max_read`). `None`: the kernel's own limit.
    pub max_read: Option<u32>,
    /// How long the kernel may cache replies.
    pub cache: CachePolicy,
    /// How the data of regular files is transferred.
    pub data: DataPath,
    /// Whether locks (fcntl(2), flock(2)) are taken on the source. `false`: the kernel keeps them within the mount.
    pub locks_on_source: bool,
    /// The number of worker threads.
    pub threads: NonZeroUsize,
    /// Show mount points below the source as empty directories.
    pub one_file_system: bool,
    /// Switch to the directory that takes the source's name when the source is replaced.
    pub follow_source: bool,
    /// The file of `config=FILE`, as an absolute path: a reload reads it again.
    pub options_file: Option<PathBuf>,
    /// The options given that only root may use.
    pub root_only: Vec<&'static str>,
    /// Warnings for the user about options that were ignored or have no effect, one line each.
    pub warnings: Vec<String>,
    /// How the daemon's process runs.
    pub process: ProcessConfig,
    /// What the options refer to outside of themselves. A reload keeps it.
    pub found: Found,
}

/// What was found outside of the options when the mount was made. A reload does not look again: a process of another user
/// may have put something else in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The owner of the source, with the inode that has it. `None` before the source was opened, without `owner-as`.
    pub owner: Option<SourceOwner>,
    /// The maps of user namespaces. Such a map never changes once it is written (user_namespaces(7)), but a pid or path
    /// may come to name another namespace.
    pub namespaces: Vec<NamespaceMap>,
    /// The namespace of the mount point.
    pub target: Option<TargetNamespace>,
}

/// The mount namespace that `namespace` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetNamespace {
    /// The option's value: a process id, or a path.
    pub value: OsString,
    /// The mount namespace.
    pub mounts: NamespaceId,
    /// Its user namespace, where that is not this program's own.
    pub users: Option<TargetUsers>,
    /// The directory that the mount point is resolved in. `None`: the namespace's root.
    pub root: Option<PathBuf>,
    /// Container mode: the filesystem belongs to that user namespace, whose numbers the mount's ids are.
    pub is_container: bool,
}

impl TargetNamespace {
    /// The ids of the container that the mount is in. `None`: mount ids are numbered as in this program's own namespace.
    #[must_use]
    pub fn container_ids(&self) -> Option<&UserNamespaceIds> {
        self.users.as_ref().filter(|_| self.is_container).map(|users| &users.ids)
    }
}

/// What tells a mount namespace from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceId {
    /// The inode number in /proc/PID/ns, which the kernel uses again.
    pub inode: u64,
    /// The id that is never used again (Linux 6.11).
    pub unique: Option<u64>,
}

/// A user namespace other than this program's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUsers {
    /// The inode number in /proc/PID/ns.
    pub inode: u64,
    /// Its ids.
    pub ids: UserNamespaceIds,
}

/// The map of a user namespace, and the option that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceMap {
    /// The option's long name.
    pub option: String,
    /// The option's value.
    pub value: OsString,
    /// The extents of users.
    pub uids: Vec<Extent<User>>,
    /// The extents of groups.
    pub gids: Vec<Extent<Group>>,
}

/// The owner of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceOwner {
    /// The device that holds the inode.
    pub dev: u64,
    /// The inode number.
    pub ino: u64,
    /// The owning user.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
}

impl SourceOwner {
    /// The owner in the result of stat(2).
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino, uid: stat.st_uid, gid: stat.st_gid }
    }
}

impl Found {
    /// Compares the opened source with the one whose owner the options were evaluated with, and returns its owner.
    ///
    /// # Errors
    /// The path was made to name another inode in between, or the inode has another owner.
    pub fn check_owner(&self, source: impl AsFd) -> Result<SourceOwner> {
        let stat = rustix::fs::fstat(source).map_err(|e| Error::mount("source", e))?;
        let opened = SourceOwner::of(&stat);
        match self.owner {
            Some(owner) if owner != opened => {
                Err(Error::refused("option 'owner-as': the source was replaced"))
            }
            _ => Ok(opened),
        }
    }
}

/// The value of `engine=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// The kernel's idmapped mounts where they answer the same, else the FUSE daemon.
    Auto,
    /// The FUSE daemon.
    Fuse,
    /// The kernel's idmapped mounts; where they cannot, the mount is refused.
    Kernel,
}

/// The mount options of mount(8) that apply per mount. `None`: inherited from the source's own mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// `ro` / `rw`.
    pub read_only: Option<bool>,
    /// `nosuid` / `suid`.
    pub nosuid: Option<bool>,
    /// `nodev` / `dev`.
    pub nodev: Option<bool>,
    /// `noexec` / `exec`.
    pub noexec: Option<bool>,
    /// `nosymfollow` / `symfollow`.
    pub nosymfollow: Option<bool>,
    /// `noatime`, `relatime`, `strictatime`; `atime` is `relatime`, the kernel's default.
    pub atime: Option<Atime>,
    /// `nodiratime` / `diratime`.
    pub nodiratime: Option<bool>,
    /// `sync` / `async`.
    pub sync: bool,
    /// `dirsync`.
    pub dirsync: bool,
}

impl MountFlags {
    /// The options that were given, as mount(8) spells them.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let flags = [
            (self.read_only, "ro", "rw"),
            (self.nosuid, "nosuid", "suid"),
            (self.nodev, "nodev", "dev"),
            (self.noexec, "noexec", "exec"),
            (self.nosymfollow, "nosymfollow", "symfollow"),
            (self.nodiratime, "nodiratime", "diratime"),
        ];
        let mut words: Vec<&str> = flags
            .into_iter()
            .filter_map(|(given, on, off)| given.map(|is_on| if is_on { on } else { off }))
            .collect();
        words.extend(self.atime.map(|atime| match atime {
            Atime::Relative => "relatime",
            Atime::Never => "noatime",
            Atime::Strict => "strictatime",
        }));
        words.into_iter().map(str::to_owned).collect()
    }

    /// The attributes for access times that the options set, and those that they clear (mount_setattr(2)).
    pub(crate) fn access_times(&self) -> (MountAttrFlags, MountAttrFlags) {
        let (mut set, mut clear) = (MountAttrFlags::empty(), MountAttrFlags::empty());
        if let Some(atime) = self.atime {
            // They are one field, which mount_setattr(2) changes only if all of it is cleared.
            clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
            set |= match atime {
                Atime::Relative => MountAttrFlags::MOUNT_ATTR_RELATIME,
                Atime::Never => MountAttrFlags::MOUNT_ATTR_NOATIME,
                Atime::Strict => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            };
        }
        match self.nodiratime {
            Some(true) => set |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            Some(false) => clear |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            None => {}
        }
        (set, clear)
    }
}

/// When reading a file updates its access time (mount(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atime {
    /// When it is a day old, or not later than the last modification or change (`relatime`).
    Relative,
    /// Never.
    Never,
    /// Always.
    Strict,
}

/// Which users may use the mount (mount.fuse3(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `allow_other`.
    Everyone,
    /// `allow_root`.
    OwnerAndRoot,
    /// Neither: only the user who mounted.
    Owner,
}

/// How long the kernel may cache attributes and names before it asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePolicy {
    /// As long as they are valid: the daemon watches the source and invalidates what other processes change. Where the
    /// source cannot be watched, the mount is refused if `required`; otherwise [`Self::DEFAULT_TIMEOUTS`] apply.
    Coherent {
        /// Whether to refuse the mount where the source cannot be watched (`cache=coherent` was given).
        required: bool,
    },
    /// For fixed timeouts.
    Timeouts {
        /// Timeout of positive entries.
        entry: Duration,
        /// Timeout of negative entries; zero caches none.
        negative: Duration,
        /// Timeout of attributes.
        attr: Duration,
    },
    /// No caching.
    None,
    /// Without a timeout: no other process changes the source.
    Forever,
}

impl CachePolicy {
    /// One second for entries, negative entries and attributes.
    pub const DEFAULT_TIMEOUTS: Self = {
        let second = Duration::from_secs(1);
        Self::Timeouts { entry: second, negative: second, attr: second }
    };
}

/// How the data of regular files is transferred.
#[derive(Debug, Clone, PartialEq)]
pub struct DataPath {
    /// Whether the kernel may read and write backing files directly (FUSE passthrough).
    pub passthrough: bool,
    /// Whether every read and write goes to the daemon, past the page cache (FOPEN_DIRECT_IO).
    pub direct_io: bool,
    /// Keep O_DIRECT when opening on the source, with buffers aligned to this many bytes.
    pub forward_odirect: Option<NonZeroUsize>,
    /// The read rate limit in bytes per second, for all clients together.
    pub read_rate: Option<f64>,
    /// The write rate limit in bytes per second, for all clients together.
    pub write_rate: Option<f64>,
}

impl DataPath {
    /// Whether these options allow FUSE passthrough.
    #[must_use]
    pub fn may_passthrough(&self) -> bool {
        self.passthrough && !self.direct_io && self.read_rate.is_none() && self.write_rate.is_none()
    }

    /// The `max_readahead` to ask for in FUSE_INIT, in bytes.
    #[must_use]
    pub fn max_readahead(&self) -> u32 {
        match self.forward_odirect {
            // `max_pages` is derived from the larger of `max_write` and this (fuse/protocol/init.rs).
            Some(_) => MAX_REQUEST,
            None => max_request_at(self.read_rate),
        }
    }

    /// The largest read request in bytes. `None`: the kernel's own limit.
    #[must_use]
    pub fn max_read(&self) -> Option<u32> {
        let limits = self.read_rate.is_some() || self.forward_odirect.is_some();
        limits.then(|| self.aligned(max_request_at(self.read_rate)))
    }

    /// The largest write request in bytes (`max_write`).
    #[must_use]
    pub fn max_write(&self) -> u32 {
        self.aligned(max_request_at(self.write_rate))
    }

    /// Limits a request size to a multiple of the alignment, below the kernel's limit of pages per request.
    ///
    /// A buffer that does not begin at a page boundary occupies one page more. The kernel splits a request that would
    /// then exceed its limit of pages at an arbitrary offset; it splits at multiples of this size if the size stays
    /// below the limit.
    fn aligned(&self, max: u32) -> u32 {
        match self.forward_odirect {
            Some(align) => {
                let align = u32::try_from(align.get()).unwrap_or(PAGE).clamp(1, MAX_REQUEST);
                (max.min(MAX_ALIGNED_REQUEST) / align * align).max(align).max(PAGE)
            }
            None => max,
        }
    }
}

/// The largest request at a rate limit: what the rate allows in 1/8 s. A larger request would be delayed as a whole.
fn max_request_at(rate: Option<f64>) -> u32 {
    match rate {
        Some(rate) => ((rate / 8.0) as u32 / PAGE * PAGE).clamp(2 * PAGE, MAX_REQUEST),
        None => MAX_REQUEST,
    }
}

impl Default for DataPath {
    fn default() -> Self {
        Self {
            passthrough: true,
            direct_io: false,
            forward_odirect: None,
            read_rate: None,
            write_rate: None,
        }
    }
}

/// How the daemon's process runs once the mount answers.
#[derive(Debug, Clone, Default)]
pub struct ProcessConfig {
    /// Stay in the foreground (`-f`).
    pub foreground: bool,
    /// The file to write the daemon's process id to.
    pub pidfile: Option<PathBuf>,
    /// The log level: 0 warn, 1 info (`-v`), 2 debug (`-vv`, `-d`).
    pub verbosity: u8,
    /// Unmount when the daemon's process dies (`auto_unmount`).
    pub auto_unmount: bool,
    /// Whether mount(8) started this process.
    ///
    /// mount(8) does not recognise this mount in the mount table, so an existing equal mount is not mounted again.
    pub called_by_mount8: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_was_replaced_or_has_another_owner_is_refused() {
        let opened = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
        let opened = opened.unwrap();
        let owner = Found::default().check_owner(&opened).unwrap();
        let with = |owner| Found { owner: Some(owner), ..Found::default() }.check_owner(&opened);
        assert_eq!(with(owner).unwrap(), owner);
        for other in [
            SourceOwner { ino: owner.ino + 1, ..owner },
            SourceOwner { dev: owner.dev + 1, ..owner },
            SourceOwner { uid: owner.uid + 1, ..owner },
            SourceOwner { gid: owner.gid + 1, ..owner },
        ] {
            let error = with(other).unwrap_err().to_string();
            assert_eq!(error, "option 'owner-as': the source was replaced");
        }
    }

    #[test]
    fn a_rate_limits_the_request_size() {
        let data = |rate| DataPath { read_rate: rate, ..DataPath::default() };
        assert_eq!(data(None).max_read(), None);
        assert_eq!(data(Some(1048576.0)).max_read(), Some(128 << 10));
        assert_eq!(data(Some(1.0)).max_read(), Some(8192));
        assert_eq!(data(Some(f64::INFINITY)).max_read(), Some(MAX_REQUEST));
        assert_eq!(data(Some(1.0)).max_write(), MAX_REQUEST);
        assert_eq!(data(Some(1.0)).max_readahead(), 8192);
    }

    #[test]
    fn requests_are_split_at_multiples_of_the_alignment() {
        for align in [1, 512, 4096, 65536, 3 << 12] {
            let data =
                DataPath { forward_odirect: NonZeroUsize::new(align), ..DataPath::default() };
            let max = data.max_read().expect("a limit");
            assert_eq!(max as usize % align, 0, "{align}");
            assert!((4096..=64 << 10).contains(&max), "{align}: {max}");
            assert_eq!(data.max_write(), max);
        }
    }
}
