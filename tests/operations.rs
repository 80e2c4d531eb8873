//! Every operation on names and attributes gives the result that it gives on a plain directory.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{self as unix, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, IFlags, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::fs::{UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use support::{Mount, as_root_with_umask, as_user, eventually, same_as_bare, sh, shape};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn at(tv_sec: i64, tv_nsec: i64) -> Timespec {
    Timespec { tv_sec, tv_nsec: tv_nsec as _ }
}

fn times_of(path: &Path) -> [(i64, i64); 2] {
    let meta = fs::symlink_metadata(path).expect("stat");
    [(meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec())]
}

#[test]
fn times_are_set_to_the_nanosecond_before_1970_and_after_2038() {
    let mount = Mount::identity();
    let path = mount.join("f");
    let file = File::create(&path).expect("create");
    let cases = [
        (0, 0),
        (1, 999_999_999),
        (-1, 0),
        (-1, 1),
        (-1, 999_999_999),
        (-1_000_000_000, 5),
        (5_000_000_000, 123),
    ];
    for (sec, nsec) in cases {
        let times = Timestamps { last_access: at(sec, nsec), last_modification: at(sec + 7, nsec) };
        rustix::fs::futimens(&file, &times).expect("futimens");
        let expected = [(sec, nsec), (sec + 7, nsec)];
        assert_eq!(times_of(&mount.in_source("f")), expected, "on the source");
        assert_eq!(times_of(&path), expected, "at the mount");
    }
}

#[test]
fn utimensat_takes_now_and_omit_and_symlinks() {
    same_as_bare(|dir| {
        let (path, link) = (dir.join("f"), dir.join("l"));
        File::create(&path).expect("create");
        unix::symlink("f", &link).expect("symlink");
        let set = |path: &Path, last_access, last_modification, flags| {
            rustix::fs::utimensat(CWD, path, &Timestamps { last_access, last_modification }, flags)
                .expect("utimensat");
        };
        set(&path, at(10, 11), at(20, 21), AtFlags::empty());
        set(&path, at(0, UTIME_OMIT as _), at(30, 31), AtFlags::empty());
        let omitted = times_of(&path);
        set(&path, at(0, UTIME_NOW as _), at(0, UTIME_OMIT as _), AtFlags::empty());
        let [(now, _), modified] = times_of(&path);
        let age = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs() as i64
            - now;
        set(&link, at(40, 41), at(50, 51), AtFlags::SYMLINK_NOFOLLOW);
        (omitted, modified, (0..60).contains(&age), times_of(&link), times_of(&path)[1])
    });
}

