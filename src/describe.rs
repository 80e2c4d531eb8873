//! A mount's configuration in JSON, as `shiftbind list` and `stat` print it: source, options, maps. doc/LIST.md has the
//! schema.
//!
//! The daemon keeps the description of its mount, the kernel's engine writes it into the mount's record. Pure: no I/O.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::error::is_unprintable;
use crate::idmap::{Extent, IdMap, IdView, Kind, MountId, SourceId, Translation, Unmapped};

/// The longest value of an option that is told, in bytes. Chosen: longer ones are maps, which are told as such.
const MAX_OPTION: usize = 1000;

/// Describes a configuration, whose source is absolute.
#[must_use]
pub fn describe(config: &Config) -> Value {
    let mut told = Map::new();
    push_name(&mut told, "source", config.source.as_os_str());
    let options: Vec<String> = config.given.iter().map(|option| shortened(option)).collect();
    told.insert("options".to_owned(), options.into());
    told.insert("map".to_owned(), describe_ids(&config.view.ids));
    Value::Object(told)
}

/// Adds a name. One that is not UTF-8 is told with U+FFFD in it, and once more with its bytes in octal.
pub fn push_name(told: &mut Map<String, Value>, key: &str, name: &OsStr) {
    told.insert(key.to_owned(), name.to_string_lossy().into());
    if name.to_str().is_none() {
        told.insert(format!("{key}_escaped"), escaped(name).into());
    }
}

/// A name with blanks, control characters, backslashes and what is not UTF-8 in octal, as in proc_pid_mountinfo(5).
#[must_use]
pub fn escaped(name: &OsStr) -> String {
    let mut out = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_unprintable(c) || c.is_whitespace() || c == '\\' {
                push_octal(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.push(c);
            }
        }
        push_octal(&mut out, chunk.invalid());
    }
    out
}

fn push_octal(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push_str(&format!("\\{byte:03o}"));
    }
}

fn shortened(option: &str) -> String {
    match option.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_OPTION) {
        Some((at, _)) => format!("{}…", &option[..at]),
        None => option.to_owned(),
    }
}

fn describe_ids(ids: &IdView) -> Value {
    json!({ "uids": describe_kind(&ids.uids), "gids": describe_kind(&ids.gids) })
}

fn describe_kind<K: Kind>(ids: &Translation<K>) -> Value {
    let map = ids.map();
    let extents: Vec<[u32; 3]> = match map.is_identity() {
        true => Vec::new(),
        false => {
            map.extents().iter().map(|e| [e.source().raw(), e.mount().raw(), e.count()]).collect()
        }
    };
    let (unmapped, squash) = match ids.unmapped() {
        Unmapped::Deny => ("deny", None),
        Unmapped::Pass => ("pass", None),
        Unmapped::Squash(to) => ("squash", Some(to.raw())),
    };
    json!({
        "identity": map.is_identity(),
        "extents": extents,
        "unmapped": unmapped,
        "squash": squash,
        "root_as": ids.root_as().map(|id| id.raw()),
    })
}

/// Reads the maps of a description again. `None` where it has none.
#[must_use]
pub fn ids_of(told: &Value) -> Option<IdView> {
    let map = told.get("map")?;
    Some(IdView { uids: ids_of_kind(map.get("uids")?)?, gids: ids_of_kind(map.get("gids")?)? })
}

fn ids_of_kind<K: Kind>(told: &Value) -> Option<Translation<K>> {
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let extents = told.get("extents")?.as_array()?.iter().map(|extent| {
        let number = |at: usize| number(extent.get(at)?);
        Extent::new(number(0)?, number(1)?, number(2)?).ok()
    });
    let map = match told.get("identity")?.as_bool()? {
        true => IdMap::identity(),
        false => IdMap::new(extents.collect::<Option<_>>()?).ok()?,
    };
    let unmapped = match told.get("unmapped")?.as_str()? {
        "deny" => Unmapped::Deny,
        "pass" => Unmapped::Pass,
        "squash" => Unmapped::Squash(MountId::new(number(told.get("squash")?)?)?),
        _ => return None,
    };
    let root_as = told.get("root_as").and_then(number).and_then(SourceId::new);
    Some(Translation::new(map, unmapped).with_root_as(root_as))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;
    use crate::cli::config_of as config;
    use crate::sys::mountinfo::unescape;

    #[test]
    fn a_description_tells_the_source_the_options_and_the_maps() {
        let told = describe(&config("ro,idmap=u:0:5:1:g:1:2:3,unmapped=squash=5:2"));
        assert_eq!(
            told,
            json!({
                "source": "/a",
                "options": ["ro", "idmap=u:0:5:1:g:1:2:3", "unmapped=squash=5:2"],
                "map": {
                    "uids": {"identity": false, "extents": [[0, 5, 1]], "unmapped": "squash", "squash": 5, "root_as": null},
                    "gids": {"identity": false, "extents": [[1, 2, 3]], "unmapped": "squash", "squash": 2, "root_as": null},
                },
            })
        );
    }

    #[test]
    fn maps_survive_description_and_reading() {
        for words in [
            "defaults",
            "idmap=0:1:1:5:7:3",
            "map=1/2:@3/@4",
            "idmap=0:1:1,unmapped=squash=1",
            "idmap=0:5:1,root_as=7:8",
        ] {
            let config = config(words);
            assert_eq!(ids_of(&describe(&config)), Some(config.view.ids), "{words}");
        }
        for told in [json!(null), json!({"map": {}}), json!({"map": {"uids": {"extents": 1}}})] {
            assert_eq!(ids_of(&told), None, "{told}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_told_twice() {
        let mut told = Map::new();
        push_name(&mut told, "source", OsStr::from_bytes(b"/a\xff b"));
        assert_eq!(
            Value::Object(told),
            json!({"source": "/a\u{fffd} b", "source_escaped": "/a\\377\\040b"})
        );
    }

    #[test]
    fn characters_that_change_the_direction_of_text_are_escaped() {
        assert_eq!(escaped(OsStr::new("a\u{202e}b\u{feff}")), "a\\342\\200\\256b\\357\\273\\277");
        assert_eq!(crate::error::one_line("a\u{200b}b\u{2066}"), "a\\u{200b}b\\u{2066}");
    }

    #[test]
    fn a_long_option_is_cut_between_characters() {
        let long = shortened(&format!("x={}", "ü".repeat(MAX_OPTION)));
        assert!(long.len() <= MAX_OPTION + 3 && long.ends_with("ü…"), "{long}");
    }

    proptest! {
        #[test]
        fn an_escaped_name_has_no_blank_and_is_found_again(name in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = escaped(OsStr::from_bytes(&name));
            prop_assert!(!text.chars().any(|c| c.is_whitespace() || is_unprintable(c)));
            prop_assert_eq!(unescape(text.as_bytes()), name);
        }
    }
}
