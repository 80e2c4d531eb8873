//! Inode numbers at the mount are the source's own, and stay the same: after the kernel has forgotten the inode, after
//! another mount, and whatever was looked at first.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};
use support::{Mount, Scratch, loop_fs, scratch, sh, sh_output};

/// What is mounted for a test, unmounted at the end.
struct Mounted(Vec<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        for place in self.0.iter().rev() {
            let _ = unmount(place, UnmountFlags::DETACH);
        }
    }
}

/// The numbers of all names below a directory, each as stat(2) and, but for what something is mounted on, as listings
/// have it.
fn numbers(top: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        let ino = fs::symlink_metadata(top.join(&dir)).expect("stat").ino();
        found.insert(dir.display().to_string(), ino);
        for entry in fs::read_dir(top.join(&dir)).expect("list") {
            let entry = entry.expect("an entry");
            let path = dir.join(entry.file_name());
            let meta = fs::symlink_metadata(top.join(&path)).expect("stat");
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with("mount") {
                assert_eq!(entry.ino(), meta.ino(), "{} in its listing", path.display());
            }
            match meta.is_dir() {
                true => left.push(path),
                false => drop(found.insert(path.display().to_string(), meta.ino())),
            }
        }
    }
    found
}

/// An overlay whose inode numbers have their upper bits set (xino): one layer on ext4, one on tmpfs.
fn overlay(room: &Scratch) -> (PathBuf, Mounted) {
    sh(
        room.path(),
        "mkdir t merged; mount -t tmpfs t t; mkdir t/low t/upper t/work
         truncate -s 64M t/disk; mkfs.ext4 -q -F t/disk; mount -o loop t/disk t/low
         mkdir t/low/d; for n in 1 2 3; do echo $n > t/low/d/f$n; done; ln t/low/d/f1 t/low/d/l1
         ln -s f1 t/low/d/s
         mount -t overlay o merged -o lowerdir=t/low,upperdir=t/upper,workdir=t/work,xino=on
         mkdir merged/new; echo n > merged/new/n",
    );
    let places = ["t", "t/low", "merged"].map(|name| room.path().join(name));
    (room.path().join("merged"), Mounted(places.into()))
}

#[test]
fn numbers_of_64_bits_are_the_sources_own_whatever_the_kernel_forgets() {
    let room = scratch();
    let (source, _mounted) = overlay(&room);
    let own = numbers(&source);
    assert!(own.values().any(|ino| ino >> 48 != 0), "else this tests nothing: {own:x?}");
    for option in ["cache=timeout=1s", "cache=forever", "cache=none"] {
        let mount = Mount::builder().source(&source).arg(format!("-o{option}")).start();
        assert_eq!(numbers(mount.path()), own, "{option}");
        mount.forget_all();
        assert_eq!(numbers(mount.path()), own, "{option}: after the kernel forgot them");
        drop(mount);
        let mount = Mount::builder().source(&source).arg(format!("-o{option}")).start();
        fs::metadata(mount.join("new/n")).expect("look at another first");
        assert_eq!(numbers(mount.path()), own, "{option}: at another mount");
    }
}

#[test]
fn numbers_on_a_plain_filesystem_are_the_sources_own() {
    let disk = loop_fs("ext4", 64);
    let source = disk.dir("source");
    sh(&source, "mkdir d; touch d/a b; ln b d/b; ln -s b s; mkfifo p");
    let own = numbers(&source);
    let mount = Mount::builder().source(&source).start();
    for _ in 0..2 {
        assert_eq!(numbers(mount.path()), own);
        mount.forget_all();
    }
    fs::write(mount.join("new"), "").expect("create");
    let ino = |path: PathBuf| fs::metadata(path).expect("stat").ino();
    assert_eq!(ino(mount.join("new")), ino(mount.in_source("new")));
}

/// A source with three filesystems below it, whose numbers are the same in part, and one that is there twice.
fn submounts(room: &Scratch) -> (PathBuf, Mounted) {
    sh(
        room.path(),
        "mkdir -p source/plain; cd source; touch plain/f
         for n in 1 2; do
           mkdir mount$n; mount -t tmpfs t$n mount$n; mkdir mount$n/d; touch mount$n/d/f mount$n/g
           ln mount$n/g mount$n/d/h
         done
         mkdir mount3; truncate -s 64M ../disk; mkfs.ext4 -q -F ../disk; mount -o loop ../disk mount3
         mkdir mount3/d; touch mount3/d/f
         mkdir mount4; mount --bind plain mount4",
    );
    let source = room.path().join("source");
    let places = (1..=4).map(|n| source.join(format!("mount{n}"))).collect();
    (source, Mounted(places))
}

#[test]
fn numbers_on_submounts_do_not_depend_on_what_was_looked_at_first() {
    let room = scratch();
    let (source, _mounted) = submounts(&room);
    let seen = |order: &[u32]| {
        let mount = Mount::builder().source(&source).start();
        for n in order {
            numbers(&mount.join(format!("mount{n}")));
        }
        let first = numbers(mount.path());
        mount.forget_all();
        assert_eq!(numbers(mount.path()), first, "{order:?}: after the kernel forgot them");
        first
    };
    let one = seen(&[1, 2, 3, 4]);
    assert_eq!(seen(&[4, 3, 2, 1]), one);
    assert_eq!(seen(&[2]), one);
}

#[test]
fn numbers_tell_files_apart_as_device_and_number_do_on_the_source() {
    let room = scratch();
    let (source, _mounted) = submounts(&room);
    let mount = Mount::builder().source(&source).start();
    let here = numbers(mount.path());
    let device = |name: &str| {
        let meta = fs::symlink_metadata(source.join(name)).expect("stat");
        (meta.dev(), meta.ino())
    };
    let own: BTreeSet<_> = here.keys().map(|name| device(name)).collect();
    let shown: BTreeSet<_> = here.values().collect();
    assert_eq!(own.len(), shown.len(), "{here:x?}");
    assert_eq!(here["mount1/g"], here["mount1/d/h"], "names of one file");
    assert_eq!(here["plain/f"], here["mount4/f"], "one file by two mounts");
    assert_eq!(here["plain/f"], device("plain/f").1, "the source's own");
}

#[test]
fn programs_find_the_hard_links_of_a_source_with_large_numbers() {
    let room = scratch();
    let (source, _mounted) = overlay(&room);
    let mount = Mount::builder().source(&source).start();
    let copies = scratch();
    let script = format!(
        "mkdir tar rsync; tar -C {at} -cf - . | tar -C tar -xf -; rsync -aH {at}/ rsync/
         for to in tar rsync; do stat -c %h $to/d/f1 $to/d/l1; done
         find {at} -samefile {at}/d/f1 | wc -l; ls -i {at}/d | sort -k2 | cut -d' ' -f1 | uniq | wc -l",
        at = mount.path().display()
    );
    assert_eq!(sh_output(copies.path(), &script), "2\n2\n2\n2\n2\n5\n");
    // f1 and l1 are not neighbours in the sorted list: five names, five lines.
    assert_eq!(
        sh_output(mount.path(), "ls -i d | sort -k2"),
        sh_output(&source, "ls -i d | sort -k2")
    );
}
