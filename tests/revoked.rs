//! A revoked permission is revoked at once: a change of a file is seen at every other mount, whichever way the changing
//! process reached the file, also when its name is no longer in the source's dentry cache.
//!
//! A file that is opened by handle while its name is not cached has a disconnected dentry, and the kernel raises no event
//! at a directory when it changes. Every shiftbind opens files that way, and so does nfsd.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, OFlags, XattrFlags, linkat, setxattr};
use rustix::mount::{MountFlags, mount_bind, mount_remount};

use support::sys::{handle_of, open_handle};
use support::{LoopFs, Mount, StalledListing, as_user, eventually, loop_fs, patience, sh_output};

/// The time limit for a change to become visible: attributes of an unmarked file are cached for a second.
const SOON: Duration = Duration::from_millis(1500);
/// Files that were looked up have a mark by then, and the daemon's descriptors of them are closed.
const SETTLED: Duration = Duration::from_secs(6);

/// Prunes the dentry cache of a filesystem by a remount. Names that are in use stay.
fn forget_names(disk: &LoopFs) {
    mount_remount(disk.path(), MountFlags::empty(), c"").expect("remount");
}

/// Opens a file with O_PATH: its dentry stays cached where it was opened, and no request is sent.
fn pin(path: &Path) -> File {
    let flags = OFlags::PATH.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path).expect("open with O_PATH")
}

fn by_descriptor(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A change of a file, made by any path that leads to it.
struct Change {
    what: &'static str,
    make: fn(&Path),
    shows: fn(&Path) -> bool,
}

const CHANGES: [Change; 5] = [
    Change {
        what: "chmod",
        make: |path| fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod"),
        shows: |path| {
            let open = || as_user(1234, 1234, &[], || File::open(path));
            fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o777 == 0o600) && open().is_err()
        },
    },
    Change {
        what: "chown",
        make: |path| std::os::unix::fs::chown(path, Some(7), Some(8)).expect("chown"),
        shows: |path| fs::metadata(path).is_ok_and(|meta| (meta.uid(), meta.gid()) == (7, 8)),
    },
    Change {
        what: "setfacl",
        make: |path| {
            setxattr(path, "system.posix_acl_access", &acl(), XattrFlags::empty()).expect("setfacl")
        },
        shows: |path| {
            let dir = path.parent().expect("a directory");
            let name = path.file_name().expect("a name").display();
            let acl = sh_output(dir, &format!("getfacl -cn {name}"));
            let open = || as_user(1234, 1234, &[], || File::open(path));
            acl.contains("user:1234:---") && open().is_err()
        },
    },
    Change {
        what: "truncate",
        make: |path| {
            let file = OpenOptions::new().write(true).open(path).expect("open");
            file.set_len(1).expect("truncate");
        },
        shows: |path| fs::metadata(path).is_ok_and(|meta| meta.len() == 1),
    },
    Change {
        what: "append",
        make: |path| {
            let mut file = OpenOptions::new().append(true).open(path).expect("open");
            file.write_all(b"more").expect("append");
        },
        shows: |path| fs::metadata(path).is_ok_and(|meta| meta.len() == 11),
    },
];

