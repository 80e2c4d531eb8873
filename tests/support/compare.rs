//! The oracle: a plain directory. One closure runs on a plain directory and on an identity mount of another one; both
//! results must be equal.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Mount, scratch};

/// Runs the closure in a plain directory and at an identity mount, and compares the results, which include errors.
#[track_caller]
pub(crate) fn same_as_bare<T: PartialEq + Debug>(run: impl Fn(&Path) -> T) {
    let bare = scratch();
    let expected = run(&bare.dir("d"));
    let mount = Mount::identity();
    fs::create_dir(mount.in_source("d")).expect("make the directory on the source");
    let got = run(&mount.join("d"));
    assert!(
        got == expected,
        "at the mount it is otherwise than on the bare directory:\n{}",
        difference(&got, &expected)
    );
    let (got, expected) = (shape(&mount.in_source("d")), shape(&bare.join("d")));
    assert!(
        got == expected,
        "the source is left otherwise than the bare directory:\n{}",
        difference(&got, &expected)
    );
}

/// The lines that differ, each with the lines before it.
fn difference<T: Debug>(got: &T, expected: &T) -> String {
    let (got, expected) = (format!("{got:#?}"), format!("{expected:#?}"));
    let (got, expected): (Vec<&str>, Vec<&str>) =
        (got.lines().collect(), expected.lines().collect());
    let mut told = Vec::new();
    for at in
        (0..got.len().max(expected.len())).filter(|at| got.get(*at) != expected.get(*at)).take(8)
    {
        let before = got[at.saturating_sub(5).min(got.len())..at.min(got.len())].join("\n");
        told.push(format!(
            "{before}\n  got:      {:?}\n  expected: {:?}",
            got.get(at),
            expected.get(at)
        ));
    }
    told.join("\n")
}

/// What a tree holds: path → mode, owner, group, link count and size (0 for directories).
pub(crate) fn shape(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, u64, u64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).expect("list") {
            let path = entry.expect("list").path();
            let meta = fs::symlink_metadata(&path).expect("stat");
            let size = if meta.is_dir() { 0 } else { meta.size() };
            let name = path.strip_prefix(dir).expect("below").to_owned();
            found.insert(name, (meta.mode(), meta.uid(), meta.gid(), meta.nlink(), size));
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}
