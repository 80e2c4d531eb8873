//! The grammar of `-o`: `name[=value],name[=value]…`, with libfuse's escapes and mount(8)'s quotes; and which mount
//! options of fstab(5) are ignored.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::input_file::InputFile;
use super::options::{self, Category, Given};
use super::suggest::did_you_mean;
use crate::error::{Error, Result};

/// One item of a list, `name` or `name=value`, with escapes and quotes resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawOption {
    pub(super) name: String,
    pub(super) value: Option<OsString>,
}

/// Options for mount(8), systemd, or from the kernel's output on a remount. They are ignored, with or without a value.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "fail",
    "_netdev",
    "comment",
    "uhelper",
    "helper",
    "silent",
    "loud",
    "quiet",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "seclabel",
];

/// Options of various libfuse versions for behaviour that is always on here.
const ALWAYS_ON: &[&str] = &[
    "nonempty",
    "big_writes",
    "large_read",
    "use_ino",
    "readdir_ino",
    "hard_remove",
    "auto_cache",
];

/// Options that the kernel shows for a FUSE mount, and that mount(8) repeats on a remount.
const FROM_MOUNT_TABLE: &[&str] = &["fd", "rootmode", "user_id", "group_id", "blksize"];

/// Options that would silently have no effect, with advice.
const REFUSED: &[(&str, &str)] = &[
    ("X-mount.idmap", "mount(8) cannot map the ids of a FUSE mount; use idmap="),
    ("context", LABELS),
    ("fscontext", LABELS),
    ("defcontext", LABELS),
    ("rootcontext", LABELS),
];

const LABELS: &str = "shiftbind sets no security labels; leave it out";

/// Splits an `-o` list, without empty items.
pub(super) fn split_list(list: &OsStr) -> Result<Vec<RawOption>> {
    let mut items = Vec::new();
    let mut rest = list.as_bytes();
    while !rest.is_empty() {
        let (name, value);
        (name, rest) = unescape_until(rest, b",=");
        match rest.split_first() {
            Some((b'=', after)) => {
                let text;
                (text, rest) = read_value(after, &name)?;
                value = Some(OsString::from_vec(text));
            }
            _ => value = None,
        }
        rest = rest.strip_prefix(b",").unwrap_or(rest);
        if !name.is_empty() || value.is_some() {
            items.push(RawOption { name: String::from_utf8_lossy(&name).into_owned(), value });
        }
    }
    Ok(items)
}

/// Reads a value up to the next comma, or a quoted value up to the closing quote.
fn read_value<'a>(text: &'a [u8], name: &[u8]) -> Result<(Vec<u8>, &'a [u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return Ok(unescape_until(text, b","));
    };
    let (value, rest) = unescape_until(quoted, b"\"");
    let name = String::from_utf8_lossy(name);
    match rest.strip_prefix(b"\"") {
        None => Err(Error::usage(format!("option '{name}': the quote is not closed"))),
        Some(rest) if rest.is_empty() || rest[0] == b',' => Ok((value, rest)),
        Some(_) => {
            Err(Error::usage(format!("option '{name}': a comma must follow the closing quote")))
        }
    }
}

/// Reads up to one of the stop bytes or the end: `\NNN` is an octal byte; `\` before another byte stands for that byte.
fn unescape_until<'a>(mut text: &'a [u8], stops: &[u8]) -> (Vec<u8>, &'a [u8]) {
    let mut out = Vec::new();
    loop {
        match text {
            [] => break,
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                text = rest;
            }
            [b'\\', byte, rest @ ..] => {
                out.push(*byte);
                text = rest;
            }
            [byte, ..] if stops.contains(byte) => break,
            [byte, rest @ ..] => {
                out.push(*byte);
                text = rest;
            }
        }
    }
    (out, text)
}

/// What to do with unknown options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnUnknown {
    /// Report an error.
    Refuse,
    /// Ignore them (`mount -s`).
    Skip,
}

/// Parses an `-o` list.
pub(super) fn parse_list(list: &OsStr, unknown: OnUnknown) -> Result<Vec<Given>> {
    let mut given = Vec::new();
    for item in split_list(list)? {
        given.extend(resolve(with_escaped_equals(item), unknown, " in -o")?);
    }
    Ok(given)
}

