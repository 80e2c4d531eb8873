//! Maps in JSON: the configuration of an OCI bundle (runtime-spec, config-linux.md), and `volatile.idmap.*` of Incus and LXD.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use super::{FoundMap, Kinds, Result, read_text, text_of};

/// The maps of `config.json`: those of its user namespace, or with `FILE#DESTINATION` those of one of its mounts.
pub(super) fn of_config(path: &Path) -> Result<FoundMap> {
    let bytes = path.as_os_str().as_bytes();
    let (file, destination) = match bytes.iter().rposition(|byte| *byte == b'#') {
        Some(at) if !path.exists() => (
            Path::new(OsStr::from_bytes(&bytes[..at])),
            Some(String::from_utf8_lossy(&bytes[at + 1..])),
        ),
        _ => (path, None),
    };
    let text = read_text(file).map_err(|e| format!("oci: {e}"))?;
    parse_config(&text, destination.as_deref()).map_err(|e| format!("oci: {}: {e}", file.display()))
}

/// Parses a configuration.
pub(super) fn parse_config(text: &str, destination: Option<&str>) -> Result<FoundMap> {
    let config: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let holder = match destination {
        None => &config["linux"],
        Some(destination) => {
            let mounts = config["mounts"].as_array().map_or(&[][..], Vec::as_slice);
            let found = mounts.iter().find(|mount| mount["destination"] == *destination);
            found.ok_or_else(|| format!("no mount has the destination {destination}"))?
        }
    };
    let mut map = FoundMap::default();
    for (key, kinds) in [("uidMappings", Kinds::Users), ("gidMappings", Kinds::Groups)] {
        push_mappings(&mut map, kinds, &holder[key], ["containerID", "hostID", "size"])
            .map_err(|e| format!("{key}: {e}"))?;
    }
    map.complete(if destination.is_some() { "the mount" } else { "the container" })
}

/// Adds an array of objects, whose members hold a container's id, a host's id and a count.
pub(super) fn push_mappings(
    map: &mut FoundMap,
    kinds: Kinds,
    mappings: &Value,
    [container, host, size]: [&str; 3],
) -> Result<()> {
    for (at, mapping) in mappings.as_array().into_iter().flatten().enumerate() {
        let field = |key: &str| member(mapping, key).map_err(|e| format!("entry {at}: {e}"));
        map.push(kinds, field(container)?, field(host)?, field(size)?)
            .map_err(|e| format!("entry {at}: {e}"))?;
    }
    Ok(())
}

fn member(of: &Value, key: &str) -> Result<u32> {
    match &of[key] {
        Value::Null => Err(format!("{key} is missing")),
        value => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| format!("{key} {value} is no id or count"))
        }
    }
}

/// The idmap of Incus and LXD in a file, or from standard input (`-`).
pub(super) fn of_idmap_set(path: &Path) -> Result<FoundMap> {
    let failed = |e: String| format!("json: {e}");
    let text = match path == Path::new("-") {
        true => text_of(std::io::stdin()).map_err(|e| failed(format!("standard input: {e}")))?,
        false => read_text(path).map_err(failed)?,
    };
    parse_idmap_set(&text).map_err(|e| failed(format!("{}: {e}", path.display())))
}

/// Parses an array of entries `{Isuid, Isgid, Hostid, Nsid, Maprange}`, or an instance's configuration that holds one as
/// text in `volatile.idmap.current`, `volatile.last_state.idmap` or `volatile.idmap.next`.
fn parse_idmap_set(text: &str) -> Result<FoundMap> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let entries = match &value {
        Value::Array(_) => value,
        Value::Object(_) => {
            let within =
                configured(&value).ok_or("no member volatile.idmap.current holds a map")?;
            serde_json::from_str(within).map_err(|e| format!("volatile.idmap.*: not JSON: {e}"))?
        }
        _ => {
            return Err(
                "this is neither an array of entries nor an instance's configuration".to_owned()
            );
        }
    };
    let mut map = FoundMap::default();
    for (at, entry) in entries.as_array().into_iter().flatten().enumerate() {
        let numbered = |e: String| format!("entry {at}: {e}");
        let is = |key: &str| entry[key].as_bool().unwrap_or(false);
        let kinds = match (is("Isuid"), is("Isgid")) {
            (true, true) => Kinds::Both,
            (true, false) => Kinds::Users,
            (false, true) => Kinds::Groups,
            (false, false) => return Err(numbered("neither Isuid nor Isgid is true".to_owned())),
        };
        let field = |key: &str| member(entry, key).map_err(numbered);
        map.push(kinds, field("Nsid")?, field("Hostid")?, field("Maprange")?).map_err(numbered)?;
    }
    map.complete("it")
}

