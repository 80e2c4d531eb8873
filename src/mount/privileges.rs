//! What a mount requires of the user who makes it. Requirements that are not met are reported before anything is
//! changed.

use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::config::{Access, Config};
use crate::error::{Error, Result};
use crate::idmap::{Kind, MountId, SourceId, Translation};

/// Whether this process can mount by itself, without fusermount3 (CAP_SYS_ADMIN).
#[must_use]
pub fn may_mount() -> bool {
    has_capability(CapabilitySet::SYS_ADMIN)
}

/// Which users may use the mount. By default all, if this process may mount by itself, else only its own user.
///
/// The kernel knows `allow_other` only. The server enforces [`Access::OwnerAndRoot`].
#[must_use]
pub fn access(config: &Config) -> Access {
    config.access.unwrap_or(if may_mount() { Access::Everyone } else { Access::Owner })
}

/// Refuses options that need more privileges than this process has.
///
/// These are: options that only root may use in bindfs too, a map under which a normal user could not create files, and
/// mount options that only root may give.
pub fn check_privileges(config: &Config) -> Result<()> {
    let sets_ids = has_capability(CapabilitySet::SETUID) && has_capability(CapabilitySet::SETGID);
    if let Some(option) = config.root_only.first().filter(|_| !sets_ids) {
        return Err(Error::usage(root_only(option)));
    }
    if !has_capability(CapabilitySet::SETUID) {
        check_own_id_is_kept(&config.view.ids.uids, geteuid().as_raw(), "--uidmap")?;
    }
    if !has_capability(CapabilitySet::SETGID) {
        check_own_id_is_kept(&config.view.ids.gids, getegid().as_raw(), "--gidmap")?;
    }
    if !may_mount() {
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

fn root_only(option: &str) -> String {
    let advice = match option {
        "create-as-user" | "create-for-user" | "create-for-group" => "leave it out",
        _ => "use uidmap and gidmap for a map that leaves your own ids as they are",
    };
    format!("option '{option}': only root may use it; mount as root, or {advice}")
}

/// Refuses a map that stores the process's own id as another one.
///
/// An unprivileged process creates every file as its own user, whatever the map says.
fn check_own_id_is_kept<K: Kind>(
    translation: &Translation<K>,
    own: u32,
    option: &str,
) -> Result<()> {
    let (Some(here), Some(stored)) = (MountId::<K>::new(own), SourceId::<K>::new(own)) else {
        return Ok(());
    };
    let word = K::WORD;
    match translation.to_source(here) {
        Some(id) if id == stored => Ok(()),
        Some(id) => Err(Error::usage(format!(
            "{option}: what {word} {own} creates would be stored as {word} {id}, and only root may store files as \
             another id: map {own}:{own}:1 as well, or mount as root"
        ))),
        None => Err(Error::usage(format!(
            "{option}: your own {word} {own} is not mapped, so you could not create files at the mount: map \
             {own}:{own}:1 as well, or mount as root"
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
    fn an_unprivileged_user_may_use_maps_that_keep_the_own_id() {
        for t in [
            uids(&[(1000, 1000, 1)], Unmapped::Deny),
            uids(&[(1000, 1000, 1), (100_000, 0, 1000)], Unmapped::Deny),
            uids(&[(5, 6, 1)], Unmapped::Pass),
            uids(&[(1000, 1000, 1)], Unmapped::Squash(MountUid::new(1000).unwrap())),
        ] {
            assert!(check_own_id_is_kept(&t, 1000, "--uidmap").is_ok(), "{t:?}");
        }
    }

    #[test]
    fn a_map_that_stores_a_users_files_as_anothers_is_refused_with_both_ids() {
        let t = uids(&[(0, 1000, 1)], Unmapped::Deny);
        let text = check_own_id_is_kept(&t, 1000, "--uidmap").unwrap_err().to_string();
        assert!(text.starts_with("--uidmap: ") && text.contains("stored as uid 0"), "{text}");
        assert!(text.contains("root"), "{text}");
    }

    #[test]
    fn a_map_that_leaves_the_user_out_is_refused() {
        let t = uids(&[(0, 100_000, 10)], Unmapped::Deny);
        let text = check_own_id_is_kept(&t, 1000, "--uidmap").unwrap_err().to_string();
        assert!(text.contains("uid 1000 is not mapped"), "{text}");
    }
}
