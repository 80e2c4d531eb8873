//! Quotas of users, groups and projects are charged to the ids of the source.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::probe;
use crate::support::{Mount, Scratch, as_user, needs_loop_devices, scratch, sh, sh_output};
use crate::survey::MAPS;

/// An ext4 filesystem with quotas; unmounted when dropped.
struct Quotas {
    root: PathBuf,
    _scratch: Scratch,
}

impl Quotas {
    fn make() -> Option<Self> {
        needs_loop_devices();
        if !probe::has(&["ext4"], &["setquota", "repquota"]) {
            return None;
        }
        if !probe::load_module("quota_v2") {
            crate::support::skipped("this kernel has no quota_v2");
            return None;
        }
        let scratch = scratch();
        sh(
            scratch.path(),
            "truncate -s 128M image
             mkfs.ext4 -q -F -O quota,project -E quotatype=usrquota:grpquota:prjquota image
             mkdir fs && mount -o loop,usrquota,grpquota,prjquota image fs",
        );
        let root = scratch.join("fs");
        fs::create_dir(root.join("source")).expect("mkdir");
        fs::set_permissions(root.join("source"), Permissions::from_mode(0o777)).expect("chmod");
        Some(Self { root, _scratch: scratch })
    }

    fn mount(&self, passthrough: &str) -> Mount {
        let builder = Mount::builder()
            .source(&self.root.join("source"))
            .arg(format!("--passthrough={passthrough}"));
        MAPS.iter().fold(builder, |builder, map| builder.map(map)).start()
    }

    /// The KiB that are charged to an id; `kind` is `u`, `g` or `P`.
    fn used(&self, kind: &str, id: u32) -> u64 {
        let report = sh_output(&self.root, &format!("sync; repquota -n -{kind} . 2> /dev/null"));
        let prefix = format!("#{id} ");
        let line = report.lines().find(|line| line.starts_with(&prefix));
        line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Quotas {
    fn drop(&mut self) {
        let _ = unmount(&self.root, UnmountFlags::DETACH);
    }
}

/// Writes until an error; returns its number.
fn fill_up(path: &Path) -> Option<i32> {
    let block = vec![1; 64 << 10];
    let open = || -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        for _ in 0..1000 {
            file.write_all(&block)?;
        }
        Ok(())
    };
    open().err().and_then(|error| error.raw_os_error())
}

#[test]
fn users_and_groups_are_charged_and_limited_by_their_source_ids() {
    let Some(quotas) = Quotas::make() else { return };
    sh(&quotas.root, "setquota -u 1001 0 4096 0 0 .; setquota -g 1002 0 4096 0 0 .");
    for passthrough in ["auto", "off"] {
        let mount = quotas.mount(passthrough);
        let user = mount.join("user");
        let full = as_user(101_001, 101_001, &[], || fill_up(&user));
        assert_eq!(full, Some(libc::EDQUOT), "a user, passthrough {passthrough}");
        let charged = quotas.used("u", 1001);
        assert!((3000..=4096).contains(&charged), "{charged} KiB are charged to the user");
        assert_eq!(quotas.used("u", 101_001), 0, "the id at the mount is charged nothing");
        let group = mount.join("group");
        let full = as_user(101_003, 101_002, &[], || fill_up(&group));
        assert_eq!(full, Some(libc::EDQUOT), "a group, passthrough {passthrough}");
        let charged = quotas.used("g", 1002);
        assert!((3000..=4096).contains(&charged), "{charged} KiB are charged to the group");
        // A file that changes hands is charged to its new owner.
        chown(&user, Some(101_005), Some(101_006)).expect("chown");
        assert!(quotas.used("u", 1001) < 100, "the old owner has its space back");
        assert!(quotas.used("u", 1005) > 3000, "the new owner pays");
        assert!(quotas.used("g", 1006) > 3000, "so does the new group");
        let refused =
            chown(&user, None, Some(101_002)).err().and_then(|error| error.raw_os_error());
        assert_eq!(refused, Some(libc::EDQUOT), "a full group gets no more files");
        fs::remove_file(user).expect("unlink");
        fs::remove_file(group).expect("unlink");
        drop(mount);
        assert!(quotas.used("g", 1002) < 100, "what was removed is given back");
    }
}

#[test]
fn a_project_is_charged_and_limited() {
    let Some(quotas) = Quotas::make() else { return };
    sh(
        &quotas.root,
        "mkdir -m 777 source/project; chattr -p 42 +P source/project; setquota -P 42 0 4096 0 0 .",
    );
    for passthrough in ["auto", "off"] {
        let mount = quotas.mount(passthrough);
        let (inside, outside) = (mount.join("project/f"), mount.join("f"));
        let full = as_user(101_000, 101_000, &[], || fill_up(&inside));
        assert_eq!(full, Some(libc::EDQUOT), "passthrough {passthrough}");
        assert!(quotas.used("P", 42) > 3000);
        let linked = as_user(101_000, 101_000, &[], || {
            File::create(&outside)?;
            fs::hard_link(&outside, mount.join("project/l"))
        });
        let refused = linked.err().and_then(|error| error.raw_os_error());
        assert_eq!(refused, Some(libc::EXDEV), "a file has one project");
        fs::remove_file(&inside).expect("unlink");
        fs::remove_file(&outside).expect("unlink");
    }
}
