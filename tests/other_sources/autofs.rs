//! A tree of autofs as the source: what is mounted there is shown, and nothing hangs.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

use crate::probe;
use crate::support::{Scratch, eventually, scratch, sh_output, sys};
use crate::survey::{self, tell};

/// automount(8) with one indirect map: `NAME` below `auto` is a bind mount of the directory `data`.
struct Autofs {
    daemon: Child,
    at: PathBuf,
    scratch: Scratch,
}

impl Autofs {
    fn start() -> Option<Self> {
        if !probe::has(&["autofs"], &["automount"]) {
            return None;
        }
        let scratch = scratch();
        let (at, data) = (scratch.dir("auto"), scratch.dir("data"));
        fs::write(data.join("f"), "text").expect("write");
        fs::write(scratch.join("map"), format!("* -fstype=bind :{}\n", data.display()))
            .expect("write the map");
        let master = format!("{} file:{}\n", at.display(), scratch.join("map").display());
        fs::write(scratch.join("master"), master).expect("write the master map");
        let mut command = Command::new("automount");
        command.arg("-f").arg("-p").arg(scratch.join("pid")).arg(scratch.join("master"));
        // The kernel lets every process of automount's process group see the tree without triggering mounts.
        command.stdin(Stdio::null()).process_group(0);
        sys::die_with_parent(&mut command);
        let daemon = command.spawn().expect("start automount");
        let autofs = Self { daemon, at, scratch };
        eventually("autofs is mounted", || {
            sh_output(autofs.scratch.path(), "cat /proc/self/mountinfo").contains("/auto ")
        });
        Some(autofs)
    }
}

impl Drop for Autofs {
    fn drop(&mut self) {
        for name in ["before", "after"] {
            let _ = unmount(self.at.join(name), UnmountFlags::DETACH);
        }
        let _ = unmount(&self.at, UnmountFlags::DETACH);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn what_autofs_has_mounted_is_shown_and_nothing_hangs() {
    let Some(autofs) = Autofs::start() else { return };
    assert_eq!(fs::read(autofs.at.join("before/f")).expect("mount"), b"text");
    let mount = survey::mount(&autofs.at);
    assert_eq!(fs::read(mount.join("before/f")).expect("read what was mounted before"), b"text");
    // The private clone of the source does not get the mount that automount(8) makes in the real tree.
    let later = fs::read(mount.join("after/f")).map_err(|error| survey::errno_name(&error));
    assert_eq!(later, Err("ENOENT".to_owned()), "a mount that automount(8) makes later");
    assert_eq!(fs::read(mount.join("before/f")).expect("the mount still answers"), b"text");
    drop(mount);
    let mount = crate::support::Mount::builder().source(&autofs.at).arg("--follow-source").start();
    assert_eq!(fs::read(mount.join("before/f")).expect("read"), b"text");
    let later = fs::read(mount.join("new/f")).map_err(|error| survey::errno_name(&error));
    assert_eq!(later, Ok(b"text".to_vec()), "the same with follow-source");
    tell("autofs", "changes by others", "later mounts: with follow-source only");
    drop(mount);
    let _ = unmount(autofs.at.join("new"), UnmountFlags::DETACH);
}
