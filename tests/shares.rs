//! No user can take all descriptors or all memory of the daemon: other users' requests succeed.

mod support;

use std::collections::HashSet;
use std::fs::{self, File, Permissions, ReadDir};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::LockKind::Shared;
use support::{FdTable, Lock, Mount, as_user, scratch};

/// Starts a mount whose daemon may have at most `descriptors` descriptors.
fn mount_with(descriptors: u64, args: &[&str]) -> (Mount, support::Scratch) {
    let scratch = scratch();
    let script = scratch.join("limited");
    let text = format!(
        "#!/bin/sh\nexec prlimit --nofile={descriptors} setpriv --bounding-set=-sys_resource {} \"$@\"\n",
        env!("CARGO_BIN_EXE_shiftbind")
    );
    fs::write(&script, text).expect("write");
    // Another process makes the copy that is run, because a child that another test forks would keep this script open
    // for writing (ETXTBSY).
    support::sh(scratch.path(), "cp limited run && chmod 755 run");
    let builder = Mount::builder().program(&scratch.join("run"));
    let mount = args.iter().fold(builder, |builder, arg| builder.arg(*arg)).start();
    (mount.open_to_all(), scratch)
}

/// Opens a file until open(2) fails; returns the open files and the errno.
fn open_all(path: &Path) -> (Vec<File>, Option<i32>) {
    let mut files = Vec::new();
    loop {
        match File::open(path) {
            Ok(file) => files.push(file),
            Err(error) => return (files, error.raw_os_error()),
        }
        assert!(files.len() < 1000, "open(2) never fails");
    }
}

#[test]
fn a_user_with_all_files_open_that_it_may_leaves_descriptors_to_others() {
    let (mount, _scratch) = mount_with(512, &[]);
    for name in ["f", "g", "h"] {
        fs::write(mount.in_source(name), "x").expect("write");
    }
    let open = |uid, name: &str| as_user(uid, uid, &[], || open_all(&mount.join(name)));
    let (first, error) = open(1000, "f");
    assert_eq!(error, Some(libc::EMFILE), "a user beyond its share");
    assert!((40..=160).contains(&first.len()), "{} files of 512 descriptors", first.len());
    let created = as_user(1000, 1000, &[], || File::create(mount.join("new")));
    assert_eq!(created.err().and_then(|error| error.raw_os_error()), Some(libc::EMFILE));
    assert!(!mount.in_source("new").exists(), "no file is created that cannot be opened");
    as_user(1001, 1001, &[], || {
        assert_eq!(fs::read(mount.join("g")).expect("read"), b"x");
        fs::write(mount.join("of-1001"), "x").expect("write");
        assert!(fs::read_dir(mount.path()).expect("list").count() >= 4);
    });
    let (second, _) = open(1001, "g");
    assert!((first.len() / 3..first.len()).contains(&second.len()), "{} files", second.len());
    let roots: Vec<File> =
        (0..20).map(|_| File::open(mount.join("h")).expect("root opens")).collect();
    drop((first, roots));
    let (again, _) = open(1000, "f");
    assert!(again.len() > 20, "files can be opened again after a close: {}", again.len());
}

#[test]
fn users_that_the_kernel_does_not_tell_leave_descriptors_to_others() {
    if let Err(why) = Mount::builder().arg("-oidmappable").try_start() {
        assert!(why.contains("this kernel's FUSE has no idmapped mounts"), "{why}");
        return support::skipped("this kernel's FUSE has no idmapped mounts");
    }
    let (mount, _scratch) = mount_with(512, &["-oidmappable"]);
    for name in ["f", "g", "h"] {
        fs::write(mount.in_source(name), "x").expect("write");
    }
    let open = |uid, name: &str| as_user(uid, uid, &[], || open_all(&mount.join(name)));
    let (first, error) = open(1000, "f");
    assert_eq!(error, Some(libc::EMFILE), "a user beyond its share");
    let (second, _) = open(1001, "g");
    assert!(second.len() > 10, "{} files beside {}", second.len(), first.len());
    let roots: Vec<File> =
        (0..10).map(|_| File::open(mount.join("h")).expect("root opens")).collect();
    drop((first, roots));
}

