//! What a source can do by itself, and whether it does the same through a mount with a map.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, XattrFlags};

use crate::support::{Lock, LockKind, Mount, Process, as_user, eventually, patience, posix_acl};

/// 0 and 65534 are the same on both sides, and the source's 1000..1999 are the mount's 101000..101999.
pub(crate) const MAPS: [&str; 3] = ["b:0:0:1", "b:65534:65534:1", "b:1000:101000:1000"];

/// A user on the source.
const USER: u32 = 1000;

/// Mounts a source with [`MAPS`].
pub(crate) fn mount(source: &Path) -> Mount {
    let builder = Mount::builder().source(source).arg("-v");
    MAPS.iter().fold(builder, |builder, map| builder.map(map)).start()
}

/// Prints a line of the table of doc/SOURCES.md.
pub(crate) fn tell(source: &str, column: &str, value: &str) {
    println!("source: {source} | {column} | {value}");
}

/// The id at the mount of an id of the source.
fn shown(id: u32) -> u32 {
    if (1000..2000).contains(&id) { id + 100_000 } else { id }
}

/// `yes`, or the name of the error.
pub(crate) fn outcome<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "yes".to_owned(),
        Err(error) => errno_name(&error),
    }
}

/// The name of an error's number.
pub(crate) fn errno_name(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM",
        Some(libc::EACCES) => "EACCES",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::EROFS) => "EROFS",
        Some(libc::EIO) => "EIO",
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::ENODATA) => "ENODATA",
        Some(libc::EOPNOTSUPP) => "EOPNOTSUPP",
        Some(libc::EOVERFLOW) => "EOVERFLOW",
        Some(libc::ENOLCK) => "ENOLCK",
        Some(libc::ESTALE) => "ESTALE",
        Some(libc::ENOTEMPTY) => "ENOTEMPTY",
        Some(libc::EDQUOT) => "EDQUOT",
        Some(libc::ENOSYS) => "ENOSYS",
        _ => return error.to_string(),
    };
    name.to_owned()
}

/// The value of `system.posix_acl_access` that gives a user reading, beside `rw-r--r--` (linux/posix_acl_xattr.h).
fn acl_with(user: u32) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    posix_acl(&[(1, 6, NONE), (2, 4, user), (4, 4, NONE), (0x10, 4, NONE), (0x20, 4, NONE)])
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, name, value, XattrFlags::empty())?)
}

