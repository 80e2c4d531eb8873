//! Races that bindfs loses, run under its name: a user who may write to the source swaps links in while other users
//! work at the mount. The user must win none.
//!
//! Listings under change are in `tests/listing.rs`, clients that lock in `tests/locks.rs` and `tests/data_path.rs`,
//! swaps without options in `tests/escape.rs`, mounts below their own source in `tests/sources.rs` and here.
//!
//! SHIFTBIND_TEST_RACES is the number of creations with each option. SHIFTBIND_TEST_RACES_BINARY runs another
//! program: Debian's bindfs shows what the test finds.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{self as unix, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, RenameFlags, mknodat, renameat_with};
use support::{Mount, Scratch, as_user, patience, scratch, sh, sh_output};

/// The number of creations.
fn tries() -> u64 {
    let asked = std::env::var("SHIFTBIND_TEST_RACES").ok();
    asked.map_or(30_000, |text| text.parse().expect("SHIFTBIND_TEST_RACES is a number"))
}

/// A source with a directory `d` that is writable for all, and beside it a file and a directory that only root may
/// reach.
struct Fixture {
    scratch: Scratch,
}

impl Fixture {
    fn new() -> Self {
        let scratch = scratch();
        sh(
            scratch.path(),
            "mkdir -p source/d/sub outside/sub; chmod 777 source/d source/d/sub
             echo canary > outside/file; chmod 600 outside/file; cp -p outside/file outside/sub/file
             echo inside > source/d/file; echo inside > source/d/sub/file; chmod 666 source/d/file source/d/sub/file
             chown -R 1000:1000 source/d
             touch -d 2001-02-03T04:05:06 outside/file outside/sub/file outside/sub outside",
        );
        Self { scratch }
    }

    fn source(&self) -> PathBuf {
        self.scratch.join("source")
    }

    /// Everything observable of what is outside, except access times.
    fn outside(&self) -> String {
        let look = "find . -printf '%p %y %m %U:%G %s %n %T@ %C@\\n' | sort; cat file sub/file";
        sh_output(&self.scratch.join("outside"), look)
    }

    fn mount(&self, options: &[&str]) -> Mount {
        let mut builder = Mount::builder().source(&self.source()).called("bindfs");
        if let Some(other) = std::env::var_os("SHIFTBIND_TEST_RACES_BINARY") {
            builder = builder.program(Path::new(&other));
        }
        for option in options {
            builder = builder.arg(*option);
        }
        builder.start()
    }
}

/// What the threads that create have done, all together.
#[derive(Default)]
struct Progress {
    tried: AtomicU64,
    made: AtomicU64,
}

/// Creates `x` in a directory repeatedly, of all kinds, `tries` times in all threads. On a busy machine the process that
/// swaps links may not run meanwhile, so that nearly all tries meet the same link: they go on until one in a thousand
/// has succeeded, for 20 s at most.
fn keep_making(dir: &Path, progress: &Progress, tries: u64) {
    let path = dir.join("x");
    let start = Instant::now();
    loop {
        let number = progress.tried.fetch_add(1, Ordering::Relaxed);
        let has_enough = progress.made.load(Ordering::Relaxed) > tries / 1000;
        if number >= tries && (has_enough || start.elapsed() > patience(Duration::from_secs(20))) {
            return;
        }
        let result = match number % 8 {
            0 => fs::create_dir(&path),
            1 => mknodat(CWD, &path, FileType::Fifo, 0o644.into(), 0).map_err(Into::into),
            2 => unix::symlink("target", &path),
            // Without O_EXCL the open may meet a FIFO, and must not wait for its other end.
            3 => OpenOptions::new()
                .write(true)
                .create(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .map(drop),
            _ => File::create_new(&path).map(drop),
        };
        progress.made.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    }
}

/// Replaces `x` on the source by links, one after the other, and counts how often `x` belongs to root.
fn keep_swapping(dir: &Path, stop: &AtomicBool) -> u64 {
    let path = dir.join("x");
    let mut roots = 0;
    while !stop.load(Ordering::Relaxed) {
        for target in ["../../outside/file", "../../outside/new", "../../outside/sub"] {
            // Replaces whatever was just created.
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.uid() == 0) {
                roots += 1;
            }
            let _ = fs::remove_file(&path);
            let _ = unix::symlink(target, &path);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&path);
        }
    }
    roots
}

fn no_race_is_won_by_creating_with(options: &[&str]) {
    let fixture = Fixture::new();
    let before = fixture.outside();
    let mount = fixture.mount(options);
    let (progress, stop, tries) = (Progress::default(), AtomicBool::new(false), tries());
    let start = Instant::now();
    let roots = thread::scope(|scope| {
        let (source, at) = (fixture.source().join("d"), mount.join("d"));
        let (progress, stop) = (&progress, &stop);
        let swapper =
            scope.spawn(move || as_user(1000, 1000, &[], || keep_swapping(&source, stop)));
        let makers = [(); 2].map(|()| {
            let at = at.clone();
            scope.spawn(move || as_user(1000, 1000, &[], || keep_making(&at, progress, tries)))
        });
        makers.into_iter().for_each(|maker| maker.join().expect("a maker ends"));
        stop.store(true, Ordering::Relaxed);
        swapper.join().expect("the swapper ends")
    });
    let made = progress.made.into_inner();
    let tries = progress.tried.into_inner().max(tries);
    println!("{tries} tries with {options:?}, {made} made, in {:?}", start.elapsed());
    assert_eq!(fixture.outside(), before, "with {options:?} something outside was reached");
    assert_eq!(roots, 0, "with {options:?} something was root's for a moment");
    assert!(made > self::tries() / 1000, "with {options:?} only {made} of {tries} were made");
}

