//! A stand-in for shiftbind that tests the tests: with `SHIFTBIND_TEST_BIND=1` a mount is the kernel's own bind
//! mount, idmapped if a map is given. shiftbind promises what the kernel does, so a test that fails here is wrong
//! itself (or is about an option that a bind mount lacks).

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, mount as mount_new, mount_bind_recursive,
    move_mount, open_tree,
};

use super::sys;

/// Whether the stand-in makes the mounts.
pub(crate) fn in_use() -> bool {
    std::env::var_os("SHIFTBIND_TEST_BIND").is_some()
}

/// Mounts the source as the kernel does, with maps in the format of shiftbind's `idmap=` (`b:0:100000:65536`).
pub(crate) fn mount(source: &Path, mountpoint: &Path, maps: &[String]) {
    if maps.is_empty() {
        mount_bind_recursive(source, mountpoint).expect("bind the source");
        return;
    }
    let lines = |kinds: &str| -> String {
        maps.iter()
            .filter(|map| kinds.contains(&map[..1]))
            .map(|map| map[2..].replace(':', " ") + "\n")
            .collect()
    };
    let tree =
        open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .expect("clone the source's mount");
    sys::idmap_mount(&tree, user_namespace(&lines("bu"), &lines("bg"))).expect("idmap the mount");
    move_mount(&tree, "", CWD, mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .expect("attach the mount");
}

/// Has shiftbind make a mount by the kernel's engine, with options as within `-o`, in this thread's mount namespace. The
/// mount's record is on a /run of that namespace.
pub(crate) fn mount_by_engine(source: &Path, mountpoint: &Path, options: &str) {
    let flags = MountFlags::empty();
    mount_new("run", "/run", "tmpfs", flags, c"mode=755").expect("mount on /run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shiftbind"));
    command.args(["-o", options, "--engine=kernel"]).args([source, mountpoint]);
    let output = command.stdin(Stdio::null()).output().expect("run shiftbind");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A user namespace with these maps.
pub(crate) fn user_namespace(uid_map: &str, gid_map: &str) -> File {
    let mut holder = Command::new("unshare")
        .args(["--user", "sh", "-c", "echo; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("make a user namespace");
    let mut ready = [0];
    holder
        .stdout
        .as_mut()
        .expect("piped")
        .read_exact(&mut ready)
        .expect("wait for the user namespace");
    let proc = format!("/proc/{}", holder.id());
    fs::write(format!("{proc}/uid_map"), uid_map).expect("write the uid map");
    fs::write(format!("{proc}/gid_map"), gid_map).expect("write the gid map");
    let namespace = File::open(format!("{proc}/ns/user")).expect("open the user namespace");
    drop(holder.stdin.take());
    holder.wait().expect("reap the holder");
    namespace
}
