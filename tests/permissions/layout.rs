//! The layouts: a directory with files, of many modes and ACLs, created anew for each question.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{self as unix, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::XattrFlags;

use super::caller::{NAMED_GROUP, NAMED_USER, OWNER};
use super::support::{posix_acl, sh};

/// Permissions of the owner, named user, owning group, named group, mask and other.
pub(crate) type Acl = [u16; 6];

/// The extended attribute value of the ACL.
pub(crate) fn acl_value(acl: Acl) -> Vec<u8> {
    let none = u32::MAX;
    let entries =
        [(1u16, none), (2, NAMED_USER), (4, none), (8, NAMED_GROUP), (0x10, none), (0x20, none)];
    let entries: Vec<_> =
        entries.into_iter().zip(acl).map(|((tag, id), perm)| (tag, perm, id)).collect();
    posix_acl(&entries)
}

/// A mode, or an ACL.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Grant {
    Mode(u32),
    Acl(Acl),
}

impl Grant {
    fn give(self, path: &Path) {
        match self {
            Self::Mode(mode) => {
                fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
            }
            Self::Acl(acl) => {
                let name = "system.posix_acl_access";
                rustix::fs::setxattr(path, name, &acl_value(acl), XattrFlags::empty())
                    .expect("set an ACL");
            }
        }
    }
}

/// The permissions of a layout's directory and file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) dir: Grant,
    pub(crate) file: Grant,
}

/// Each mode and ACL for the directory of an ordinary file, and for a file in an ordinary directory.
pub(crate) fn layouts() -> Vec<Layout> {
    let open = Grant::Mode(0o755);
    let plain = Grant::Mode(0o644);
    let acls = [
        [6, 7, 4, 0, 7, 0],
        [7, 7, 0, 7, 7, 0],
        [7, 6, 4, 2, 4, 7],
        [7, 0, 5, 0, 7, 7],
        [0, 5, 6, 3, 5, 4],
        [7, 3, 2, 1, 3, 0],
    ];
    let dirs = [0o700, 0o750, 0o770, 0o777, 0o1777, 0o1770, 0o711, 0o733, 0o705, 0o077, 0, 0o2775];
    let files = [
        0o600, 0o640, 0o660, 0o666, 0o604, 0o066, 0o111, 0o755, 0o750, 0o050, 0, 0o4755, 0o2755,
        0o2644,
    ];
    let dirs = dirs.map(Grant::Mode).into_iter().chain(acls.map(Grant::Acl));
    let files = files.map(Grant::Mode).into_iter().chain(acls.map(Grant::Acl));
    let mut layouts = vec![Layout { dir: open, file: plain }];
    layouts.extend(dirs.map(|dir| Layout { dir, file: plain }));
    layouts.extend(files.map(|file| Layout { dir: open, file }));
    layouts
}

/// Creates the tree of each layout under its name in the source.
///
/// Another process writes the files: a child that a concurrent test forks meanwhile would inherit a descriptor of
/// this process that is open for writing, and execve(2) of the file would fail with ETXTBSY.
pub(crate) fn make(source: &Path, trees: &[(String, Layout)]) {
    let names: Vec<&str> = trees.iter().map(|(name, _)| name.as_str()).collect();
    sh(
        source,
        &format!(
            "umask 022; for at in {}; do \
                 mkdir $at $at/d $at/d/e $at/d/s $at/to; \
                 for file in d/f d/o d/s/x to/t; do echo '#!/bin/true' > $at/$file; done; \
             done",
            names.join(" ")
        ),
    );
    for (name, layout) in trees {
        layout.grant(&source.join(name));
    }
}

impl Layout {
    /// Sets owners, modes and attributes: `d` with the owner's file `f`, another user's file `o`, the directories `e`
    /// (empty) and `s` (with `x`), and the link `l`; beside it the directory `to`, writable for all, with a file `t`.
    fn grant(self, at: &Path) {
        let own = |path: &Path, owner| unix::lchown(path, Some(owner), Some(owner)).expect("chown");
        let give = |path: &Path, owner, mode| {
            own(path, owner);
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
        };
        let d = at.join("d");
        give(&d, OWNER, 0o755);
        give(&d.join("f"), OWNER, 0o644);
        rustix::fs::setxattr(d.join("f"), "user.a", b"1", XattrFlags::empty()).expect("setxattr");
        give(&d.join("o"), 7000, 0o666);
        give(&d.join("e"), OWNER, 0o755);
        give(&d.join("s"), OWNER, 0o755);
        give(&d.join("s/x"), OWNER, 0o644);
        unix::symlink("f", d.join("l")).expect("symlink");
        own(&d.join("l"), OWNER);
        give(&at.join("to"), OWNER, 0o777);
        give(&at.join("to/t"), OWNER, 0o666);
        self.file.give(&d.join("f"));
        self.dir.give(&d);
    }
}

/// Describes a tree, one line per file: name, mode, owner, size, link count, names of extended attributes.
pub(crate) fn state(at: &Path) -> String {
    let mut text = String::new();
    describe(at, at, &mut text);
    text
}

fn describe(root: &Path, at: &Path, text: &mut String) {
    let meta = fs::symlink_metadata(at).expect("stat on the source");
    let mut names = [0u8; 512];
    let len = rustix::fs::llistxattr(at, &mut names[..]).expect("listxattr on the source");
    let name = at.strip_prefix(root).expect("below it");
    let size = if meta.is_dir() { 0 } else { meta.len() };
    writeln!(
        text,
        "{} {:o} {}:{} {size} {} {}",
        name.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        if meta.is_dir() { 0 } else { meta.nlink() },
        String::from_utf8_lossy(&names[..len])
    )
    .expect("write to a string");
    if meta.is_dir() {
        let mut entries: Vec<_> =
            fs::read_dir(at).expect("list the source").map(|e| e.expect("entry").path()).collect();
        entries.sort();
        for entry in entries {
            describe(root, &entry, text);
        }
    }
}
