//! `--map-from`: maps from where they live: a process, /etc/subuid, the configuration of a container.
//!
//! Each family of syntaxes has a file here. All write the same three numbers in an order of their own; the result is always
//! extents SOURCE:MOUNT:COUNT. A container's map makes the source hold the ids as they are within the container, and the
//! mount show those of the host; `--invert-map` turns that round.

mod lines;
mod namespace;
mod oci;
mod open;
mod podman;
mod subid;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::accounts::Accounts;
use crate::idmap::{Extent, Group, IdMap, Kind, User};

/// Why a map cannot be had, in one line.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// The largest file that is read, in bytes. Chosen: the configuration of a container is some ten KiB.
const MAX_FILE: u64 = 16 << 20;

/// systemd's range of ids that are foreign to every machine, on the disk (systemd.io, UIDS-GIDS).
const FOREIGN: (u32, u32) = (0x7FFE_0000, 65536);

/// The words of `--map-from`, as in the table of the man page.
pub(crate) const WORDS: &[&str] = &[
    "pid:",
    "userns:",
    "subuid:",
    "rootless:",
    "lxc:",
    "incus:",
    "pve:",
    "podman:",
    "oci:",
    "json:",
    "foreign",
];

/// Which kinds of id an extent is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    Users,
    Groups,
    Both,
}

/// The extents of one value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FoundMap {
    /// The extents of users.
    pub(crate) uids: Vec<Extent<User>>,
    /// The extents of groups.
    pub(crate) gids: Vec<Extent<Group>>,
}

impl FoundMap {
    fn push(&mut self, kinds: Kinds, source: u32, mount: u32, count: u32) -> Result<()> {
        if kinds != Kinds::Groups {
            self.uids.push(Extent::new(source, mount, count).map_err(|e| e.to_string())?);
        }
        if kinds != Kinds::Users {
            self.gids.push(Extent::new(source, mount, count).map_err(|e| e.to_string())?);
        }
        Ok(())
    }

    fn identity() -> Self {
        Self {
            uids: IdMap::identity().extents().to_vec(),
            gids: IdMap::identity().extents().to_vec(),
        }
    }

    /// The same with source and mount exchanged.
    pub(crate) fn inverted(self) -> Self {
        fn turn<K: Kind>(extents: Vec<Extent<K>>) -> Vec<Extent<K>> {
            extents.iter().map(Extent::inverted).collect()
        }
        Self { uids: turn(self.uids), gids: turn(self.gids) }
    }

    /// Refuses a map for users or for groups alone: it would leave all ids of the other kind unmapped.
    fn complete(self, what: &str) -> Result<Self> {
        let missing = match (self.uids.is_empty(), self.gids.is_empty()) {
            (true, true) => "uids and gids",
            (true, false) => "uids",
            (false, true) => "gids",
            (false, false) => return Ok(self),
        };
        Err(format!("{what} has no map of {missing}"))
    }
}

/// Reads the map that a value of `--map-from` names: `WORD:VALUE`.
pub(crate) fn read(value: &OsStr, accounts: &dyn Accounts) -> Result<FoundMap> {
    let bytes = value.as_bytes();
    let (word, rest) = match bytes.iter().position(|byte| *byte == b':') {
        Some(colon) => (&bytes[..colon], Some(OsStr::from_bytes(&bytes[colon + 1..]))),
        None => (bytes, None),
    };
    let word = String::from_utf8_lossy(word);
    let text = |what: &str| {
        let text =
            rest.filter(|rest| !rest.is_empty()).ok_or_else(|| format!("{word}: give {what}"))?;
        text.to_str().ok_or_else(|| format!("{word}: the value is not valid UTF-8"))
    };
    let path = |what: &str| {
        rest.filter(|rest| !rest.is_empty())
            .map(Path::new)
            .ok_or_else(|| format!("{word}: give {what}"))
    };
    match &*word {
        "pid" => namespace::of_process(text("a process id")?),
        "userns" => {
            namespace::of_path(path("the PATH of a user namespace, such as /proc/PID/ns/user")?)
        }
        "subuid" => subid::granted(text("a USER of /etc/subuid")?, accounts),
        "rootless" => subid::rootless(text("a USER")?, accounts),
        "lxc" => lines::lxc(path("the FILE of a container's configuration")?),
        "incus" => lines::incus(text("lines as in raw.idmap: \"both HOST CONTAINER\"")?),
        "pve" => lines::pve(text("a mount point's idmap: \"u:CT:HOST:N;…\"")?),
        "podman" => podman::of_container(text("the name or id of a CONTAINER")?),
        "oci" => oci::of_config(path("the FILE of a bundle's configuration, config.json")?),
        "json" => oci::of_idmap_set(path("a FILE with volatile.idmap.*, or - for standard input")?),
        "foreign" => foreign(rest),
        _ => Err(format!("'{word}' is not known; give one of {}", WORDS.join(", "))),
    }
}

