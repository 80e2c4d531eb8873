//! Stresses locks with many threads of many lock owners, at the mount and on its source.
//!
//! No two owners may hold conflicting locks at a time, and no thread may wait for ever.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{FdTable, Lock, LockKind, Mount, patience, sys};

/// Number of byte ranges that are locked: few, so that most threads wait.
const REGIONS: usize = 6;

#[derive(Default)]
struct Scene {
    /// For each region the number of owners that share it; negative while one holds it exclusively.
    holders: [AtomicI64; REGIONS],
    violations: AtomicU64,
    granted: AtomicU64,
    deadlocks: AtomicU64,
    ends: AtomicBool,
}

const ALONE: i64 = -1_000_000;

impl Scene {
    /// Holds a region for a moment, and counts a violation if another owner holds a conflicting lock.
    fn hold(&self, region: usize, kind: LockKind, spins: u32) {
        let holders = &self.holders[region];
        let (mine, others_allowed) = match kind {
            LockKind::Exclusive => (ALONE, false),
            _ => (1, true),
        };
        let before = holders.fetch_add(mine, Ordering::SeqCst);
        if before < 0 || (before > 0 && !others_allowed) {
            self.violations.fetch_add(1, Ordering::Relaxed);
        }
        (0..spins).for_each(|_| std::thread::yield_now());
        holders.fetch_sub(mine, Ordering::SeqCst);
        self.granted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Random numbers (xorshift), with a seed of its own for each thread.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// One mutex for each region of an owner: all its threads are one owner, so that locks do not exclude them.
type Turns = [Mutex<()>; REGIONS];

/// Runs a thread that takes POSIX locks. Its files stay open, because any close releases all locks of the owner.
fn posix(
    scene: &Scene,
    turns: &Turns,
    [reader, writer]: [i32; 2],
    mut random: Random,
) -> io::Result<()> {
    while !scene.ends.load(Ordering::Relaxed) {
        let region = random.below(REGIONS as u64) as usize;
        let _turn = turns[region].lock().expect("a turn");
        let (kind, fd) = match random.below(4) {
            0 => (LockKind::Shared, reader),
            1 => (LockKind::Shared, writer),
            _ => (LockKind::Exclusive, writer),
        };
        let at = region as i64 * 10;
        match Lock::range(kind, at, 10).set_raw(fd, random.below(4) > 0) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => continue,
            Err(e) if e.raw_os_error() == Some(libc::EDEADLK) => {
                scene.deadlocks.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Err(e) => return Err(e),
        }
        scene.hold(region, kind, random.below(4) as u32);
        // Sometimes in two steps, first the middle.
        if random.below(3) == 0 {
            Lock::range(LockKind::None, at + 3, 3).set_raw(fd, false)?;
        }
        Lock::range(LockKind::None, at, 10).set_raw(fd, false)?;
    }
    Ok(())
}

/// Runs a thread that takes open file description locks, each on a new open file, and releases them by close.
fn of_descriptions(scene: &Scene, path: &std::ffi::CStr, mut random: Random) -> io::Result<()> {
    while !scene.ends.load(Ordering::Relaxed) {
        let region = random.below(REGIONS as u64) as usize;
        let (kind, flags) = match random.below(3) {
            0 => (LockKind::Shared, libc::O_RDONLY),
            _ => (LockKind::Exclusive, libc::O_RDWR),
        };
        let fd = sys::open_raw(path, flags)?;
        let lock = Lock::range(kind, region as i64 * 10, 10).of_description();
        match lock.set_raw(fd, random.below(4) > 0) {
            Ok(()) => scene.hold(region, kind, random.below(4) as u32),
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(e) => return Err(e),
        }
        sys::close_raw(fd)?;
    }
    Ok(())
}

fn start(
    scene: &Arc<Scene>,
    path: &Path,
    owner: usize,
    threads: usize,
) -> (FdTable, Vec<Receiver<io::Result<()>>>) {
    let table = FdTable::new(threads);
    let open = |flags| table.open(path, flags).expect("open");
    let files = [open(libc::O_RDONLY), open(libc::O_RDWR)];
    let turns: Arc<Turns> = Arc::default();
    let random = |thread| {
        Random(((owner * threads + thread + 1) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    let running = (0..threads).map(|thread| {
        let (scene, random) = (Arc::clone(scene), random(thread));
        if owner % 4 == 3 {
            let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
            let path = std::ffi::CString::new(path).expect("no NUL");
            table.send(thread, move || of_descriptions(&scene, &path, random))
        } else {
            let turns = Arc::clone(&turns);
            table.send(thread, move || posix(&scene, &turns, files, random))
        }
    });
    let running = running.collect();
    (table, running)
}

/// Runs a number of owners, with a number of threads each, at the mount and on its source.
fn stress(owners: usize, threads: usize, time: Duration) {
    let mount = Mount::identity();
    fs::write(mount.in_source("f"), "text").expect("make a file");
    let paths = [mount.join("f"), mount.in_source("f")];
    let scene = Arc::new(Scene::default());
    // Every third owner on the source, the others at the mount; every fourth takes open file description locks.
    let side = |owner: usize| usize::from(owner % 3 == 2);
    let running: Vec<_> =
        (0..owners).map(|owner| start(&scene, &paths[side(owner)], owner, threads)).collect();
    let (began, mut last) = (Instant::now(), 0);
    while began.elapsed() < time {
        sleep(Duration::from_secs(1).min(time));
        let granted = scene.granted.load(Ordering::Relaxed);
        assert_eq!(scene.violations.load(Ordering::Relaxed), 0, "after {:?}", began.elapsed());
        if began.elapsed().as_secs() % 10 == 0 {
            assert!(granted > last, "no lock was granted in ten seconds");
            last = granted;
        }
    }
    scene.ends.store(true, Ordering::Relaxed);
    for (owner, (_table, results)) in running.iter().enumerate() {
        for result in results {
            let ended = result.recv_timeout(patience(Duration::from_secs(30)));
            ended.unwrap_or_else(|_| panic!("a thread of owner {owner} hangs")).expect("its locks");
        }
    }
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    eprintln!(
        "{} threads of {owners} owners, {time:?}: {} granted, {} EDEADLK, {} violations",
        owners * threads,
        count(&scene.granted),
        count(&scene.deadlocks),
        count(&scene.violations)
    );
    assert_eq!(count(&scene.violations), 0);
}

#[test]
fn no_two_owners_hold_conflicting_locks_and_no_thread_waits_for_ever() {
    stress(6, 6, Duration::from_secs(3));
}

/// Runs for `SHIFTBIND_TEST_LOCK_SECONDS` seconds (600).
#[test]
#[ignore = "takes ten minutes"]
fn many_owners_with_many_threads_hold_no_conflicting_locks() {
    let seconds = std::env::var("SHIFTBIND_TEST_LOCK_SECONDS");
    let seconds = seconds.map_or(600, |text| text.parse().expect("a number of seconds"));
    stress(8, 64, Duration::from_secs(seconds));
}
