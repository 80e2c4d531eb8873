//! The interface to the user database. Tests replace it by one of their own.
//!
//! [`Accounts`] resolves names for the command line; [`SystemAccounts::members`] resolves group members for the mirror.

mod members;

use std::ffi::CString;

use crate::idmap::{Group, Kind, User};
use crate::sys::accounts as database;

/// A user database. Unknown names and ids give `None`.
pub trait Accounts {
    /// The uid of a user.
    fn user_id(&self, name: &str) -> Option<u32>;
    /// The gid of a group.
    fn group_id(&self, name: &str) -> Option<u32>;
    /// The login group of a user.
    fn login_group(&self, uid: u32) -> Option<u32>;
    /// The name of the user with this uid.
    fn user_name(&self, uid: u32) -> Option<String>;
    /// The name of the group with this gid.
    fn group_name(&self, gid: u32) -> Option<String>;
}

/// The system's database (nsswitch.conf(5)).
#[derive(Debug, Clone, Copy)]
pub struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn user_id(&self, name: &str) -> Option<u32> {
        database::user_by_name(&CString::new(name).ok()?).ok().flatten().map(|user| user.uid)
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        database::group_by_name(&CString::new(name).ok()?).ok().flatten().map(|group| group.gid)
    }

    fn login_group(&self, uid: u32) -> Option<u32> {
        database::user_by_uid(uid).ok().flatten().map(|user| user.gid)
    }

    fn user_name(&self, uid: u32) -> Option<String> {
        let name = database::user_by_uid(uid).ok().flatten()?.name;
        name.into_string().ok()
    }

    fn group_name(&self, gid: u32) -> Option<String> {
        let name = database::group_by_gid(gid).ok().flatten()?.name;
        name.into_string().ok()
    }
}

/// A kind of id, user or group, that the database has names for.
pub trait Named: Kind {
    /// The word for one entry in messages.
    const NOUN: &'static str;
    /// The id for a name.
    fn id_of(accounts: &dyn Accounts, name: &str) -> Option<u32>;
    /// The name for an id.
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

/// A database for tests. Users: root, alice (1000, login group users), bob (2000). Groups: root, users (100), staff
/// (50), bob (2000).
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
