//! Maps as lines of words: lxc.idmap of LXC, raw.idmap of Incus and LXD, the idmap of a mount point of Proxmox.
//!
//! They have their fields in different orders. An error therefore names the field, and says what was read.

use std::path::Path;

use super::{FoundMap, Kinds, Result, number, read_text};

/// One line of a map, as text.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    /// The whole line, for messages.
    text: &'a str,
    /// The order of its fields, for messages.
    order: &'static str,
    container: &'a str,
    host: &'a str,
    count: &'a str,
}

impl Line<'_> {
    /// The first ids and the count.
    fn numbers(&self) -> Result<(u32, u32, u32)> {
        Ok((
            number("CONTAINER", self.container)?,
            number("HOST", self.host)?,
            number("COUNT", self.count)?,
        ))
    }

    /// An error with the line, the order of its fields, and both readings.
    fn error(&self, why: &str) -> String {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let mut message = format!("'{}': {why}; the order is {}", self.text, self.order);
        let is_ambiguous = self.container != self.host;
        if is_ambiguous && digits(self.container) && digits(self.host) {
            let (container, host) = (self.container, self.host);
            message.push_str(&format!(
                ": this is id {container} of the container and id {host} of the host, not {host} of the container and \
                 {container} of the host"
            ));
        }
        message
    }

    fn push_to(&self, map: &mut FoundMap, kinds: Kinds) -> Result<()> {
        let pushed = self
            .numbers()
            .and_then(|(container, host, count)| map.push(kinds, container, host, count));
        pushed.map_err(|why| self.error(&why))
    }
}

/// The `lxc.idmap` lines of a container's configuration, as LXC or Proxmox write it.
pub(super) fn lxc(path: &Path) -> Result<FoundMap> {
    let place = |e: String| format!("lxc: {}: {e}", path.display());
    let text = read_text(path).map_err(|e| format!("lxc: {e}"))?;
    let map = parse_lxc(&text).map_err(place)?;
    map.complete("it").map_err(|e| {
        place(format!(
            "{e} (lines lxc.idmap = u|g CONTAINER HOST COUNT; lxc.include is not followed)"
        ))
    })
}

fn parse_lxc(text: &str) -> Result<FoundMap> {
    const ORDER: &str = "lxc.idmap = u|g CONTAINER HOST COUNT";
    let mut map = FoundMap::default();
    for (at, line) in text.lines().enumerate() {
        // Below the first [NAME] of a file of Proxmox are its snapshots; LXC's have no such lines.
        if line.starts_with('[') {
            break;
        }
        // Proxmox separates by a colon.
        let Some((key, value)) = line.split_once(['=', ':']) else { continue };
        // LXC before 3.0 wrote lxc.id_map.
        if !matches!(key.trim(), "lxc.idmap" | "lxc.id_map") {
            continue;
        }
        // An empty value takes away the lines before it (set_config_idmaps of LXC).
        if value.trim().is_empty() {
            map = FoundMap::default();
            continue;
        }
        let mut words = value.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let mut next = || words.next().unwrap_or_default();
        let (container, host, count) = (next(), next(), next());
        let line = Line { text: value.trim(), order: ORDER, container, host, count };
        let numbered = |e: String| format!("line {}: {e}", at + 1);
        let kinds = match kind {
            "u" => Kinds::Users,
            "g" => Kinds::Groups,
            "b" => Kinds::Both,
            other => return Err(numbered(line.error(&format!("'{other}' is neither u nor g")))),
        };
        if words.next().is_some() {
            return Err(numbered(line.error("it has more than four fields")));
        }
        line.push_to(&mut map, kinds).map_err(numbered)?;
    }
    Ok(map)
}

/// Lines of `raw.idmap`, also separated by semicolons: `both|uid|gid HOST[-HOST] CONTAINER[-CONTAINER]`.
pub(super) fn incus(text: &str) -> Result<FoundMap> {
    let mut map = FoundMap::default();
    for line in text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
        incus_line(line, &mut map).map_err(|e| format!("incus: {e}"))?;
    }
    map.complete("the value").map_err(|e| format!("incus: {e}"))
}

