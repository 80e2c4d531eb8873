//! Data: rates, direct I/O, locks, ioctls.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::support::{Lock, LockKind, Process, program, sh_output, sys};
use super::twins::{Implementation, Mounter, Side, Twins, World, errno};

const HALF: usize = 512 << 10;

#[test]
fn half_a_mebibyte_at_one_a_second_takes_half_a_second() {
    let tree = "head -c 524288 /dev/zero > f";
    for (option, reads) in
        [("--read-rate=1M", true), ("--write-rate=1024k", false), ("--read-rate=1048576", true)]
    {
        let twins = Twins::of(&[option], tree);
        let paced = twins.same(option, |side| {
            let start = Instant::now();
            match reads {
                true => assert_eq!(fs::read(side.at("f")).expect("read").len(), HALF),
                false => fs::write(side.at("f"), vec![1; HALF]).expect("write"),
            }
            let took = start.elapsed();
            // The burst of 0.2 seconds is free; a busy machine takes longer.
            took > Duration::from_millis(200) && took < Duration::from_secs(5)
        });
        assert!(paced, "{option}");
    }
}

#[test]
fn a_rate_is_a_number_with_k_m_g_or_t() {
    let twins = Twins::of(&[], "");
    let world = twins.world();
    let sides = [
        world.side_named(Implementation::Bindfs, "a", ""),
        world.side_named(Implementation::Shiftbind, "b", ""),
    ];
    for (rate, good) in [
        ("1.5M", true),
        ("1G", true),
        ("2T", true),
        ("1m", false),
        ("0", false),
        ("-1", false),
        ("x", false),
        ("1kk", false),
    ] {
        for side in &sides {
            let (_, has_mounted) = world.try_out(side, &[&format!("--read-rate={rate}")]);
            assert_eq!(has_mounted, good, "{:?}, {rate}", side.implementation);
        }
    }
}

#[test]
fn direct_io_shows_what_the_source_has_at_once_and_can_be_taken_back() {
    for option in ["--direct-io", "--no-direct-io"] {
        let mount = World::new(Mounter::Root).ours(&[option], "echo one > f");
        let file = File::open(mount.ours.at("f")).expect("open");
        let read = || {
            let mut bytes = [0; 4];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).expect("read");
            bytes
        };
        assert_eq!(&read(), b"one\n");
        fs::write(mount.ours.src("f"), "two\n").expect("write");
        assert_eq!(&read(), b"two\n", "{option}");
        let shared = File::options().read(true).write(true).open(mount.ours.at("f")).expect("open");
        // With bindfs's direct-io this fails with ENODEV.
        assert!(sys::Mapping::new(&shared, 4, true).is_ok(), "{option}");
    }
}

#[test]
fn o_direct_works_forwarded_and_not() {
    for options in [&[][..], &["--forward-odirect=4096"][..]] {
        let twins = Twins::of(options, "head -c 8192 /dev/zero > f");
        let answer = twins.same("O_DIRECT", |side| {
            let mut open = File::options();
            errno(open.read(true).custom_flags(libc::O_DIRECT).open(side.at("f")))
        });
        assert_eq!(answer, "ok", "{options:?}");
    }
}

/// Whether a lock held at the mount conflicts with one on the source.
fn reaches_the_source(side: &Side) -> bool {
    let open = |path: &Path| File::options().read(true).write(true).open(path).expect("open");
    let (held, asked) = (open(&side.at("f")), open(&side.src("f")));
    Lock::whole(LockKind::Exclusive).of_description().try_set(&held).expect("lock");
    let posix = Lock::whole(LockKind::Exclusive).of_description().try_set(&asked).is_err();
    rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).expect("flock");
    let flock = rustix::fs::flock(&asked, FlockOperation::NonBlockingLockShared).is_err();
    assert_eq!(posix, flock, "both sorts of locks are forwarded, or none");
    posix
}

#[test]
fn locks_reach_the_source_only_where_they_are_forwarded() {
    let mount = |options: &[&str]| World::new(Mounter::Root).ours(options, "touch f");
    assert!(!reaches_the_source(&mount(&[]).ours), "not by default");
    assert!(!reaches_the_source(&mount(&["--disable-lock-forwarding"]).ours));
    assert!(reaches_the_source(&mount(&["--enable-lock-forwarding", "--multithreaded"]).ours));
    assert!(reaches_the_source(&mount(&["-o", "enable-lock-forwarding"]).ours));
}

#[test]
fn two_clients_exclude_each_other_forwarded_or_not() {
    let both = ["--multithreaded", "--enable-lock-forwarding"];
    let excludes = |side: &Side| {
        let mut open = File::options();
        let held = open.read(true).write(true).open(side.at("f")).expect("open");
        Lock::whole(LockKind::Exclusive).try_set(&held).expect("lock");
        let lock = Lock::whole(LockKind::Exclusive);
        Process::on(&side.at("f"), |file| u8::from(lock.try_set(file).is_ok())).wait() == Some(0)
    };
    let mut twins = Twins::of(&[], "touch f");
    assert!(twins.same("within the mount", excludes));
    twins.again(&both);
    twins.differ(("--enable-lock-forwarding", "a second client's lock"), &true, excludes);
}

#[test]
fn ioctls_are_forwarded_where_they_are_to_be() {
    // tmpfs has flags; FS_IOC_GETVERSION of ext4 would serve as well.
    let mut twins = Twins::of(&["--enable-ioctl"], "touch f; chattr +d f");
    let flags = |side: &Side| {
        let output = program("lsattr").arg(side.at("f")).output().expect("run lsattr");
        String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
    };
    let expected = sh_output(&twins.ours.src(""), "lsattr f | cut -d' ' -f1").trim().to_owned();
    assert!(expected.contains('d'), "{expected}");
    assert_eq!(twins.same("forwarded", flags), expected);
    twins.again(&[]);
    twins.differ(("*", "lsattr"), &expected, flags);
}
