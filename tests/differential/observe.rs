//! The contents of a source and the view of a mount as lines of text that can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rustix::fs::Stat;
use rustix::io::Errno;

use crate::act::{errno_name, names, stat_text, xattr_value};

/// Path to description.
pub(crate) type Tree = BTreeMap<String, Seen>;

/// The description of one path on a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) text: String,
    /// Inode number and change time: while they stay, so does the rest.
    mark: (u64, i64, u64),
    /// The names in it, if it is a directory.
    children: Vec<String>,
}

/// Describes everything below a source, read by root without shiftbind. It reads again only what has changed since
/// `before`.
pub(crate) fn source(root: &Path, before: &Tree) -> Tree {
    let mut tree = Tree::new();
    walk(root, String::new(), before, &mut tree);
    tree
}

fn walk(root: &Path, name: String, before: &Tree, tree: &mut Tree) {
    let path = root.join(&name);
    let stat = rustix::fs::lstat(&path).expect("the source can be read");
    let mark = (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
    let seen = match before.get(&name) {
        // A read changes only the access time, not the change time, so the stat is compared anew.
        Some(seen) if seen.mark == mark && seen.text.starts_with(&stat_text(&stat)) => seen.clone(),
        _ => look(&path, &stat, mark),
    };
    let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
    let children = seen.children.clone();
    tree.insert(name, seen);
    for child in children {
        walk(root, format!("{prefix}{child}"), before, tree);
    }
}

fn look(path: &Path, stat: &Stat, mark: (u64, i64, u64)) -> Seen {
    let mut text = stat_text(stat);
    let kind = stat.st_mode & libc::S_IFMT;
    if kind == libc::S_IFREG && stat.st_size < 8192 {
        let content = fs::read(path).expect("the source can be read");
        let sum = content.iter().fold(7u32, |sum, b| sum.wrapping_mul(31) + u32::from(*b));
        text += &format!(" sum {sum}");
    }
    text += &link_text(path, stat);
    text += &xattr_text(path);
    let mut children = Vec::new();
    if kind == libc::S_IFDIR {
        for entry in fs::read_dir(path).expect("the source can be read") {
            children.push(entry.expect("an entry").file_name().to_string_lossy().into_owned());
        }
        children.sort();
    }
    Seen { text, mark, children }
}

/// The paths whose description has changed.
pub(crate) fn changed(before: &Tree, after: &Tree) -> BTreeSet<String> {
    let differs = |(path, seen): &(&String, &Seen)| before.get(*path) != Some(*seen);
    let gone = before.keys().filter(|path| !after.contains_key(*path));
    after.iter().filter(differs).map(|(path, _)| path).chain(gone).cloned().collect()
}

/// What root sees of these paths through a mount.
pub(crate) fn mount(
    root: &Path,
    source: &Tree,
    paths: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    paths.iter().map(|path| (path.clone(), show(&root.join(path), source.get(path)))).collect()
}

fn show(path: &Path, seen: Option<&Seen>) -> String {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(errno) => return errno_name(errno),
    };
    let mut text = stat_text(&stat) + &link_text(path, &stat) + &xattr_text(path);
    if seen.is_some_and(|seen| seen.mark.0 != stat.st_ino) {
        text += " another inode number than the source's";
    }
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        text += &match fs::read_dir(path) {
            Ok(entries) => {
                let mut names: Vec<_> = entries
                    .map(|e| e.map_or_else(|e| format!("{e}").into(), |e| e.file_name()))
                    .collect();
                names.sort();
                format!(" holds {names:?}")
            }
            Err(e) => format!(" cannot be listed: {e}"),
        };
    }
    text
}

fn link_text(path: &Path, stat: &Stat) -> String {
    if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
        return String::new();
    }
    match fs::read_link(path) {
        Ok(target) => format!(" -> {}", target.display()),
        Err(e) => format!(" -> {e}"),
    }
}

fn xattr_text(path: &Path) -> String {
    let mut buffer = [0; 4096];
    let list = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(len) => names(&buffer[..len]),
        Err(errno) => return format!(" no list: {}", errno_name(errno)),
    };
    let mut text = String::new();
    for name in list {
        let mut value = [0; 4096];
        let shown = match rustix::fs::lgetxattr(path, &name, &mut value[..]) {
            Ok(len) => xattr_value(&name, &value[..len]),
            Err(Errno::OPNOTSUPP) if name.starts_with("security.") => continue, // a label of a security module, which the tests do not compare
            Err(errno) => errno_name(errno),
        };
        text += &format!(" {name}={shown}");
    }
    text
}