#[test]
fn mknod_makes_every_type_and_the_nodes_are_what_they_say() {
    same_as_bare(|dir| {
        let kinds = [
            ("file", FileType::RegularFile, 0),
            ("fifo", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
            ("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            ("block", FileType::BlockDevice, rustix::fs::makedev(7, 300)),
        ];
        kinds.map(|(name, kind, device)| {
            let made = rustix::fs::mknodat(CWD, dir.join(name), kind, 0o644.into(), device);
            (made, fs::symlink_metadata(dir.join(name)).map(|meta| (meta.mode(), meta.rdev())).ok())
        })
    });
}

#[test]
fn rename_obeys_every_flag() {
    same_as_bare(|dir| {
        let write = |name: &str| fs::write(dir.join(name), name).expect("write");
        let rename = |from: &str, to: &str, flags| {
            rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags)
        };
        let mut said = Vec::new();
        for name in ["a", "b", "c", "w"] {
            write(name);
        }
        fs::create_dir_all(dir.join("d/e")).expect("mkdir");
        fs::create_dir(dir.join("empty")).expect("mkdir");
        said.push(rename("a", "b", RenameFlags::NOREPLACE));
        said.push(rename("a", "new", RenameFlags::NOREPLACE));
        said.push(rename("new", "d", RenameFlags::EXCHANGE));
        said.push(rename("b", "missing", RenameFlags::EXCHANGE));
        said.push(rename("w", "moved", RenameFlags::WHITEOUT));
        said.push(rename("b", "c", RenameFlags::empty()));
        said.push(rename("new", "new/e/below", RenameFlags::empty()));
        said.push(rename("empty", "new", RenameFlags::empty()));
        said.push(rename("new", "empty", RenameFlags::empty()));
        said.push(rename("c", "empty", RenameFlags::empty()));
        said.push(rename("empty", "c", RenameFlags::empty()));
        said.push(rename("c", "c", RenameFlags::empty()));
        said.push(rename("c", "x", RenameFlags::NOREPLACE | RenameFlags::EXCHANGE));
        (said, fs::read(dir.join("c")).ok(), fs::read(dir.join("d")).ok(), shape(dir))
    });
}

#[test]
fn links_count_and_refuse_as_natively() {
    same_as_bare(|dir| {
        fs::write(dir.join("f"), "x").expect("write");
        fs::create_dir(dir.join("d")).expect("mkdir");
        unix::symlink("nowhere", dir.join("s")).expect("symlink");
        (
            errno(fs::hard_link(dir.join("f"), dir.join("g"))),
            errno(fs::hard_link(dir.join("f"), dir.join("g"))),
            errno(fs::hard_link(dir.join("d"), dir.join("h"))),
            errno(fs::hard_link(dir.join("s"), dir.join("t"))),
            fs::metadata(dir.join("g")).map(|meta| meta.nlink()).ok(),
            fs::metadata(dir.join("f")).expect("stat").ino()
                == fs::metadata(dir.join("g")).expect("stat").ino(),
            fs::read_link(dir.join("t")).ok(),
        )
    });
}

#[test]
fn symlinks_of_every_length_read_back() {
    same_as_bare(|dir| {
        [1, 59, 60, 255, 1000, 4095].map(|len| {
            let target = "x".repeat(len);
            let path = dir.join(len.to_string());
            (
                errno(unix::symlink(&target, &path)),
                fs::read_link(&path).ok().map(|read| read.as_os_str() == &target[..]),
            )
        })
    });
}

#[test]
fn removing_says_what_linux_says() {
    same_as_bare(|dir| {
        fs::create_dir_all(dir.join("d/e")).expect("mkdir");
        File::create(dir.join("f")).expect("create");
        [
            errno(fs::remove_dir(dir.join("d"))),
            errno(fs::remove_file(dir.join("d"))),
            errno(fs::remove_dir(dir.join("f"))),
            errno(fs::remove_file(dir.join("none"))),
            errno(fs::remove_file(dir.join("f/x"))),
            errno(fs::remove_dir(dir.join("d/e"))),
            errno(fs::remove_dir(dir.join("d"))),
            errno(fs::create_dir(dir.join("f"))),
        ]
    });
}

#[test]
fn the_umask_counts_and_a_default_acl_wins_over_it() {
    same_as_bare(|dir| {
        sh(dir, "mkdir plain acl && setfacl -d -m u::rwx,g::rwx,o::r,u:1234:rwx acl");
        as_root_with_umask(0o077, || {
            for name in ["plain", "acl"] {
                let dir = dir.join(name);
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o666)
                    .open(dir.join("f"))
                    .expect("create");
                rustix::fs::mkdir(dir.join("d"), 0o777.into()).expect("mkdir");
                rustix::fs::mknodat(CWD, dir.join("p"), FileType::Fifo, 0o666.into(), 0)
                    .expect("mkfifo");
            }
        });
        support::sh_output(dir, "getfacl -Rn plain acl 2>/dev/null")
    });
}

#[test]
fn special_bits_at_create_and_chmod_are_kept_as_natively() {
    same_as_bare(|dir| {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("chmod");
        sh(dir, "mkdir setgid && chown 0:3000 setgid && chmod 2777 setgid");
        let make = |dir: &Path, uid: u32, groups: &[u32]| {
            as_user(uid, uid, groups, || {
                rustix::process::umask(0.into());
                [0o1777, 0o2777, 0o4777, 0o7777, 0o2767, 0o600].map(|mode| {
                    let (file, sub) = (
                        dir.join(format!("f{uid}-{mode:o}")),
                        dir.join(format!("d{uid}-{mode:o}")),
                    );
                    let made =
                        OpenOptions::new().write(true).create_new(true).mode(mode).open(&file);
                    let stat = |path: &Path| {
                        fs::metadata(path).map(|meta| (meta.mode(), meta.uid(), meta.gid())).ok()
                    };
                    let dir_made = rustix::fs::mkdir(&sub, mode.into());
                    let created = (errno(made), dir_made, stat(&file), stat(&sub));
                    let chmod = errno(fs::set_permissions(&file, fs::Permissions::from_mode(mode)));
                    (created, chmod, stat(&file))
                })
            })
        };
        let setgid = dir.join("setgid");
        [
            make(dir, 0, &[]),
            make(dir, 1000, &[]),
            make(&setgid, 0, &[]),
            make(&setgid, 1000, &[]),
            make(&setgid, 1001, &[3000]),
        ]
    });
}

