//! The mounts that were made in other mount namespaces: a file for each in /run/shiftbind/elsewhere, root's alone.
//!
//! This namespace's mount table does not have them, and a container may show what it likes in its own: only what is registered
//! here is believed of a daemon. A daemon removes its file when it ends. One that was killed leaves it: it is removed by
//! the next call that reads the directory, as are those of mounts that the kernel's engine made and that are gone.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::full_path;
use super::inventory::{FoundMount, MadeBy};
use super::origin::Origin;
use super::record;
use super::table::MountIdentity;
use crate::config::{Config, NamespaceId};
use crate::describe::{describe, push_name};
use crate::error::errno_field;
use crate::fuse::pid_namespace;
use crate::sys;

const DIRECTORY: &str = "/run/shiftbind/elsewhere";

/// The word that asks a daemon for its report, in JSON.
pub const REPORT: &[u8] = b"report\n";
/// The word that asks a daemon for a reload. The answer is its exit status, and its message.
pub const RELOAD: &[u8] = b"reload\n";

/// How long a daemon may take to answer. Chosen: longer than it takes to refuse a reload for time.
const ANSWER: Duration = Duration::from_secs(12);
/// The longest answer that is read, in bytes. Chosen: the maps of 100,000 extents take 6 MiB.
const MAX_ANSWER: u64 = 32 << 20;

/// A mount in another namespace.
#[derive(Debug)]
pub struct Registered {
    /// What is known of the mount.
    pub mount: FoundMount,
    /// The value of `--namespace` that it was made with.
    pub value: String,
    /// The mount namespace.
    pub namespace: NamespaceId,
    /// The process that serves it. `None`: the kernel made it.
    pub daemon: Option<u32>,
    /// How the kernel's engine made it. `None`: a daemon serves it, or an older version made it and did not say.
    pub(super) kernel: Option<KernelMade>,
    /// The inode number of the source's root. `None`: an older version made it.
    pub(super) source_inode: Option<u64>,
    file: PathBuf,
}

/// How the kernel's engine made a mount.
#[derive(Debug, Clone)]
pub(super) struct KernelMade {
    /// What it was made with.
    pub(super) origin: Origin,
    /// Whether it was given a map, which the source then had not.
    pub(super) has_map: bool,
    /// Whether the mount ids are numbered as in the container.
    pub(super) is_container: bool,
}

/// What is registered of a mount beside its configuration.
#[derive(Debug)]
pub(super) enum Server {
    /// The process that serves it.
    Daemon(u32),
    /// The kernel made it.
    Kernel(Box<KernelMade>),
}

impl Registered {
    /// Asks the daemon, and returns its answer.
    ///
    /// # Errors
    /// ECONNREFUSED or ENOENT if it ends; EAGAIN if it does not answer in time.
    pub fn ask(&self, word: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.file.with_extension("sock"))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(word)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }

    pub(super) fn identity(&self) -> &MountIdentity {
        &self.mount.identity
    }

    /// Whether it is a mount of this configuration. `source` is the inode number of the source's root.
    pub(super) fn is_of(&self, config: &Config, source: u64) -> bool {
        let path = full_path(&config.source);
        self.mount.source.to_string_lossy() == path.to_string_lossy()
            && (self.source_inode == Some(source) || config.follow_source)
    }

    /// Whether it was made in container mode.
    pub(super) fn is_container(&self) -> bool {
        self.kernel.as_ref().is_some_and(|made| made.is_container)
    }

    /// What is registered of the options and the map of a mount that the kernel's engine made.
    pub(super) fn description(&self) -> Option<Value> {
        match &self.mount.made_by {
            MadeBy::Kernel { description, .. } => serde_json::from_slice(description).ok(),
            MadeBy::Fuse { .. } => None,
        }
    }

    /// Removes the entry. The mount is gone.
    pub(super) fn remove(self) {
        drop(Registration(self.file));
    }
}

/// The entry of a mount that this process serves. Removed when dropped.
#[derive(Debug)]
pub struct Registration(PathBuf);

impl Registration {
    /// Where the daemon listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.with_extension("sock")
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_file(&self.0);
    }
}

/// Registers a mount. `source` is the inode number of the source's root. `None`: it cannot be registered, which the log says;
/// then only the calls that enter the namespace reach it. The entry of a mount without a daemon stays.
pub(super) fn register(
    config: &Config,
    point: &Path,
    identity: MountIdentity,
    server: &Server,
    source: Option<u64>,
) -> Option<Registration> {
    let written = write(config, point, identity, server, source);
    written
        .inspect_err(|e| {
            let errno = e.raw_os_error().map_or_else(|| e.to_string(), |code| code.to_string());
            let level = match rustix::process::geteuid().is_root() {
                true => log::Level::Warn,
                false => log::Level::Info,
            };
            log::log!(level, "mount not registered in {DIRECTORY}: path={point:?} errno={errno}");
        })
        .ok()
        .flatten()
}

