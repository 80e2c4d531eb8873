//! The map of a podman container, from the state that containers-storage(5) keeps: no service is asked.

use std::env;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::oci::{parse_config, push_mappings};
use super::{FoundMap, Kinds, Result, read_text};

/// The map of a container, by name or by (the beginning of) its id.
pub(super) fn of_container(container: &str) -> Result<FoundMap> {
    let failed = |e: String| format!("podman: {e}");
    let root = graph_root();
    // The storage driver is part of the directory's name; overlay is the default.
    let list = ["overlay", "vfs", "btrfs", "zfs"]
        .map(|driver| root.join(format!("{driver}-containers/containers.json")))
        .into_iter()
        .find(|list| list.exists())
        .ok_or_else(|| failed(format!("no containers are kept in {}", root.display())))?;
    let text = read_text(&list).map_err(failed)?;
    let (id, map) =
        find(&text, container).map_err(|e| failed(format!("{}: {e}", list.display())))?;
    if let Some(map) = map {
        return Ok(map);
    }
    // The configuration that the container was last started with.
    let config = list.with_file_name(id).join("userdata/config.json");
    let map = match config.exists() {
        true => read_text(&config).and_then(|text| parse_config(&text, None)),
        false => Err(format!("container {container} has no user namespace of its own")),
    };
    map.map_err(failed)
}

/// The id and the map of a container in `containers.json`. No map: it has none there.
fn find(text: &str, container: &str) -> Result<(String, Option<FoundMap>)> {
    let list: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let entries = list.as_array().map_or(&[][..], Vec::as_slice);
    let id_of = |entry: &Value| entry["id"].as_str().unwrap_or_default().to_owned();
    let is_named = |entry: &&Value| {
        let names = entry["names"].as_array().map_or(&[][..], Vec::as_slice);
        id_of(entry) == container || names.iter().any(|name| *name == *container)
    };
    let begins: Vec<&Value> =
        entries.iter().filter(|entry| id_of(entry).starts_with(container)).collect();
    let found = match (entries.iter().find(is_named), begins.as_slice()) {
        (Some(entry), _) => entry,
        (None, [entry]) => *entry,
        (None, []) => return Err(format!("there is no container '{container}'")),
        (None, _) => return Err(format!("'{container}' begins several ids")),
    };
    let id = id_of(found);
    if id.is_empty() || id.contains(['/', '.']) {
        return Err(format!("container '{container}' has no id"));
    }
    let mut map = FoundMap::default();
    for (key, kinds) in [("uidmap", Kinds::Users), ("gidmap", Kinds::Groups)] {
        push_mappings(&mut map, kinds, &found[key], ["container_id", "host_id", "size"])
            .map_err(|e| format!("{key}: {e}"))?;
    }
    Ok((id, map.complete("").ok()))
}

/// The directory of the storage: `graphroot` of containers-storage.conf(5), or the default.
fn graph_root() -> PathBuf {
    let own =
        env::var_os("CONTAINERS_STORAGE_CONF").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let is_root = rustix::process::geteuid().is_root();
    let under_home = |variable: &str, path: &str| {
        env::var_os(variable)
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| home.join(path), PathBuf::from)
    };
    let places = match (own, is_root) {
        (Some(path), _) => vec![path],
        (None, true) => {
            vec!["/etc/containers/storage.conf".into(), "/usr/share/containers/storage.conf".into()]
        }
        (None, false) => {
            vec![under_home("XDG_CONFIG_HOME", ".config").join("containers/storage.conf")]
        }
    };
    let configured = places.iter().find_map(|path| graph_root_in(&read_text(path).ok()?));
    configured.unwrap_or_else(|| match is_root {
        true => Path::new("/var/lib/containers/storage").to_owned(),
        false => under_home("XDG_DATA_HOME", ".local/share").join("containers/storage"),
    })
}

/// `graphroot = "PATH"` in the text of containers-storage.conf(5).
fn graph_root_in(text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        // A comment may follow.
        let value = match value.strip_prefix('"').map(|rest| rest.split('"')) {
            Some(mut parts) => parts.next(),
            None => match value.strip_prefix('\'') {
                Some(rest) => rest.split('\'').next(),
                None => value.split('#').next().map(str::trim_end),
            },
        };
        let value = value.unwrap_or_default();
        (key.trim() == "graphroot" && value.starts_with('/')).then(|| PathBuf::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::shown;
    use super::*;

    const LIST: &str = r#"[{"id": "ab12", "names": ["web"], "uidmap": [{"container_id": 0, "host_id": 100000, "size": 65536}],
        "gidmap": [{"container_id": 0, "host_id": 200000, "size": 65536}]}, {"id": "ab34", "names": ["plain"]}]"#;

    #[test]
    fn a_container_is_found_by_name_id_and_the_beginning_of_its_id() {
        for container in ["web", "ab12", "ab1"] {
            let (id, map) = find(LIST, container).unwrap();
            assert_eq!(id, "ab12");
            assert_eq!(
                shown(&map.unwrap()),
                ("0:100000:65536".to_owned(), "0:200000:65536".to_owned())
            );
        }
        assert_eq!(find(LIST, "plain").unwrap(), ("ab34".to_owned(), None));
        assert_eq!(find(LIST, "ab").unwrap_err(), "'ab' begins several ids");
        assert_eq!(find(LIST, "x").unwrap_err(), "there is no container 'x'");
        assert!(find(&LIST.replace("ab12", "../x"), "web").is_err());
    }

    #[test]
    fn the_storage_is_where_its_configuration_says() {
        let text =
            "[storage]\ndriver = \"overlay\"\n# graphroot = \"/no\"\ngraphroot = \"/data/c\"\n";
        assert_eq!(graph_root_in(text), Some(PathBuf::from("/data/c")));
        assert_eq!(graph_root_in("graphroot = x"), None);
        for text in ["\"/x\" # \"comment\"", "'/x' # it's here", "/x # comment", "\"/x\""] {
            let found = graph_root_in(&format!("graphroot = {text}"));
            assert_eq!(found, Some(PathBuf::from("/x")), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in r#"[\[\]{}":,0-9a-z_.]{0,60}"#, name in "\\PC{0,8}") {
            let _ = (find(&text, &name), find(LIST, &name), graph_root_in(&text));
        }
    }
}
