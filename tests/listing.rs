//! Listing directories that are large, and that change meanwhile.

mod support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::fs::{RawDir, SeekFrom, seek};
use support::{Mount, same_as_bare};

/// Lists with a buffer of `capacity` bytes; returns the names and their cookies. `between` runs after each entry.
fn list(dir: &File, capacity: usize, mut between: impl FnMut(&str)) -> Vec<(String, u64)> {
    let mut buffer = vec![MaybeUninit::uninit(); capacity];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.expect("getdents");
        let name = entry.file_name().to_string_lossy().into_owned();
        between(&name);
        found.push((name, entry.next_entry_cookie()));
    }
    found
}

fn populate(dir: &Path, prefix: &str, names: usize) {
    let first = dir.join(format!("{prefix}0"));
    File::create(&first).expect("create");
    for n in 1..names {
        // Hard links are faster to create than files; ext4 allows 65,000 of one file.
        if n % 50_000 == 0 {
            File::create(dir.join(format!("{prefix}{n}"))).expect("create");
        } else {
            let target = dir.join(format!("{prefix}{}", n / 50_000 * 50_000));
            fs::hard_link(target, dir.join(format!("{prefix}{n}"))).expect("link");
        }
    }
}

#[test]
fn the_first_entry_of_a_hundred_thousand_comes_at_once_and_all_come_once() {
    let mount = Mount::identity();
    populate(mount.source(), "a-name-of-some-length-", 100_000);
    let dir = File::open(mount.path()).expect("open");
    let start = Instant::now();
    let mut first = None;
    let found = list(&dir, 4096, |_| {
        first.get_or_insert_with(|| start.elapsed());
    });
    let (first, all) = (first.expect("there are entries"), start.elapsed());
    println!("the first entry after {first:?}, all after {all:?}");
    assert!(first < all / 10, "the first entry came after {first:?} of {all:?}");
    let mut names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 100_002);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 100_002);
}

#[test]
fn seeking_to_a_cookie_goes_on_where_it_was_given() {
    let mount = Mount::identity();
    populate(mount.source(), "n", 3000);
    let dir = File::open(mount.path()).expect("open");
    let all = list(&dir, 2048, |_| ());
    for at in [0, 1, 2, 500, 1777, 3000] {
        seek(&dir, SeekFrom::Start(all[at].1)).expect("seekdir");
        assert_eq!(list(&dir, 1024, |_| ()), all[at + 1..], "after entry {at}");
    }
    seek(&dir, SeekFrom::Start(0)).expect("rewinddir");
    assert_eq!(list(&dir, 32_768, |_| ()), all);
    let again = File::open(mount.path()).expect("open");
    seek(&again, SeekFrom::Start(all[100].1)).expect("seekdir");
    assert_eq!(
        list(&again, 4096, |_| ()),
        all[101..],
        "a cookie holds for another open of the directory"
    );
}

#[test]
fn names_that_stay_are_listed_once_while_other_names_come_and_go() {
    for cache in ["--cache=none", "--cache=timeout=1s"] {
        let mount = Mount::builder().arg(cache).start();
        populate(mount.source(), "stays", 2000);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (side, dir) in [("m", mount.path()), ("s", mount.source())] {
                let stop = &stop;
                scope.spawn(move || {
                    for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                        File::create(dir.join(format!("{side}{n}"))).expect("create");
                        if n >= 200 {
                            fs::remove_file(dir.join(format!("{side}{}", n - 200)))
                                .expect("unlink");
                        }
                    }
                });
            }
            for _ in 0..25 {
                let dir = File::open(mount.path()).expect("open");
                let mut seen: HashMap<String, usize> = HashMap::new();
                for (name, _) in list(&dir, 1024, |_| ()) {
                    *seen.entry(name).or_default() += 1;
                }
                for n in 0..2000 {
                    assert_eq!(seen.get(&format!("stays{n}")), Some(&1), "stays{n}");
                }
                let doubled: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
                assert!(doubled.is_empty(), "listed twice: {doubled:?}");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn names_that_vanish_meanwhile_are_no_error() {
    let mount = Mount::identity();
    populate(mount.source(), "n", 5000);
    let dir = File::open(mount.path()).expect("open");
    let mut next = 0;
    let found = list(&dir, 512, |_| {
        for _ in 0..2 {
            let _ = fs::remove_file(mount.in_source(format!("n{next}")));
            next += 1;
        }
    });
    assert!(found.len() < 5002);
    assert_eq!(fs::read_dir(mount.path()).expect("list").filter(|entry| entry.is_err()).count(), 0);
    let all = Mount::identity();
    populate(all.source(), "n", 3000);
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..3000).for_each(|n| fs::remove_file(all.in_source(format!("n{n}"))).expect("unlink"))
        });
        for _ in 0..10 {
            for entry in fs::read_dir(all.path()).expect("list") {
                let entry = entry.expect("a listing has no errors");
                let stat = fs::symlink_metadata(entry.path());
                assert!(
                    stat.is_ok()
                        || stat.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
                );
            }
        }
    });
}

#[test]
fn entries_tell_their_type_and_inode_number_as_stat_does() {
    same_as_bare(|dir| {
        support::sh(dir, "mkdir d; touch f; ln -s f l; mkfifo p; mknod c c 1 3");
        let entries = fs::read_dir(dir).expect("list").map(|entry| entry.expect("list"));
        let mut told: Vec<_> = entries
            .map(|entry| {
                use std::os::unix::fs::{DirEntryExt, MetadataExt};
                let stat = fs::symlink_metadata(entry.path()).expect("stat");
                let same = stat.ino() == entry.ino()
                    && stat.file_type() == entry.file_type().expect("type");
                (entry.file_name(), same)
            })
            .collect();
        told.sort();
        told
    });
}

#[test]
fn the_working_directory_is_found_from_any_depth() {
    let mount = Mount::identity();
    let mut deep = mount.path().to_owned();
    for n in 0..60 {
        deep.push(format!("level{n}"));
        fs::create_dir(&deep).expect("mkdir");
    }
    assert_eq!(support::sh_output(&deep, "/bin/pwd -P").trim(), deep.to_str().expect("text"));
    assert_eq!(support::sh_output(mount.path(), "find . -type d | wc -l").trim(), "61");
}
