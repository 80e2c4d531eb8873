//! The data path: rates, direct I/O, O_DIRECT on the source, and ioctls.

mod support;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, fcntl_setfl, statx};
use rustix::process::{Pid, Signal, kill_process};
use support::{
    Lock, LockKind, Mount, Process, as_user, eventually, loop_fs, program, scratch, sh, sys,
};

/// Bytes that differ from block to block.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at / 4096) as u8).collect()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

fn direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.custom_flags(libc::O_DIRECT).open(path)
}

/// The number of a file's pages in the page cache.
fn cached_pages(path: &Path) -> u64 {
    let output = program("fincore").args(["-b", "-n", "-o", "PAGES"]).arg(path).output();
    let output = output.expect("run fincore");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().unwrap_or_else(|_| panic!("fincore says {text:?}"))
}

/// The result of a call: a number, or the error number.
fn outcome(result: io::Result<usize>) -> Result<usize, i32> {
    result.map_err(|error| error.raw_os_error().unwrap_or(-1))
}

const MEBIBYTE: usize = 1 << 20;

#[test]
fn four_mebibytes_at_one_a_second_take_about_four_seconds_each_way() {
    let mount = Mount::builder().arg("--read-rate=1M").arg("--write-rate=1M").start();
    let data = pattern(4 * MEBIBYTE);
    fs::write(mount.in_source("there"), &data).expect("write on the source");
    let timed = |run: &(dyn Fn() + Sync)| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    let times = thread::scope(|scope| {
        let reads = scope.spawn(|| {
            timed(&|| assert!(fs::read(mount.join("there")).expect("read") == data, "as written"))
        });
        let writes = scope.spawn(|| timed(&|| fs::write(mount.join("new"), &data).expect("write")));
        [reads.join().expect("it reads"), writes.join().expect("it writes")]
    });
    for time in times {
        assert!(time > Duration::from_millis(3500), "{times:?}");
        assert!(time < Duration::from_secs(7), "{times:?}");
    }
    assert!(fs::read(mount.in_source("new")).expect("read on the source") == data, "as written");
    let start = Instant::now();
    assert!(fs::read(mount.join("there")).expect("read again") == data);
    assert!(start.elapsed() < Duration::from_secs(1), "what is in the page cache is free");
}

