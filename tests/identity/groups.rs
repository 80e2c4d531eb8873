//! Decisions that need the caller's supplementary groups: a FUSE request has the caller's uid and gid only.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{self as unix, DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::support::{as_user, posix_acl};
use crate::{ROOT, USER, errno, open_to_all, same_as_idmapped};

/// The group that owns the files, on the source and at the mount.
const STORED: u32 = 5;
const SHOWN: u32 = 100_005;

/// Supplementary groups: `others` irrelevant ones, then the owning group.
fn memberships_with(others: u32) -> Vec<u32> {
    (0..others).map(|n| 900_000 + n).chain([SHOWN]).collect()
}

/// No group, an irrelevant one, the owning group, and the owning group as the last of 64.
fn memberships() -> Vec<Vec<u32>> {
    vec![vec![], vec![SHOWN + 1], memberships_with(0), memberships_with(63)]
}

fn mode_and_owner(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).expect("stat");
    format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid())
}

/// A minimal access ACL of rwxr-xr--.
fn acl() -> Vec<u8> {
    posix_acl(&[(1, 7, u32::MAX), (4, 5, u32::MAX), (0x20, 4, u32::MAX)])
}

fn fill(dir: &Path) {
    open_to_all(dir);
    DirBuilder::new().mode(0o2770).create(dir.join("shared")).expect("mkdir");
    unix::chown(dir.join("shared"), Some(0), Some(STORED)).expect("chown");
    fs::set_permissions(dir.join("shared"), fs::Permissions::from_mode(0o2770)).expect("chmod");
    for n in 0..memberships().len() {
        for (name, mode) in [("sgid", 0o2755), ("sgid without x", 0o2745), ("plain", 0o644)] {
            let path = dir.join(format!("{n} {name}"));
            File::create(&path).expect("create");
            unix::chown(&path, Some(1000), Some(STORED)).expect("chown");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        }
    }
}

/// The results of a caller with each membership.
fn results(dir: &Path) -> Vec<String> {
    let mut said = Vec::new();
    for (n, groups) in memberships().iter().enumerate() {
        let mut tell = |what: &str, result: Option<i32>, path: &Path| {
            let left = if path.exists() { mode_and_owner(path) } else { "none".to_owned() };
            said.push(format!("{} groups: {what}: {result:?} {left}", groups.len()));
        };
        let by = |run: &(dyn Fn() -> std::io::Result<()> + Sync)| {
            errno(as_user(USER, USER, groups, run))
        };
        let new = dir.join(format!("shared/{n}"));
        tell("create in a group's directory", by(&|| File::create(&new).map(drop)), &new);
        let sub = dir.join(format!("shared/{n} dir"));
        tell("mkdir in a group's directory", by(&|| fs::create_dir(&sub)), &sub);
        for name in ["sgid", "sgid without x", "plain"] {
            let path = dir.join(format!("{n} {name}"));
            let set = || {
                let flags = rustix::fs::XattrFlags::empty();
                Ok(rustix::fs::setxattr(&path, "system.posix_acl_access", &acl(), flags)?)
            };
            tell("set an ACL", by(&set), &path);
            let chmod = || fs::set_permissions(&path, fs::Permissions::from_mode(0o2745));
            tell("chmod with setgid", by(&chmod), &path);
            let write = || fs::write(&path, "x");
            tell("write", by(&write), &path);
            tell("chgrp to the own group", by(&|| unix::chown(&path, None, Some(USER))), &path);
            tell("chgrp back", by(&|| unix::chown(&path, None, Some(SHOWN))), &path);
            tell("chgrp to another", by(&|| unix::chown(&path, None, Some(SHOWN + 9))), &path);
        }
    }
    let root = as_user(ROOT, ROOT, &[], || File::create(dir.join("shared/of root")).map(drop));
    said.push(format!("the owner: {:?}", errno(root)));
    said
}

#[test]
fn callers_with_no_one_and_64_groups_are_answered_as_by_the_kernel() {
    same_as_idmapped("auto", fill, results);
}

#[test]
fn membership_decides_and_nothing_else() {
    let mount = crate::support::Mount::shifted();
    fill(mount.source());
    let said = results(mount.path());
    let of = |what: &str| -> Vec<bool> {
        let found = said.iter().filter(|line| line.contains(what));
        found.map(|line| line.contains(": None ")).collect()
    };
    assert_eq!(of("create in a group's directory"), [false, false, true, true]);
    assert_eq!(
        of("chgrp back").chunks(3).map(|c| c[0]).collect::<Vec<_>>(),
        [false, false, true, true]
    );
}
