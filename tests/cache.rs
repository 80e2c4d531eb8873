//! The inode table: FORGET frees inodes, and descriptors stay few.

mod support;

use std::fs::{self, File};
use std::path::Path;

use support::{Mount, eventually};

/// The number of names in the walk; `SHIFTBIND_TEST_NAMES=1000000` is the long form.
fn names() -> usize {
    std::env::var("SHIFTBIND_TEST_NAMES").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000)
}

const PER_DIRECTORY: usize = 1000;

fn populate(dir: &Path, names: usize) {
    for at in 0..names / PER_DIRECTORY {
        let dir = dir.join(at.to_string());
        fs::create_dir(&dir).expect("mkdir");
        for name in 0..PER_DIRECTORY {
            File::create(dir.join(name.to_string())).expect("create");
        }
    }
}

fn walk(dir: &Path) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(dir).expect("list") {
        let entry = entry.expect("list");
        if fs::symlink_metadata(entry.path()).expect("stat").is_dir() {
            seen += walk(&entry.path());
        } else {
            seen += 1;
        }
    }
    seen
}

#[test]
fn a_walk_over_many_names_leaves_the_daemon_as_small_as_before() {
    let names = names();
    let mount = Mount::identity();
    populate(mount.source(), names);
    // A small walk first: what workers and the allocator need once is not counted as the cost of an inode.
    populate(
        &{
            let d = mount.in_source("warm");
            fs::create_dir(&d).expect("mkdir");
            d
        },
        PER_DIRECTORY,
    );
    walk(&mount.join("warm"));
    let start = mount.resident_kib();
    let mut max = 0;
    assert_eq!(walk(mount.path()), names + PER_DIRECTORY);
    max = max.max(mount.open_descriptors());
    let full = mount.resident_kib();
    let per_inode = (full.saturating_sub(start)) * 1024 / names as u64;
    println!(
        "{names} names: {start} KiB, then {full} KiB ({per_inode} bytes a name), {max} descriptors"
    );
    assert!(max < 5000, "{max} descriptors are open");
    assert!(per_inode < 1000, "{per_inode} bytes a cached name");
    // glibc returns no memory from the end of another thread's arena.
    let of_threads = mount.arenas_of_threads();
    assert_eq!(of_threads, 0, "arenas besides the first");
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop caches");
    let allowed = start + 2048 + (full.saturating_sub(start)) / 4;
    eventually("the daemon gives its memory back", || {
        let now = mount.resident_kib();
        if now > allowed {
            fs::write("/proc/sys/vm/drop_caches", "2").expect("drop caches");
        }
        now <= allowed
    });
    assert_eq!(walk(mount.path()), names + PER_DIRECTORY, "what was forgotten is found again");
}

#[test]
fn deleted_files_keep_no_descriptor_and_no_space() {
    let mount = Mount::identity();
    let before = mount.open_descriptors();
    for round in 0..200 {
        let path = mount.join(format!("f{round}"));
        fs::write(&path, vec![0; 1 << 16]).expect("write");
        fs::read(&path).expect("read");
        fs::remove_file(&path).expect("unlink");
    }
    let pid = mount.pid().expect("a daemon runs");
    eventually("the daemon lets go of deleted files", || {
        let deleted = fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("list")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().ends_with("(deleted)"))
            .filter(|target| target.starts_with(mount.source()))
            .count();
        deleted == 0 && mount.open_descriptors() <= before + 64
    });
}

#[test]
fn many_open_files_at_once_work() {
    let mount = Mount::identity();
    let files: Vec<File> = (0..800)
        .map(|n| {
            let file = File::create(mount.join(n.to_string())).expect("create");
            std::os::unix::fs::FileExt::write_all_at(&file, n.to_string().as_bytes(), 0)
                .expect("write");
            file
        })
        .collect();
    mount.forget_all();
    for (n, file) in files.iter().enumerate() {
        assert_eq!(file.metadata().expect("stat").len(), n.to_string().len() as u64);
        assert_eq!(
            fs::read_to_string(mount.in_source(n.to_string())).expect("read"),
            n.to_string()
        );
    }
}

#[test]
fn a_change_on_the_source_is_seen_at_once_without_a_cache() {
    let mount = Mount::builder().arg("--cache=none").start();
    for round in 0..50 {
        fs::write(mount.in_source("f"), "x".repeat(round)).expect("write");
        assert_eq!(fs::metadata(mount.join("f")).expect("stat").len(), round as u64);
        assert_eq!(fs::read(mount.join("f")).expect("read").len(), round);
        fs::remove_file(mount.in_source("f")).expect("unlink");
        assert!(fs::metadata(mount.join("f")).is_err(), "a deleted name is gone");
    }
}

#[test]
fn a_change_on_the_source_is_seen_after_the_timeout() {
    let mount = Mount::builder().arg("--cache=timeout=1s").start();
    assert!(fs::metadata(mount.join("f")).is_err());
    fs::write(mount.in_source("f"), "one").expect("write");
    eventually("the new name is seen", || {
        fs::metadata(mount.join("f")).is_ok_and(|meta| meta.len() == 3)
    });
    fs::write(mount.in_source("f"), "three").expect("write");
    eventually("the new size is seen", || {
        fs::metadata(mount.join("f")).is_ok_and(|meta| meta.len() == 5)
    });
    fs::remove_file(mount.in_source("f")).expect("unlink");
    eventually("the deletion is seen", || fs::metadata(mount.join("f")).is_err());
}

#[test]
fn a_name_replaced_by_another_type_on_the_source_is_the_new_one() {
    let mount = Mount::builder().arg("--cache=none").start();
    for _ in 0..20 {
        fs::write(mount.in_source("n"), "file").expect("write");
        assert!(fs::metadata(mount.join("n")).expect("stat").is_file());
        fs::remove_file(mount.in_source("n")).expect("unlink");
        fs::create_dir(mount.in_source("n")).expect("mkdir");
        File::create(mount.in_source("n/below")).expect("create");
        assert_eq!(fs::read_dir(mount.join("n")).expect("list").count(), 1);
        fs::remove_dir_all(mount.in_source("n")).expect("remove");
    }
}
