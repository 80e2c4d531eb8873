//! Scratch space for a test: a private mount namespace, a directory in it that every uid can reach by a short path,
//! and filesystems on loop devices.

use std::cell::OnceCell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::machine::cannot_run;
use super::process::sh;
use super::sys;

thread_local! {
    static ROOT: OnceCell<PathBuf> = const { OnceCell::new() };
}

/// Moves this thread, and the processes that it starts, into a private mount namespace and returns the directory to
/// work in. That is cargo's temporary directory, bind-mounted on a directory that users without rights can reach and
/// that leaves space for a socket's path (`sun_path`, 108 bytes).
///
/// Tests run as threads of one process, so each thread has its own namespace, and a test mounts in its own thread.
fn root() -> PathBuf {
    ROOT.with(|root| {
        root.get_or_init(|| {
            sys::unshare_mounts();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                .expect("make the namespace's mounts private");
            let build = Path::new(env!("CARGO_TARGET_TMPDIR"));
            fs::create_dir_all(build).expect("make the build's temporary directory");
            let parent = ["/mnt", "/media", "/srv"]
                .map(Path::new)
                .into_iter()
                .find(|parent| {
                    parent.is_dir() && !build.starts_with(parent) && !manifest().starts_with(parent)
                })
                .expect("one of /mnt, /media and /srv exists");
            mount_bind(build, parent).expect("bind the build's temporary directory");
            parent.to_owned()
        })
        .clone()
    })
}

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory of one test, removed when dropped.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

/// A new directory on the filesystem of the build.
pub(crate) fn scratch() -> Scratch {
    let dir = tempfile::Builder::new()
        .prefix("t")
        .rand_bytes(8)
        .tempdir_in(root())
        .expect("make a scratch directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))
        .expect("open the scratch directory to all");
    Scratch { dir }
}

impl Scratch {
    /// The path of the directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a name in it.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Creates a directory in it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).expect("make a directory");
        path
    }
}

/// A filesystem on a loop device, unmounted when dropped.
pub(crate) struct LoopFs {
    dir: PathBuf,
    // Dropped after `drop` has unmounted.
    _scratch: Scratch,
}

/// Ends the test if this kernel has no loop devices.
pub(crate) fn needs_loop_devices() {
    if !Path::new("/dev/loop-control").exists() {
        cannot_run("this kernel has no loop devices");
    }
}

/// Makes and mounts a filesystem (`ext4`, `xfs`, `btrfs`) of `mebibytes` MiB.
pub(crate) fn loop_fs(kind: &str, mebibytes: u64) -> LoopFs {
    needs_loop_devices();
    let scratch = scratch();
    let image = scratch.join("image");
    File::create(&image).expect("make the image").set_len(mebibytes << 20).expect("size the image");
    let dir = scratch.dir("fs");
    let quiet = if kind.starts_with("ext4") { "-q -F" } else { "-q" };
    sh(scratch.path(), &format!("mkfs.{kind} {quiet} image && mount -o loop image fs"));
    LoopFs { dir, _scratch: scratch }
}

impl LoopFs {
    /// The mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Creates a directory in it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir(&path).expect("make a directory");
        path
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
    }
}