#[test]
fn a_client_that_waits_for_a_rate_delays_no_other_client() {
    let mount =
        Mount::builder().arg("--read-rate=1k").arg("--write-rate=1k").arg("--threads=2").start();
    for n in 0..8 {
        fs::write(mount.in_source(format!("f{n}")), pattern(MEBIBYTE)).expect("write");
        File::create(mount.in_source(format!("g{n}"))).expect("create");
    }
    let readers = (0..8).map(|n| {
        Process::on(&mount.join(format!("f{n}")), |file| {
            let mut buffer = [0; 65536];
            u8::from(file.read_exact_at(&mut buffer, 0).is_err())
        })
    });
    let mut waiting: Vec<Process> = readers.collect();
    waiting.extend((0..8).map(|n| {
        Process::on(&mount.join(format!("g{n}")), |file| {
            u8::from(file.write_all_at(&[1; 65536], 0).is_err())
        })
    }));
    thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    for n in 0..100 {
        let name = mount.join(format!("n{n}"));
        File::create(&name).expect("create");
        fs::metadata(&name).expect("stat");
        fs::metadata(mount.join("f0")).expect("stat what is read");
        File::open(mount.join("f1")).expect("open what is read");
        fs::read_dir(mount.path()).expect("list").count();
        fs::remove_file(&name).expect("unlink");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(waiting.iter_mut().all(Process::is_running), "they wait");
    drop(waiting);
}

#[test]
fn a_killed_client_ends_at_once_though_its_request_waits() {
    let mount = Mount::builder().arg("--read-rate=1").arg("--write-rate=1").start();
    for name in ["read", "written", "mapped"] {
        fs::write(mount.in_source(name), pattern(MEBIBYTE)).expect("write on the source");
    }
    let mut clients = vec![
        Process::on(&mount.join("read"), |file| {
            let mut buffer = [0; 65536];
            u8::from(file.read_exact_at(&mut buffer, 0).is_err())
        }),
        Process::on(&mount.join("written"), |file| {
            u8::from(file.write_all_at(&[1; 65536], 0).is_err())
        }),
        Process::on(&mount.join("mapped"), |file| {
            let mapping = sys::Mapping::new(file, 4096, false);
            mapping.map_or(1, |mapping| mapping.first())
        }),
    ];
    thread::sleep(Duration::from_millis(300));
    let waiting: Vec<bool> = clients.iter_mut().map(Process::is_running).collect();
    assert_eq!(waiting, [true; 3], "they wait");
    for (client, signal) in clients.iter().zip([Signal::KILL, Signal::TERM, Signal::KILL]) {
        client.signal(signal);
    }
    let start = Instant::now();
    for client in clients {
        assert_eq!(client.wait(), None, "a signal ended it");
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // The kernel's readahead for the clients still waits for the rate.
    let start = Instant::now();
    assert!(mount.unmount().is_none_or(|status| status.success()));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_signal_that_has_a_handler_does_not_end_a_read() {
    let mount = Mount::builder().arg("--read-rate=16k").start();
    fs::write(mount.in_source("f"), pattern(16384)).expect("write");
    let client = Process::on(&mount.join("f"), |file| {
        sys::interrupt_on(libc::SIGUSR1);
        let mut buffer = [0; 16384];
        u8::from(file.read_exact_at(&mut buffer, 0).is_err())
    });
    thread::sleep(Duration::from_millis(200));
    client.signal(Signal::USR1);
    assert_eq!(client.wait(), Some(0));
}

#[test]
fn mappings_and_copies_within_the_mount_are_counted_too() {
    let mount = Mount::builder().arg("--read-rate=1M").arg("--write-rate=1M").start();
    let data = pattern(2 * MEBIBYTE);
    for name in ["mapped", "copied"] {
        fs::write(mount.in_source(name), &data).expect("write");
    }
    thread::scope(|scope| {
        let copy = scope.spawn(|| {
            let start = Instant::now();
            // Copies by copy_file_range(2).
            fs::copy(mount.join("copied"), mount.join("copy")).expect("copy");
            start.elapsed()
        });
        assert!(copy.join().expect("it copies") > Duration::from_millis(1500));
    });
    assert!(fs::read(mount.in_source("copy")).expect("read") == data, "as it was");
    let start = Instant::now();
    let file = open(&mount.join("mapped"));
    let mut mapping = sys::Mapping::new(&file, data.len(), true).expect("map");
    assert!(mapping.read() == data, "as it was");
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    let start = Instant::now();
    mapping.write(&vec![7; data.len()]);
    mapping.sync().expect("msync");
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    assert!(fs::read(mount.in_source("mapped")).expect("read") == vec![7; data.len()]);
}

#[test]
fn a_file_that_changed_on_the_source_is_read_again_under_a_rate() {
    let mount = Mount::builder().arg("--read-rate=100M").start();
    fs::write(mount.in_source("f"), "before").expect("write on the source");
    for n in 0..20 {
        let text = format!("it {n:3}");
        fs::read(mount.join("f")).expect("read");
        thread::sleep(Duration::from_millis(20));
        open(&mount.in_source("f")).write_all_at(text.as_bytes(), 0).expect("change on the source");
        assert_eq!(fs::read_to_string(mount.join("f")).expect("read again"), text);
    }
}

#[test]
fn what_a_killed_client_wrote_through_a_mapping_is_not_lost() {
    const LENGTH: usize = 65536;
    // msync(2) takes three seconds, so that the client is killed in the middle.
    let mount = Mount::builder().arg("--write-rate=21845").start();
    fs::write(mount.in_source("f"), vec![0; LENGTH]).expect("write on the source");
    let stored = mount.in_source("stored");
    let marker = CString::new(stored.as_os_str().as_bytes()).expect("a path has no NUL");
    let client = Process::on(&mount.join("f"), |file| {
        let Ok(mut mapping) = sys::Mapping::new(file, LENGTH, true) else { return 1 };
        mapping.write(&[7; LENGTH]);
        // A client that is killed earlier has stored a part only: the kernel lets it wait in a page fault while
        // write-back is slow (balance_dirty_pages()).
        if sys::open_raw(&marker, libc::O_CREAT | libc::O_WRONLY).is_err()
            || mapping.sync().is_err()
        {
            return 2;
        }
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    });
    eventually("the client has stored everything", || stored.exists());
    client.signal(Signal::KILL);
    assert_eq!(client.wait(), None);
    eventually("it is on the source", || {
        fs::read(mount.in_source("f")).is_ok_and(|there| there == [7; LENGTH])
    });
}

#[test]
fn many_waiting_writers_cost_the_daemon_little_memory() {
    const WRITERS: usize = 128;
    let mount = Mount::builder().arg("--write-rate=32M").start();
    let before = mount.resident_kib();
    let data = pattern(MEBIBYTE);
    let max = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let path = mount.join(format!("f{n}"));
                let data = &data;
                scope.spawn(move || fs::write(path, data).expect("write"))
            })
            .collect();
        let mut max = 0;
        while !writers.iter().all(|writer| writer.is_finished()) {
            max = max.max(mount.resident_kib());
            thread::sleep(Duration::from_millis(20));
        }
        max
    });
    assert!(max < before + 96 * 1024, "{before} KiB, then {max} KiB");
    for n in 0..WRITERS {
        let there = fs::read(mount.in_source(format!("f{n}"))).expect("read");
        assert!(there == data, "file {n} is as written");
    }
}