/// The text of the map in an instance's configuration.
fn configured(value: &Value) -> Option<&str> {
    const KEYS: [&str; 3] =
        ["volatile.idmap.current", "volatile.last_state.idmap", "volatile.idmap.next"];
    let places = [value, &value["config"], &value["expanded_config"], &value["metadata"]["config"]];
    let found = KEYS.iter().flat_map(|key| places.iter().map(move |place| &place[*key]));
    found.filter_map(Value::as_str).find(|text| !matches!(*text, "" | "[]"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::shown;
    use super::*;

    const CONFIG: &str = r#"{"linux": {"uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 10}]}, "mounts": [{"destination": "/d",
        "uidMappings": [{"containerID": 1000, "hostID": 5, "size": 1}], "gidMappings": [{"containerID": 7, "hostID": 8, "size": 1}]},
        {"destination": "/e"}]}"#;

    #[test]
    fn a_configuration_has_maps_of_the_container_and_of_its_mounts() {
        let map = parse_config(CONFIG, None).unwrap();
        assert_eq!(shown(&map), ("0:100000:65536".to_owned(), "0:200000:10".to_owned()));
        let map = parse_config(CONFIG, Some("/d")).unwrap();
        assert_eq!(shown(&map), ("1000:5:1".to_owned(), "7:8:1".to_owned()));
        let error = |text: &str, destination| parse_config(text, destination).unwrap_err();
        assert_eq!(error(CONFIG, Some("/x")), "no mount has the destination /x");
        assert_eq!(error(CONFIG, Some("/e")), "the mount has no map of uids and gids");
        assert_eq!(error("{}", None), "the container has no map of uids and gids");
        assert!(error("{", None).starts_with("not JSON: "));
        let wrong = CONFIG.replacen("hostID", "hostId", 1);
        assert_eq!(error(&wrong, None), "uidMappings: entry 0: hostID is missing");
        let wrong = CONFIG.replacen("100000", "-1", 1);
        assert_eq!(error(&wrong, None), "uidMappings: entry 0: hostID -1 is no id or count");
    }

    #[test]
    fn an_idmap_set_is_read_alone_and_within_an_instance() {
        let set = r#"[{"Isuid":true,"Isgid":false,"Hostid":1000000,"Nsid":0,"Maprange":65536},
            {"Isuid":false,"Isgid":true,"Hostid":1000000,"Nsid":0,"Maprange":65536},
            {"Isuid":true,"Isgid":true,"Hostid":1000,"Nsid":70000,"Maprange":1}]"#;
        let expected = "0:1000000:65536 70000:1000:1".to_owned();
        assert_eq!(shown(&parse_idmap_set(set).unwrap()), (expected.clone(), expected.clone()));
        let instance = serde_json::json!({"config": {"volatile.idmap.next": "[]", "volatile.idmap.current": set}});
        assert_eq!(shown(&parse_idmap_set(&instance.to_string()).unwrap()).0, expected);
        for (text, error) in [
            ("5", "this is neither"),
            ("{}", "no member volatile.idmap.current"),
            ("[{}]", "entry 0: neither Isuid nor Isgid"),
            (r#"[{"Isuid":true,"Nsid":0}]"#, "entry 0: Hostid is missing"),
        ] {
            let found = parse_idmap_set(text).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in r#"[\[\]{}":,0-9a-zA-Z.]{0,60}"#, id in any::<i64>(), size in any::<u64>()) {
            let _ = (parse_config(&text, None), parse_idmap_set(&text));
            let _ = parse_config(&CONFIG.replace("65536", &size.to_string()).replace("100000", &id.to_string()), None);
        }
    }
}
