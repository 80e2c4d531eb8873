//! A user without rights tries to change other users' files, to exhaust the daemon, and to delay other clients.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::IFlags;
use support::LockKind::Shared;
use support::{Lock, Mount, Process, as_user, eventually, patience, sys};

const GETFLAGS_32: u32 = 0x8004_6601;
const SETFLAGS_32: u32 = 0x4004_6602;
const SETFLAGS: u32 = 0x4008_6602;
const IMMUTABLE: u64 = 0x10;

/// The result of an ioctl by a user on a file that the user may only read: 0 or the error number.
fn users_ioctl(path: &Path, command: u32, word: u64) -> i32 {
    as_user(1234, 1234, &[], || {
        let file = File::open(path).expect("every user may read it");
        let result = sys::raw_ioctl(&file, command, word);
        result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
    })
}

/// The flags of a file on the source. Clears the immutable flag, which would keep the test from removing the file.
fn flags_of(path: &Path) -> IFlags {
    let file = File::open(path).expect("open");
    let flags = rustix::fs::ioctl_getflags(&file).expect("get the flags");
    if flags.contains(IFlags::IMMUTABLE) {
        rustix::fs::ioctl_setflags(&file, flags - IFlags::IMMUTABLE).expect("clean up");
    }
    flags
}

#[test]
fn a_user_sets_no_flags_on_another_s_file_with_a_32_bit_ioctl() {
    let mount = Mount::identity();
    let read_only = Mount::builder().source(mount.source()).arg("-oro").start();
    fs::write(mount.in_source("f"), "root's").expect("write");
    fs::set_permissions(mount.in_source("f"), Permissions::from_mode(0o644)).expect("chmod");
    let before = flags_of(&mount.in_source("f"));
    for at in [&mount, &read_only] {
        assert_eq!(users_ioctl(&at.join("f"), SETFLAGS_32, IMMUTABLE), libc::ENOTTY);
        assert_eq!(users_ioctl(&at.join("f"), GETFLAGS_32, 0), libc::ENOTTY);
        assert_ne!(users_ioctl(&at.join("f"), SETFLAGS, IMMUTABLE), 0);
        assert_eq!(flags_of(&mount.in_source("f")), before, "nothing changed on the source");
    }
    let file = File::open(read_only.join("f")).expect("open");
    assert!(sys::raw_ioctl(&file, SETFLAGS_32, IMMUTABLE).is_err(), "nor does root through ro");
    assert_eq!(flags_of(&mount.in_source("f")), before, "nothing changed on the source");
}

#[test]
fn removals_that_fail_leave_no_descriptor_behind() {
    let mount = Mount::identity();
    for n in 0..300 {
        fs::create_dir_all(mount.in_source(format!("{n}/below"))).expect("mkdir");
    }
    fs::metadata(mount.join("0")).expect("stat");
    let before = mount.open_descriptors();
    for n in 0..300 {
        let error = fs::remove_dir(mount.join(n.to_string())).expect_err("it is not empty");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
    }
    eventually("the daemon lets go of them", || mount.open_descriptors() <= before + 8);
}

#[test]
fn leases_on_the_source_delay_only_clients_of_the_leased_files() {
    let mount = Mount::builder().arg("--threads=2").start();
    fs::write(mount.in_source("other"), "text").expect("write");
    let leased: Vec<File> = (0..4)
        .map(|n| {
            let path = mount.in_source(n.to_string());
            fs::write(&path, "leased").expect("write");
            let file = File::open(&path).expect("open");
            // A child that a concurrent test has forked may have the writer above open for a moment.
            eventually("the lease is given", || sys::take_read_lease(&file).is_ok());
            file
        })
        .collect();
    thread::scope(|scope| {
        let truncates: Vec<_> = (0..leased.len())
            .map(|n| {
                let path = mount.join(n.to_string());
                scope.spawn(move || sys::empty(&path))
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        let waiting = truncates.iter().all(|truncate| !truncate.is_finished());
        let start = Instant::now();
        let size = fs::metadata(mount.join("other")).map(|meta| meta.len());
        let names = fs::read_dir(mount.path()).map(Iterator::count);
        let text = fs::read(mount.join("other"));
        let took = start.elapsed();
        drop(leased);
        assert!(waiting, "a lease makes a truncate wait");
        assert_eq!(
            (size.ok(), names.ok(), text.ok().as_deref()),
            (Some(4), Some(5), Some(&b"text"[..]))
        );
        assert!(took < Duration::from_secs(1), "other clients waited for {took:?}");
        for truncate in truncates {
            assert_eq!(truncate.join().expect("a truncate").map_err(|error| error.kind()), Ok(()));
        }
    });
    for n in 0..4 {
        assert_eq!(fs::metadata(mount.in_source(n.to_string())).expect("stat").len(), 0);
    }
}

/// Creates a program at the mount; the returned writer is still open.
fn program(path: &Path) -> File {
    let mut file = File::create(path).expect("create");
    file.write_all(b"#!/bin/sh\necho ran\n").expect("write");
    file.set_permissions(Permissions::from_mode(0o755)).expect("chmod");
    file
}

/// Waits until the program runs: children of concurrent tests may have inherited its writer for a moment.
#[track_caller]
fn runs(path: &Path) {
    eventually("the program runs", || match Command::new(path).output() {
        Ok(output) => output.stdout == b"ran\n",
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ETXTBSY), "{error}");
            false
        }
    });
}