#[test]
fn direct_io_reads_what_the_source_has_now() {
    let mount = Mount::builder().arg("--direct-io").start();
    fs::write(mount.in_source("f"), pattern(100_000)).expect("write");
    let file = open(&mount.join("f"));
    let mut buffer = vec![0; 100_000];
    file.read_exact_at(&mut buffer, 0).expect("read");
    assert!(buffer == pattern(100_000));
    // Within the attribute timeout.
    open(&mount.in_source("f")).write_all_at(b"changed", 50_000).expect("write on the source");
    file.read_exact_at(&mut buffer[..7], 50_000).expect("read");
    assert_eq!(&buffer[..7], b"changed");
}

#[test]
fn direct_io_ends_appends_and_writes_in_parts_as_the_source_does() {
    let calls = |dir: &Path| {
        let path = dir.join("f");
        let file = open(&path);
        let data = pattern(3 * MEBIBYTE + 5);
        let mut seen = vec![outcome(file.write_at(&data, 3))];
        let mut buffer = vec![0; 2 * MEBIBYTE];
        for at in [0, 2 * MEBIBYTE, 3 * MEBIBYTE + 7, 3 * MEBIBYTE + 8, 9 * MEBIBYTE] {
            seen.push(outcome(file.read_at(&mut buffer, at as u64)));
        }
        let mut one = OpenOptions::new().append(true).open(&path).expect("open");
        let mut two = OpenOptions::new().append(true).open(&path).expect("open");
        for n in 0..50 {
            seen.push(outcome(one.write(&pattern(n * 100))));
            seen.push(outcome(two.write(&[n as u8; 33])));
        }
        seen.push(Ok(file.metadata().expect("stat").len() as usize));
        file.set_len(10).expect("truncate");
        seen.push(outcome(two.write(b"behind")));
        seen.push(outcome(file.read_at(&mut buffer, 0)));
        (seen, buffer[..16].to_vec(), fs::read(&path).expect("read"))
    };
    let bare = scratch();
    let mount = Mount::builder().arg("--direct-io").start();
    let (expected, got) = (calls(bare.path()), calls(mount.path()));
    assert_eq!((&got.0, &got.1), (&expected.0, &expected.1));
    assert!(got == expected);
    assert!(fs::read(mount.in_source("f")).expect("read") == expected.2);
}

#[test]
fn a_file_past_the_page_cache_can_be_mapped_to_be_read_and_to_be_shared() {
    let mount = Mount::builder().arg("--direct-io").start();
    fs::write(mount.in_source("f"), pattern(10_000)).expect("write");
    let file = open(&mount.join("f"));
    let private = sys::Mapping::new(&file, 10_000, false).expect("map privately");
    assert!(private.read() == pattern(10_000));
    let mut shared = sys::Mapping::new(&file, 10_000, true).expect("map shared");
    assert!(shared.read() == pattern(10_000));
    shared.write(b"through the mapping");
    shared.sync().expect("msync");
    let mut there = [0; 19];
    open(&mount.in_source("f")).read_exact_at(&mut there, 0).expect("read on the source");
    assert_eq!(&there, b"through the mapping");
    file.write_all_at(b"by write", 5000).expect("write");
    assert_eq!(&shared.read()[5000..5008], b"by write");
    file.read_exact_at(&mut there, 0).expect("read");
    assert_eq!(&there, b"through the mapping");
}