/// Whether a value names a user namespace, whose map never changes, by a pid or path that may come to name another.
pub(crate) fn is_of_namespace(value: &OsStr) -> bool {
    [&b"pid:"[..], b"userns:"].iter().any(|word| value.as_bytes().starts_with(word))
}

/// The map of a user namespace, for `--idmap=/proc/PID/ns/user`.
pub(crate) fn of_namespace(path: &Path) -> Result<FoundMap> {
    namespace::of_path(path)
}

/// systemd's foreign range on the source, shown from 0 on or from another id.
fn foreign(first: Option<&OsStr>) -> Result<FoundMap> {
    let mount = match first.map(|first| first.to_string_lossy()) {
        None => 0,
        Some(first) => number("the first id at the mount", &first)
            .map_err(|e| format!("foreign: {e}; give foreign, or foreign:FIRST"))?,
    };
    let mut map = FoundMap::default();
    map.push(Kinds::Both, FOREIGN.0, mount, FOREIGN.1).map_err(|e| format!("foreign: {e}"))?;
    Ok(map)
}

/// Parses a decimal number of 32 bits. The error names the field.
fn number(field: &str, text: &str) -> Result<u32> {
    match text {
        "" => Err(format!("{field} is missing")),
        _ if !text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("{field} '{text}' is not a number"))
        }
        _ => text.parse().map_err(|_| format!("{field} {text} is too large")),
    }
}

/// Reads a regular file of a limited size as text.
fn read_text(path: &Path) -> Result<String> {
    let file = open::regular_file(path).map_err(|e| format!("{}: {e}", path.display()))?;
    text_of(file).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads text of a limited size, without the byte order mark that some editors put before it.
fn text_of(file: impl Read) -> Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| open::why(&e))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;
    use crate::accounts::TestAccounts;

    pub(super) fn shown(map: &FoundMap) -> (String, String) {
        fn text<K: Kind>(extents: &[Extent<K>]) -> String {
            extents.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        }
        (text(&map.uids), text(&map.gids))
    }

    fn read_value(value: &str) -> Result<FoundMap> {
        read(OsStr::new(value), &TestAccounts)
    }

    #[test]
    fn the_foreign_range_is_shown_from_zero_or_from_another_id() {
        assert_eq!(shown(&read_value("foreign").unwrap()).0, "2147352576:0:65536");
        assert_eq!(shown(&read_value("foreign:100000").unwrap()).1, "2147352576:100000:65536");
        assert_eq!(
            read_value("foreign:x").unwrap_err(),
            "foreign: the first id at the mount 'x' is not a number; give foreign, or foreign:FIRST"
        );
        let inverted = read_value("foreign").unwrap().inverted();
        assert_eq!(shown(&inverted).0, "0:2147352576:65536");
    }

    #[test]
    fn an_unknown_word_and_a_missing_value_are_named() {
        assert!(
            read_value("docker:x")
                .unwrap_err()
                .starts_with("'docker' is not known; give one of pid:")
        );
        for word in WORDS.iter().filter(|word| word.ends_with(':')) {
            for value in [*word, word.trim_end_matches(':')] {
                let error = read_value(value).unwrap_err();
                assert!(error.starts_with(&format!("{}give ", word.replace(':', ": "))), "{error}");
            }
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_a_text_without_end_refused() {
        assert_eq!(text_of("\u{feff}lxc.idmap".as_bytes()).unwrap(), "lxc.idmap");
        assert_eq!(text_of("a\u{feff}".as_bytes()).unwrap(), "a\u{feff}");
        assert!(text_of(std::io::repeat(b' ')).unwrap_err().starts_with("larger than"));
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        );
        made.unwrap();
        for path in [&fifo, Path::new("/dev/zero"), dir.path()] {
            for word in ["lxc:", "oci:", "json:"] {
                let error = read_value(&format!("{word}{}", path.display())).unwrap_err();
                assert!(error.ends_with("this is no regular file"), "{error}");
            }
            let error = read_value(&format!("userns:{}", path.display())).unwrap_err();
            assert!(error.ends_with("this is no user namespace"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(word in 0..WORDS.len(), rest in prop::collection::vec(any::<u8>(), 0..60)) {
            // A path may name anything: only names in no directory are tried.
            prop_assume!(!rest.contains(&b'/'));
            let value = [WORDS[word].as_bytes(), b"./no/such/", &rest].concat();
            let _ = read(&OsString::from_vec(value), &TestAccounts);
            let value = [WORDS[word].as_bytes(), &rest].concat();
            if !matches!(WORDS[word], "lxc:" | "oci:" | "json:" | "userns:") {
                let _ = read(&OsString::from_vec(value), &TestAccounts);
            }
        }
    }
}
