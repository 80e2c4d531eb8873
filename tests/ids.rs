//! Translation of ids: every id is shown and stored through the map.

mod support;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{self as unix, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use support::{Mount, SHIFT, as_user};

/// The largest id: 4294967295 means "no id".
const LAST: u32 = u32::MAX - 1;

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).expect("stat");
    (meta.uid(), meta.gid())
}

/// Creates a file on the source with these source ids.
fn file_of(mount: &Mount, name: &str, uid: u32, gid: u32) {
    let path = mount.in_source(name);
    File::create(&path).expect("create on the source");
    unix::chown(&path, Some(uid), Some(gid)).expect("chown on the source");
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn stat_shows_source_ids_through_the_map_and_65536_as_the_overflow_id() {
    let mount = Mount::shifted();
    for (source, shown) in
        [(0, 100_000), (1000, 101_000), (65535, 165_535), (65536, 65534), (100_000, 65534)]
    {
        let name = format!("of {source}");
        file_of(&mount, &name, source, source);
        assert_eq!(owner(&mount.join(&name)), (shown, shown), "source id {source}");
    }
}

#[test]
fn uid_and_gid_are_translated_each_by_its_own_map() {
    let mount = Mount::builder().map("u:0:100000:65536").map("g:0:200000:65536").start();
    file_of(&mount, "f", 7, 9);
    assert_eq!(owner(&mount.join("f")), (100_007, 200_009));
    unix::chown(mount.join("f"), Some(100_001), Some(200_002)).expect("chown");
    assert_eq!(owner(&mount.in_source("f")), (1, 2));
}

#[test]
fn chown_stores_through_the_map() {
    let mount = Mount::shifted();
    file_of(&mount, "f", 0, 0);
    unix::chown(mount.join("f"), Some(100_500), Some(100_600)).expect("chown");
    assert_eq!(owner(&mount.in_source("f")), (500, 600));
    assert_eq!(owner(&mount.join("f")), (100_500, 100_600));
    unix::chown(mount.join("f"), None, Some(100_001)).expect("chgrp");
    assert_eq!(owner(&mount.in_source("f")), (500, 1));
    unix::symlink("f", mount.in_source("l")).expect("symlink");
    unix::lchown(mount.join("l"), Some(100_002), None).expect("lchown");
    assert_eq!(owner(&mount.in_source("l")), (2, 0));
    assert_eq!(owner(&mount.in_source("f")), (500, 1), "the link's target stays");
}

#[test]
fn chown_to_an_unmapped_id_is_refused_and_changes_nothing() {
    let mount = Mount::shifted();
    file_of(&mount, "f", 5, 6);
    let path = mount.join("f");
    for (uid, gid) in
        [(Some(0), None), (Some(99_999), None), (None, Some(165_536)), (Some(100_000), Some(65534))]
    {
        assert_eq!(errno(unix::chown(&path, uid, gid)), Some(libc::EOVERFLOW), "{uid:?}:{gid:?}");
        assert_eq!(owner(&mount.in_source("f")), (5, 6));
    }
}

#[test]
fn what_a_mapped_user_creates_is_stored_with_the_mapped_id() {
    let mount = Mount::shifted();
    let at = mount.path().to_owned();
    as_user(100_000, 100_000, &[], || {
        File::create(at.join("file")).expect("create");
        fs::create_dir(at.join("dir")).expect("mkdir");
        unix::symlink("file", at.join("symlink")).expect("symlink");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at.join("fifo"), fifo, 0o600.into(), 0)
            .expect("mkfifo");
        fs::hard_link(at.join("file"), at.join("link")).expect("link");
    });
    for name in ["file", "dir", "symlink", "fifo", "link"] {
        assert_eq!(owner(&mount.in_source(name)), (0, 0), "{name}");
        assert_eq!(owner(&mount.join(name)), (100_000, 100_000), "{name}");
    }
}

#[test]
fn the_group_of_a_created_file_is_the_callers_group_not_a_supplementary_one() {
    let mount = Mount::shifted().open_to_all();
    let at = mount.path().to_owned();
    as_user(101_000, 102_000, &[103_000, 100_000], || File::create(at.join("f")).expect("create"));
    assert_eq!(owner(&mount.in_source("f")), (1000, 2000));
}