/// A mount of a directory on an ext4 of its own that passes O_DIRECT on.
fn direct_mount(filesystem: &support::LoopFs, align: u32) -> Mount {
    let mount = Mount::builder().source(filesystem.path()).arg("--passthrough=off");
    mount.arg(format!("--forward-odirect={align}")).start()
}

/// The filesystem's alignment for O_DIRECT, of memory and of offsets (statx(2)).
fn alignment(path: &Path) -> (u32, u32) {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN).expect("statx");
    (stat.stx_dio_mem_align, stat.stx_dio_offset_align)
}

#[test]
fn o_direct_leaves_nothing_in_the_sources_page_cache() {
    let filesystem = loop_fs("ext4", 64);
    let probe = filesystem.path().join("probe");
    File::create(&probe).expect("create");
    let (memory, offset) = alignment(&probe);
    assert!(memory > 0 && offset > 0, "ext4 has O_DIRECT");
    let mount = direct_mount(&filesystem, memory.max(offset));
    let source = |name| filesystem.path().join(name);
    let data = pattern(3 * MEBIBYTE);
    let file = direct(&mount.join("f")).expect("create");
    // Memory without alignment works as well.
    for skip in [0, 1, 100] {
        let mut shifted = vec![0; skip];
        shifted.extend(&data);
        file.write_all_at(&shifted[skip..], 0).expect("write");
        let mut buffer = vec![0; data.len() + skip];
        file.read_exact_at(&mut buffer[skip..], 0).expect("read");
        assert!(buffer[skip..] == data, "as written");
    }
    assert_eq!(cached_pages(&source("f")), 0);
    // Reads past the end return nothing, and the end need not be aligned.
    file.set_len(5000).expect("truncate");
    let mut buffer = vec![0; 16384];
    assert_eq!(file.read_at(&mut buffer, 0).expect("read"), 5000);
    assert_eq!(file.read_at(&mut buffer, 8192).expect("read"), 0);

    let plain = open(&mount.join("plain"));
    plain.write_all_at(&data, 0).expect("write");
    assert!(cached_pages(&source("plain")) > 0, "without O_DIRECT the source keeps pages");
    let stripped = Mount::builder().source(filesystem.path()).arg("--passthrough=off").start();
    let file = direct(&stripped.join("stripped")).expect("create");
    file.write_all_at(&data, 0).expect("write");
    assert!(cached_pages(&source("stripped")) > 0, "and by default O_DIRECT holds here only");
}

#[test]
fn o_direct_at_the_wrong_offset_gets_what_the_source_answers() {
    let filesystem = loop_fs("ext4", 32);
    fs::write(filesystem.path().join("f"), pattern(100_000)).expect("write");
    let (memory, offset) = alignment(&filesystem.path().join("f"));
    let mount = direct_mount(&filesystem, memory.max(offset));
    let calls = |path: &Path| {
        let file = direct(path).expect("open");
        file.set_len(100_000).expect("truncate");
        let mut backing = vec![0; 65536 + 4096];
        let aligned = backing.as_ptr().align_offset(4096);
        let buffer = &mut backing[aligned..aligned + 65536];
        let mut seen = Vec::new();
        for (len, at) in [(4096, 0), (100, 0), (4096, 1), (513, 512), (65536, 98_304), (1, 99_999)]
        {
            seen.push((len, at, outcome(file.read_at(&mut buffer[..len], at))));
            seen.push((len, at, outcome(file.write_at(&buffer[..len], at))));
        }
        seen
    };
    let got = calls(&mount.join("f"));
    let expected = calls(&filesystem.path().join("f"));
    assert_eq!(got, expected);
    assert!(got.iter().any(|(.., result)| *result == Err(libc::EINVAL)));
}