#[test]
fn root_may_open_more_than_any_other_user() {
    let (mount, _scratch) = mount_with(512, &[]);
    fs::write(mount.in_source("f"), "x").expect("write");
    let users = as_user(1000, 1000, &[], || open_all(&mount.join("f")).0.len());
    let roots = open_all(&mount.join("f")).0.len();
    assert!(roots >= users, "{roots} of root's, {users} of a user's");
}

fn some_names(dir: &mut ReadDir, count: usize) -> HashSet<std::ffi::OsString> {
    dir.by_ref().take(count).map(|entry| entry.expect("an entry").file_name()).collect()
}

#[test]
fn half_read_directories_take_little_memory_and_can_be_read_to_the_end() {
    const NAMES: usize = 6000;
    const OPEN: usize = 600;
    // Where listings are not cached, the kernel sends OPENDIR.
    let mount = Mount::builder().arg("--cache=timeout=1s").start();
    let dir = mount.in_source("d");
    fs::create_dir(&dir).expect("mkdir");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("chmod");
    for n in 0..NAMES {
        File::create(dir.join(format!("a-name-of-some-length-{n:06}"))).expect("create");
    }
    let list = |uid, count| {
        as_user(uid, uid, &[], || {
            let mut dirs: Vec<ReadDir> = (0..count)
                .map(|_| fs::read_dir(mount.join("d")).expect("open the directory"))
                .collect();
            let seen: Vec<_> = dirs.iter_mut().map(|dir| some_names(dir, 10)).collect();
            (dirs, seen)
        })
    };
    assert_eq!(as_user(1000, 1000, &[], || fs::read_dir(mount.join("d")).unwrap().count()), NAMES);
    let before = mount.resident_kib();
    let (mut dirs, mut seen) = list(1000, OPEN);
    let grown = mount.resident_kib().saturating_sub(before);
    assert!(grown < 12 << 10, "{grown} KiB for {OPEN} half-read directories of one user");
    // The directories opened last have no buffer, and are read again from their position on.
    for (dir, seen) in dirs.iter_mut().zip(&mut seen).rev().take(3) {
        let rest = some_names(dir, NAMES);
        assert_eq!((rest.len(), rest.is_disjoint(seen)), (NAMES - 10, true), "each name once");
    }
    let (mut others, mut seen) = list(1001, 1);
    let rest = some_names(&mut others[0], NAMES);
    assert_eq!((rest.len(), rest.is_disjoint(&seen.remove(0))), (NAMES - 10, true));
}

#[test]
fn a_user_whose_processes_hold_many_locks_leaves_descriptors_to_others() {
    let (mount, _scratch) = mount_with(512, &[]);
    for name in ["f", "g"] {
        fs::write(mount.in_source(name), "x").expect("write");
    }
    // Each process is a lock owner on each file. The open files are the same.
    let tables = |uid, files: usize, processes: usize| {
        as_user(uid, uid, &[], || {
            let first = FdTable::new(1);
            let open = |_| first.open(&mount.join("f"), libc::O_RDONLY).expect("open");
            let fds: Vec<i32> = (0..files).map(open).collect();
            // A file has one owner per process, however often it is open.
            let mut tables = vec![first];
            tables.extend((1..processes).map(|_| tables[0].fork(1)).collect::<Vec<_>>());
            let lock = |table: &FdTable| {
                let fds = fds.clone();
                table.run(move || {
                    let set = |fd: &i32| Lock::whole(Shared).set_raw(*fd, false);
                    fds.iter().find_map(|fd| set(fd).err()?.raw_os_error())
                })
            };
            let errors: Vec<Option<i32>> = tables.iter().map(lock).collect();
            (tables, errors)
        })
    };
    let (first, errors) = tables(1000, 1, 300);
    let locked = errors.iter().filter(|error| error.is_none()).count();
    assert!((40..=160).contains(&locked), "{locked} lock owners of 512 descriptors");
    assert!(errors.iter().flatten().all(|error| *error == libc::ENOLCK), "{errors:?}");
    let (_second, errors) = tables(1001, 1, 5);
    assert_eq!(errors, [None; 5], "another user's locks");
    let (_roots, errors) = tables(0, 1, 20);
    assert_eq!(errors, [None; 20], "root's locks");
    as_user(1001, 1001, &[], || assert_eq!(fs::read(mount.join("g")).expect("read"), b"x"));
    drop(first);
    let again = || tables(1000, 1, 5).1 == [None; 5];
    support::eventually("released descriptors can be used again", again);
}