pub(crate) fn get_xattr(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

/// Tries each kind of change below `dir`, as root and as the user, with ids as `id` shows them there.
///
/// Returns the outcome of each, and the owners as they were seen there afterwards.
fn try_all(dir: &Path, id: impl Fn(u32) -> u32 + Copy + Sync) -> BTreeMap<&'static str, String> {
    let mut done = BTreeMap::new();
    let at = |name: &str| dir.join(name);
    let owner = |name: &str| {
        let owner = fs::symlink_metadata(at(name)).map(|meta| (meta.uid(), meta.gid()));
        match owner {
            Ok((uid, gid)) => {
                let back = |seen: u32| {
                    if seen > 100_000 && seen < 102_000 { seen - 100_000 } else { seen }
                };
                let same = |seen: u32| if id(1000) == 1000 { seen } else { back(seen) };
                format!("{}:{}", same(uid), same(gid))
            }
            Err(error) => errno_name(&error),
        }
    };
    done.insert("create as root", outcome(File::create(at("root"))) + " " + &owner("root"));
    let user = id(USER);
    let created = as_user(user, user, &[], || {
        let file = outcome(fs::write(at("user"), "text"));
        let sub = outcome(fs::create_dir(at("dir")));
        let link = outcome(symlink("user", at("symlink")));
        (file, sub, link)
    });
    done.insert("create as a user", created.0 + " " + &owner("user"));
    done.insert("mkdir as a user", created.1 + " " + &owner("dir"));
    done.insert("symlink as a user", created.2 + " " + &owner("symlink"));
    let file = if at("user").exists() { "user" } else { "root" };
    done.insert("link", outcome(fs::hard_link(at(file), at("link"))));
    let mode = outcome(fs::set_permissions(at(file), Permissions::from_mode(0o604)));
    let stored = fs::metadata(at(file)).map_or(0, |meta| meta.mode() & 0o7777);
    done.insert("chmod", format!("{mode} {stored:o}"));
    done.insert(
        "write",
        outcome(
            File::options()
                .append(true)
                .open(at(file))
                .and_then(|mut file| file.write_all(b"more")),
        ),
    );
    let by_user = as_user(user, user, &[], || outcome(chown(at(file), Some(id(1005)), None)));
    done.insert("chown by its owner", by_user);
    let kept = as_user(user, user, &[], || outcome(chown(at(file), Some(user), Some(user))));
    done.insert("chown to the same owner", kept);
    let chowned = outcome(chown(at(file), Some(id(1007)), Some(id(1008))));
    done.insert("chown", chowned + " " + &owner(file));
    done.insert(
        "set an ACL",
        outcome(set_xattr(&at(file), "system.posix_acl_access", &acl_with(id(1009)))),
    );
    for name in ["user.test", "trusted.test", "security.test"] {
        let set = set_xattr(&at(file), name, b"value").and_then(|()| get_xattr(&at(file), name));
        done.insert(name, outcome(set));
    }
    let lock = File::options().read(true).write(true).open(at(file));
    done.insert(
        "lock",
        outcome(lock.and_then(|file| Lock::whole(LockKind::Exclusive).try_set(&file))),
    );
    done.insert("rename", outcome(fs::rename(at("link"), at("renamed"))));
    done.insert("rename a file", outcome(fs::rename(at(file), at("moved"))));
    done.insert("rename over a file", outcome(fs::rename(at("moved"), at("root"))));
    done
}

/// Compares every kind of change on the source itself and through a map, tells the outcomes, and fails if they differ
/// other than `known`.
///
/// `setup` is the source where root can make directories: on an NFS server it is the exported directory.
pub(crate) fn compare(name: &str, source: &Path, setup: &Path, known: &[&str]) {
    for dir in ["bare", "mapped"] {
        // A source that refuses this refuses everything below as well.
        let _ = fs::create_dir(setup.join(dir));
        let _ = fs::set_permissions(setup.join(dir), Permissions::from_mode(0o777));
    }
    let mount = mount(source);
    let bare = try_all(&source.join("bare"), |id| id);
    let mapped = try_all(&mount.join("mapped"), shown);
    for (what, outcome) in &mapped {
        println!("survey: {name} | {what} | {outcome}");
    }
    let owners = format!("create {}, chown {}", mapped["create as a user"], mapped["chown"]);
    tell(name, "owners", &owners);
    tell(name, "ACLs", &mapped["set an ACL"]);
    tell(name, "xattrs", &mapped["user.test"]);
    tell(name, "locks", &mapped["lock"]);
    let differs = bare.iter().filter(|(what, outcome)| mapped.get(*what) != Some(outcome));
    let differences: Vec<String> = differs
        .filter(|(what, _)| !known.contains(what))
        .map(|(what, outcome)| {
            format!("{what}: {outcome} on the source, {} at the mount", mapped[what])
        })
        .collect();
    assert!(differences.is_empty(), "{name}: {}", differences.join("; "));
}