fn incus_line(text: &str, map: &mut FoundMap) -> Result<()> {
    const ORDER: &str = "both|uid|gid HOST[-LAST] CONTAINER[-LAST]";
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let (host, container) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let first = |range| split_range(range).0;
    let line =
        Line { text, order: ORDER, container: first(container), host: first(host), count: "1" };
    let kinds = match kind {
        "both" => Kinds::Both,
        "uid" => Kinds::Users,
        "gid" => Kinds::Groups,
        other => return Err(line.error(&format!("'{other}' is none of both, uid and gid"))),
    };
    if words.next().is_some() {
        return Err(line.error("it has more than three fields"));
    }
    let read = |field: &str, text: &str| -> Result<(u32, u32)> {
        let (first, last) = split_range(text);
        let first = number(field, first)?;
        let last = last.map_or(Ok(first), |last| number(&format!("the LAST of {field}"), last))?;
        let count = last.checked_sub(first).and_then(|count| count.checked_add(1));
        let backwards =
            || format!("{field} {text} ends before it begins: ranges have a last id, not a count");
        Ok((first, count.ok_or_else(backwards)?))
    };
    let ranges = read("HOST", host).and_then(|host| Ok((host, read("CONTAINER", container)?)));
    let (host, container) = ranges.map_err(|e| line.error(&e))?;
    if host.1 != container.1 {
        let (on_host, within) = (host.1, container.1);
        return Err(line.error(&format!("{on_host} ids of the host for {within} of the container")));
    }
    map.push(kinds, container.0, host.0, host.1).map_err(|e| line.error(&e))
}

/// `FIRST-LAST`, or one id.
fn split_range(text: &str) -> (&str, Option<&str>) {
    text.split_once('-').map_or((text, None), |(first, last)| (first, Some(last)))
}

/// The idmap of a mount point of Proxmox: what the host stores as HOST is shown as CT. `u|g:CT:HOST:COUNT`, separated by
/// semicolons, or `passthrough`.
pub(super) fn pve(text: &str) -> Result<FoundMap> {
    if text == "passthrough" {
        return Ok(FoundMap::identity());
    }
    let mut map = FoundMap::default();
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        pve_entry(entry, &mut map).map_err(|e| format!("pve: {e}"))?;
    }
    map.complete("the value").map(FoundMap::inverted).map_err(|e| format!("pve: {e}"))
}

