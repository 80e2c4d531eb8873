//! A kernel idmapped bind mount: what translated ids cost without a daemon.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

#[path = "../../src/sys/idmapped.rs"]
mod sys;

/// Mounts `source` at `mount` with a map in the format of /proc/PID/uid_map, for users and groups.
pub fn mount(source: &Path, mount: &Path, map: &str) -> io::Result<()> {
    let namespace = user_namespace(map)?;
    let tree =
        open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    sys::idmap_mount(&tree, &namespace)?;
    move_mount(&tree, "", CWD, mount, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// A user namespace with this map. The descriptor keeps it alive; the process that created it ends.
fn user_namespace(map: &str) -> io::Result<File> {
    let mut holder = Command::new("unshare")
        .args(["--user", "--", "sleep", "60"])
        .stdin(Stdio::null())
        .spawn()?;
    let folder = Path::new("/proc").join(holder.id().to_string());
    let made = (|| {
        let ours = fs::read_link("/proc/self/ns/user")?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read_link(folder.join("ns/user"))? == ours {
            if Instant::now() > deadline {
                return Err(io::Error::other("unshare made no user namespace"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::write(folder.join("uid_map"), map)?;
        fs::write(folder.join("gid_map"), map)?;
        File::open(folder.join("ns/user"))
    })();
    holder.kill()?;
    holder.wait()?;
    made
}
