//! What a mount requires of the user who makes it. Requirements that are not met are reported before anything is
//! changed.

use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::config::{Access, Config, TargetNamespace};
use crate::error::{Error, Result};
use crate::idmap::{IdRange, Kind, MountId, SourceId, Translation, inside};
use crate::sys::user_namespace::is_initial;

/// Whether this process can mount by itself, without fusermount3 (CAP_SYS_ADMIN).
#[must_use]
pub fn may_mount() -> bool {
    has_capability(CapabilitySet::SYS_ADMIN)
}

/// The uid_map of this process, if its user namespace is not the initial one (user_namespaces(7)).
#[must_use]
pub fn own_uid_map() -> Option<String> {
    match is_initial() {
        true => None,
        false => std::fs::read_to_string("/proc/self/uid_map").ok(),
    }
}

/// Which users may use the mount. By default all, if this process may mount by itself, else only its own user.
///
/// The kernel knows `allow_other` only. The server enforces [`Access::OwnerAndRoot`].
#[must_use]
pub fn access(config: &Config) -> Access {
    let in_container = config.namespace.as_ref().is_some_and(|namespace| namespace.is_container);
    config.access.unwrap_or(if in_container || may_mount() {
        Access::Everyone
    } else {
        Access::Owner
    })
}

/// Refuses options that need more privileges than this process has.
///
/// These are: options that only root may use in bindfs too, a map under which a normal user could not create files, and
/// mount options that only root may give.
pub fn check_privileges(config: &Config) -> Result<()> {
    let container = config.namespace.as_ref().and_then(TargetNamespace::container_ids);
    check_ids_exist(&config.view.ids.uids, container.map(|ids| ids.uids.as_slice()))?;
    check_ids_exist(&config.view.ids.gids, container.map(|ids| ids.gids.as_slice()))?;
    let sets_ids = has_capability(CapabilitySet::SETUID) && has_capability(CapabilitySet::SETGID);
    if let Some(option) = config.root_only.first().filter(|_| !sets_ids) {
        return Err(Error::usage(root_only(option)));
    }
    if !has_capability(CapabilitySet::SETUID) {
        let own = geteuid().as_raw();
        let seen = container.map_or(Some(own), |ids| inside(&ids.uids, own));
        check_own_id_is_kept(&config.view.ids.uids, own, seen, "--uidmap")?;
    }
    if !has_capability(CapabilitySet::SETGID) {
        let own = getegid().as_raw();
        let seen = container.map_or(Some(own), |ids| inside(&ids.gids, own));
        check_own_id_is_kept(&config.view.ids.gids, own, seen, "--gidmap")?;
    }
    if config.idmappable && access(config) != Access::Everyone {
        return Err(Error::usage(
            "option 'idmappable' needs allow_other: a container's users are other users; mount as root, or add allow_other",
        ));
    }
    if !may_mount() {
        if config.namespace.as_ref().is_some_and(|namespace| !namespace.is_container) {
            return Err(Error::usage(
                "option 'namespace': a mount with the ids of this user namespace takes CAP_SYS_ADMIN in it; leave out ids=host, \
                 name a process of a container with a user namespace of its own, or mount as root",
            ));
        }
        let flags = &config.flags;
        for (given, option) in [
            (flags.nosuid == Some(false), "suid"),
            (flags.nodev == Some(false), "dev"),
            (flags.nosymfollow == Some(true), "nosymfollow"),
            (flags.nodiratime == Some(true), "nodiratime"),
            (flags.atime == Some(crate::config::Atime::Strict), "strictatime"),
        ] {
            if given {
                return Err(Error::usage(format!(
                    "-o {option}: a normal user can't mount with this option; leave it out or mount as root"
                )));
            }
        }
    }
    Ok(())
}

/// Refuses a map that shows ids which this process's user namespace lacks: the kernel would show the overflow id for them.
///
/// Extents that show ids as themselves are left out: they lose nothing.
fn check_ids_exist<K: Kind>(ids: &Translation<K>, container: Option<&[IdRange]>) -> Result<()> {
    let word = K::WORD;
    if let Some(ranges) = container {
        let table: String = ranges
            .iter()
            .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
            .collect();
        return match first_missing(ids, &table) {
            None => Ok(()),
            Some(id) => Err(Error::usage(format!(
                "--{word}map: the container has no {word} {id}: map to ids that it has, or give ids=host"
            ))),
        };
    }
    let namespace = format!("/proc/self/{word}_map");
    // Without /proc all ids are taken to exist.
    let Ok(table) = std::fs::read_to_string(&namespace) else { return Ok(()) };
    match first_missing(ids, &table) {
        None => Ok(()),
        Some(id) => Err(Error::usage(format!(
            "--{word}map: the mount's {word} {id} does not exist in this user namespace, and would be shown as the overflow \
             id: map to ids that {namespace} lists, or mount from the user namespace outside"
        ))),
    }
}

/// The first mount id of a map that a user namespace with this uid_map or gid_map (user_namespaces(7)) lacks.
fn first_missing<K: Kind>(ids: &Translation<K>, table: &str) -> Option<u32> {
    let range = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        let (first, _, count) = (words.next()??, words.next()??, words.next()??);
        Some((first, first + count))
    };
    let mut ranges: Vec<(u64, u64)> = table.lines().filter_map(range).collect();
    ranges.sort_unstable();
    let extents = ids.map().extents().iter();
    let moved = extents.filter(|extent| extent.source().raw() != extent.mount().raw());
    moved
        .filter_map(|extent| {
            let (mut next, end) = (
                u64::from(extent.mount().raw()),
                u64::from(extent.mount().raw()) + u64::from(extent.count()),
            );
            for (first, last) in &ranges {
                if (*first..*last).contains(&next) {
                    next = *last;
                }
            }
            (next < end).then_some(next)
        })
        .find_map(|id| u32::try_from(id).ok())
}