#[test]
fn writing_truncating_and_chowning_clear_setuid_and_setgid_as_natively() {
    same_as_bare(|dir| {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("chmod");
        let mut said = Vec::new();
        for caller in [0, 1000, 1001] {
            for mode in [0o6777, 0o4777, 0o2777, 0o2767, 0o6666] {
                for what in ["write", "truncate", "open O_TRUNC", "chown", "fallocate"] {
                    let path = dir.join(format!("{caller} {mode:o} {what}"));
                    fs::write(&path, "text").expect("write");
                    unix::chown(&path, Some(1000), Some(1000)).expect("chown");
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
                    let result = as_user(caller, caller, &[], || {
                        let mut open = OpenOptions::new();
                        open.write(true);
                        match what {
                            "write" => open
                                .open(&path)
                                .and_then(|mut file| io::Write::write_all(&mut file, b"x")),
                            "truncate" => open.open(&path).and_then(|file| file.set_len(1)),
                            "open O_TRUNC" => open.truncate(true).open(&path).map(drop),
                            "fallocate" => open.open(&path).and_then(|file| {
                                Ok(rustix::fs::fallocate(
                                    &file,
                                    rustix::fs::FallocateFlags::empty(),
                                    0,
                                    8192,
                                )?)
                            }),
                            _ => unix::chown(&path, None, Some(1000)),
                        }
                    });
                    said.push((
                        caller,
                        mode,
                        what,
                        errno(result),
                        format!("{:o}", fs::metadata(&path).expect("stat").mode()),
                    ));
                }
            }
        }
        said
    });
}

#[test]
fn xattrs_are_set_read_listed_and_removed_as_natively() {
    same_as_bare(|dir| {
        let path = dir.join("f");
        File::create(&path).expect("create");
        let get = |name: &str, capacity: usize| {
            let mut value = vec![0_u8; capacity];
            rustix::fs::getxattr(&path, name, &mut value).map(|len| value[..len].to_vec())
        };
        let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
        let list = |capacity: usize| {
            let mut names = vec![0_u8; capacity];
            rustix::fs::listxattr(&path, &mut names).map(|len| {
                let mut names: Vec<_> =
                    names[..len].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
                names.sort();
                names
            })
        };
        let long = "user.".to_owned() + &"n".repeat(250);
        let sets = [
            set("user.a", b"one", XattrFlags::empty()),
            set("user.a", b"two", XattrFlags::CREATE),
            set("user.a", b"three", XattrFlags::REPLACE),
            set("user.b", b"x", XattrFlags::REPLACE),
            set("user.empty", b"", XattrFlags::CREATE),
            set("user.big", &[b'x'; 3000], XattrFlags::CREATE),
            set("user.huge", &[b'x'; 65536], XattrFlags::CREATE),
            set("user.too", &[b'x'; 65537], XattrFlags::CREATE),
            set("trusted.t", b"t", XattrFlags::CREATE),
            set("security.s", b"s", XattrFlags::CREATE),
            set("nonsense", b"s", XattrFlags::CREATE),
            set(&long, b"l", XattrFlags::CREATE),
            set("user.", b"l", XattrFlags::CREATE),
        ];
        let gets = [
            get("user.a", 64),
            get("user.a", 2),
            get("user.none", 9),
            get("user.empty", 4),
            get("trusted.t", 9),
            get(&long, 9),
        ];
        let sizes =
            [rustix::fs::getxattr_query(&path, "user.a"), rustix::fs::listxattr_query(&path)];
        let lists = [list(4096), list(3)];
        let removes =
            ["user.a", "user.a", "security.s"].map(|name| rustix::fs::removexattr(&path, name));
        let other_user = as_user(1000, 1000, &[], || {
            (get("trusted.t", 9), list(4096), set("user.z", b"z", XattrFlags::empty()))
        });
        unix::symlink("f", dir.join("l")).expect("symlink");
        let of_link = rustix::fs::lsetxattr(dir.join("l"), "user.x", b"x", XattrFlags::empty());
        let of_link_trusted =
            rustix::fs::lsetxattr(dir.join("l"), "trusted.x", b"x", XattrFlags::empty());
        (sets, gets, sizes, lists, removes, (other_user, of_link, of_link_trusted), list(4096))
    });
}