/// As [`parse_list`], for a remount, for which mount(8) repeats the mount's options in the mount table: those of them that
/// are no options of mount(8) belong to the source's filesystem, where the kernel has made the mount.
pub(super) fn parse_remount(
    list: &OsStr,
    unknown: OnUnknown,
    in_table: &HashSet<Vec<u8>>,
) -> Result<Vec<Given>> {
    let mut given = Vec::new();
    for item in split_list(list)? {
        let mut word = item.name.clone().into_bytes();
        if let Some(value) = &item.value {
            word.push(b'=');
            word.extend(value.as_bytes());
        }
        let is_for_mount8 = options::by_mount_option(&item.name)
            .is_some_and(|(option, _)| option.category == Category::Mount);
        if is_for_mount8 || !in_table.contains(&word) {
            given.extend(resolve(with_escaped_equals(item), unknown, " in -o")?);
        }
    }
    Ok(given)
}

/// Whether an `-o` list asks for a remount.
pub(super) fn is_remount(list: &OsStr) -> bool {
    split_list(list).is_ok_and(|items| items.iter().any(|item| item.name == "remount"))
}

/// Splits a name at an `=` that was written `\=`, as libfuse accepts it.
fn with_escaped_equals(item: RawOption) -> RawOption {
    let Some((name, start)) = item.name.split_once('=') else { return item };
    let mut value = OsString::from(start);
    if let Some(rest) = &item.value {
        value.push("=");
        value.push(rest);
    }
    RawOption { name: name.to_owned(), value: Some(value) }
}

/// Looks up an option. `None`: it is to be ignored. `place` says where it was found, for messages.
fn resolve(item: RawOption, unknown: OnUnknown, place: &str) -> Result<Option<Given>> {
    let name = &item.name;
    let Some((option, on)) = options::by_mount_option(name) else {
        check_unknown(name, unknown, place)?;
        return Ok(None);
    };
    match (option.value, &item.value) {
        (None, Some(_)) => Err(Error::usage(format!("option '{name}' takes no value"))),
        // Without a value `owner` and `group` are options of mount(8), with one they are aliases of force-user and
        // force-group.
        (Some(_), None) if IGNORED.contains(&name.as_str()) => Ok(None),
        (Some(value), None) => {
            let placeholder = value.placeholder;
            Err(Error::usage(format!("option '{name}' needs a value: {name}={placeholder}")))
        }
        _ => Ok(Some(Given { option, on, value: item.value })),
    }
}

/// Parses an options file: one option a line, whose value is all that follows `=`. Errors name the line.
pub(super) fn parse_file(file: InputFile<'_>) -> Result<Vec<Given>> {
    let place = format!("option 'config': {}", file.path.display());
    let text = file.read().map_err(|e| Error::unreadable(place.clone(), e))?;
    let mut given = Vec::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let (name, value) = match line.iter().position(|&byte| byte == b'=') {
            Some(at) => (&line[..at], Some(line[at + 1..].trim_ascii_start())),
            None => (line, None),
        };
        let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
        let value = value.map(|value| OsString::from_vec(value.to_vec()));
        let read = resolve(RawOption { name, value }, OnUnknown::Refuse, "");
        given.extend(read.map_err(|e| Error::usage(format!("{place}:{}: {e}", number + 1)))?);
    }
    Ok(given)
}