#[test]
fn an_owner_may_give_a_file_to_a_supplementary_group_and_to_no_other_group() {
    let mount = Mount::shifted().open_to_all();
    let at = mount.path().to_owned();
    as_user(101_000, 102_000, &[103_000], || {
        File::create(at.join("f")).expect("create");
        unix::chown(at.join("f"), None, Some(103_000)).expect("chgrp to a group of mine");
        assert_eq!(errno(unix::chown(at.join("f"), None, Some(104_000))), Some(libc::EPERM));
        assert_eq!(errno(unix::chown(at.join("f"), Some(104_000), None)), Some(libc::EPERM));
    });
    assert_eq!(owner(&mount.in_source("f")), (1000, 3000));
}

#[test]
fn a_file_created_by_an_unmapped_caller_is_refused_with_eoverflow() {
    let mount = Mount::shifted().open_to_all();
    let at = mount.path().to_owned();
    let callers = [
        (0, 0),
        (5000, 5000),
        (65534, 65534),
        (100_000, 7000),
        (7000, 100_000),
        (165_536, 100_000),
    ];
    for (uid, gid) in callers {
        let (f, d, s, p) = as_user(uid, gid, &[], || {
            let fifo = rustix::fs::FileType::Fifo;
            (
                errno(File::create(at.join("file"))),
                errno(fs::create_dir(at.join("dir"))),
                errno(unix::symlink("file", at.join("symlink"))),
                rustix::fs::mknodat(rustix::fs::CWD, at.join("fifo"), fifo, 0o600.into(), 0)
                    .err()
                    .map(rustix::io::Errno::raw_os_error),
            )
        });
        assert_eq!([f, d, s, p], [Some(libc::EOVERFLOW); 4], "caller {uid}:{gid}");
        let left = fs::read_dir(mount.source()).expect("list").count();
        assert_eq!(left, 0, "caller {uid}:{gid} left something on the source");
    }
}

#[test]
fn an_unmapped_caller_may_open_what_the_mode_bits_allow_also_with_o_creat() {
    let mount = Mount::shifted().open_to_all();
    file_of(&mount, "f", 1000, 1000);
    fs::set_permissions(mount.in_source("f"), fs::Permissions::from_mode(0o666)).expect("chmod");
    let path = mount.join("f");
    as_user(5000, 5000, &[], || {
        fs::write(&path, "mine").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"mine");
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .expect("O_CREAT of an existing file");
        fs::remove_file(&path).expect("deleting needs no mapping of the caller");
    });
}

#[test]
fn an_unmapped_owners_file_is_read_by_mode_bits_and_written_by_no_caller() {
    let mount = Mount::shifted().open_to_all();
    file_of(&mount, "open", 70_000, 70_000);
    file_of(&mount, "closed", 70_000, 70_000);
    fs::write(mount.in_source("open"), "text").expect("write");
    fs::set_permissions(mount.in_source("open"), fs::Permissions::from_mode(0o666)).expect("chmod");
    fs::set_permissions(mount.in_source("closed"), fs::Permissions::from_mode(0o600))
        .expect("chmod");
    let (open, closed) = (mount.join("open"), mount.join("closed"));
    for uid in [0, 100_000, 65534, 70_000] {
        as_user(uid, uid, &[], || {
            assert_eq!(fs::read(&open).expect("read"), b"text", "uid {uid}");
            let wanted = Some(libc::EACCES);
            assert_eq!(
                errno(OpenOptions::new().write(true).open(&open)),
                wanted,
                "write, uid {uid}"
            );
            assert_eq!(
                errno(OpenOptions::new().write(true).truncate(true).open(&open)),
                wanted,
                "truncate, uid {uid}"
            );
            assert_eq!(errno(File::open(&closed)), wanted, "read 0600, uid {uid}");
            let wanted = Some(libc::EOVERFLOW);
            assert_eq!(
                errno(fs::set_permissions(&open, fs::Permissions::from_mode(0o644))),
                wanted,
                "chmod, uid {uid}"
            );
            assert_eq!(errno(fs::remove_file(&open)), wanted, "unlink, uid {uid}");
            assert_eq!(
                errno(fs::rename(&open, open.with_file_name("x"))),
                wanted,
                "rename, uid {uid}"
            );
        });
    }
    assert_eq!(fs::read(mount.in_source("open")).expect("read"), b"text");
}