#[test]
fn access_checks_the_real_ids() {
    same_as_bare(|dir| {
        use rustix::fs::Access;
        let mut said = Vec::new();
        for mode in [0o000, 0o400, 0o750, 0o007, 0o777] {
            let path = dir.join(format!("{mode:o}"));
            File::create(&path).expect("create");
            unix::chown(&path, Some(1000), Some(2000)).expect("chown");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            for (uid, gid) in [(0, 0), (1000, 1), (1, 2000), (3, 3)] {
                said.push(as_user(uid, gid, &[], || {
                    [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK, Access::EXISTS]
                        .map(|may| rustix::fs::access(&path, may))
                }));
            }
        }
        said
    });
}

#[test]
fn statfs_tells_the_sources_numbers() {
    let mount = Mount::identity();
    let source = rustix::fs::statvfs(mount.source()).expect("statvfs");
    let shown = rustix::fs::statvfs(mount.path()).expect("statvfs");
    assert_eq!(
        (shown.f_blocks * shown.f_frsize, shown.f_files),
        (source.f_blocks * source.f_frsize, source.f_files)
    );
    assert_eq!((shown.f_namemax, shown.f_frsize), (source.f_namemax, source.f_frsize));
    assert!(shown.f_bfree.abs_diff(source.f_bfree) * shown.f_frsize < 1 << 28);
}

#[test]
fn inode_flags_are_read_and_set_as_chattr_does() {
    same_as_bare(|dir| {
        let path = dir.join("f");
        let file = File::create(&path).expect("create");
        let set =
            [IFlags::NODUMP | IFlags::NOATIME, IFlags::APPEND, IFlags::IMMUTABLE, IFlags::empty()]
                .map(|flags| {
                    let before = rustix::fs::ioctl_getflags(&file)
                        .map(|flags| flags & !IFlags::from_bits_retain(0x0008_0000));
                    let rest = rustix::fs::ioctl_getflags(&file).unwrap_or(IFlags::empty())
                        & IFlags::from_bits_retain(0x0008_0000);
                    let set = rustix::fs::ioctl_setflags(&file, flags | rest);
                    let write = errno(OpenOptions::new().write(true).open(&path));
                    (before, set, write)
                });
        let other_user = as_user(1000, 1000, &[], || {
            let file = File::open(&path).expect("open");
            (
                rustix::fs::ioctl_getflags(&file).is_ok(),
                rustix::fs::ioctl_setflags(&file, IFlags::NODUMP),
            )
        });
        sh(dir, "mkdir d && chattr +d d && lsattr -d d | grep -q d- && chattr -d d");
        (set, other_user)
    });
}

#[test]
fn the_extended_inode_attributes_are_read_and_set() {
    same_as_bare(|dir| {
        let file = File::create(dir.join("f")).expect("create");
        let before = support::sys::fs_get_xattr(&file);
        let mut value = before.as_ref().copied().unwrap_or_default();
        // FS_XFLAG_NODUMP and FS_XFLAG_NOATIME.
        value.xflags |= 0xc0;
        let set = support::sys::fs_set_xattr(&file, &value);
        (before.ok(), errno(set), support::sys::fs_get_xattr(&file).ok())
    });
}