#[test]
fn a_file_opened_with_o_direct_can_be_mapped_and_the_flag_be_set_and_taken() {
    let filesystem = loop_fs("ext4", 32);
    fs::write(filesystem.path().join("f"), pattern(5001)).expect("write");
    let mount = direct_mount(&filesystem, 4096);
    let file = direct(&mount.join("f")).expect("open");
    let mut mapping = sys::Mapping::new(&file, 5001, true).expect("map");
    assert!(mapping.read() == pattern(5001));
    mapping.write(b"mapped");
    mapping.sync().expect("msync writes a page with an unaligned end of file");
    let mut there = [0; 6];
    open(&filesystem.path().join("f")).read_exact_at(&mut there, 0).expect("read");
    assert_eq!(&there, b"mapped");
    assert_eq!(outcome(file.write_at(b"odd", 1)), Err(libc::EINVAL));
    fcntl_setfl(&file, OFlags::empty()).expect("take O_DIRECT");
    assert_eq!(outcome(file.write_at(b"odd", 1)), Ok(3));
    fcntl_setfl(&file, OFlags::DIRECT).expect("set O_DIRECT");
    assert_eq!(outcome(file.write_at(b"odd", 1)), Err(libc::EINVAL));
    let plain = open(&mount.join("f"));
    fcntl_setfl(&plain, OFlags::DIRECT).expect("set O_DIRECT");
    assert_eq!(outcome(plain.write_at(b"odd", 1)), Err(libc::EINVAL));
    assert_eq!(outcome(plain.write_at(&[1; 4096], 4096)), Ok(4096));
}

const GET_LABEL: u32 = 0x8100_9431;
const SET_LABEL: u32 = 0x4100_9432;
const GET_RESERVATION: u32 = 0x8008_6605;
const MOVE_EXTENT: u32 = 0xc028_660f;
const GET_MAP: u32 = 0xc0c0_583b;
const IS_TERMINAL: u32 = 0x5401;

/// FIFREEZE (linux/fs.h).
const FREEZE: u32 = 0xc004_5877;

/// A filesystem label in the format of its ioctls.
fn label(text: &str) -> Vec<u8> {
    let mut label = text.as_bytes().to_vec();
    label.resize(256, 0);
    label
}