#[test]
fn two_mounts_of_one_source_with_different_maps_both_write() {
    let one = Mount::shifted().open_to_all();
    let two = Mount::builder().source(one.source()).map("b:0:300000:65536").start();
    let (a, b) = (one.path().to_owned(), two.path().to_owned());
    as_user(101_000, 101_000, &[], || fs::write(a.join("one"), "1").expect("write through one"));
    as_user(302_000, 302_000, &[], || fs::write(b.join("two"), "2").expect("write through two"));
    assert_eq!(owner(&one.in_source("one")), (1000, 1000));
    assert_eq!(owner(&one.in_source("two")), (2000, 2000));
    assert_eq!(owner(&two.join("one")), (301_000, 301_000));
    assert_eq!(owner(&one.join("two")), (102_000, 102_000));
    as_user(301_000, 301_000, &[], || {
        let mut file = OpenOptions::new()
            .append(true)
            .open(b.join("one"))
            .expect("open the other mount's file");
        io::Write::write_all(&mut file, b"+").expect("append");
    });
    assert_eq!(fs::read(one.in_source("one")).expect("read"), b"1+");
    for i in 0..200 {
        as_user(101_000, 101_000, &[], || {
            fs::write(a.join(format!("a{i}")), "1").expect("write through one")
        });
        as_user(301_000, 301_000, &[], || {
            fs::write(b.join(format!("b{i}")), "2").expect("write through two")
        });
    }
    for entry in fs::read_dir(one.source()).expect("list") {
        let path = entry.expect("list").path();
        let expected = if path.ends_with("two") { 2000 } else { 1000 };
        assert_eq!(owner(&path), (expected, expected), "{}", path.display());
    }
}

#[test]
fn ids_up_to_the_last_one_work() {
    let mount = Mount::builder().map("b:4294967290:0:5").start().open_to_all();
    file_of(&mount, "f", LAST, LAST - 1);
    assert_eq!(owner(&mount.join("f")), (4, 3));
    let mount = Mount::builder().map(&format!("b:0:{}:10", LAST - 9)).start();
    let at = mount.path().to_owned();
    unix::chown(mount.source(), Some(9), Some(9)).expect("chown");
    as_user(LAST, LAST, &[], || File::create(at.join("f")).expect("create as 4294967294"));
    assert_eq!(owner(&mount.in_source("f")), (9, 9));
    assert_eq!(owner(&mount.join("f")), (LAST, LAST));
    let identity = Mount::identity().open_to_all();
    let at = identity.path().to_owned();
    as_user(LAST, LAST, &[], || File::create(at.join("f")).expect("create as 4294967294"));
    assert_eq!(owner(&identity.in_source("f")), (LAST, LAST));
}

#[test]
fn names_with_every_byte_that_linux_allows_work() {
    let mount = Mount::identity();
    let mut names: Vec<OsString> = (1..=255_u8)
        .filter(|byte| *byte != b'/')
        .map(|byte| OsString::from_vec(vec![b'x', byte]))
        .collect();
    names.push(OsString::from_vec(vec![0xff; 255]));
    names.push(OsString::from_vec("日本語".as_bytes().to_vec()));
    names.push(OsString::from_vec(b" -rf *\n$HOME".to_vec()));
    for name in &names {
        fs::write(mount.join(name), name.as_encoded_bytes()).expect("create");
    }
    let mut listed: Vec<OsString> = fs::read_dir(mount.path())
        .expect("list")
        .map(|entry| entry.expect("list").file_name())
        .collect();
    let mut stored: Vec<OsString> = fs::read_dir(mount.source())
        .expect("list")
        .map(|entry| entry.expect("list").file_name())
        .collect();
    names.sort();
    listed.sort();
    stored.sort();
    assert_eq!(listed, names);
    assert_eq!(stored, names);
    for name in &names {
        assert_eq!(fs::read(mount.join(name)).expect("read"), name.as_encoded_bytes());
    }
    let long = OsString::from_vec(vec![b'a'; 256]);
    assert_eq!(errno(File::create(mount.join(long))), Some(libc::ENAMETOOLONG));
}

