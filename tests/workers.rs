//! The workers: a single busy polling worker serves requests that come one by one, and never delays other clients.

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Mount, Stopped, eventually};

/// Sends a request that no cache of the kernel answers.
fn ask(file: &Path) {
    let mut value = [0; 16];
    let answer = rustix::fs::getxattr(file, "user.missing", &mut value[..]);
    assert_eq!(answer, Err(rustix::io::Errno::NODATA));
}

fn ask_for(time: Duration, file: &Path) -> u64 {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        ask(file);
        count += 1;
    }
    count
}

/// The number of voluntary context switches of all threads of the daemon.
fn sleeps(mount: &Mount) -> u64 {
    let pid = mount.pid().expect("a daemon runs");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

#[test]
fn a_request_that_waits_for_the_source_delays_no_other_client() {
    // The inner mount's daemon is stopped, so a request to the inner mount waits.
    let inner = Mount::identity();
    fs::write(inner.in_source("slow"), "x").expect("write");
    let scratch = Mount::identity();
    let source = scratch.source().to_owned();
    fs::create_dir(source.join("below")).expect("mkdir");
    fs::write(source.join("f"), "x").expect("write");
    rustix::mount::mount_bind(inner.path(), source.join("below")).expect("bind");
    let outer = Mount::builder().source(&source).arg("--threads=2").start();
    let (quick, slow) = (outer.join("f"), outer.join("below/slow"));
    assert_eq!(fs::read(&slow).expect("read"), b"x");

    for round in 0..5 {
        // Long enough for one worker to enter the exclusive mode.
        ask_for(Duration::from_millis(100), &quick);
        let paused = Stopped::new(&inner);
        let waits = AtomicBool::new(true);
        thread::scope(|scope| {
            scope.spawn(|| {
                // SETATTR reaches the source, whatever is cached.
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600 + round);
                fs::set_permissions(&slow, mode).expect("chmod");
                waits.store(false, Ordering::Release);
            });
            thread::sleep(Duration::from_millis(20));
            let longest = AtomicU64::new(0);
            for _ in 0..100 {
                let start = Instant::now();
                ask(&quick);
                longest.fetch_max(start.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
            assert!(waits.load(Ordering::Acquire), "the slow one is still waiting");
            drop(paused);
            println!("round {round}: {} ms at most", longest.into_inner());
        });
    }
    rustix::mount::unmount(source.join("below"), rustix::mount::UnmountFlags::DETACH)
        .expect("unmount");
}

#[test]
fn an_idle_mount_wakes_for_nothing_but_its_sweeper() {
    let mount = Mount::builder().arg("--threads=4").start();
    fs::write(mount.in_source("f"), "x").expect("write");
    ask_for(Duration::from_millis(300), &mount.join("f"));
    eventually("the workers sleep again", || {
        let before = sleeps(&mount);
        thread::sleep(Duration::from_secs(2));
        // The sweeper wakes every second; a second thread may do so, too.
        sleeps(&mount) - before <= 6
    });
}

/// The number of read(2) calls of the daemon's threads.
fn reads(mount: &Mount) -> u64 {
    let pid = mount.pid().expect("a daemon runs");
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("read the account");
    let line = io.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("a count");
    line.parse().expect("a number")
}

#[test]
fn a_client_with_pauses_between_requests_is_not_polled_for() {
    let mount = Mount::builder().arg("--threads=4").start();
    fs::write(mount.in_source("f"), "x").expect("write");
    let file = mount.join("f");
    eventually("few looks are in vain", || {
        let before = reads(&mount);
        for _ in 0..2000 {
            ask(&file);
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(70) {}
        }
        reads(&mount) - before < 2000 * 8
    });
}

#[test]
fn many_clients_and_one_take_turns_without_losing_a_request() {
    let mount = Mount::builder().arg("--threads=4").start();
    for client in 0..8 {
        fs::write(mount.in_source(client.to_string()), "x").expect("write");
    }
    for _ in 0..10 {
        assert!(ask_for(Duration::from_millis(30), &mount.join("0")) > 0);
        thread::scope(|scope| {
            for client in 0..8 {
                let file = mount.join(client.to_string());
                scope.spawn(move || assert!(ask_for(Duration::from_millis(30), &file) > 0));
            }
        });
    }
    // Even then the mount ends as it should, whichever worker listens.
    let held = File::open(mount.join("0")).expect("open");
    ask_for(Duration::from_millis(30), &mount.join("0"));
    drop(held);
    assert!(mount.unmount().is_some_and(|status| status.success()));
}