/// Calls an ioctl(2) on a buffer and returns the buffer.
fn ioctl(file: &File, command: u32, argument: &[u8]) -> Result<Vec<u8>, i32> {
    let mut bytes = argument.to_vec();
    let result = sys::buffer_ioctl(file, command, &mut bytes);
    result.map(|()| bytes).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

#[test]
fn every_ioctl_is_forwarded_with_its_data_both_ways_and_only_if_asked_for() {
    let filesystem = loop_fs("ext4", 32);
    sh(filesystem.path(), "e2label $(findmnt -no SOURCE -T .) 'a label'");
    fs::write(filesystem.path().join("f"), "text").expect("write");
    let mount = Mount::builder().source(filesystem.path()).arg("--enable-ioctl").start();
    let (there, here) = (open(&filesystem.path().join("f")), open(&mount.join("f")));
    for (what, here, there) in [
        ("a file", &here, &there),
        (
            "a directory",
            &File::open(mount.path()).expect("open"),
            &File::open(filesystem.path()).expect("open"),
        ),
    ] {
        let seen = ioctl(here, GET_LABEL, &[0; 256]);
        assert_eq!(seen, ioctl(there, GET_LABEL, &[0; 256]), "{what}");
        assert_eq!(seen, Ok(label("a label")), "{what}");
    }
    assert_eq!(ioctl(&here, SET_LABEL, &label("another")), Ok(label("another")));
    assert_eq!(ioctl(&there, GET_LABEL, &[0; 256]), Ok(label("another")));
    for unknown in [IS_TERMINAL, 0x8004_6699, 0x0000_6699] {
        let expected = ioctl(&there, unknown, &[0; 64]);
        assert_eq!(ioctl(&here, unknown, &[0; 64]), expected, "{unknown:x}");
        assert_eq!(expected, Err(libc::ENOTTY));
    }
    assert_eq!(
        ioctl(&here, GET_RESERVATION, &[0; 8]),
        ioctl(&there, GET_RESERVATION, &[0; 8]),
        "whatever the source says"
    );
    let without = Mount::builder().source(filesystem.path()).start();
    let file = open(&without.join("f"));
    assert_eq!(ioctl(&file, GET_LABEL, &[0; 256]), Err(libc::ENOTTY));
    assert_eq!(ioctl(&file, SET_LABEL, &label("third")), Err(libc::ENOTTY));
}

#[test]
fn a_forwarded_ioctl_is_made_with_the_capabilities_of_its_caller() {
    let filesystem = loop_fs("ext4", 32);
    fs::write(filesystem.path().join("f"), "text").expect("write");
    sh(filesystem.path(), "chmod 666 f");
    let mount = Mount::builder().source(filesystem.path()).arg("--enable-ioctl").start();
    let on_source = filesystem.path().join("f");
    let (there, here) = as_user(1000, 1000, &[], || {
        let there = ioctl(&open(&on_source), SET_LABEL, &label("user"));
        (there, ioctl(&open(&mount.join("f")), SET_LABEL, &label("user")))
    });
    assert_eq!(there, Err(libc::EPERM), "the source asks for CAP_SYS_ADMIN");
    assert_eq!(here, there, "and so does the mount");
    let freeze = as_user(1000, 1000, &[], || ioctl(&open(&mount.join("f")), FREEZE, &[0; 4]));
    assert_eq!(freeze, Err(libc::EPERM));
    assert_eq!(ioctl(&open(&mount.join("f")), SET_LABEL, &label("ours")), Ok(label("ours")));
}

#[test]
fn an_ioctl_that_reaches_beyond_its_argument_reaches_nothing_of_the_daemons() {
    let filesystem = loop_fs("ext4", 32);
    for name in ["f", "secret"] {
        fs::write(filesystem.path().join(name), pattern(65536)).expect("write");
    }
    let mount = Mount::builder().source(filesystem.path()).arg("--enable-ioctl").start();
    let file = open(&mount.join("f"));
    // GETFSMAP writes as many records after the head as the head says there is space for.
    let mut head = vec![0; 192];
    head[128..160].fill(0xff);
    head[8..12].copy_from_slice(&1000u32.to_ne_bytes());
    assert!(ioctl(&open(&filesystem.path().join("f")), GET_MAP, &head).is_ok());
    assert_eq!(ioctl(&file, GET_MAP, &head), Err(libc::EFAULT));
    // The ioctl's descriptor number is of this process, and means nothing in the daemon.
    let _secret = File::open(mount.join("secret")).expect("open");
    let mut own = 0;
    for descriptor in 0..64u32 {
        let mut exchange = vec![0; 40];
        exchange[4..8].copy_from_slice(&descriptor.to_ne_bytes());
        exchange[24..32].copy_from_slice(&1u64.to_ne_bytes());
        match ioctl(&file, MOVE_EXTENT, &exchange) {
            Err(libc::EBADF) => {}
            // The file's own descriptor in the sandboxed child; a file cannot be exchanged with itself.
            Err(libc::EINVAL) => own += 1,
            other => panic!("{descriptor}: {other:?}"),
        }
    }
    assert!(own <= 1, "only one descriptor is open");
    fs::write(mount.join("after"), "the daemon goes on").expect("write");
}

#[test]
fn a_close_sends_no_flush_where_the_kernel_keeps_the_locks() {
    let mount = Mount::builder().arg("--disable-lock-forwarding").start();
    // The reply ENOSYS to the first FLUSH holds for all.
    drop(open(&mount.join("f")));
    let daemon = Pid::from_raw(mount.pid().expect("a daemon runs") as i32).expect("a pid");
    let closes = Process::on(&mount.join("f"), |file| {
        thread::sleep(Duration::from_millis(300));
        // The end of the process closes the file.
        u8::from(file.as_raw_fd() < 0)
    });
    thread::sleep(Duration::from_millis(100));
    kill_process(daemon, Signal::STOP).expect("stop the daemon");
    let ended = thread::scope(|scope| {
        let waiter = scope.spawn(move || closes.wait());
        let start = Instant::now();
        while !waiter.is_finished() && start.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(10));
        }
        let ended = waiter.is_finished();
        kill_process(daemon, Signal::CONT).expect("let the daemon go on");
        ended
    });
    assert!(ended, "the process closes its file and ends while the daemon is stopped");
    eventually("the daemon goes on", || fs::metadata(mount.path()).is_ok());
}

