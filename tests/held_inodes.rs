//! On a source without file handles each inode that the kernel knows takes a descriptor. A daemon that may have few of
//! them serves any number of files all the same: the kernel gives back what it only caches.

mod support;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use support::{Mount, Scratch, eventually, loop_fs, scratch, sh};

/// The daemon's limit of open files.
const LIMIT: usize = 1024;
const FILES_PER_DIR: usize = 200;

/// How many files the walks meet: 20,000, or as the environment says.
fn files() -> usize {
    let given = std::env::var("SHIFTBIND_TEST_HELD_FILES").ok();
    given.map_or(20_000, |given| given.parse().expect("a number"))
}

/// A program that starts shiftbind with [`LIMIT`], which it may not raise.
fn limited(room: &Scratch) -> PathBuf {
    let program = room.path().join("limited");
    let text = format!(
        "#!/bin/sh\nulimit -n {LIMIT}\nexec setpriv --bounding-set -sys_resource '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_shiftbind")
    );
    fs::write(&program, text).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    program
}

/// A tree of [`files`] files below `at`, each with its own name as content; every hundredth has a second name.
fn make_tree(at: &Path) {
    for dir in 0..files().div_ceil(FILES_PER_DIR) {
        // Directories in directories, so that the kernel cannot evict one before those below it.
        let dir = at.join(format!("{}/{dir}", dir % 10));
        fs::create_dir_all(&dir).expect("mkdir");
        for file in 0..FILES_PER_DIR {
            let path = dir.join(file.to_string());
            fs::write(&path, path.strip_prefix(at).expect("below").as_os_str().as_encoded_bytes())
                .expect("write");
            if file % 100 == 0 {
                fs::hard_link(&path, dir.join(format!("link-{file}"))).expect("link");
            }
        }
    }
}

/// Lists and stats everything below a directory. Returns the inode number of each file.
fn walk(at: &Path, found: &mut HashMap<PathBuf, u64>) {
    for entry in fs::read_dir(at).unwrap_or_else(|e| panic!("list {}: {e}", at.display())) {
        let entry = entry.expect("list");
        let path = entry.path();
        let meta = fs::symlink_metadata(&path);
        let meta = meta.unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
        if meta.is_dir() {
            walk(&path, found);
        } else {
            found.insert(path, meta.ino());
        }
    }
}

fn path_descriptor(path: &Path) -> File {
    let flags = OFlags::PATH.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path).expect("open with O_PATH")
}

/// Ends a thread that runs beside a test, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Walks a limited mount of `source`, whose files are made below `below`.
fn any_number_of_files_is_served(source: &Path, below: &Path) {
    let room = scratch();
    make_tree(below);
    let mount = Mount::builder().program(&limited(&room)).source(source).start();
    // What a client uses stays as it is: an open file that is removed, an O_PATH descriptor, a working directory.
    fs::write(below.join("removed"), "still there").expect("write");
    fs::write(below.join("held"), "held").expect("write");
    let removed = File::open(mount.join("removed")).expect("open");
    fs::remove_file(mount.join("removed")).expect("unlink");
    let held = path_descriptor(&mount.join("held"));
    let held_ino = held.metadata().expect("stat").ino();
    let begin = Instant::now();
    let ended = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watches = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::Acquire) {
                most = most.max(mount.open_descriptors());
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        });
        let ends = Ends(&ended);
        let mut first = HashMap::new();
        walk(mount.path(), &mut first);
        assert!(first.len() >= files(), "{} of {}", first.len(), files());
        let mut second = HashMap::new();
        walk(mount.path(), &mut second);
        assert_eq!(first.len(), second.len());
        assert!(first.iter().all(|(path, ino)| second.get(path) == Some(ino)), "other numbers");
        // After their inodes were evicted once, names mean the files that they meant before.
        for path in first.keys().filter(|path| path.ends_with("0/0/100") || path.ends_with("0/0/0"))
        {
            let name = path.strip_prefix(mount.path()).expect("below");
            assert_eq!(fs::read(path).expect("read"), name.as_os_str().as_encoded_bytes());
            let link = path.with_file_name(format!("link-{}", path.file_name().unwrap().display()));
            assert_eq!(first[path], first[&link], "two names of one file");
        }
        drop(ends);
        watches.join().expect("watch")
    });
    eprintln!(
        "{} files twice in {:?}: at most {most} descriptors, {} KiB",
        files(),
        begin.elapsed(),
        mount.resident_kib()
    );
    assert!(most <= LIMIT * 7 / 8, "{most} descriptors");
    assert_eq!(std::io::read_to_string(&removed).expect("read"), "still there");
    assert_eq!(held.metadata().expect("stat").ino(), held_ino);
    drop((removed, held));
}

