//! What one mount is: the typed form of the command line, made by `cli` and read by every other room.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::view::View;

/// The largest request for reading and writing, in bytes: the kernel's own limit by default.
pub const MAX_REQUEST: u32 = 1 << 20;

/// The largest request where alignment counts: half of what the kernel reads ahead by default.
const MAX_ALIGNED_REQUEST: u32 = 64 << 10;

/// The memory page that the kernel counts requests in, or a multiple of it.
const PAGE: u32 = 4096;

/// Everything that a mount needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory or file that is shown, as typed.
    pub source: PathBuf,
    /// Where it is shown, as typed.
    pub mountpoint: PathBuf,
    /// What is shown of the source, and which changes pass.
    pub view: View,
    /// The standard mount options.
    pub flags: MountFlags,
    /// Who may use the mount. `None`: everyone when root mounts, else only the owner.
    pub access: Option<Access>,
    /// The source column of the mount table. `None`: the source's path.
    pub fsname: Option<OsString>,
    /// The type is shown as `fuse.SUBTYPE`.
    pub subtype: String,
    /// The largest read request in bytes. `None`: the kernel's own limit.
    pub max_read: Option<u32>,
    /// How long the kernel may believe what we answered.
    pub cache: CachePolicy,
    /// How the data of regular files is moved.
    pub data: DataPath,
    /// Whether POSIX locks hold on the source; else only within the mount.
    pub locks_on_source: bool,
    /// How many worker threads answer requests.
    pub threads: NonZeroUsize,
    /// Hide what is mounted below the source.
    pub one_file_system: bool,
    /// When the source is deleted and made again, show the new one.
    pub follow_source: bool,
    /// The file with more options that was read, which is where a reload finds them again.
    pub options_file: Option<PathBuf>,
    /// Options that were given and that only root may use.
    pub root_only: Vec<&'static str>,
    /// What was passed over, each a line for the user.
    pub warnings: Vec<String>,
    /// How the process lives.
    pub process: ProcessConfig,
}

/// The mount options of mount(8) that the kernel honours per mount. `None`: as the source's own mount has it.
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

/// When reading a file updates its access time (mount(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atime {
    /// Once a day, or when older than the last change.
    Relative,
    /// Never.
    Never,
    /// Always.
    Strict,
}

/// Who may use the mount (mount.fuse3(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `allow_other`.
    Everyone,
    /// `allow_root`.
    OwnerAndRoot,
    /// Neither: only the user who mounted.
    Owner,
}

/// How long the kernel may keep attributes and names without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePolicy {
    /// As long as it stays true: what others change on the source is watched for. Where no watch is possible, the mount
    /// is refused if `required`, else [`Self::DEFAULT_TIMEOUTS`] hold.
    Coherent {
        /// Whether nothing less will do.
        required: bool,
    },
    /// For this long, for names, missing names and attributes.
    Timeouts {
        /// Names.
        entry: Duration,
        /// Names known to be missing; zero keeps none.
        negative: Duration,
        /// Attributes.
        attr: Duration,
    },
    /// Not at all.
    None,
    /// As long as it likes: nobody else changes the source.
    Forever,
}

impl CachePolicy {
    /// One second for everything.
    pub const DEFAULT_TIMEOUTS: Self = {
        let second = Duration::from_secs(1);
        Self::Timeouts { entry: second, negative: second, attr: second }
    };
}

/// How the data of regular files is moved.
#[derive(Debug, Clone, PartialEq)]
pub struct DataPath {
    /// Whether the kernel may read and write files of the source directly.
    pub passthrough: bool,
    /// Every read and write comes to us, past the page cache.
    pub direct_io: bool,
    /// Keep O_DIRECT when a file is opened on the source, with buffers aligned to so many bytes.
    pub forward_odirect: Option<NonZeroUsize>,
    /// Bytes per second that may be read, all clients together.
    pub read_rate: Option<f64>,
    /// Bytes per second that may be written, all clients together.
    pub write_rate: Option<f64>,
}

impl DataPath {
    /// Whether the kernel may move data past us, as far as these options go.
    #[must_use]
    pub fn may_passthrough(&self) -> bool {
        self.passthrough && !self.direct_io && self.read_rate.is_none() && self.write_rate.is_none()
    }

    /// How far the kernel may read ahead, in bytes.
    #[must_use]
    pub fn max_readahead(&self) -> u32 {
        match self.forward_odirect {
            // The limit on pages goes by it.
            Some(_) => MAX_REQUEST,
            None => max_request_at(self.read_rate),
        }
    }

    /// The largest read that the kernel may ask for, in bytes. `None`: its own limit.
    #[must_use]
    pub fn max_read(&self) -> Option<u32> {
        let limits = self.read_rate.is_some() || self.forward_odirect.is_some();
        limits.then(|| self.aligned(max_request_at(self.read_rate)))
    }

    /// The largest write that the kernel may ask for, in bytes.
    #[must_use]
    pub fn max_write(&self) -> u32 {
        self.aligned(max_request_at(self.write_rate))
    }

    /// Where alignment counts, less than what the kernel's limit on a request's pages allows: memory that does not begin
    /// with a page needs one page more, and a request that would not fit is split anywhere. So it is split at multiples of
    /// this.
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

/// What a rate moves in an eighth of a second: a large request would come late as a whole.
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

/// How the process lives once the mount answers.
#[derive(Debug, Clone, Default)]
pub struct ProcessConfig {
    /// Stay in front (`-f`).
    pub foreground: bool,
    /// Where the daemon's process id goes.
    pub pidfile: Option<PathBuf>,
    /// 0 warnings, 1 info, 2 requests (`-v`, `-vv`, `-d`).
    pub verbosity: u8,
    /// Unmount when the process dies (`auto_unmount`).
    pub auto_unmount: bool,
    /// Called by mount(8), which does not recognise our mounts in the mount table: what is mounted already is not mounted
    /// once more.
    pub called_by_mount8: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

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
