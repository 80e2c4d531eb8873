//! A FUSE server for the tests: a directory of files with chosen inode numbers, modes and contents. It speaks only as
//! much of the protocol as listing, looking up and reading them needs (linux/fuse.h).

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// One file of the root directory.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) name: &'static str,
    /// The node id.
    pub(crate) node: u64,
    /// The inode number that stat(2) shows.
    pub(crate) ino: u64,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) content: &'static str,
}

/// A mounted server; unmounted when dropped.
pub(crate) struct FuseFs {
    dir: PathBuf,
    server: Option<thread::JoinHandle<()>>,
    seen: Arc<Mutex<Vec<(u32, u32)>>>,
    flush_millis: Arc<AtomicU32>,
}

/// The name in the form `SECRET~1.TXT`.
fn short_name(name: &str) -> String {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let cut = |text: &str, length: usize| {
        text.to_uppercase()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(length)
            .collect::<String>()
    };
    match extension {
        "" => format!("{}~1", cut(base, 6)),
        _ => format!("{}~1.{}", cut(base, 6), cut(extension, 3)),
    }
}

/// Mounts a server of these files. `exports`: whether the kernel may make file handles.
pub(crate) fn serve(dir: &Path, exports: bool, files: &[Served]) -> FuseFs {
    mount_server(dir, exports, false, files)
}

/// Mounts a server that lets only a file's owner open it, whatever capabilities another caller has.
pub(crate) fn serve_owners(dir: &Path, files: &[Served]) -> FuseFs {
    mount_server(dir, true, true, files)
}

fn mount_server(dir: &Path, exports: bool, judges: bool, files: &[Served]) -> FuseFs {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions\0",
        device.as_raw_fd()
    );
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("one NUL");
    mount("test", dir, "fuse", MountFlags::empty(), options).expect("mount");
    let files = files.to_vec();
    let seen = Arc::<Mutex<_>>::default();
    let flush_millis = Arc::<AtomicU32>::default();
    let (seen_by, delay) = (Arc::clone(&seen), Arc::clone(&flush_millis));
    let server = Server { device, exports, judges, files, seen: seen_by, flush_millis: delay };
    let server = thread::spawn(move || server.run());
    FuseFs { dir: dir.to_owned(), server: Some(server), seen, flush_millis }
}

impl FuseFs {
    /// Lets each FLUSH, which close(2) waits for, take this long.
    pub(crate) fn delay_flush(&self, millis: u32) {
        self.flush_millis.store(millis, Ordering::Relaxed);
    }

    /// The uids in the requests of one kind since the last call.
    pub(crate) fn uids_of(&self, opcode: u32) -> Vec<u32> {
        let seen = std::mem::take(&mut *self.seen.lock().expect("the server runs"));
        seen.into_iter().filter(|(seen, _)| *seen == opcode).map(|(_, uid)| uid).collect()
    }
}