#[test]
fn permission_follows_the_shown_ids() {
    let mount = Mount::shifted().open_to_all();
    file_of(&mount, "f", 1000, 2000);
    fs::write(mount.in_source("f"), "secret").expect("write");
    fs::set_permissions(mount.in_source("f"), fs::Permissions::from_mode(0o640)).expect("chmod");
    let path = mount.join("f");
    let may = |uid, gid, groups: &[u32]| {
        as_user(uid, gid, groups, || {
            (File::open(&path).is_ok(), OpenOptions::new().append(true).open(&path).is_ok())
        })
    };
    assert_eq!(may(101_000, 5, &[]), (true, true), "the shown owner");
    assert_eq!(may(5, 102_000, &[]), (true, false), "the shown group");
    assert_eq!(
        may(5, 5, &[7, 102_000]),
        (true, false),
        "the shown group among the supplementary ones"
    );
    assert_eq!(may(1000, 2000, &[]), (false, false), "the source ids mean nothing here");
}

#[test]
fn creating_in_a_setgid_directory_hands_the_group_on() {
    let mount = Mount::shifted();
    let dir = mount.in_source("d");
    fs::create_dir(&dir).expect("mkdir");
    unix::chown(&dir, Some(0), Some(3000)).expect("chown");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).expect("chmod");
    let at = mount.join("d");
    as_user(101_000, 101_000, &[], || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(at.join("f"))
            .expect("create");
        fs::create_dir(at.join("sub")).expect("mkdir");
    });
    assert_eq!(owner(&dir.join("f")), (1000, 3000));
    assert_eq!(owner(&dir.join("sub")), (1000, 3000));
    assert_eq!(fs::metadata(dir.join("sub")).expect("stat").mode() & 0o7000, 0o2000);
    assert_eq!(owner(&at.join("sub")), (101_000, 103_000));
}

#[test]
fn acl_entries_are_translated_both_ways() {
    let mount = Mount::shifted();
    file_of(&mount, "f", 0, 0);
    support::sh(mount.path(), "setfacl -m u:101000:rw,g:102000:r f");
    let stored = support::sh_output(mount.source(), "getfacl -nc f");
    assert!(stored.contains("user:1000:rw-") && stored.contains("group:2000:r--"), "{stored}");
    support::sh(mount.source(), "setfacl -m u:3000:r f");
    let shown = support::sh_output(mount.path(), "getfacl -nc f");
    assert!(shown.contains("user:103000:r--") && shown.contains("user:101000:rw-"), "{shown}");
    let path = mount.join("f");
    as_user(101_000, 5, &[], || {
        OpenOptions::new().append(true).open(&path).expect("the entry grants")
    });
    as_user(103_000, 5, &[], || {
        File::open(&path).expect("the entry grants reading");
        assert_eq!(errno(OpenOptions::new().append(true).open(&path)), Some(libc::EACCES));
    });
    as_user(1000, 5, &[], || {
        assert!(OpenOptions::new().append(true).open(&path).is_err(), "a source id means nothing")
    });
}

#[test]
fn file_capabilities_work_under_the_shift() {
    let mount = Mount::builder().map(SHIFT).start();
    fs::copy("/bin/true", mount.in_source("tool")).expect("copy");
    support::sh(mount.source(), "setcap cap_net_raw=ep tool");
    let shown = support::sh_output(mount.path(), "getcap -n tool");
    assert!(shown.contains("cap_net_raw=ep") && shown.contains("[rootid=100000]"), "{shown}");
    support::sh(mount.source(), "setcap -n 5 cap_net_raw=ep tool");
    let shown = support::sh_output(mount.path(), "getcap -n tool");
    assert!(shown.contains("[rootid=100005]"), "{shown}");
}
