//! Maps of user namespaces that exist: of a process, or by the path of a namespace (user_namespaces(7)).

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, open, openat, statat};

use super::open::why;
use super::{FoundMap, Kinds, Result, number, text_of};
use crate::sys;
use crate::sys::namespace::Kind;

const OWN: &str = "the same user namespace as this program, which has no map of its own";

/// The map of a process's user namespace.
pub(super) fn of_process(pid: &str) -> Result<FoundMap> {
    let number = number("PID", pid).map_err(|e| format!("pid: {e}"))?;
    let map = Process::open(&number.to_string()).and_then(|process| process.map());
    map.map_err(|e| format!("pid: {e}"))
}

/// The map of the user namespace that a path names, such as `/proc/PID/ns/user`.
pub(super) fn of_path(path: &Path) -> Result<FoundMap> {
    let failed = |why: &dyn std::fmt::Display| format!("userns: {}: {why}", path.display());
    let file = sys::namespace::open_file(path).map_err(|e| failed(&why(&e)))?;
    let Some(file) = file.filter(|file| sys::namespace::is_of(file, Kind::Users)) else {
        return Err(failed(&"this is no user namespace"));
    };
    let wanted = Id::of(&fstat(&file).map_err(|e| failed(&why(&e.into())))?);
    if Process::open("self").is_ok_and(|own| own.namespace() == Some(wanted)) {
        return Err(failed(&format!("this is {OWN}")));
    }
    // A process of the namespace, or else one that is made there to read its map. A process that has ended, or has entered
    // another namespace, before its map was read is passed over.
    let opened = processes().into_iter().filter_map(|pid| Process::open(&pid).ok());
    let members = opened.filter(|process| process.namespace() == Some(wanted));
    let maps = members.filter_map(|process| process.maps_within(Some(wanted)).ok()).next();
    let map = match maps.map_or_else(|| sys::user_namespace::maps_of_namespace(&file), Ok) {
        Ok((uids, gids)) => parse(&uids, &gids),
        Err(e) => Err(format!("no process is in it, and its map cannot be read: {}", why(&e))),
    };
    map.map_err(|e| failed(&e))
}

/// The names in /proc that are numbers.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// What tells a namespace from all others as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id(u64, u64);

impl Id {
    fn of(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// A process, by one descriptor of its directory in /proc: that of a process which has ended never shows another one.
struct Process {
    name: String,
    dir: OwnedFd,
}

impl Process {
    fn open(name: &str) -> Result<Self> {
        let name = format!("/proc/{name}");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(&*name, flags, Mode::empty())
            .map_err(|e| format!("{name}: {}", why(&e.into())))?;
        Ok(Self { name, dir })
    }

    /// Its user namespace. `None`: this program may not know (ptrace(2), access mode checking).
    fn namespace(&self) -> Option<Id> {
        statat(&self.dir, "ns/user", AtFlags::empty()).ok().map(|stat| Id::of(&stat))
    }

    /// Its uid_map and gid_map.
    fn maps(&self) -> Result<(String, String)> {
        let read = |file: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let failed = |e: String| format!("{}/{file}: {e}", self.name);
            let file = openat(&self.dir, file, flags, Mode::empty());
            text_of(fs::File::from(file.map_err(|e| failed(why(&e.into())))?)).map_err(failed)
        };
        Ok((read("uid_map")?, read("gid_map")?))
    }

    /// The same, if its user namespace is this one before and after: a process may enter another one between the two files
    /// (setns(2), unshare(2)).
    fn maps_within(&self, namespace: Option<Id>) -> Result<(String, String)> {
        let maps = self.maps()?;
        match self.namespace() == namespace {
            true => Ok(maps),
            false => Err(format!("{} has entered another user namespace meanwhile", self.name)),
        }
    }

    /// The map of its user namespace, which is another one than that of this program.
    fn map(&self) -> Result<FoundMap> {
        let own = Self::open("self")?;
        let namespace = self.namespace();
        let maps = self.maps_within(namespace)?;
        let is_own = match namespace {
            Some(_) => namespace == own.namespace(),
            None => maps == own.maps()?,
        };
        match is_own {
            true => Err(format!("{} is in {OWN}", self.name)),
            false => parse(&maps.0, &maps.1),
        }
    }
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
