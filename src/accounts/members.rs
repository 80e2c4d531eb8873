//! Resolves a list of users and groups to the uids of its members.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;

use rustix::io::Errno;

use super::SystemAccounts;
use crate::idmap::{MountGid, MountUid};
use crate::sys::accounts::{self as database, UserEntry};
use crate::view::Principal;

/// The part of a user database that resolves group members.
trait GroupDatabase {
    /// All users that the database lists.
    fn users(&self) -> Result<Vec<UserEntry>, Errno>;
    /// The names listed in a group's entry. `None` if the database has no such group.
    fn group_members(&self, gid: u32) -> Result<Option<Vec<CString>>, Errno>;
    /// The uid of a user. `None` if the database has no such user.
    fn uid_of(&self, name: &CString) -> Result<Option<u32>, Errno>;
}

impl GroupDatabase for SystemAccounts {
    fn users(&self) -> Result<Vec<UserEntry>, Errno> {
        database::all_users()
    }

    fn group_members(&self, gid: u32) -> Result<Option<Vec<CString>>, Errno> {
        Ok(database::group_by_gid(gid)?.map(|group| group.members))
    }

    fn uid_of(&self, name: &CString) -> Result<Option<u32>, Errno> {
        database::user_by_name(name).map(|user| user.map(|user| user.uid))
    }
}

impl SystemAccounts {
    /// Resolves users and groups to uids.
    ///
    /// A group stands for the users with it as login group and for its listed members.
    ///
    /// The call reads the database's files and asks its services, which may depend on the mount: no thread that serves
    /// the mount may call it.
    ///
    /// # Errors
    /// The error of the user database (getpwent_r(3), getgrgid_r(3)).
    pub fn members(self, principals: &[Principal]) -> Result<HashSet<MountUid>, Errno> {
        members(&self, principals)
    }
}

fn members(
    database: &impl GroupDatabase,
    principals: &[Principal],
) -> Result<HashSet<MountUid>, Errno> {
    let mut found = HashSet::new();
    let mut groups: HashSet<MountGid> = HashSet::new();
    for principal in principals {
        match principal {
            Principal::User(uid) => drop(found.insert(*uid)),
            Principal::Group(gid) => drop(groups.insert(*gid)),
        }
    }
    if groups.is_empty() {
        return Ok(found);
    }
    let mut uids = HashMap::new();
    for user in database.users()? {
        if MountGid::new(user.gid).is_some_and(|gid| groups.contains(&gid)) {
            found.extend(MountUid::new(user.uid));
        }
        // Of two entries with one name the first one counts, as in getpwnam(3).
        uids.entry(user.name).or_insert(user.uid);
    }
    for group in groups {
        let Some(members) = database.group_members(group.raw())? else {
            log::warn!("mirror: the user database does not know a group: gid={}", group.raw());
            continue;
        };
        for name in members {
            let uid = match uids.get(&name) {
                Some(uid) => Some(*uid),
                None => database.uid_of(&name)?,
            };
            // Groups often keep the names of users that were removed.
            found.extend(uid.and_then(MountUid::new));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// alice has login group 100, bob 200. Group 50 lists bob, carol (not in `users`) and gone (no user).
    #[derive(Default)]
    struct FakeDatabase {
        lookups: Cell<u32>,
        fails: bool,
    }

    impl GroupDatabase for FakeDatabase {
        fn users(&self) -> Result<Vec<UserEntry>, Errno> {
            let user =
                |name: &str, uid, gid| UserEntry { uid, gid, name: CString::new(name).unwrap() };
            Ok(vec![user("alice", 1000, 100), user("bob", 2000, 200), user("bob", 2001, 201)])
        }

        fn group_members(&self, gid: u32) -> Result<Option<Vec<CString>>, Errno> {
            if self.fails {
                return Err(Errno::IO);
            }
            let names = ["bob", "carol", "gone"].map(|name| CString::new(name).unwrap());
            Ok(match gid {
                50 => Some(names.to_vec()),
                100 | 200 => Some(Vec::new()),
                _ => None,
            })
        }

        fn uid_of(&self, name: &CString) -> Result<Option<u32>, Errno> {
            self.lookups.set(self.lookups.get() + 1);
            Ok((name.as_bytes() == b"carol").then_some(3000))
        }
    }

    fn members_of(
        database: &FakeDatabase,
        users: &[u32],
        groups: &[u32],
    ) -> Result<Vec<u32>, Errno> {
        let users = users.iter().map(|id| Principal::User(MountUid::new(*id).unwrap()));
        let groups = groups.iter().map(|id| Principal::Group(MountGid::new(*id).unwrap()));
        let found = members(database, &users.chain(groups).collect::<Vec<_>>())?;
        let mut found: Vec<u32> = found.into_iter().map(MountUid::raw).collect();
        found.sort_unstable();
        Ok(found)
    }

    #[test]
    fn a_listed_uid_is_included_even_if_the_database_lacks_it() {
        assert_eq!(members_of(&FakeDatabase::default(), &[7, 1000], &[]), Ok(vec![7, 1000]));
    }

    #[test]
    fn a_group_includes_its_login_users_and_its_named_members() {
        let database = FakeDatabase::default();
        assert_eq!(members_of(&database, &[], &[100]), Ok(vec![1000]));
        assert_eq!(database.lookups.get(), 0);
        assert_eq!(members_of(&database, &[], &[50]), Ok(vec![2000, 3000]));
        assert_eq!(
            database.lookups.get(),
            2,
            "only users outside the listing are looked up singly"
        );
        assert_eq!(members_of(&database, &[5], &[50, 100]), Ok(vec![5, 1000, 2000, 3000]));
    }

    #[test]
    fn a_group_that_is_not_there_has_no_members_and_a_broken_database_is_an_error() {
        assert_eq!(members_of(&FakeDatabase::default(), &[7], &[9]), Ok(vec![7]));
        assert_eq!(
            members_of(&FakeDatabase { fails: true, ..FakeDatabase::default() }, &[7], &[50]),
            Err(Errno::IO)
        );
    }
}