/// Refuses an option that is not in the table, unless it is one to ignore.
fn check_unknown(name: &str, unknown: OnUnknown, place: &str) -> Result<()> {
    if let Some((_, reason)) = REFUSED.iter().find(|(option, _)| *option == name) {
        return Err(Error::usage(format!("option '{name}': {reason}")));
    }
    let ignored = IGNORED.contains(&name)
        || ALWAYS_ON.contains(&name)
        || FROM_MOUNT_TABLE.contains(&name)
        || name.starts_with("x-")
        || name.starts_with("X-");
    if ignored || unknown == OnUnknown::Skip {
        return Ok(());
    }
    let hint = did_you_mean(name, options::mount_option_names(), "");
    Err(Error::usage(format!("unknown option '{name}'{place}; {hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn items(list: &str) -> Vec<(String, Option<String>)> {
        let text = |value: OsString| value.into_string().unwrap();
        split_list(OsStr::new(list))
            .unwrap()
            .into_iter()
            .map(|w| (w.name, w.value.map(text)))
            .collect()
    }

    fn item(name: &str, value: Option<&str>) -> (String, Option<String>) {
        (name.to_owned(), value.map(str::to_owned))
    }

    #[test]
    fn a_list_is_split_at_commas_without_empty_items() {
        assert_eq!(items(",ro,,a=b=c,"), [item("ro", None), item("a", Some("b=c"))]);
        assert_eq!(items(""), []);
        assert_eq!(items("a="), [item("a", Some(""))]);
    }

    #[test]
    fn a_backslash_protects_a_comma_and_writes_octal() {
        assert_eq!(items(r"fsname=a\,b,ro"), [item("fsname", Some("a,b")), item("ro", None)]);
        assert_eq!(items(r"fsname=a\054\040\134x"), [item("fsname", Some(r"a, \x"))]);
        assert_eq!(items(r"fsname=a\\,ro"), [item("fsname", Some(r"a\")), item("ro", None)]);
        assert_eq!(items(r"fsname=a\"), [item("fsname", Some(r"a\"))]);
    }

    #[test]
    fn quotes_around_a_value_protect_commas() {
        assert_eq!(items(r#"fsname="a,b",ro"#), [item("fsname", Some("a,b")), item("ro", None)]);
        assert_eq!(items(r#"fsname=a"b"#), [item("fsname", Some(r#"a"b"#))]);
        assert!(split_list(OsStr::new(r#"fsname="a,b"#)).is_err());
        assert!(split_list(OsStr::new(r#"fsname="a"b"#)).is_err());
    }

    #[test]
    fn fstab_options_are_ignored_and_unknown_ones_are_refused() {
        let list = "defaults,nofail,_netdev,user=alice,comment=x\\,y,x-systemd.automount,X-mount.mkdir,noauto";
        assert!(parse_list(OsStr::new(list), OnUnknown::Refuse).unwrap().is_empty());
        let error =
            parse_list(OsStr::new("alow_other"), OnUnknown::Refuse).unwrap_err().to_string();
        assert_eq!(error, "unknown option 'alow_other' in -o; did you mean 'allow_other'?");
        assert!(parse_list(OsStr::new("alow_other"), OnUnknown::Skip).unwrap().is_empty());
    }

    #[test]
    fn an_option_that_cannot_be_honoured_is_refused_with_a_reason() {
        for list in ["X-mount.idmap=b:0:1:1", "context=system_u"] {
            for unknown in [OnUnknown::Refuse, OnUnknown::Skip] {
                assert!(parse_list(OsStr::new(list), unknown).is_err(), "{list}");
            }
        }
    }

    #[test]
    fn flags_take_no_value_and_others_need_one() {
        let error = |list| parse_list(OsStr::new(list), OnUnknown::Refuse).unwrap_err().to_string();
        assert_eq!(error("ro=1"), "option 'ro' takes no value");
        assert_eq!(error("uidmap"), "option 'uidmap' needs a value: uidmap=MAP");
    }

    #[test]
    fn a_remount_is_not_asked_for_the_options_of_the_sources_filesystem() {
        let in_table =
            ["idmapped", "size=64k", "uid=x", "nosuid"].map(|word| word.as_bytes().to_vec());
        let in_table = HashSet::from(in_table);
        let list = OsStr::new("remount,ro,nosuid,idmapped,size=64k,uid=x");
        let given = parse_remount(list, OnUnknown::Refuse, &in_table).unwrap();
        let names: Vec<&str> = given.iter().map(|one| one.option.long).collect();
        assert_eq!(names, ["remount", "ro", "nosuid"]);
        let mistyped = OsStr::new("remount,nosiud");
        assert!(parse_remount(mistyped, OnUnknown::Refuse, &in_table).is_err());
    }

    #[test]
    fn an_escaped_equals_sign_still_ends_the_name() {
        let given = parse_list(OsStr::new(r"create-with-perms\=ud=rwx:uf=rw"), OnUnknown::Refuse);
        let given = given.unwrap();
        assert_eq!(given[0].option.long, "create-with-perms");
        assert_eq!(given[0].value.as_deref(), Some(OsStr::new("ud=rwx:uf=rw")));
    }

    #[test]
    fn options_of_old_libfuse_versions_are_ignored() {
        let given = parse_list(OsStr::new("nonempty,big_writes,use_ino"), OnUnknown::Refuse);
        assert!(given.unwrap().is_empty());
        assert!(parse_list(OsStr::new("kernel_cache"), OnUnknown::Refuse).is_err());
    }

    fn escaped(text: &str) -> String {
        text.chars()
            .flat_map(|c| if ",=\\\"".contains(c) { vec!['\\', c] } else { vec![c] })
            .collect()
    }

    proptest! {
        #[test]
        fn escaped_options_survive_splitting(list in prop::collection::vec(("[^\0]{1,6}", prop::option::of("[^\0]{0,8}")), 0..6)) {
            let text: Vec<String> = list.iter().map(|(name, value)| match value {
                Some(value) => format!("{}={}", escaped(name), escaped(value)),
                None => escaped(name),
            }).collect();
            prop_assert_eq!(items(&text.join(",")), list);
        }

        #[test]
        fn no_list_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_list(&OsString::from_vec(bytes), OnUnknown::Refuse);
        }
    }
}
