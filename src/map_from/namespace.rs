//! Maps of user namespaces that exist: of a process, or by the path of a namespace (user_namespaces(7)).

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{FoundMap, Kinds, Result, number, read_text};
use crate::error::strerror;
use crate::sys;

/// The map of a process's user namespace.
pub(super) fn of_process(pid: &str) -> Result<FoundMap> {
    let number = number("PID", pid).map_err(|e| format!("pid: {e}"))?;
    of_proc(&PathBuf::from(format!("/proc/{number}"))).map_err(|e| format!("pid: {e}"))
}

/// The map of the user namespace that a path names, such as `/proc/PID/ns/user`.
pub(super) fn of_path(path: &Path) -> Result<FoundMap> {
    let failed = |why: &dyn std::fmt::Display| format!("userns: {}: {why}", path.display());
    let file = fs::File::open(path).map_err(|e| failed(&text_of(&e)))?;
    if !sys::user_namespace::is_user_namespace(&file) {
        return Err(failed(&"this is no user namespace"));
    }
    let wanted = file.metadata().map_err(|e| failed(&text_of(&e)))?;
    let is_it = |proc: &PathBuf| {
        let found = fs::metadata(proc.join("ns/user"));
        found.is_ok_and(|found| {
            (found.st_dev(), found.st_ino()) == (wanted.st_dev(), wanted.st_ino())
        })
    };
    // A process of the namespace, or else one that is made there to read its map.
    let map = match processes().into_iter().find(is_it) {
        Some(proc) => of_proc(&proc),
        None => match sys::user_namespace::maps_of_namespace(&file) {
            Ok((uids, gids)) => parse(&uids, &gids),
            Err(e) => {
                Err(format!("no process is in it, and its map cannot be read: {}", text_of(&e)))
            }
        },
    };
    map.map_err(|e| failed(&e))
}

fn processes() -> Vec<PathBuf> {
    let is_process =
        |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|entry| is_process(&entry.file_name())).map(|entry| entry.path()).collect()
}

fn of_proc(proc: &Path) -> Result<FoundMap> {
    let namespace = |proc: &Path| fs::read_link(proc.join("ns/user")).ok();
    let own = namespace(Path::new("/proc/self"));
    if own.is_some() && namespace(proc) == own {
        return Err(format!(
            "{} is in the same user namespace as this program, which has no map of its own",
            proc.display()
        ));
    }
    parse(&read_text(&proc.join("uid_map"))?, &read_text(&proc.join("gid_map"))?)
}

/// Parses uid_map and gid_map: lines `INSIDE OUTSIDE COUNT`.
fn parse(uids: &str, gids: &str) -> Result<FoundMap> {
    let mut map = FoundMap::default();
    for (text, kinds) in [(uids, Kinds::Users), (gids, Kinds::Groups)] {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let mut next = |field: &str| {
                number(field, words.next().unwrap_or_default())
                    .map_err(|e| format!("'{}': {e}", line.trim()))
            };
            let (inside, outside, count) = (next("INSIDE")?, next("OUTSIDE")?, next("COUNT")?);
            map.push(kinds, inside, outside, count)?;
        }
    }
    map.complete("the user namespace")
}

fn text_of(e: &std::io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), strerror)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::shown;
    use super::*;

    #[test]
    fn a_line_is_inside_outside_count() {
        let map = parse("         0     100000      65536\n", "0 200000 5\n7 8 1\n").unwrap();
        assert_eq!(shown(&map), ("0:100000:65536".to_owned(), "0:200000:5 7:8:1".to_owned()));
        assert_eq!(parse("", "0 0 1").unwrap_err(), "the user namespace has no map of uids");
        assert_eq!(parse("0 1", "").unwrap_err(), "'0 1': COUNT is missing");
    }

    #[test]
    fn our_own_namespace_has_no_map_for_a_mount() {
        let error = of_process(&std::process::id().to_string()).unwrap_err();
        assert!(error.contains("same user namespace"), "{error}");
        assert!(
            of_path(Path::new("/proc/self/ns/user")).unwrap_err().contains("same user namespace")
        );
        for path in ["/proc/self/ns/mnt", "/dev/null", "/proc/self"] {
            assert!(of_path(Path::new(path)).unwrap_err().ends_with("this is no user namespace"));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(uids in "[0-9 \\n\\PC]{0,40}", gids in "[0-9 \\n]{0,40}") {
            let _ = parse(&uids, &gids);
        }
    }
}
