//! Names that are excluded by their path stay hidden however deep their directory lies, and wherever it is moved.

mod support;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use support::{Mount, Served, as_user, eventually, scratch, serve, sh};

/// A directory to work in, whatever the length of its path.
fn open(dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn top(path: &Path) -> OwnedFd {
    File::open(path).expect("open the top").into()
}

/// Makes directories with long names below one another: the last of them is more than 4,096 bytes deep.
fn dig(top: &OwnedFd) -> OwnedFd {
    let name = "d".repeat(200);
    let mut at = top.try_clone().expect("another descriptor");
    for _ in 0..25 {
        rustix::fs::mkdirat(&at, &*name, Mode::from_raw_mode(0o777)).expect("make a directory");
        at = open(&at, &name).expect("open it");
    }
    at
}

fn names(dir: &OwnedFd) -> Vec<String> {
    let entries = rustix::fs::Dir::read_from(dir).expect("list");
    let names =
        entries.map(|entry| entry.expect("an entry").file_name().to_str().map(String::from));
    let mut names: Vec<_> = names.map(|name| name.expect("test names are text")).collect();
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

fn stat(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(drop)
}

const SOURCE: &str = "mkdir -p home/bob/proj/.ssh home/bob/proj/inside work/proj/.ssh
    echo key > home/bob/proj/.ssh/id; echo shown > work/proj/.ssh/id; chmod -R 777 .";

fn hiding_mount(pattern: &str, cache: &str) -> Mount {
    let mount =
        Mount::builder().arg(format!("--exclude={pattern}")).arg(format!("--cache={cache}"));
    let mount = mount.start();
    sh(mount.source(), SOURCE);
    eventually("the mount shows the source", || mount.join("work/proj").exists());
    mount
}

#[test]
fn a_name_stays_hidden_when_its_directory_is_moved_below_4096_bytes_of_path() {
    for cache in ["coherent", "none"] {
        let mount = hiding_mount("/home/**/.ssh", cache);
        as_user(1000, 1000, &[], || {
            let bob = top(&mount.join("home/bob"));
            let deep = dig(&bob);
            assert_eq!(stat(&bob, "proj/.ssh"), Err(Errno::NOENT), "{cache}");
            rustix::fs::renameat(&bob, "proj", &deep, "p").expect("move it");
            let moved = open(&deep, "p").expect("it is shown itself");
            for _ in 0..2 {
                assert_eq!(names(&moved), ["inside"], "{cache}");
                assert_eq!(stat(&moved, ".ssh"), Err(Errno::NOENT), "{cache}");
                assert_eq!(stat(&deep, "p/.ssh/id"), Err(Errno::NOENT), "{cache}");
            }
        });
    }
}

#[test]
fn no_operation_reaches_or_makes_a_hidden_name_in_a_deep_directory() {
    let mount = hiding_mount("/home/**/.ssh", "coherent");
    let deep_source = dig(&top(&mount.in_source("home/bob")));
    sh(mount.source(), "chmod -R 777 home");
    rustix::fs::mkdirat(&deep_source, ".ssh", Mode::from_raw_mode(0o777)).expect("make it");
    as_user(1000, 1000, &[], || {
        let deep = (0..25).fold(top(&mount.join("home/bob")), |at, _| {
            open(&at, &"d".repeat(200)).expect("go down")
        });
        let id = || open(&deep, ".").expect("the directory");
        rustix::fs::mkdirat(&deep, "plain", Mode::RWXU).expect("other names are made");
        assert_eq!(names(&id()), ["plain"]);
        let hidden = ".ssh";
        assert_eq!(open(&deep, hidden).err(), Some(Errno::NOENT));
        assert_eq!(rustix::fs::unlinkat(&deep, hidden, AtFlags::REMOVEDIR), Err(Errno::NOENT));
        assert_eq!(rustix::fs::renameat(&deep, hidden, &deep, "seen"), Err(Errno::NOENT));
        let exchange = RenameFlags::EXCHANGE;
        let swapped = rustix::fs::renameat_with(&deep, "plain", &deep, hidden, exchange);
        assert_eq!(swapped, Err(Errno::NOENT));
        rustix::fs::unlinkat(&deep_source, hidden, AtFlags::REMOVEDIR).expect("make room");
        assert_eq!(rustix::fs::mkdirat(&deep, hidden, Mode::RWXU), Err(Errno::PERM));
        let made = rustix::fs::openat(
            &deep,
            hidden,
            OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::RWXU,
        );
        assert_eq!(made.err(), Some(Errno::PERM));
        assert_eq!(rustix::fs::symlinkat("x", &deep, hidden), Err(Errno::PERM));
        assert_eq!(
            rustix::fs::mknodat(&deep, hidden, FileType::Fifo, Mode::RWXU, 0),
            Err(Errno::PERM)
        );
        assert_eq!(rustix::fs::renameat(&deep, "plain", &deep, hidden), Err(Errno::PERM));
        rustix::fs::symlinkat("x", &deep, "link").expect("make a link");
        let linked = rustix::fs::linkat(&deep, "link", &deep, hidden, AtFlags::empty());
        assert_eq!(linked, Err(Errno::PERM));
    });
}

#[test]
fn a_deep_directory_that_no_pattern_names_shows_all_its_names() {
    let mount = hiding_mount("/home/**/.ssh", "coherent");
    sh(mount.source(), "mkdir beside");
    let work = top(&mount.join("work"));
    let deep = dig(&work);
    rustix::fs::renameat(&work, "proj", &deep, "p").expect("move it");
    assert_eq!(names(&open(&deep, "p/.ssh").expect("shown here")), ["id"]);
    let all = Mount::builder().arg("--exclude=/inside/**").start();
    let deep = dig(&top(all.source()));
    rustix::fs::mkdirat(&deep, "kept", Mode::RWXU).expect("make a directory");
    let shown = (0..25).fold(top(all.path()), |at, _| open(&at, &"d".repeat(200)).expect("down"));
    assert_eq!(names(&shown), ["kept"]);
}

#[test]
fn a_deep_directory_hides_all_that_a_pattern_ending_in_two_stars_hides() {
    let mount = hiding_mount("/home/bob/*/**/inside/**", "coherent");
    let source = dig(&top(&mount.in_source("home/bob")));
    rustix::fs::mkdirat(&source, "inside", Mode::RWXU).expect("make a directory");
    let inside = open(&source, "inside").expect("open it");
    rustix::fs::mkdirat(&inside, "kept", Mode::RWXU).expect("make a directory");
    let deep = (0..25)
        .fold(top(&mount.join("home/bob")), |at, _| open(&at, &"d".repeat(200)).expect("go down"));
    let inside = open(&deep, "inside").expect("shown itself");
    assert!(names(&inside).is_empty());
    assert_eq!(stat(&inside, "kept"), Err(Errno::NOENT));
}

#[test]
fn a_listing_that_the_kernel_keeps_follows_a_directory_that_is_moved_on_the_source() {
    let mount = hiding_mount("/home/**/.ssh", "coherent");
    let proj = top(&mount.join("work/proj"));
    assert_eq!(names(&proj), [".ssh"]);
    fs::rename(mount.in_source("work/proj"), mount.in_source("home/proj")).expect("move it");
    eventually("the name is hidden in its new place", || {
        let listed = fs::read_dir(mount.join("home/proj"));
        let names = |dir: fs::ReadDir| dir.collect::<io::Result<Vec<_>>>().map(|all| all.len());
        listed.and_then(names).is_ok_and(|count| count == 0)
    });
    let again = open(&proj, ".").expect("the same directory");
    assert!(names(&again).is_empty());
    assert_eq!(stat(&proj, ".ssh"), Err(Errno::NOENT));
}

#[test]
fn a_directory_that_is_moved_out_of_the_source_shows_no_name_that_a_path_may_hide() {
    let outside = support::scratch();
    let source = outside.dir("source");
    sh(&source, SOURCE);
    let mount =
        Mount::builder().source(&source).arg("--exclude=/home/**/.ssh").arg("-ofollow-source");
    let mount = mount.start();
    let proj = top(&mount.join("home/bob/proj"));
    assert_eq!(names(&proj), ["inside"]);
    fs::rename(source.join("home/bob/proj"), outside.path().join("away")).expect("move it away");
    let again = open(&proj, ".").expect("the same directory");
    assert_eq!(names(&again), ["inside"]);
    assert_eq!(stat(&proj, ".ssh"), Err(Errno::NOENT));
}

#[test]
fn a_directory_that_is_moved_out_of_the_source_shows_nothing_that_a_path_hides() {
    for cache in ["coherent", "none"] {
        let mount = hiding_mount("/home/*/proj/.ssh", cache);
        let shown = open(&top(mount.path()), "home").expect("open");
        let proj = open(&open(&shown, "bob").expect("open"), "proj").expect("open");
        let inside = open(&proj, "inside").expect("open");
        assert_eq!(stat(&proj, ".ssh"), Err(Errno::NOENT), "in its place");
        // The path that the kernel has for it is now one below the filesystem's root.
        fs::rename(mount.in_source("home/bob/proj"), mount.outside().join("proj")).expect("move");
        for round in 0..3 {
            assert_eq!(stat(&proj, ".ssh"), Err(Errno::NOENT), "moved out, {round}");
            assert!(!names(&proj).contains(&".ssh".to_owned()), "moved out, {round}");
            fs::create_dir(mount.outside().join(format!("proj/inside/{round}"))).expect("mkdir");
        }
        assert!(open(&proj, ".ssh").is_err() && !names(&inside).is_empty());
        fs::rename(mount.outside().join("proj"), mount.in_source("work/moved")).expect("move");
        eventually("moved back, to where no pattern hides it", || stat(&proj, ".ssh").is_ok());
    }
}

#[test]
fn a_hidden_name_is_not_found_by_its_short_name() {
    let room = scratch();
    let served =
        |name, node| Served { name, node, ino: node, mode: 0o666, owner: 0, content: "some text" };
    let files = [served("secret.text", 2), served("shown to all.txt", 3), served("real~1.txt", 4)];
    let server = serve(&room.dir("source"), true, &files);
    assert!(room.join("source/SECRET~1.TEX").exists(), "the source has short names");
    let mount = |pattern: &str| {
        Mount::builder().source(&room.join("source")).arg(format!("--exclude={pattern}")).start()
    };
    let by_name = mount("secret.text");
    for name in ["secret.text", "SECRET~1.TEX"] {
        let found = fs::read(by_name.join(name)).map_err(|e| e.kind());
        assert_eq!(found, Err(io::ErrorKind::NotFound), "{name}");
        let created = File::create(by_name.join(name)).map_err(|e| e.kind());
        assert_eq!(created.err(), Some(io::ErrorKind::PermissionDenied), "{name}");
    }
    // What is listed is shown, and so is a short name of it.
    for name in ["shown to all.txt", "SHOWNT~1.TXT", "real~1.txt"] {
        assert_eq!(fs::read(by_name.join(name)).expect(name), b"some text");
    }
    drop(by_name);
    // A path could begin with the short name of a directory.
    let by_path = mount("/secret.*");
    for (name, is_shown) in [("SECRET~1.TEX", false), ("SHOWNT~1.TXT", false), ("real~1.txt", true)]
    {
        assert_eq!(by_path.join(name).exists(), is_shown, "{name}");
    }
    drop(by_path);
    drop(server);
}

#[test]
fn a_hidden_name_is_not_found_in_other_letters_where_the_source_ignores_their_case() {
    let room = scratch();
    let served =
        |name, node| Served { name, node, ino: node, mode: 0o666, owner: 0, content: "some text" };
    let files = [served("secret", 2), served("shown", 3), served("hidden.by-path", 4)];
    let server = serve(&room.dir("source"), true, &files);
    assert!(room.join("source/SECRET").exists(), "the source ignores case");
    let mount = Mount::builder()
        .source(&room.join("source"))
        .arg("--exclude=secret")
        .arg("--exclude=/*.by-path")
        .start();
    for name in ["secret", "SECRET", "Secret", "HIDDEN.by-path", "hidden.BY-PATH"] {
        let found = fs::read(mount.join(name)).map_err(|e| e.kind());
        assert_eq!(found, Err(io::ErrorKind::NotFound), "{name}");
        let created = File::create(mount.join(name)).map_err(|e| e.kind());
        assert_eq!(created.err(), Some(io::ErrorKind::PermissionDenied), "{name}");
    }
    for name in ["shown", "SHOWN"] {
        assert_eq!(fs::read(mount.join(name)).expect("read"), b"some text");
    }
    drop(mount);
    drop(server);
    // Where the case of letters matters, the pattern hides one name.
    let mount = hiding_mount("secret", "coherent");
    sh(mount.source(), "touch secret SECRET; mkdir -p home/secret home/SECRET");
    eventually("the other name", || mount.join("SECRET").exists());
    assert!(!mount.join("secret").exists() && mount.join("home/SECRET").is_dir());
    fs::write(mount.join("SeCReT"), "new").expect("create");
}
