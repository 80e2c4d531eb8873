//! Users and groups: a narrow door to the user database, so that tests need none. Names for the command line; for the
//! mirror who is in a group.

mod members;

use std::ffi::CString;

use nix::unistd::{Uid, User as UserEntry};

use crate::idmap::{Group, Kind, User};
use crate::sys::accounts as database;

/// What is asked of a user database. A name or id that it does not know is `None`.
pub trait Accounts {
    /// The uid of a user.
    fn user_id(&self, name: &str) -> Option<u32>;
    /// The gid of a group.
    fn group_id(&self, name: &str) -> Option<u32>;
    /// The group a user logs in with.
    fn login_group(&self, uid: u32) -> Option<u32>;
    /// The user with this uid.
    fn user_name(&self, uid: u32) -> Option<String>;
    /// The group with this gid.
    fn group_name(&self, gid: u32) -> Option<String>;
}

/// The database of the system (nsswitch.conf).
#[derive(Debug, Clone, Copy)]
pub struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn user_id(&self, name: &str) -> Option<u32> {
        UserEntry::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        database::group_by_name(&CString::new(name).ok()?).ok().flatten().map(|group| group.gid)
    }

    fn login_group(&self, uid: u32) -> Option<u32> {
        UserEntry::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.gid.as_raw())
    }

    fn user_name(&self, uid: u32) -> Option<String> {
        UserEntry::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
    }

    fn group_name(&self, gid: u32) -> Option<String> {
        let name = database::group_by_gid(gid).ok().flatten()?.name;
        name.into_string().ok()
    }
}

/// A kind of id whose ids have names.
pub trait Named: Kind {
    /// What bears the name.
    const NOUN: &'static str;
    /// The id behind a name.
    fn id_of(accounts: &dyn Accounts, name: &str) -> Option<u32>;
    /// The name of an id.
    fn name_of(accounts: &dyn Accounts, id: u32) -> Option<String>;
}

impl Named for User {
    const NOUN: &'static str = "user";

    fn id_of(accounts: &dyn Accounts, name: &str) -> Option<u32> {
        accounts.user_id(name)
    }

    fn name_of(accounts: &dyn Accounts, id: u32) -> Option<String> {
        accounts.user_name(id)
    }
}

impl Named for Group {
    const NOUN: &'static str = "group";

    fn id_of(accounts: &dyn Accounts, name: &str) -> Option<u32> {
        accounts.group_id(name)
    }

    fn name_of(accounts: &dyn Accounts, id: u32) -> Option<String> {
        accounts.group_name(id)
    }
}

/// A database of tests: alice is 1000 with login group users (100), bob is 2000; groups: users, staff (50), bob (2000).
#[cfg(test)]
pub(crate) struct TestAccounts;

#[cfg(test)]
impl Accounts for TestAccounts {
    fn user_id(&self, name: &str) -> Option<u32> {
        [("root", 0), ("alice", 1000), ("bob", 2000)].into_iter().find(|e| e.0 == name).map(|e| e.1)
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        let groups = [("root", 0), ("users", 100), ("staff", 50), ("bob", 2000)];
        groups.into_iter().find(|e| e.0 == name).map(|e| e.1)
    }

    fn login_group(&self, uid: u32) -> Option<u32> {
        [(0, 0), (1000, 100), (2000, 2000)].into_iter().find(|e| e.0 == uid).map(|e| e.1)
    }

    fn user_name(&self, uid: u32) -> Option<String> {
        let names = ["root", "alice", "bob"];
        names.into_iter().find(|name| self.user_id(name) == Some(uid)).map(str::to_owned)
    }

    fn group_name(&self, gid: u32) -> Option<String> {
        let names = ["root", "users", "staff", "bob"];
        names.into_iter().find(|name| self.group_id(name) == Some(gid)).map(str::to_owned)
    }
}