fn root_only(option: &str) -> String {
    let advice = match option {
        "create-as-user" | "create-for-user" | "create-for-group" => "leave it out",
        _ => "use uidmap and gidmap for a map that leaves your own ids as they are",
    };
    format!("option '{option}': only root may use it; mount as root, or {advice}")
}

/// Refuses a map that stores the process's own id as another one. `seen`: the own id as the mount's ids are numbered.
///
/// An unprivileged process creates every file as its own user, whatever the map says.
fn check_own_id_is_kept<K: Kind>(
    translation: &Translation<K>,
    own: u32,
    seen: Option<u32>,
    option: &str,
) -> Result<()> {
    let word = K::WORD;
    let Some(seen) = seen else {
        return Err(Error::usage(format!(
            "{option}: the container does not have your own {word} {own}"
        )));
    };
    let (Some(here), Some(stored)) = (MountId::<K>::new(seen), SourceId::<K>::new(own)) else {
        return Ok(());
    };
    // A second extent with the same source id or mount id would be refused as an overlap.
    let map = translation.map();
    let advice = match (map.to_mount(stored), map.to_source(here)) {
        (None, None) => format!("map {own}:{seen}:1 as well"),
        (Some(shown), _) => {
            format!("map {own}:{seen}:1 in place of the extent that shows {own} as {}", shown.raw())
        }
        (None, Some(id)) => {
            format!("map {own}:{seen}:1 in place of the extent that shows {} as {seen}", id.raw())
        }
    };
    match translation.to_source(here) {
        Some(id) if id == stored => Ok(()),
        Some(id) => Err(Error::usage(format!(
            "{option}: what {word} {own} creates would be stored as {word} {id}, and only root may store files as \
             another id: {advice}, or mount as root"
        ))),
        None => Err(Error::usage(format!(
            "{option}: your own {word} {own} is not mapped, so you could not create files at the mount: {advice}, or mount \
             as root"
        ))),
    }
}

fn has_capability(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::{Extent, IdMap, MountUid, Unmapped, User};

    fn uids(extents: &[(u32, u32, u32)], unmapped: Unmapped<User>) -> Translation<User> {
        let extents = extents.iter().map(|(s, m, n)| Extent::new(*s, *m, *n).unwrap()).collect();
        Translation::new(IdMap::new(extents).unwrap(), unmapped)
    }

    #[test]
    fn the_first_id_that_a_user_namespace_lacks_is_found() {
        let (rootless, full) = ("0 1000 1\n1 100000 65536\n", "         0          0 4294967295\n");
        let missing = |extents: &[(u32, u32, u32)], table| {
            first_missing(&uids(extents, Unmapped::Deny), table)
        };
        assert_eq!(missing(&[(5, 0, 65537)], rootless), None);
        assert_eq!(missing(&[(5, 0, 65538)], rootless), Some(65537));
        assert_eq!(missing(&[(0, 1000, 1)], "0 1000 1\n"), Some(1000));
        assert_eq!(missing(&[(70000, 70000, 9)], rootless), None, "shown as itself");
        assert_eq!(missing(&[(0, 5, 4_294_967_290)], full), None);
    }

    #[test]
    fn the_advice_for_the_own_id_can_be_followed() {
        let text =
            |t| check_own_id_is_kept(&t, 1000, Some(1000), "--uidmap").unwrap_err().to_string();
        let shown = text(uids(&[(1000, 5, 1)], Unmapped::Deny));
        assert!(
            shown.contains("map 1000:1000:1 in place of the extent that shows 1000 as 5"),
            "{shown}"
        );
        assert!(text(uids(&[(1, 5, 1)], Unmapped::Deny)).contains("map 1000:1000:1 as well"));
        let taken = text(uids(&[(7, 1000, 1)], Unmapped::Deny));
        assert!(
            taken.contains("map 1000:1000:1 in place of the extent that shows 7 as 1000"),
            "{taken}"
        );
    }

    #[test]
    fn an_unprivileged_user_may_use_maps_that_keep_the_own_id() {
        for t in [
            uids(&[(1000, 1000, 1)], Unmapped::Deny),
            uids(&[(1000, 1000, 1), (100_000, 0, 1000)], Unmapped::Deny),
            uids(&[(5, 6, 1)], Unmapped::Pass),
            uids(&[(1000, 1000, 1)], Unmapped::Squash(MountUid::new(1000).unwrap())),
        ] {
            assert!(check_own_id_is_kept(&t, 1000, Some(1000), "--uidmap").is_ok(), "{t:?}");
        }
    }

    #[test]
    fn a_map_that_stores_a_users_files_as_anothers_is_refused_with_both_ids() {
        let t = uids(&[(0, 1000, 1)], Unmapped::Deny);
        let text = check_own_id_is_kept(&t, 1000, Some(1000), "--uidmap").unwrap_err().to_string();
        assert!(text.starts_with("--uidmap: ") && text.contains("stored as uid 0"), "{text}");
        assert!(text.contains("root"), "{text}");
    }

    #[test]
    fn a_map_that_leaves_the_user_out_is_refused() {
        let t = uids(&[(0, 100_000, 10)], Unmapped::Deny);
        let text = check_own_id_is_kept(&t, 1000, Some(1000), "--uidmap").unwrap_err().to_string();
        assert!(text.contains("uid 1000 is not mapped"), "{text}");
    }
}