/// `u::rw,u:1234:-,g::r,m::r,o::r` as the kernel stores it (linux/posix_acl_xattr.h).
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let entries =
        [(1u16, 6u16, none), (2, 0, 1234), (4, 4, none), (0x10, 4, none), (0x20, 4, none)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Makes a file as every change expects it.
fn make(path: &Path) {
    fs::write(path, "content").expect("write");
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("chmod");
}

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let (start, soon) = (Instant::now(), patience(SOON));
    while !holds() {
        assert!(start.elapsed() < soon, "not within {soon:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A filesystem with a source, and a directory outside of it.
struct Scene {
    source: PathBuf,
    elsewhere: PathBuf,
    disk: LoopFs,
}

impl Scene {
    fn of(kind: &str) -> Self {
        let disk = loop_fs(kind, if kind == "ext4" { 64 } else { 320 });
        let (source, elsewhere) = (disk.dir("source"), disk.dir("elsewhere"));
        Self { source, elsewhere, disk }
    }

    fn mount(&self) -> Mount {
        Mount::builder().source(&self.source).arg("--cache=coherent").start()
    }
}

/// What the changing process has of a file: it was obtained before the file was looked up at the mount.
enum Way {
    Path(PathBuf),
    Open(File),
    Handle(support::sys::Handle),
}

/// Obtains a [`Way`] to a file, given its path on the source and the directory elsewhere.
type Prepare = fn(&Path, &Path) -> Way;

const WAYS: [(&str, Prepare); 8] = [
    ("by its path", |file, _| Way::Path(file.to_owned())),
    ("by an open file", |file, _| Way::Open(File::open(file).expect("open"))),
    ("by handle", |file, _| Way::Handle(handle_of(file).expect("a handle"))),
    ("by a second name elsewhere", |file, elsewhere| {
        let name = elsewhere.join(file.file_name().expect("a name"));
        fs::hard_link(file, &name).expect("link");
        Way::Path(name)
    }),
    ("by an open file whose first name is gone", |file, elsewhere| {
        let name = elsewhere.join("first");
        fs::rename(file, &name).expect("rename");
        let open = File::open(&name).expect("open");
        fs::hard_link(&name, file).expect("link");
        fs::remove_file(&name).expect("unlink");
        Way::Open(open)
    }),
    ("by an open file that was made without a name", |file, elsewhere| {
        let flags = OFlags::TMPFILE.bits() as i32;
        let mut open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(elsewhere)
            .expect("open with O_TMPFILE");
        open.write_all(b"content").expect("write");
        open.set_permissions(Permissions::from_mode(0o644)).expect("chmod");
        fs::remove_file(file).expect("unlink");
        linkat(CWD, by_descriptor(&open), CWD, file, AtFlags::SYMLINK_FOLLOW).expect("link");
        Way::Open(open)
    }),
    ("by an open file that was opened by handle", |file, _| {
        let handle = handle_of(file).expect("a handle");
        let dir = file.parent().expect("a directory");
        Way::Open(open_handle(&File::open(dir).expect("open"), &handle).expect("open by handle"))
    }),
    ("by another mount of the filesystem", |file, elsewhere| {
        let place = elsewhere.join("bound");
        fs::create_dir_all(&place).expect("mkdir");
        mount_bind(file.parent().expect("a directory"), &place).expect("bind");
        Way::Path(place.join(file.file_name().expect("a name")))
    }),
];

fn changes_by_every_way_are_seen(kind: &str) {
    let scene = Scene::of(kind);
    let names = || {
        let way = |way: usize| (0..CHANGES.len()).map(move |change| (way, change));
        (0..WAYS.len()).flat_map(way)
    };
    let name = |(way, change): (usize, usize)| format!("f-{way}-{change}");
    names().for_each(|which| make(&scene.source.join(name(which))));
    let ways: Vec<Way> = names()
        .map(|which @ (way, _)| {
            // A file that is opened by handle now has a disconnected dentry for as long as it is open.
            forget_names(&scene.disk);
            WAYS[way].1(&scene.source.join(name(which)), &scene.elsewhere)
        })
        .collect();
    let mount = scene.mount();
    let pins: Vec<File> = names().map(|which| pin(&mount.join(name(which)))).collect();
    for pinned in &pins {
        assert_eq!(pinned.metadata().expect("stat").mode() & 0o777, 0o644);
    }
    std::thread::sleep(SETTLED);
    forget_names(&scene.disk);
    for (which @ (way, change), how) in names().zip(&ways) {
        let (change, seen) = (&CHANGES[change], mount.join(name(which)));
        let what = format!("{} {} on {kind}", change.what, WAYS[way].0);
        let opened;
        let path = match how {
            Way::Path(path) => path.clone(),
            Way::Open(file) => by_descriptor(file),
            Way::Handle(handle) => {
                let root = File::open(&scene.source).expect("open");
                opened = open_handle(&root, handle).expect("open by handle");
                by_descriptor(&opened)
            }
        };
        assert!(!(change.shows)(&seen), "before it is made: {what}");
        (change.make)(&path);
        soon(&what, || (change.shows)(&seen));
    }
    drop((pins, ways));
}

#[test]
fn a_change_is_seen_by_whichever_way_the_file_was_reached() {
    changes_by_every_way_are_seen("ext4");
}

#[test]
fn a_change_is_seen_by_whichever_way_the_file_was_reached_on_xfs() {
    changes_by_every_way_are_seen("xfs");
}

#[test]
fn a_change_through_another_mount_is_seen_after_the_source_has_dropped_the_dentry() {
    let scene = Scene::of("ext4");
    let name = |side: usize, change: usize| format!("f-{side}-{change}");
    let all = || (0..2).flat_map(|side| (0..CHANGES.len()).map(move |change| (side, change)));
    all().for_each(|(side, change)| make(&scene.source.join(name(side, change))));
    let mounts = [scene.mount(), scene.mount()];
    let pins: Vec<Vec<File>> = mounts
        .iter()
        .map(|mount| all().map(|(side, change)| pin(&mount.join(name(side, change)))).collect())
        .collect();
    std::thread::sleep(SETTLED);
    for (at, (side, change)) in all().enumerate() {
        let (seen, change_of) = (mounts[1 - side].join(name(side, change)), &CHANGES[change]);
        assert!(!(change_of.shows)(&seen), "before it is made: {}", change_of.what);
        forget_names(&scene.disk);
        // The client has the file cached: no lookup brings its name into the source's dentry cache again.
        (change_of.make)(&by_descriptor(&pins[side][at]));
        let what = format!("{} through mount {side}", change_of.what);
        soon(&what, || (change_of.shows)(&seen));
    }
    drop(pins);
}

#[test]
fn a_change_just_after_a_lookup_is_seen() {
    let scene = Scene::of("ext4");
    let names: Vec<String> = (0..20).map(|at| format!("f{at}")).collect();
    names.iter().for_each(|name| make(&scene.source.join(name)));
    forget_names(&scene.disk);
    let root = File::open(&scene.source).expect("open");
    let open = |name: &String| {
        let handle = handle_of(&scene.source.join(name)).expect("a handle");
        forget_names(&scene.disk);
        open_handle(&root, &handle).expect("open by handle")
    };
    let files: Vec<File> = names.iter().map(open).collect();
    let mount = scene.mount();
    for (at, (name, file)) in names.iter().zip(&files).enumerate() {
        let seen = mount.join(name);
        assert_eq!(fs::metadata(&seen).expect("stat").mode() & 0o777, 0o644);
        // Before, while and after the file gets its mark.
        std::thread::sleep(Duration::from_millis(40 * at as u64));
        file.set_permissions(Permissions::from_mode(0o600)).expect("chmod");
        soon(&format!("chmod {} ms after the lookup", 40 * at), || {
            fs::metadata(&seen).expect("stat").mode() & 0o777 == 0o600
        });
    }
}

/// Counts the inodes that a mount's daemon has marked (proc_pid_fdinfo(5)).
fn marks(mount: &Mount) -> usize {
    let process = format!("/proc/{}/fdinfo", mount.pid().expect("a daemon runs"));
    let infos = fs::read_dir(process).expect("list");
    let info = |entry: std::io::Result<fs::DirEntry>| fs::read_to_string(entry.ok()?.path()).ok();
    let of = |info: String| info.lines().filter(|line| line.starts_with("fanotify ino:")).count();
    // Each descriptor of the group lists the same marks.
    infos.filter_map(info).map(of).max().unwrap_or_default()
}

#[test]
fn a_file_has_a_mark_for_as_long_as_the_kernel_knows_it() {
    let scene = Scene::of("ext4");
    // Symbolic links: a regular file has a mark only where the kernel has passthrough.
    for at in 0..300 {
        symlink("target", scene.source.join(format!("f{at}"))).expect("symlink");
    }
    let mount = scene.mount();
    let listed = fs::read_dir(mount.path()).expect("list");
    let mut seen = 0;
    for entry in listed {
        entry.expect("list").metadata().expect("stat");
        seen += 1;
    }
    assert_eq!(seen, 300);
    eventually("each file and the root have a mark", || marks(&mount) == 301);
    for at in 0..100 {
        fs::remove_file(scene.source.join(format!("f{at}"))).expect("unlink");
    }
    eventually("a removed file has none", || marks(&mount) == 201);
    mount.forget_all();
    eventually("a forgotten file has none", || marks(&mount) == 1);
}

#[test]
fn a_change_while_a_client_holds_a_listing_back_is_seen_when_the_listing_is_through() {
    let scene = Scene::of("ext4");
    let held = scene.disk.dir("source/held");
    scene.disk.dir("source/other");
    // Before the file gets its mark, and afterwards.
    for (when, wait) in [("at once", Duration::ZERO), ("later", Duration::from_secs(2))] {
        for (at, change) in CHANGES.iter().enumerate() {
            make(&held.join(format!("f-{at}")));
            fs::hard_link(
                held.join(format!("f-{at}")),
                scene.elsewhere.join(format!("f-{at}-{when}")),
            )
            .expect("link");
            assert!(!(change.shows)(&held.join(format!("f-{at}"))), "before it is made");
        }
        let handles: Vec<_> = (0..CHANGES.len())
            .map(|at| handle_of(&held.join(format!("f-{at}"))).expect("a handle"))
            .collect();
        let mount = scene.mount();
        // This directory is marked, but is not the one that is listed.
        assert!(fs::metadata(mount.join("other/missing")).is_err());
        let listing = StalledListing::prepare(&mount.join("held"));
        let stalled = listing.stall();
        std::thread::sleep(wait);
        let root = File::open(&scene.source).expect("open");
        for (at, change) in CHANGES.iter().enumerate() {
            match at % 3 {
                0 => (change.make)(&scene.elsewhere.join(format!("f-{at}-{when}"))),
                1 => {
                    forget_names(&scene.disk);
                    let open = open_handle(&root, &handles[at]).expect("open by handle");
                    (change.make)(&by_descriptor(&open));
                }
                _ => {
                    let name = scene.source.join(format!("other/f-{at}-{when}"));
                    fs::hard_link(held.join(format!("f-{at}")), &name).expect("link");
                    (change.make)(&name);
                }
            }
        }
        // The events are handled.
        std::thread::sleep(Duration::from_millis(300));
        assert!(matches!(listing.state(), Some('S' | 'D')), "the listing is still held back");
        drop(stalled);
        listing.end();
        for (at, change) in CHANGES.iter().enumerate() {
            let seen = mount.join(format!("held/f-{at}"));
            soon(&format!("{} {when}", change.what), || (change.shows)(&seen));
        }
        for at in 0..CHANGES.len() {
            fs::remove_file(held.join(format!("f-{at}"))).expect("unlink");
        }
    }
}

#[test]
fn a_change_of_a_file_that_is_evicted_while_a_client_holds_a_listing_back_is_seen() {
    let scene = Scene::of("ext4");
    let held = scene.disk.dir("source/held");
    // A change on the source, and one through the mount itself.
    for by_mount in [false, true] {
        for at in 0..CHANGES.len() {
            make(&held.join(format!("f-{at}")));
        }
        let mount = scene.mount();
        let seen = |at: usize| mount.join(format!("held/f-{at}"));
        for (at, change) in CHANGES.iter().enumerate() {
            assert!(!(change.shows)(&seen(at)), "before it is made");
        }
        let listing = StalledListing::prepare(&mount.join("held"));
        // The answer has the attributes from before the change.
        let stalled = listing.stall();
        for (at, change) in CHANGES.iter().enumerate() {
            let changed = if by_mount { seen(at) } else { held.join(format!("f-{at}")) };
            (change.make)(&changed);
            soon(change.what, || (change.shows)(&seen(at)));
        }
        // The kernel evicts the inodes, which it would have protected from the older answer.
        mount.forget_all();
        assert!(matches!(listing.state(), Some('S' | 'D')), "the listing is still held back");
        drop(stalled);
        listing.end();
        for (at, change) in CHANGES.iter().enumerate() {
            let what = format!("{} after an eviction, through the mount: {by_mount}", change.what);
            soon(&what, || (change.shows)(&seen(at)));
        }
        for at in 0..CHANGES.len() {
            fs::remove_file(held.join(format!("f-{at}"))).expect("unlink");
        }
    }
}
