//! The kinds of changes whose visibility is measured.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, lgetxattr, setxattr};

/// One kind of change. `dir` is a directory for this kind alone: on the source or below another mount for `make`, at
/// the mount for `shows`. `round` counts the changes of the kind.
pub struct Change {
    /// The name in the table.
    pub name: &'static str,
    /// Creates on the source what all rounds need.
    pub before: fn(dir: &Path, rounds: u64) -> io::Result<()>,
    /// Makes the change.
    pub make: fn(dir: &Path, kept: &mut HeldFile, round: u64) -> io::Result<()>,
    /// Whether the change is visible.
    pub shows: fn(dir: &Path, round: u64) -> io::Result<bool>,
    /// Whether the directory is the large one.
    pub is_large: bool,
}

/// A file that stays open from one change to the next.
#[derive(Default)]
pub struct HeldFile {
    file: Option<File>,
}

fn nothing(_: &Path, _: u64) -> io::Result<()> {
    Ok(())
}

fn numbered(dir: &Path, name: &str, number: u64) -> PathBuf {
    dir.join(format!("{name}{number}"))
}

/// Creates the files `f0`, `f1`, …
fn files(dir: &Path, rounds: u64) -> io::Result<()> {
    (0..rounds).try_for_each(|round| fs::write(numbered(dir, "f", round), "x"))
}

/// Creates one file `f`.
fn file(dir: &Path, _: u64) -> io::Result<()> {
    fs::write(dir.join("f"), "")
}

fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn create(dir: &Path, _: &mut HeldFile, round: u64) -> io::Result<()> {
    File::create_new(numbered(dir, "n", round)).map(drop)
}

fn created(dir: &Path, round: u64) -> io::Result<bool> {
    is_there(&numbered(dir, "n", round))
}

fn mode(round: u64) -> u32 {
    0o600 | (round as u32 % 2) << 2 | 0o1
}

fn chmod(dir: &Path, _: &mut HeldFile, round: u64) -> io::Result<()> {
    fs::set_permissions(numbered(dir, "f", round), Permissions::from_mode(mode(round)))
}

fn chmodded(dir: &Path, round: u64) -> io::Result<bool> {
    let mode_now = fs::symlink_metadata(numbered(dir, "f", round))?.permissions().mode() & 0o777;
    Ok(mode_now == mode(round))
}

fn has_grown(dir: &Path, round: u64) -> io::Result<bool> {
    Ok(fs::symlink_metadata(dir.join("f"))?.len() == round + 1)
}

const ACL: &str = "system.posix_acl_access";
/// The offset of the named user's permissions, in the second entry of the value (linux/posix_acl_xattr.h).
const NAMED: usize = 4 + 8 + 2;

/// An ACL in the kernel's format: owner, user 1234, group, mask and other.
fn acl(permissions: u16) -> Vec<u8> {
    let no_id = u32::MAX;
    let entries =
        [(1, 6, no_id), (2, permissions, 1234), (4, 4, no_id), (16, 6, no_id), (32, 4, no_id)];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(u16::to_le_bytes(tag));
        value.extend(permissions.to_le_bytes());
        value.extend(u32::to_le_bytes(id));
    }
    value
}

fn permissions(round: u64) -> u16 {
    [4, 6][round as usize % 2]
}

/// All kinds, in the order of the table.
pub const CHANGES: &[Change] = &[
    Change { name: "create", before: nothing, make: create, shows: created, is_large: false },
    Change {
        name: "unlink",
        before: files,
        make: |dir, _, round| fs::remove_file(numbered(dir, "f", round)),
        shows: |dir, round| Ok(!is_there(&numbered(dir, "f", round))?),
        is_large: false,
    },
    Change {
        name: "rename",
        before: files,
        make: |dir, _, round| fs::rename(numbered(dir, "f", round), numbered(dir, "to", round)),
        shows: |dir, round| {
            Ok(!is_there(&numbered(dir, "f", round))? && is_there(&numbered(dir, "to", round))?)
        },
        is_large: false,
    },
    Change { name: "chmod", before: files, make: chmod, shows: chmodded, is_large: false },
    Change {
        name: "append, the file stays open",
        before: file,
        make: |dir, kept, _| {
            if kept.file.is_none() {
                kept.file = Some(OpenOptions::new().append(true).open(dir.join("f"))?);
            }
            kept.file.as_mut().map_or(Ok(()), |file| file.write_all(b"x"))
        },
        shows: has_grown,
        is_large: false,
    },
    Change {
        name: "append and close",
        before: file,
        make: |dir, _, _| OpenOptions::new().append(true).open(dir.join("f"))?.write_all(b"x"),
        shows: has_grown,
        is_large: false,
    },
    Change {
        name: "setxattr of an ACL",
        before: |dir, rounds| {
            file(dir, rounds)?;
            Ok(setxattr(dir.join("f"), ACL, &acl(permissions(1)), XattrFlags::empty())?)
        },
        make: |dir, _, round| {
            Ok(setxattr(dir.join("f"), ACL, &acl(permissions(round)), XattrFlags::empty())?)
        },
        shows: |dir, round| {
            let mut value = [0; 256];
            let len = lgetxattr(dir.join("f"), ACL, &mut value)?;
            let wanted = permissions(round).to_le_bytes();
            Ok(len > NAMED + 1 && value[NAMED..NAMED + 2] == wanted)
        },
        is_large: false,
    },
    Change {
        name: "symlink replaced",
        before: |dir, _| symlink("none", dir.join("f")),
        make: |dir, _, round| {
            symlink(format!("target-{round}"), dir.join("new"))?;
            fs::rename(dir.join("new"), dir.join("f"))
        },
        shows: |dir, round| {
            Ok(fs::read_link(dir.join("f"))? == Path::new(&format!("target-{round}")))
        },
        is_large: false,
    },
    Change {
        name: "a listing, one more of 100 entries",
        before: |dir, _| files(dir, 100),
        make: create,
        shows: |dir, round| Ok(fs::read_dir(dir)?.count() as u64 == 101 + round),
        is_large: false,
    },
    Change {
        name: "create in the large directory",
        before: nothing,
        make: create,
        shows: created,
        is_large: true,
    },
    Change {
        name: "chmod in the large directory",
        before: files,
        make: chmod,
        shows: chmodded,
        is_large: true,
    },
];