#[test]
fn a_reader_of_a_new_program_does_not_keep_other_clients_from_running_it() {
    let mount = Mount::identity();
    let writer = program(&mount.join("p"));
    let reader = File::open(mount.join("p")).expect("open");
    assert_eq!(
        Command::new(mount.in_source("p")).output().err().and_then(|error| error.raw_os_error()),
        Some(libc::ETXTBSY),
        "while it is written it cannot run"
    );
    drop(writer);
    runs(&mount.in_source("p"));
    runs(&mount.join("p"));
    drop(reader);
}

#[test]
fn a_shared_lock_on_a_program_does_not_keep_other_clients_from_running_it() {
    let mount = Mount::identity();
    drop(program(&mount.join("p")));
    runs(&mount.in_source("p"));
    let reader = File::open(mount.join("p")).expect("open");
    Lock::whole(Shared).try_set(&reader).expect("lock");
    runs(&mount.in_source("p"));
    runs(&mount.join("p"));
    Lock::whole(Shared).of_description().try_set(&reader).expect("lock");
    runs(&mount.in_source("p"));
}

#[test]
fn a_name_that_comes_and_goes_on_the_source_can_be_created() {
    const TRIES: usize = 2000;
    const ROUNDS: usize = 21;
    let mount = Mount::identity().open_to_all();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start = Instant::now();
    let (mut stale, mut in_a_row, mut other) = (0, 0, Vec::new());
    thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let path = mount.in_source("n");
            while !stop.load(Ordering::Relaxed) {
                drop(OpenOptions::new().write(true).create(true).truncate(false).open(&path));
                let _ = fs::remove_file(&path);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        // The kernel looks a name up at most twice per open(2) (`do_filp_open` with LOOKUP_REVAL): if it is gone both
        // times, the open fails with ESTALE, and a retry succeeds. On a busy machine the racer may not run for a
        // while.
        let goes_on = |tries: &usize| {
            let is_race = rounds.load(Ordering::Relaxed) >= ROUNDS;
            *tries < TRIES || (!is_race && start.elapsed() < patience(Duration::from_secs(20)))
        };
        for _ in (0..).take_while(goes_on) {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            if in_a_row == 50 {
                break;
            }
            match options.open(mount.join("n")).map_err(|error| error.raw_os_error()) {
                Ok(_) => in_a_row = 0,
                Err(Some(libc::ESTALE)) => {
                    stale += 1;
                    in_a_row += 1;
                }
                Err(error) => other.push(error),
            }
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().expect("the racer");
        let rounds = rounds.load(Ordering::Relaxed);
        println!("{rounds} rounds on the source, {stale} stale");
        assert!(in_a_row < 50, "it cannot be created: {stale} were stale");
        assert!(rounds >= ROUNDS, "{rounds} rounds are no race");
    });
    assert!(other.is_empty(), "open failed otherwise: {other:?}");
}

#[test]
fn another_user_s_files_stay_as_they_are() {
    let mount = Mount::identity();
    fs::write(mount.in_source("f"), "1000's").expect("write");
    chown(mount.in_source("f"), Some(1000), Some(1000)).expect("chown");
    fs::set_permissions(mount.in_source("f"), Permissions::from_mode(0o600)).expect("chmod");
    let errors = as_user(1234, 1234, &[], || {
        let path = mount.join("f");
        [
            fs::read(&path).err(),
            fs::set_permissions(&path, Permissions::from_mode(0o666)).err(),
            chown(&path, Some(1234), None).err(),
            fs::remove_file(&path).err(),
            File::create(mount.join("g")).err(),
        ]
        .map(|error| error.and_then(|error| error.raw_os_error()))
    });
    let (access, perm) = (Some(libc::EACCES), Some(libc::EPERM));
    assert_eq!(errors, [access, perm, perm, access, access]);
}

#[test]
fn a_client_that_waits_for_the_end_of_a_lease_can_be_killed() {
    let mount = Mount::builder().start();
    let path = mount.in_source("f");
    fs::write(&path, "leased").expect("write");
    let holder = OpenOptions::new().read(true).write(true).open(&path).expect("open");
    // A child that a concurrent test has forked may have the file open for a moment.
    eventually("the lease is given", || sys::take_write_lease(&holder).is_ok());
    let at_mount = mount.join("f");
    for truncates in [false, true] {
        let wanted = at_mount.clone();
        let client = Process::on(Path::new("/dev/null"), move |_| match truncates {
            true => u8::from(sys::empty(&wanted).is_ok()),
            false => u8::from(File::open(&wanted).is_ok()),
        });
        thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        client.signal(rustix::process::Signal::KILL);
        assert_eq!(client.wait(), None, "it was killed");
        let took = start.elapsed();
        assert!(took < patience(Duration::from_secs(5)), "truncates: {truncates}, {took:?}");
    }
    drop(holder);
}