impl Drop for FuseFs {
    fn drop(&mut self) {
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

struct Server {
    device: File,
    exports: bool,
    judges: bool,
    files: Vec<Served>,
    /// The opcode and the uid of each request.
    seen: Arc<Mutex<Vec<(u32, u32)>>>,
    /// How long a FLUSH takes, in milliseconds.
    flush_millis: Arc<AtomicU32>,
}

const ROOT: u64 = 1;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
pub(crate) const READ: u32 = 15;
pub(crate) const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
pub(crate) const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const BATCH_FORGET: u32 = 42;

type Answer = Result<Vec<u8>, i32>;

impl Server {
    /// Serves until the filesystem is unmounted.
    fn run(mut self) {
        let mut request = vec![0; 1 << 17];
        loop {
            let len = match self.device.read(&mut request) {
                Ok(len) => len,
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return,
                Err(_) => continue,
            };
            let request = &request[..len];
            let opcode = number(request, 4, 4) as u32;
            if matches!(opcode, FORGET | BATCH_FORGET) {
                continue;
            }
            let (node, body) = (number(request, 16, 8), &request[40..]);
            let uid = number(request, 24, 4) as u32;
            self.seen.lock().expect("a test has panicked").push((opcode, uid));
            let is_refused = self.judges
                && opcode == OPEN
                && self.file(node).is_ok_and(|file| file.owner != uid);
            let answer =
                if is_refused { Err(libc::EACCES) } else { self.answer(opcode, node, body) };
            let (error, payload) = match answer {
                Ok(payload) => (0, payload),
                Err(errno) => (-errno, Vec::new()),
            };
            let mut reply = Vec::new();
            reply.extend((16 + payload.len() as u32).to_ne_bytes());
            reply.extend(error.to_ne_bytes());
            reply.extend(&request[8..16]);
            reply.extend(payload);
            // Fails if the client was killed.
            let _ = self.device.write(&reply);
        }
    }

    fn answer(&self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        match opcode {
            INIT => Ok(self.init(body)),
            LOOKUP => {
                let name = body.strip_suffix(b"\0").unwrap_or(body);
                // As on a filesystem that ignores the case of letters, and has short names beside long ones.
                let is_it = |file: &&Served| {
                    file.name.as_bytes().eq_ignore_ascii_case(name)
                        || short_name(file.name).as_bytes() == name
                };
                let found = self.files.iter().find(is_it);
                found.map(entry).ok_or(libc::ENOENT)
            }
            // `struct fuse_attr_out`: attributes that the kernel may cache for a second.
            GETATTR => Ok([words(&[1, 0]), self.attributes(node)?].concat()),
            OPEN | OPENDIR => Ok(words(&[0, 0])),
            READ => {
                let file = self.file(node)?;
                let (offset, size) = (number(body, 8, 8), number(body, 16, 4));
                let content = file.content.as_bytes().iter().skip(offset as usize);
                Ok(content.take(size as usize).copied().collect())
            }
            READDIR => Ok(match number(body, 8, 8) {
                0 => self.files.iter().zip(1..).flat_map(|(file, at)| listed(file, at)).collect(),
                _ => Vec::new(),
            }),
            STATFS => Ok(vec![0; 80]),
            FLUSH => {
                let delay = self.flush_millis.load(Ordering::Relaxed);
                thread::sleep(Duration::from_millis(delay.into()));
                Ok(Vec::new())
            }
            RELEASE | RELEASEDIR => Ok(Vec::new()),
            _ => Err(libc::ENOSYS),
        }
    }

    fn init(&self, body: &[u8]) -> Vec<u8> {
        /// FUSE_INIT_EXT, and FUSE_NO_EXPORT_SUPPORT in the upper word.
        const EXT: u64 = 1 << 30;
        const NO_EXPORT: u64 = 1 << (38 - 32);
        let offered = number(body, 12, 4) & EXT;
        let (flags, upper) = if self.exports { (0, 0) } else { (offered, NO_EXPORT) };
        let mut out = Vec::new();
        for word in [7, 40, 0, flags as u32, 0, 1 << 16, 1, 16, upper as u32] {
            out.extend(u32::to_ne_bytes(word));
        }
        out.resize(64, 0);
        out
    }

    fn file(&self, node: u64) -> Result<&Served, i32> {
        self.files.iter().find(|file| file.node == node).ok_or(libc::ENOENT)
    }

    fn attributes(&self, node: u64) -> Answer {
        match node {
            ROOT => Ok(attributes(1, libc::S_IFDIR | 0o755, 0, 0)),
            node => self.file(node).map(attributes_of),
        }
    }
}

fn attributes_of(file: &Served) -> Vec<u8> {
    attributes(file.ino, libc::S_IFREG | file.mode, file.owner, file.content.len())
}

/// `struct fuse_attr`.
fn attributes(ino: u64, mode: u32, owner: u32, size: usize) -> Vec<u8> {
    let mut out = words(&[ino, size as u64, 1, 0, 0, 0]);
    for word in [0, 0, 0, mode, 1, owner, owner, 0, 4096, 0] {
        out.extend(u32::to_ne_bytes(word));
    }
    out
}

/// `struct fuse_entry_out` with timeouts of 0.
fn entry(file: &Served) -> Vec<u8> {
    [words(&[file.node, 0, 0, 0, 0]), attributes_of(file)].concat()
}

/// `struct fuse_dirent`.
fn listed(file: &Served, at: u64) -> Vec<u8> {
    let mut out = words(&[file.ino, at]);
    out.extend((file.name.len() as u32).to_ne_bytes());
    out.extend(u32::from(libc::DT_REG).to_ne_bytes());
    out.extend(file.name.as_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A number of `len` bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    let part = bytes.get(at..at + len).unwrap_or_default();
    // The tests run on little-endian machines only.
    word[..part.len()].copy_from_slice(part);
    u64::from_le_bytes(word)
}
