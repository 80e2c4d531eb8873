//! Calls on the user database: entries of any size, and a pass over all users.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr;

use rustix::io::Errno;

use crate::sync::Mutex;

/// The largest buffer for an entry, in bytes. A group of a directory service can have tens of thousands of members.
const MAX_BUFFER: usize = 64 << 20;
const INITIAL_BUFFER: usize = 16 << 10;

/// The fields of a group's entry that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// The gid.
    pub gid: u32,
    /// The name.
    pub name: CString,
    /// The names of the listed members.
    pub members: Vec<CString>,
}

/// The fields of a user's entry that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// The uid.
    pub uid: u32,
    /// The gid of the login group.
    pub gid: u32,
    /// The name.
    pub name: CString,
}

/// Looks up a group by gid (getgrgid_r(3)). `None` if the database does not know it.
pub fn group_by_gid(gid: u32) -> Result<Option<GroupEntry>, Errno> {
    group(|entry, buffer, len, found| {
        // SAFETY: all pointers are to live objects, and `len` is the buffer's length.
        unsafe { libc::getgrgid_r(gid, entry, buffer, len, found) }
    })
}

/// Looks up a group by name (getgrnam_r(3)). `None` if the database does not know it.
pub fn group_by_name(name: &CStr) -> Result<Option<GroupEntry>, Errno> {
    group(|entry, buffer, len, found| {
        // SAFETY: all pointers are to live objects, and `len` is the buffer's length.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer, len, found) }
    })
}

/// Looks up a user by name (getpwnam_r(3)). `None` if the database does not know it.
pub fn user_by_name(name: &CStr) -> Result<Option<UserEntry>, Errno> {
    user(|entry, buffer, len, found| {
        // SAFETY: all pointers are to live objects, and `len` is the buffer's length.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, len, found) }
    })
}

/// Looks up a user by uid (getpwuid_r(3)). `None` if the database does not know it.
pub fn user_by_uid(uid: u32) -> Result<Option<UserEntry>, Errno> {
    user(|entry, buffer, len, found| {
        // SAFETY: all pointers are to live objects, and `len` is the buffer's length.
        unsafe { libc::getpwuid_r(uid, entry, buffer, len, found) }
    })
}

/// Lists all users that the database enumerates (getpwent(3)). Directory services may leave out most of theirs.
pub fn all_users() -> Result<Vec<UserEntry>, Errno> {
    // The position of the enumeration and the entry are global to the process. musl has no getpwent_r(3).
    static PASS: Mutex<()> = Mutex::new(());
    let _pass = PASS.lock();
    // SAFETY: takes no argument, and the lock keeps other threads out of the enumeration.
    unsafe { libc::setpwent() };
    let mut users = Vec::new();
    let result = loop {
        // SAFETY: errno is the thread's own. getpwent(3) takes no argument, and its entry is valid until the next call, which
        // the lock keeps away.
        let (user, errno) = unsafe {
            *libc::__errno_location() = 0;
            (libc::getpwent().as_ref(), *libc::__errno_location())
        };
        match (user, errno) {
            (Some(user), _) => users.push(user_entry(user)),
            (None, libc::EINTR) => {}
            // At the end errno is what the databases have left in it.
            (None, 0 | libc::ENOENT | libc::ESRCH) => break Ok(users),
            (None, errno) => break Err(Errno::from_raw_os_error(errno)),
        }
    };
    // SAFETY: as for setpwent.
    unsafe { libc::endpwent() };
    result
}

fn user(
    ask: impl FnMut(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> c_int,
) -> Result<Option<UserEntry>, Errno> {
    entry(ask, user_entry)
}

fn user_entry(user: &libc::passwd) -> UserEntry {
    UserEntry { uid: user.pw_uid, gid: user.pw_gid, name: text(user.pw_name) }
}

fn group(
    ask: impl FnMut(*mut libc::group, *mut c_char, usize, *mut *mut libc::group) -> c_int,
) -> Result<Option<GroupEntry>, Errno> {
    entry(ask, |group: &libc::group| GroupEntry {
        gid: group.gr_gid,
        name: text(group.gr_name),
        members: list(group.gr_mem),
    })
}

/// Calls `ask` with growing buffers until the entry fits, and extracts the wanted fields.
fn entry<E, T>(
    mut ask: impl FnMut(*mut E, *mut c_char, usize, *mut *mut E) -> c_int,
    take: impl FnOnce(&E) -> T,
) -> Result<Option<T>, Errno> {
    let mut buffer: Vec<c_char> = vec![0; INITIAL_BUFFER];
    loop {
        let mut entry = MaybeUninit::<E>::uninit();
        let mut found = ptr::null_mut();
        match ask(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: on success the pointer is to the entry above, initialised, whose strings lie in the buffer.
            0 => return Ok(Some(take(unsafe { &*found }))),
            libc::ERANGE if buffer.len() < MAX_BUFFER => buffer = vec![0; buffer.len() * 4],
            libc::EINTR => {}
            // The databases return these for an entry that they do not have (getpwnam(3)).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            code => return Err(Errno::from_raw_os_error(code)),
        }
    }
}

fn text(at: *const c_char) -> CString {
    if at.is_null() {
        return CString::default();
    }
    // SAFETY: the strings of an entry end with NUL and live as long as its buffer, which the caller holds.
    unsafe { CStr::from_ptr(at) }.to_owned()
}

fn list(mut at: *mut *mut c_char) -> Vec<CString> {
    let mut names = Vec::new();
    if at.is_null() {
        return names;
    }
    // SAFETY: the list ends with a null pointer and lives as long as its entry's buffer, which the caller holds.
    unsafe {
        while !(*at).is_null() {
            names.push(text(*at));
            at = at.add(1);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_its_group_are_found_by_name_and_id() {
        assert!(all_users().unwrap().iter().any(|user| user.uid == 0 && &*user.name == c"root"));
        let root = user_by_uid(0).unwrap().unwrap();
        assert_eq!((&*root.name, root.uid), (c"root", 0));
        assert_eq!(user_by_name(c"root"), Ok(Some(root)));
        let root = group_by_gid(0).unwrap().unwrap();
        assert_eq!(group_by_name(&root.name), Ok(Some(root)));
    }

    #[test]
    fn an_unknown_name_or_id_is_none() {
        assert_eq!(user_by_name(c"no such user"), Ok(None));
        assert_eq!(user_by_uid(4_000_000_000), Ok(None));
        assert_eq!(group_by_name(c"no such group"), Ok(None));
        assert_eq!(group_by_gid(4_000_000_000), Ok(None));
    }

    #[test]
    fn a_buffer_grows_until_the_entry_fits_or_reaches_its_limit() {
        let mut asked = Vec::new();
        let answer = entry(
            |_: *mut libc::group, _, len, _| {
                asked.push(len);
                if len < 5 << 20 { libc::ERANGE } else { 0 }
            },
            |_| (),
        );
        assert_eq!(answer, Ok(None));
        assert_eq!(asked.last(), Some(&(16 << 20)));
        let never = entry(|_: *mut libc::group, _, _, _| libc::ERANGE, |_| ());
        assert_eq!(never, Err(Errno::RANGE));
    }
}