#[test]
fn opening_obeys_its_flags_as_natively() {
    same_as_bare(|dir| {
        fs::write(dir.join("f"), "text").expect("write");
        unix::symlink("f", dir.join("l")).expect("symlink");
        fs::create_dir(dir.join("d")).expect("mkdir");
        use rustix::fs::OFlags;
        let open = |name: &str, flags| {
            rustix::fs::open(dir.join(name), flags | OFlags::CLOEXEC, 0o644.into()).map(drop)
        };
        let create = OFlags::CREATE | OFlags::WRONLY;
        [
            open("f", create | OFlags::EXCL),
            open("l", create | OFlags::EXCL),
            open("new", create | OFlags::EXCL),
            open("l", OFlags::RDONLY | OFlags::NOFOLLOW),
            open("l", OFlags::PATH | OFlags::NOFOLLOW),
            open("f", OFlags::RDONLY | OFlags::DIRECTORY),
            open("d", OFlags::RDONLY | OFlags::DIRECTORY),
            open("d", OFlags::WRONLY),
            open("d", OFlags::CREATE | OFlags::RDONLY),
            open("none", OFlags::RDONLY),
            open("none/x", create),
            open("f/x", create),
            open("f", OFlags::WRONLY | OFlags::TRUNC),
            open("f", OFlags::RDONLY | OFlags::NOATIME),
            open("f", OFlags::RDWR | OFlags::DIRECT),
            open("f", OFlags::RDWR | OFlags::SYNC | OFlags::DSYNC),
        ]
    });
}

#[test]
fn a_file_without_a_name_belongs_to_its_maker_and_can_be_given_one() {
    use rustix::fs::{AtFlags, CWD, OFlags};
    let mount = Mount::builder().arg("-oidmap=b:1000:2000:10").start();
    unix::chown(mount.source(), Some(1000), Some(1000)).expect("chown");
    let dir = mount.path();
    // The kernel does not revalidate a directory that it has cached as unmapped before it refuses a write there.
    eventually("the new owner is seen", || fs::metadata(dir).is_ok_and(|meta| meta.uid() == 2000));
    let open = |flags: OFlags| {
        let flags = flags | OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(dir, flags, 0o666.into())
    };
    let denied = as_user(2001, 2002, &[], || open(OFlags::empty()).err());
    assert_eq!(denied, Some(Errno::ACCESS), "the caller may not write the directory");
    fs::set_permissions(mount.source(), fs::Permissions::from_mode(0o777)).expect("chmod");
    eventually("the new mode is seen", || {
        fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o777 == 0o777)
    });
    let give = |fd: &std::os::fd::OwnedFd, to: &str| {
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
        rustix::fs::linkat(CWD, name, CWD, dir.join(to), AtFlags::SYMLINK_FOLLOW)
    };
    as_user(2001, 2002, &[], || {
        let file = open(OFlags::empty()).expect("O_TMPFILE");
        rustix::io::write(&file, b"content").expect("write");
        let stat = rustix::fs::fstat(&file).expect("stat");
        assert_eq!((stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_size), (2001, 2002, 0, 7));
        give(&file, "named").expect("link");
        let never = open(OFlags::EXCL).expect("O_TMPFILE with O_EXCL");
        assert_eq!(give(&never, "never").err(), Some(Errno::NOENT));
    });
    let stored = fs::metadata(mount.in_source("named")).expect("stat");
    assert_eq!((stored.uid(), stored.gid(), stored.nlink()), (1001, 1002, 1));
    assert_eq!(fs::read(mount.join("named")).expect("read"), b"content");
    assert_eq!(fs::read_dir(mount.source()).expect("list").count(), 1, "nothing else is there");
}

#[test]
fn a_caller_that_could_not_link_its_o_tmpfile_gets_eopnotsupp() {
    use rustix::fs::OFlags;
    let mount =
        Mount::builder().arg("--create-for-user=1234").arg("--create-with-perms=a=r").start();
    fs::set_permissions(mount.source(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let dir = mount.path();
    eventually("the new mode is seen", || {
        fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o777 == 0o777)
    });
    let open = |flags: OFlags| {
        let flags = flags | OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(dir, flags, 0o666.into())
    };
    as_user(2001, 2002, &[], || {
        assert_eq!(open(OFlags::empty()).err(), Some(Errno::OPNOTSUPP));
        open(OFlags::EXCL).expect("what never gets a name");
    });
    as_user(1234, 1234, &[], || open(OFlags::empty()).map(drop))
        .expect("the owner of the new file");
    open(OFlags::empty()).expect("root may link everything");
    assert_eq!(fs::read_dir(mount.source()).expect("list").count(), 0);
}