fn write(
    config: &Config,
    point: &Path,
    identity: MountIdentity,
    server: &Server,
    source_inode: Option<u64>,
) -> io::Result<Option<Registration>> {
    let Some(namespace) = &config.namespace else { return Ok(None) };
    record::make_private_directory(Path::new("/run/shiftbind"))?;
    record::make_private_directory(Path::new(DIRECTORY))?;
    let daemon = match server {
        Server::Daemon(pid) => Some(*pid),
        Server::Kernel(_) => None,
    };
    let source = full_path(&config.source);
    let described = describe(&Config { source: source.clone().into(), ..config.clone() });
    let mut told = Map::new();
    push_name(&mut told, "source", &source);
    told.insert("mountpoint".to_owned(), Value::from(hex(point.as_os_str().as_bytes())));
    told.insert("description".to_owned(), described);
    told.insert("value".to_owned(), namespace.value.to_string_lossy().into());
    told.insert("inode".to_owned(), namespace.mounts.inode.into());
    told.insert("unique".to_owned(), namespace.mounts.unique.into());
    told.insert("identity".to_owned(), identity.to_text().into());
    told.insert("daemon".to_owned(), json!(daemon));
    told.insert("pids".to_owned(), json!(pid_namespace()));
    told.insert("started".to_owned(), json!(daemon.and_then(start_time)));
    told.insert("source_inode".to_owned(), source_inode.into());
    if let Server::Kernel(made) = server {
        told.insert("origin".to_owned(), made.origin.to_json());
        told.insert("has_map".to_owned(), made.has_map.into());
        told.insert("is_container".to_owned(), made.is_container.into());
    }
    let name = format!("{}-{}", namespace.mounts.inode, identity.to_text().replace(' ', "-"));
    let file = Path::new(DIRECTORY).join(&name).with_extension("json");
    let new = Path::new(DIRECTORY).join(format!(".new-{name}"));
    fs::write(&new, Value::Object(told).to_string())?;
    fs::rename(&new, &file)?;
    Ok(daemon.map(|_| Registration(file)))
}

/// The mounts that are registered and not proven to be gone. None for a user other than root, or where such a user could have
/// registered them.
///
/// # Errors
/// The directory cannot be read.
pub fn registered() -> io::Result<Vec<Registered>> {
    if !record::are_roots(Path::new(DIRECTORY)) {
        return Ok(Vec::new());
    }
    let entries = match fs::read_dir(DIRECTORY) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Ok(text) = fs::read(&file) else { continue };
        match read(&text, &file) {
            Some(one) => found.push(one),
            None => {
                drop(Registration(file));
            }
        }
    }
    Ok(found)
}

/// Reads an entry. `None`: the mount is gone.
fn read(text: &[u8], file: &Path) -> Option<Registered> {
    let told: Value = serde_json::from_slice(text).ok()?;
    let number = |key: &str| told.get(key).and_then(Value::as_u64);
    let text = |key: &str| told.get(key).and_then(Value::as_str);
    let identity = MountIdentity::from_text(text("identity")?)?;
    let namespace = NamespaceId { inode: number("inode")?, unique: number("unique") };
    let daemon = number("daemon").and_then(|pid| u32::try_from(pid).ok());
    let is_there = match daemon {
        // A process that has the number by now has started later.
        // Its number means another process, or none, in another pid namespace.
        Some(_) if number("pids") != pid_namespace() => true,
        Some(pid) => start_time(pid).is_some_and(|time| Some(time) == number("started")),
        None => !is_gone(namespace, identity),
    };
    if !is_there {
        return None;
    }
    let source = OsString::from(text("source")?);
    let made_by = match daemon {
        Some(_) => MadeBy::Fuse { mounter: Some(0) },
        None => MadeBy::Kernel {
            source: source.clone(),
            description: told.get("description")?.to_string().into_bytes(),
            since: fs::metadata(file).and_then(|meta| meta.modified()).ok(),
        },
    };
    let mount = FoundMount {
        identity,
        brought: Vec::new(),
        mountpoint: OsString::from_vec(unhex(text("mountpoint")?)?).into(),
        fs_type: if daemon.is_some() { "fuse.shiftbind" } else { "" }.to_owned(),
        source,
        options: Vec::new(),
        made_by,
    };
    let is = |key: &str| told.get(key).and_then(Value::as_bool).unwrap_or(false);
    let kernel = told.get("origin").and_then(Origin::from_json).map(|origin| KernelMade {
        origin,
        has_map: is("has_map"),
        is_container: is("is_container"),
    });
    Some(Registered {
        mount,
        value: text("value")?.to_owned(),
        namespace,
        daemon,
        kernel,
        source_inode: number("source_inode"),
        file: file.to_owned(),
    })
}

/// Whether the kernel says that a mount is gone (statmount(2)); where it does not know, it is taken to be there.
fn is_gone(namespace: NamespaceId, identity: MountIdentity) -> bool {
    let (Some(namespace), Some(unique)) = (namespace.unique, identity.unique()) else {
        return false;
    };
    match sys::mount::exists(Some(namespace), unique) {
        Ok(exists) => !exists,
        Err(e) => {
            log::debug!("statmount of a registered mount: {}", errno_field(e));
            false
        }
    }
}

/// When a process was started, in clock ticks since the boot (proc_pid_stat(5)). `None`: it has ended.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    // One that has ended stays in /proc until its parent asks.
    let is_alive = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| is_alive)?.parse().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_daemon_holds_as_long_as_that_very_process_lives() {
        let own = std::process::id();
        let started = start_time(own).unwrap();
        let entry = |pid: u32, started: u64| {
            json!({
                "source": "/s", "mountpoint": hex(b"/d\xff"), "description": {}, "value": "7",
                "inode": 5, "unique": null, "identity": "1 2 0 3", "daemon": pid, "started": started,
                "pids": pid_namespace(),
            })
            .to_string()
        };
        let read = |text: String| read(text.as_bytes(), Path::new("/x.json"));
        let found = read(entry(own, started)).unwrap();
        assert_eq!(found.mount.mountpoint.as_os_str().as_bytes(), b"/d\xff");
        assert_eq!((found.value.as_str(), found.daemon), ("7", Some(own)));
        assert!(read(entry(own, started + 1)).is_none(), "another process has the number");
        assert!(read(entry(u32::MAX >> 1, started)).is_none());
        assert!(read("{}".to_owned()).is_none());
        assert_eq!(unhex("0g"), None);
    }
}
