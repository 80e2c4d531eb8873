//! What a tree holds, as text that can be compared.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Path → what is there.
pub(crate) type Tree = BTreeMap<String, String>;

/// Reads a tree. Owners are told less `offset`.
pub(crate) fn tree(dir: &Path, offset: i64) -> Tree {
    let mut found = Tree::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).expect("list") {
            let path = entry.expect("list").path();
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            found.insert(name, describe(&path, offset));
            if fs::symlink_metadata(&path).expect("stat").is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

fn describe(path: &Path, offset: i64) -> String {
    let meta = fs::symlink_metadata(path).expect("stat");
    let (uid, gid) = (i64::from(meta.uid()) - offset, i64::from(meta.gid()) - offset);
    let mut text = format!("{:o} {uid}:{gid}", meta.mode());
    let kind = meta.file_type();
    if kind.is_file() {
        let content = fs::read(path).expect("read");
        let sum: u64 = content
            .iter()
            .fold(7, |sum, byte| u64::from(*byte).wrapping_add(sum.wrapping_mul(0x0100_0000_01b3)));
        let _ = write!(text, " nlink={} size={} sum={sum:x}", meta.nlink(), meta.size());
    } else if kind.is_symlink() {
        let _ = write!(text, " -> {}", fs::read_link(path).expect("readlink").display());
    } else if kind.is_char_device() {
        let _ = write!(text, " rdev={}", meta.rdev());
    }
    if meta.mtime() == 1000 {
        text += " mtime=1000";
    }
    for (name, value) in xattrs(path) {
        let value = value.map_or_else(|e| format!("{e:?}"), |value| shown(&name, &value, offset));
        let _ = write!(text, " {name}={value}");
    }
    text
}

/// The value of an attribute. Handles and ids of filesystems are left out, ids in ACLs are told less `offset`.
fn shown(name: &str, value: &[u8], offset: i64) -> String {
    let hex =
        |bytes: &[u8]| bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    match name {
        "trusted.overlay.origin" | "trusted.overlay.upper" | "trusted.overlay.uuid" => {
            "(handle)".to_owned()
        }
        "system.posix_acl_access" | "system.posix_acl_default" => {
            let mut text = String::new();
            for entry in value[4..].chunks(8) {
                let id = u32::from_le_bytes(entry[4..8].try_into().expect("4 bytes"));
                let id = if id == u32::MAX { -1 } else { i64::from(id) - offset };
                let _ = write!(text, "{}:{id}:{},", entry[0], entry[2]);
            }
            text
        }
        _ => hex(value),
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, rustix::io::Result<Vec<u8>>> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).expect("listxattr");
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let name = std::ffi::OsStr::from_bytes(name);
        let read = rustix::fs::lgetxattr(path, name, &mut value[..]);
        value.truncate(read.unwrap_or(0));
        // A capability whose root id is unmapped cannot be read.
        (name.to_string_lossy().into_owned(), read.map(|_| value))
    };
    names.map(value).collect()
}

/// The same text with the owner or group 0 as another id, and without file capabilities.
pub(crate) fn root_as(text: &str, id: u32) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    if let Some((uid, gid)) = words[1].split_once(':') {
        let other = |old: &str| if old == "0" { id.to_string() } else { old.to_owned() };
        words[1] = format!("{}:{}", other(uid), other(gid));
    }
    words.retain(|word| !word.starts_with("security.capability="));
    words.join(" ")
}

/// Fails with what differs.
#[track_caller]
pub(crate) fn assert_same(what: &str, expected: &Tree, got: &Tree) {
    let mut wrong = String::new();
    let paths: std::collections::BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
    for path in paths.into_iter().filter(|path| expected.get(*path) != got.get(*path)) {
        let _ = writeln!(
            wrong,
            "{path}:\n  expected {:?}\n  got      {:?}",
            expected.get(path),
            got.get(path)
        );
    }
    assert!(wrong.is_empty(), "{what}:\n{wrong}");
}