fn pve_entry(text: &str, map: &mut FoundMap) -> Result<()> {
    const ORDER: &str = "u|g:CONTAINER:HOST:COUNT";
    let mut fields = text.split(':');
    let mut next = || fields.next().unwrap_or_default();
    let (kind, container, host, count) = (next(), next(), next(), next());
    let line = Line { text, order: ORDER, container, host, count };
    let kinds = match kind {
        "u" => Kinds::Users,
        "g" => Kinds::Groups,
        other => return Err(line.error(&format!("'{other}' is neither u nor g"))),
    };
    if fields.next().is_some() {
        return Err(line.error("it has more than four fields"));
    }
    line.push_to(map, kinds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::shown;
    use super::*;

    fn pair(uids: &str, gids: &str) -> (String, String) {
        (uids.to_owned(), gids.to_owned())
    }

    #[test]
    fn lxc_has_container_host_count() {
        let text = "# c\nlxc.net.0.type = none\nlxc.idmap = u 0 100000 65536\nlxc.idmap=g 0 200000 1000\n\
                    lxc.id_map = g 1000 1000 1\n";
        let map = parse_lxc(text).unwrap();
        assert_eq!(shown(&map), pair("0:100000:65536", "0:200000:1000 1000:1000:1"));
        for (line, error) in [
            (
                "u 0 100000",
                "line 1: 'u 0 100000': COUNT is missing; the order is lxc.idmap = u|g CONTAINER HOST COUNT: this \
              is id 0 of the container and id 100000 of the host, not 100000 of the container and 0 of the host",
            ),
            ("x 0 1 1", "line 1: 'x 0 1 1': 'x' is neither u nor g; "),
            ("u 0 1 1 1", "line 1: 'u 0 1 1 1': it has more than four fields; "),
            (
                "u 0 y 1",
                "line 1: 'u 0 y 1': HOST 'y' is not a number; the order is lxc.idmap = u|g CONTAINER HOST COUNT",
            ),
            ("u 0 1 0", "line 1: 'u 0 1 0': extent 0:1:0 has a count of 0; give at least 1; "),
        ] {
            let found = parse_lxc(&format!("lxc.idmap = {line}")).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn the_file_of_proxmox_has_colons_and_its_snapshots_are_not_read() {
        let text = "arch: amd64\nunprivileged: 1\nlxc.idmap: u 0 100000 5\nlxc.idmap: g 0 200000 5\n\
                    lxc.cap.drop: = lxc.idmap\n\n[before]\nlxc.idmap: u 0 700000 5\n";
        assert_eq!(shown(&parse_lxc(text).unwrap()), pair("0:100000:5", "0:200000:5"));
        let error = parse_lxc("lxc.idmap: u 0 y 1").unwrap_err();
        assert!(error.contains("HOST 'y' is not a number"), "{error}");
    }

    #[test]
    fn an_empty_value_takes_away_the_lines_before_it() {
        let old = "lxc.idmap = u 0 0 5\nlxc.idmap = g 0 0 5\nlxc.idmap =\n";
        assert_eq!(parse_lxc(old).unwrap(), FoundMap::default());
        let new = format!("{old}lxc.idmap = u 0 100000 5\nlxc.idmap = g 0 200000 5\n");
        assert_eq!(shown(&parse_lxc(&new).unwrap()), pair("0:100000:5", "0:200000:5"));
    }

    #[test]
    fn both_readings_are_told_where_they_differ() {
        let error = |text: &str| parse_lxc(&format!("lxc.idmap = {text}")).unwrap_err();
        assert!(error("u 5 6 0").contains("not 6 of the container and 5 of the host"));
        assert!(error("u 5 5 0").ends_with("the order is lxc.idmap = u|g CONTAINER HOST COUNT"));
        assert!(incus("both 5 5 5").unwrap_err().ends_with("CONTAINER[-LAST]"));
        assert!(pve("u:5:5").unwrap_err().ends_with("u|g:CONTAINER:HOST:COUNT"));
    }

    #[test]
    fn incus_has_host_container_and_ranges_with_a_last_id() {
        assert_eq!(shown(&incus("both 1000 0").unwrap()), pair("0:1000:1", "0:1000:1"));
        let map = incus("uid 50-60 500-510\ngid 100 10;uid 7 8").unwrap();
        assert_eq!(shown(&map), pair("500:50:11 8:7:1", "10:100:1"));
        for (text, error) in [
            (
                "both 1000",
                "incus: 'both 1000': CONTAINER is missing; the order is both|uid|gid HOST[-LAST] CONTAINER[-LAST]",
            ),
            (
                "both 0-9 5",
                "incus: 'both 0-9 5': 10 ids of the host for 1 of the container; the order is both|uid|gid \
              HOST[-LAST] CONTAINER[-LAST]: this is id 5 of the container and id 0 of the host, not 0 of the container and 5 of the host",
            ),
            (
                "both 1000-10 0-9",
                "incus: 'both 1000-10 0-9': HOST 1000-10 ends before it begins: ranges have a last id, not",
            ),
            ("u 1 2", "incus: 'u 1 2': 'u' is none of both, uid and gid; "),
            ("uid 1 2", "incus: the value has no map of gids"),
        ] {
            let found = incus(text).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn pve_shows_what_the_host_stores_as_the_containers_ids() {
        let map = pve("u:0:1000:1;g:0:100:2;").unwrap();
        assert_eq!(shown(&map), pair("1000:0:1", "100:0:2"));
        assert_eq!(shown(&pve("passthrough").unwrap()).0, "0:0:4294967294 4294967294:4294967294:1");
        for (text, error) in [
            ("b:0:1:1", "pve: 'b:0:1:1': 'b' is neither u nor g; "),
            (
                "u:0:1",
                "pve: 'u:0:1': COUNT is missing; the order is u|g:CONTAINER:HOST:COUNT: this is id 0 of the container",
            ),
            ("u:0:1:1", "pve: the value has no map of gids"),
            ("", "pve: the value has no map of uids and gids"),
        ] {
            let found = pve(text).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,60}", words in "[ugbid0-9 :;-]{0,60}") {
            for text in [&text, &words] {
                let _ = (incus(text), pve(text), parse_lxc(&format!("lxc.idmap = {text}")));
            }
        }

        #[test]
        fn the_three_syntaxes_agree(container in 0u32..1 << 31, host in 0u32..1 << 31, count in 1u32..1 << 16) {
            let (last_host, last) = (host + count - 1, container + count - 1);
            let lxc = parse_lxc(&format!("lxc.idmap = u {container} {host} {count}\nlxc.idmap = g {container} {host} {count}"));
            let incus = incus(&format!("both {host}-{last_host} {container}-{last}"));
            let pve = pve(&format!("u:{container}:{host}:{count};g:{container}:{host}:{count}"));
            prop_assert_eq!(&lxc, &incus);
            prop_assert_eq!(incus, pve.map(FoundMap::inverted));
        }
    }
}