#[test]
fn a_walk_of_a_fuse_source_needs_few_descriptors() {
    let inner = Mount::identity();
    any_number_of_files_is_served(inner.path(), inner.source());
}

/// An overlay without file handles, over a directory with the files.
#[test]
fn a_walk_of_an_overlay_needs_few_descriptors() {
    let disk = loop_fs("ext4", 256.max(files() as u64 / 100));
    let (lower, upper) = (disk.dir("lower"), disk.dir("upper"));
    let (work, merged) = (disk.dir("work"), disk.dir("merged"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    sh(disk.path(), &format!("mount -t overlay test -o {options} {}", merged.display()));
    any_number_of_files_is_served(&merged, &merged);
    sh(disk.path(), &format!("umount {}", merged.display()));
}

#[test]
fn names_that_change_during_a_walk_lead_to_the_right_files() {
    let (inner, room) = (Mount::identity(), scratch());
    let source = inner.source();
    make_tree(source);
    let mount = Mount::builder().program(&limited(&room)).source(inner.path()).start();
    fs::create_dir(source.join("moving-0")).expect("mkdir");
    fs::write(source.join("moving-0/f"), "constant").expect("write");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A directory is renamed on the source, and a file is replaced through the mount.
            for round in 0.. {
                let name = |round: u32| source.join(format!("moving-{}", round % 2));
                fs::rename(name(round), name(round + 1)).expect("rename");
                fs::write(mount.join("new"), round.to_string()).expect("write");
                fs::rename(mount.join("new"), mount.join("replaced")).expect("rename");
                assert_eq!(
                    fs::read_to_string(mount.join("replaced")).expect("read"),
                    round.to_string()
                );
                if ended.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        let _ends = Ends(&ended);
        for at in ["0", "1", "2"] {
            walk(&mount.join(at), &mut HashMap::new());
            let read = || {
                (0..2).find_map(|at| fs::read_to_string(mount.join(format!("moving-{at}/f"))).ok())
            };
            eventually("the moving directory is found", || read().as_deref() == Some("constant"));
        }
    });
}

#[test]
fn inodes_in_use_beyond_the_limit_are_refused_and_given_back() {
    let (inner, room) = (Mount::identity(), scratch());
    for at in 0..2 * LIMIT {
        fs::write(inner.in_source(at.to_string()), "").expect("write");
    }
    let mount = Mount::builder().program(&limited(&room)).source(inner.path()).start();
    let flags = OFlags::PATH.bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags);
    let mut pins = Vec::new();
    let refused = (0..2 * LIMIT).find_map(|at| {
        let opened = options.open(mount.join(at.to_string()));
        opened.map(|pin| pins.push(pin)).err()
    });
    assert_eq!(refused.and_then(|e| e.raw_os_error()), Some(libc::EMFILE), "{}", pins.len());
    assert!(pins.len() > LIMIT / 2);
    // What is known stays usable, and the rest is when the client lets go.
    assert!(pins.iter().all(|pin| pin.metadata().is_ok()));
    pins.clear();
    eventually("the last file is found", || {
        fs::metadata(mount.join((2 * LIMIT - 1).to_string())).is_ok()
    });
}
