//! Sources on FUSE filesystems that people use: sshfs and mergerfs; and a tree of autofs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::mount::{UnmountFlags, unmount};

use crate::probe;
use crate::support::{Scratch, eventually, scratch, sh, sh_output, sys};
use crate::survey;

/// A mount of a server's; unmounted when dropped.
struct Mounted {
    at: PathBuf,
    scratch: Scratch,
}

impl Mounted {
    fn by(scratch: Scratch, script: &str) -> Self {
        let at = scratch.dir("mounted");
        sh(scratch.path(), script);
        eventually("it is mounted", || {
            sh_output(scratch.path(), "cat /proc/self/mountinfo").contains("/mounted ")
        });
        Self { at, scratch }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
        sh(self.scratch.path(), "if [ -e pid ]; then kill $(cat pid) || true; fi");
    }
}

#[test]
fn mergerfs_does_the_same_through_a_map() {
    if !probe::has(&["fuse"], &["mergerfs"]) {
        return;
    }
    let scratch = scratch();
    for name in ["one", "two"] {
        let dir = scratch.dir(name);
        fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("chmod");
    }
    let mounted = Mounted::by(
        scratch,
        "mergerfs -o allow_other,use_ino,cache.files=off,minfreespace=1M,category.create=mfs $PWD/one:$PWD/two mounted",
    );
    let files = mounted.at.join("files");
    fs::create_dir(&files).expect("mkdir");
    survey::fill(&files);
    survey::measure("mergerfs", &mounted.at, &files);
    survey::compare("mergerfs", &mounted.at, &mounted.at, &[]);
}

#[test]
fn sshfs_does_the_same_through_a_map() {
    if !probe::has(&["fuse"], &["sshfs", "sshd", "ssh-keygen"]) {
        return;
    }
    sys::unshare_network();
    let scratch = scratch();
    let dir = scratch.dir("remote");
    fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("chmod");
    let mounted = Mounted::by(
        scratch,
        "ip link set lo up
         mkdir -p /run/sshd; chmod 755 /run/sshd
         ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key
         /usr/sbin/sshd -f /dev/null -p 2222 -h $PWD/host -o PidFile=$PWD/pid -o StrictModes=no \
             -o AuthorizedKeysFile=$PWD/key.pub -o PermitRootLogin=yes -o UsePAM=no \
             -o 'Subsystem=sftp internal-sftp'
         sshfs -p 2222 -o allow_other,default_permissions,IdentityFile=$PWD/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null \
             root@127.0.0.1:$PWD/remote mounted",
    );
    let files = mounted.at.join("files");
    fs::create_dir(&files).expect("mkdir");
    survey::fill(&files);
    survey::measure("sshfs", &mounted.at, &files);
    survey::compare("sshfs", &mounted.at, &mounted.at, &[]);
}