/// Tells how the daemon reaches inodes, whose inode numbers are shown, and whether the kernel passes data by itself.
pub(crate) fn measure(name: &str, source: &Path, files: &Path) {
    let below = files.strip_prefix(source).expect("the files are below the source");
    let mount = mount(source);
    let names: Vec<_> =
        fs::read_dir(files).expect("list").map(|entry| entry.expect("list").file_name()).collect();
    let before = mount.open_descriptors();
    let seen = mount.join(below);
    // The kernel must not forget the files meanwhile: another test drops caches.
    let mut kept = Vec::new();
    for entry in &names {
        let path =
            rustix::fs::open(seen.join(entry), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        kept.push(path.expect("open at the mount"));
        let (one, other) =
            (fs::symlink_metadata(files.join(entry)), fs::symlink_metadata(seen.join(entry)));
        let (one, other) = (one.expect("stat on the source"), other.expect("stat at the mount"));
        assert_eq!(one.ino(), other.ino(), "{name}: the inode number of {entry:?}");
        assert_eq!(one.len(), other.len(), "{name}: the size of {entry:?}");
        assert_eq!(shown(one.uid()), other.uid(), "{name}: the owner of {entry:?}");
    }
    tell(name, "inode numbers", "the source's");
    let listed = fs::read_dir(&seen).expect("list at the mount").count();
    assert_eq!(listed, names.len(), "{name}: the listing");
    let held = mount.open_descriptors().saturating_sub(before);
    // The LRU of descriptors has room for all of them; the sweeper empties it.
    let by_handle = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        mount.open_descriptors() < before + names.len() / 2
    });
    tell(name, "handles", if by_handle { "yes" } else { "held descriptors" });
    println!("survey: {name} | descriptors | {held} for {} files", names.len());
    let is_watched = !mount.messages().contains("the source cannot be watched");
    tell(name, "watch", if is_watched { "yes" } else { "1 s" });
    if let Some(big) = names.iter().find(|entry| entry.to_string_lossy().starts_with("big")) {
        let path =
            Path::new("/proc").join(mount.pid().expect("a daemon runs").to_string()).join("io");
        let read = || {
            let io = fs::read_to_string(&path).expect("read the daemon's io");
            let line = io.lines().find(|line| line.starts_with("rchar:")).expect("rchar");
            line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number")
        };
        let before = read();
        let mut data = Vec::new();
        File::open(seen.join(big)).and_then(|mut file| file.read_to_end(&mut data)).expect("read");
        assert!(data == fs::read(files.join(big)).expect("read"), "{name}: the data at the mount");
        tell(
            name,
            "passthrough",
            if read() - before < data.len() as u64 / 2 { "yes" } else { "no" },
        );
    }
}

/// Fills a directory for [`measure`]: 100 small files and one of 1 MiB.
pub(crate) fn fill(dir: &Path) {
    for n in 0..100 {
        fs::write(dir.join(format!("f{n}")), n.to_string()).expect("write");
    }
    fs::write(dir.join("big"), vec![7; 1 << 20]).expect("write");
}

/// Makes a change by `change` and waits until `seen` says so of the source and then of the mount.
///
/// Returns by how much later the mount showed it than the source did.
pub(crate) fn delay(
    what: &str,
    change: impl FnOnce(),
    on_source: impl Fn() -> bool,
    at_mount: impl Fn() -> bool,
) -> Duration {
    change();
    let (start, limit) = (Instant::now(), patience(Duration::from_secs(70)));
    let (mut source_at, mut mount_at) = (None, None);
    while source_at.is_none() || mount_at.is_none() {
        if source_at.is_none() && on_source() {
            source_at = Some(start.elapsed());
        }
        if mount_at.is_none() && at_mount() {
            mount_at = Some(start.elapsed());
        }
        assert!(start.elapsed() < limit, "{what}: source {source_at:?}, mount {mount_at:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("survey: {what}: source {source_at:?}, mount {mount_at:?}");
    mount_at.unwrap_or_default().saturating_sub(source_at.unwrap_or_default())
}

/// Holds a POSIX lock in another process on one path, and asserts that it excludes one on the other path.
pub(crate) fn excludes(name: &str, holder: &Path, other: &Path) {
    let held = Process::on(holder, |file| match Lock::whole(LockKind::Exclusive).try_set(file) {
        Ok(()) => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        Err(_) => 1,
    });
    let file = File::options().read(true).write(true).open(other).expect("open");
    eventually(
        &format!("{name}: a lock on {} excludes one on {}", holder.display(), other.display()),
        || {
            matches!(
                Lock::whole(LockKind::Exclusive).query(&file),
                Ok(Some((LockKind::Exclusive, ..)))
            )
        },
    );
    drop(held);
    eventually(&format!("{name}: the lock is free again"), || {
        Lock::whole(LockKind::Exclusive).try_set(&file).is_ok()
    });
}