#[test]
fn no_link_is_followed_when_a_file_is_made_for_its_creator() {
    no_race_is_won_by_creating_with(&["--create-as-user"]);
}

#[test]
fn no_link_is_followed_when_a_file_is_made_for_another_user() {
    no_race_is_won_by_creating_with(&["--create-for-user=1000", "--create-for-group=1000"]);
}

#[test]
fn no_link_is_followed_when_a_file_is_made_through_a_map() {
    no_race_is_won_by_creating_with(&["--map=3000/1000:@3000/@1000"]);
}

/// Tries all operations below `d`, and counts reads of the canary.
fn keep_working(dir: &Path, stop: &AtomicBool) -> u64 {
    let mut seen = 0;
    while !stop.load(Ordering::Relaxed) {
        for at in [dir.join("sub"), dir.to_owned()] {
            let file = at.join("file");
            if fs::read(&file).is_ok_and(|text| text == b"canary\n") {
                seen += 1;
            }
            let _ = fs::write(&file, "inside\n");
            let _ = fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let _ = unix::chown(&file, Some(1000), Some(1000));
            let _ = rustix::fs::setxattr(&file, "user.x", b"x", rustix::fs::XattrFlags::empty());
            let _ = File::create(at.join("new"));
            let _ = fs::create_dir(at.join("made"));
            let _ = fs::rename(at.join("new"), at.join("moved"));
            let _ = fs::hard_link(&file, at.join("linked"));
            for name in ["new", "moved", "linked"] {
                let _ = fs::remove_file(at.join(name));
            }
            let _ = fs::remove_dir(at.join("made"));
        }
    }
    seen
}

fn no_race_leads_outside_with(option: &str, worker: u32) {
    let fixture = Fixture::new();
    let source = fixture.source();
    sh(&source, "ln -s ../outside evil; ln -s ../../outside d/evil; chown 1000:1000 .");
    let before = fixture.outside();
    let mount = fixture.mount(&[option]);
    let stop = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        // Through descriptors: the attacking thread itself must not follow its links.
        let top = File::open(&source).expect("open the source");
        let dir = File::open(source.join("d")).expect("open a directory");
        for (at, one) in [(&top, "d"), (&dir, "sub")] {
            let (at, stop) = (at.try_clone().expect("dup"), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat_with(&at, one, &at, "evil", RenameFlags::EXCHANGE);
                    thread::yield_now();
                }
            });
        }
        let (at, stop) = (mount.join("d"), &stop);
        let as_him = at.clone();
        let worker =
            scope.spawn(move || as_user(worker, worker, &[], || keep_working(&as_him, stop)));
        let root = scope.spawn(move || keep_working(&at, stop));
        thread::sleep(Duration::from_millis(1500));
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("the worker ends") + root.join().expect("root ends")
    });
    assert_eq!(fixture.outside(), before, "with {option} something outside was changed");
    assert_eq!(seen, 0, "with {option} something outside was read");
}

#[test]
fn a_directory_that_becomes_a_link_leads_a_mirrored_user_nowhere() {
    no_race_leads_outside_with("--mirror=4000", 4000);
}

#[test]
fn a_directory_that_becomes_a_link_leads_a_forced_owner_nowhere() {
    no_race_leads_outside_with("--force-user=4000", 4000);
}

#[test]
fn a_directory_that_becomes_a_link_leads_a_mapped_user_nowhere() {
    no_race_leads_outside_with("--map=1000/4000:@1000/@4000", 4000);
}

/// Where the daemon checks permissions and reads groups from files, a request must not wait for its own mount.
#[test]
fn a_mount_onto_its_own_subdirectory_answers_with_every_sort_of_option() {
    for option in [
        "--mirror=4000,@daemon",
        "--chown-ignore",
        "--hide-hard-links",
        "--exclude=none",
        "--read-rate=1G",
    ] {
        let scratch = scratch();
        sh(scratch.path(), "mkdir -p source/a/mnt; echo text > source/f; chmod 666 source/f");
        let source = scratch.join("source");
        let mount = Mount::builder()
            .source(&source)
            .mountpoint(&source.join("a/mnt"))
            .called("bindfs")
            .arg(option)
            .start();
        let (done, waiting) = std::sync::mpsc::channel();
        let (at, on_source) = (mount.path().to_owned(), source.clone());
        thread::scope(|scope| {
            scope.spawn(move || {
                fs::write(at.join("f"), "more").expect("write");
                assert_eq!(fs::read(on_source.join("f")).expect("read"), b"more");
                as_user(4000, 4000, &[], || fs::read(at.join("f"))).expect("read");
                sh_output(&at, "find . -maxdepth 6 > /dev/null 2>&1 || true");
                fs::create_dir(at.join("new")).expect("mkdir");
                fs::remove_dir(on_source.join("new")).expect("rmdir");
                let _ = done.send(());
            });
            let answered = waiting.recv_timeout(patience(Duration::from_secs(20)));
            if answered.is_err() {
                // Unblocks the waiting client, so that the test can fail with a message.
                sh(scratch.path(), &format!("umount -l {}", source.join("a/mnt").display()));
            }
            assert!(answered.is_ok(), "{option}: it does not answer, or not rightly");
        });
    }
}