/// Whether another process can take this lock at once.
fn lockable_by_another(path: &Path, lock: Lock) -> bool {
    let attempt = Process::on(path, |file| u8::from(lock.try_set(file).is_err()));
    attempt.wait() == Some(0)
}

#[test]
fn locks_that_the_kernel_keeps_hold_within_the_mount_and_go_with_a_close() {
    let mount = Mount::builder().arg("--disable-lock-forwarding").start();
    let (path, on_source) = (mount.join("f"), mount.in_source("f"));
    let file = open(&path);
    Lock::whole(LockKind::Exclusive).try_set(&file).expect("lock");
    assert!(!lockable_by_another(&path, Lock::whole(LockKind::Shared)));
    assert!(lockable_by_another(&on_source, Lock::whole(LockKind::Exclusive)));
    drop(open(&path));
    assert!(lockable_by_another(&path, Lock::whole(LockKind::Exclusive)), "any close releases it");
}

#[test]
fn sixty_four_waiters_each_get_the_lock_wherever_it_is_held() {
    for option in ["--enable-lock-forwarding", "--disable-lock-forwarding"] {
        let mount = Mount::builder().arg("--threads=2").arg(option).start();
        let path = mount.join("f");
        let file = open(&path);
        let lock = Lock::whole(LockKind::Exclusive);
        lock.try_set(&file).expect("lock");
        let mut waiters: Vec<Process> =
            (0..64).map(|_| Process::on(&path, |file| u8::from(lock.set(file).is_err()))).collect();
        thread::sleep(Duration::from_millis(200));
        for n in 0..50 {
            fs::write(mount.join(format!("n{n}")), "text").expect("write beside the waiters");
        }
        assert!(waiters.iter_mut().all(Process::is_running), "{option}: they wait");
        drop(file);
        for waiter in waiters {
            assert_eq!(waiter.wait(), Some(0), "{option}");
        }
    }
}

/// Increments a counter in the file `times` times, each under an exclusive lock. Reading and writing are separate
/// steps.
fn count(file: &File, times: u32) -> u8 {
    for _ in 0..times {
        let mut bytes = [0; 4];
        if Lock::whole(LockKind::Exclusive).set(file).is_err()
            || file.read_exact_at(&mut bytes, 0).is_err()
        {
            return 1;
        }
        thread::yield_now();
        let next = u32::from_ne_bytes(bytes) + 1;
        if file.write_all_at(&next.to_ne_bytes(), 0).is_err()
            || Lock::whole(LockKind::None).set(file).is_err()
        {
            return 1;
        }
    }
    0
}

#[test]
fn two_clients_of_two_mounts_never_both_hold_an_exclusive_lock() {
    const TIMES: u32 = 300;
    let one = Mount::builder().arg("--enable-lock-forwarding").start();
    let two = Mount::builder().source(one.source()).arg("--enable-lock-forwarding").start();
    fs::write(one.in_source("f"), 0u32.to_ne_bytes()).expect("write");
    let counters = [one.join("f"), two.join("f"), one.in_source("f"), one.join("f")]
        .map(|path| Process::on(&path, |file| count(file, TIMES)));
    for counter in counters {
        assert_eq!(counter.wait(), Some(0));
    }
    let bytes = fs::read(one.in_source("f")).expect("read");
    assert_eq!(bytes, (4 * TIMES).to_ne_bytes());
}

#[test]
fn the_largest_extended_attribute_fits_however_small_writes_are_made() {
    let disk = loop_fs("xfs", 320);
    let source = disk.path().join("source");
    fs::create_dir(&source).expect("mkdir");
    fs::write(source.join("f"), "x").expect("write");
    let mount = Mount::builder().source(&source).arg("--write-rate=1k").start();
    let value = vec![b'v'; 65536];
    let file = mount.join("f");
    rustix::fs::setxattr(&file, "user.large", &value, rustix::fs::XattrFlags::empty())
        .expect("setxattr");
    let mut read = vec![0; 65536];
    assert_eq!(rustix::fs::getxattr(&file, "user.large", &mut read[..]), Ok(65536));
    assert!(read == value);
    let long = "n".repeat(255);
    fs::rename(&file, mount.join(&long)).expect("rename");
    std::os::unix::fs::symlink("t".repeat(1023), mount.join("link")).expect("symlink");
}
