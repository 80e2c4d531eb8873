//! A filesystem for thousands of small trees that tests create and remove.

use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, removexattr, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Mounts a tmpfs; or ext4 where tmpfs has no user extended attributes (before Linux 6.6) and no idmapped mounts
/// (before 6.3).
pub(crate) fn mount_small_filesystem(dir: &Path, flags: MountFlags) {
    mount("tmpfs", dir, "tmpfs", flags, c"mode=755").expect("mount tmpfs");
    if setxattr(dir, "user.probe", b"1", XattrFlags::empty()).is_ok() {
        return removexattr(dir, "user.probe").expect("remove the attribute");
    }
    unmount(dir, UnmountFlags::empty()).expect("unmount tmpfs");
    let noatime = if flags.contains(MountFlags::NOATIME) { ",noatime" } else { "" };
    // The loop device keeps the image open, so its name can be removed.
    let script = format!(
        "test -e /dev/loop-control || {{ echo no loop devices; exit 9; }}; image=$(mktemp) && truncate -s 2G $image && \
         mkfs.ext4 -q -F -E nodiscard $image && mount -o loop{noatime} $image \"$0\" && rm $image && \
         rmdir \"$0/lost+found\" && chmod 755 \"$0\""
    );
    let done = Command::new("sh").args(["-euc", &script]).arg(dir).output().expect("run sh");
    if done.status.code() == Some(9) {
        panic!("cannot be run here: this kernel has no loop devices");
    }
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
