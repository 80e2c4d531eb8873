//! File contents: reading, writing, holes, ranges, copies, mappings, pipes and sockets.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FallocateFlags, SeekFrom, seek};
use rustix::io::Errno;
use support::sys::Mapping;
use support::{Mount, loop_fs, same_as_bare, sh_output};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

#[test]
fn appends_of_two_writers_never_overwrite_each_other() {
    let mount = Mount::identity();
    let path = mount.join("log");
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file =
                    OpenOptions::new().append(true).create(true).open(path).expect("open");
                for line in 0..500 {
                    file.write_all(format!("{writer} {line:5}\n").as_bytes()).expect("append");
                }
            });
        }
    });
    let text = fs::read_to_string(mount.in_source("log")).expect("read");
    assert_eq!(text.len(), 4 * 500 * 8);
    for writer in 0..4 {
        let lines: Vec<usize> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{writer} ")))
            .map(|line| line.trim().parse().expect("a whole line"))
            .collect();
        assert_eq!(lines, (0..500).collect::<Vec<_>>());
    }
}

#[test]
fn pread_and_pwrite_reach_any_offset_and_the_file_stays_sparse() {
    same_as_bare(|dir| {
        let file = open(&dir.join("f"));
        let mut said = Vec::new();
        for offset in [0, 4095, 1 << 20, (1 << 31) - 1, 1 << 32, (1 << 43) - 3] {
            said.push(file.write_all_at(b"abc", offset).is_ok());
            let mut back = [0; 5];
            said.push(
                file.read_at(&mut back, offset.saturating_sub(1))
                    .is_ok_and(|_| back.windows(3).any(|at| at == b"abc")),
            );
        }
        let meta = file.metadata().expect("stat");
        (said, meta.size(), meta.blocks() < 200, file.read_at(&mut [0; 9], meta.size()).ok())
    });
}

#[test]
fn direct_io_reads_and_writes_what_is_there() {
    let mount = Mount::identity();
    let mut direct = OpenOptions::new();
    direct.read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
    let file = direct.open(mount.join("f")).expect("open O_DIRECT");
    let mut buffer = vec![0_u8; 3 * 4096];
    let start = buffer.as_ptr().align_offset(4096);
    let aligned = &mut buffer[start..start + 8192];
    aligned.fill(7);
    assert_eq!(file.write_at(aligned, 4096).expect("write"), 8192);
    assert_eq!(fs::read(mount.in_source("f")).expect("read")[4096..], [7; 8192]);
    fs::write(mount.in_source("g"), vec![9; 8192]).expect("write");
    let other = direct.open(mount.join("g")).expect("open O_DIRECT");
    assert_eq!(other.read_at(aligned, 0).expect("read"), 8192);
    assert_eq!(*aligned, [9; 8192]);
}

/// Where a file's data lies: pairs of data start and hole start.
fn data_ranges(file: &File) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Ok(data) = seek(file, SeekFrom::Data(at)) {
        at = seek(file, SeekFrom::Hole(data)).expect("SEEK_HOLE");
        ranges.push((data, at));
    }
    ranges
}

#[test]
fn every_fallocate_mode_that_fuse_carries_does_what_it_does_on_the_source() {
    let modes = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    ];
    same_as_bare(|dir| {
        modes.map(|mode| {
            [(4096, 8192), (0, 4096), (5, 7), (12_288, 1 << 16), (0, 0), (1 << 20, 4096)].map(
                |(offset, len)| {
                    let file = open(&dir.join(format!("{:x}-{offset}-{len}", mode.bits())));
                    file.write_all_at(&[7; 16_384], 0).expect("write");
                    let result = rustix::fs::fallocate(&file, mode, offset, len);
                    file.sync_all().expect("fsync");
                    let mut contents = Vec::new();
                    (&file).read_to_end(&mut contents).expect("read");
                    let sum: u64 = contents
                        .iter()
                        .enumerate()
                        .map(|(at, byte)| at as u64 * u64::from(*byte))
                        .sum();
                    let meta = file.metadata().expect("stat");
                    (result, meta.size(), meta.blocks(), sum)
                },
            )
        })
    });
}

#[test]
fn the_fallocate_modes_that_fuse_cannot_carry_are_not_supported_and_change_nothing() {
    let mount = Mount::identity();
    let file = open(&mount.join("f"));
    file.write_all_at(&[7; 16_384], 0).expect("write");
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ] {
        assert_eq!(
            rustix::fs::fallocate(&file, mode, 4096, 4096),
            Err(Errno::OPNOTSUPP),
            "{mode:?}"
        );
    }
    assert_eq!(fs::read(mount.in_source("f")).expect("read"), vec![7; 16_384]);
}

#[test]
fn seek_hole_and_data_find_the_holes() {
    same_as_bare(|dir| {
        let file = open(&dir.join("f"));
        file.set_len(1 << 20).expect("size");
        let empty = data_ranges(&file);
        file.write_all_at(&[1; 4096], 65536).expect("write");
        file.write_all_at(&[1; 4096], 262_144).expect("write");
        (
            empty,
            data_ranges(&file),
            seek(&file, SeekFrom::Data(1 << 20)),
            seek(&file, SeekFrom::Hole(1 << 21)),
        )
    });
}

#[test]
fn copy_file_range_copies_ranges_within_and_between_files() {
    same_as_bare(|dir| {
        let (from, to) = (open(&dir.join("a")), open(&dir.join("b")));
        let text: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        from.write_all_at(&text, 0).expect("write");
        let mut said = Vec::new();
        for (mut source, mut target, len) in
            [(0, 0, 50_000), (99_000, 10, 5000), (5, 200_000, 10), (200_000, 0, 10)]
        {
            said.push(rustix::fs::copy_file_range(
                &from,
                Some(&mut source),
                &to,
                Some(&mut target),
                len,
            ));
        }
        let (mut source, mut target) = (0, 50_000);
        said.push(rustix::fs::copy_file_range(
            &from,
            Some(&mut source),
            &from,
            Some(&mut target),
            100,
        ));
        let (mut source, mut target) = (0, 50);
        said.push(rustix::fs::copy_file_range(
            &from,
            Some(&mut source),
            &from,
            Some(&mut target),
            100,
        ));
        (said, fs::read(dir.join("a")).expect("read"), fs::read(dir.join("b")).expect("read"))
    });
}

#[test]
fn copies_on_xfs_and_btrfs_share_their_blocks() {
    for (kind, size) in [("xfs", 400), ("btrfs", 400)] {
        let filesystem = loop_fs(kind, size);
        let source = filesystem.dir("source");
        let mount = Mount::builder().source(&source).start();
        fs::write(mount.join("a"), vec![7; 4 << 20]).expect("write");
        let (from, to) = (open(&mount.join("a")), open(&mount.join("b")));
        from.sync_all().expect("fsync");
        let mut done = 0;
        while done < 4 << 20 {
            let (mut source, mut target) = (done as u64, done as u64);
            let len = (4 << 20) - done;
            done +=
                rustix::fs::copy_file_range(&from, Some(&mut source), &to, Some(&mut target), len)
                    .expect("copy");
        }
        to.sync_all().expect("fsync");
        let extents = sh_output(&source, "filefrag -v b");
        assert!(extents.contains("shared"), "{kind}: {extents}");
        assert_eq!(fs::read(mount.in_source("b")).expect("read"), vec![7; 4 << 20]);
        drop((from, to));
    }
}

#[test]
fn cloning_by_ioctl_works_or_says_so() {
    same_as_bare(|dir| {
        let (from, to) = (open(&dir.join("a")), open(&dir.join("b")));
        rustix::fs::ioctl_ficlone(&to, &from)
            .map_err(|error| [Errno::OPNOTSUPP, Errno::NOTTY].contains(&error))
    });
}

#[test]
fn a_shared_mapping_and_the_file_are_one() {
    let mount = Mount::identity();
    let file = open(&mount.join("f"));
    file.write_all_at(&[b'.'; 8192], 0).expect("write");
    let mut map = Mapping::new(&file, 8192, true).expect("mmap");
    map.write(b"through the mapping");
    map.sync().expect("msync");
    assert!(fs::read(mount.in_source("f")).expect("read").starts_with(b"through the mapping."));
    file.write_all_at(b"by write", 4096).expect("write");
    assert!(map.read()[4096..].starts_with(b"by write."));
}

#[test]
fn a_private_mapping_keeps_its_changes() {
    let mount = Mount::identity();
    let file = open(&mount.join("f"));
    file.write_all_at(&[b'.'; 4096], 0).expect("write");
    let mut map = Mapping::new(&file, 4096, false).expect("mmap");
    map.write(b"mine");
    assert!(map.read().starts_with(b"mine."));
    assert_eq!(fs::read(mount.join("f")).expect("read"), [b'.'; 4096]);
}

#[test]
fn fsync_of_files_and_directories_works() {
    same_as_bare(|dir| {
        let file = open(&dir.join("f"));
        file.write_all_at(b"text", 0).expect("write");
        let dir = File::open(dir).expect("open");
        [
            rustix::fs::fsync(&file),
            rustix::fs::fdatasync(&file),
            rustix::fs::fsync(&dir),
            rustix::fs::fdatasync(&dir),
        ]
    });
}

#[test]
fn a_fifo_joins_two_clients_and_never_blocks_the_mount() {
    let mount = Mount::identity();
    let path = mount.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("mkfifo");
    thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read_to_string(&path).expect("read the fifo"));
        // The reader waits for a writer; other clients are served meanwhile.
        for n in 0..50 {
            fs::write(mount.join(format!("f{n}")), "x").expect("write beside it");
        }
        fs::write(&path, "through the pipe").expect("write the fifo");
        assert_eq!(reader.join().expect("the reader ends"), "through the pipe");
    });
}

#[test]
fn a_socket_is_bound_and_reached_through_the_mount() {
    let mount = Mount::identity();
    let path = mount.join("socket");
    let listener = UnixListener::bind(&path).expect("bind");
    thread::scope(|scope| {
        scope.spawn(|| listener.accept().expect("accept").0.write_all(b"hello").expect("send"));
        let mut text = String::new();
        UnixStream::connect(&path).expect("connect").read_to_string(&mut text).expect("receive");
        assert_eq!(text, "hello");
    });
    assert_eq!(
        fs::symlink_metadata(mount.in_source("socket")).expect("stat").mode() & libc::S_IFMT,
        libc::S_IFSOCK
    );
}

#[test]
fn a_device_node_opens_the_device() {
    let mount = Mount::identity();
    let null = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        mount.join("zero"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        null,
    )
    .expect("mknod");
    let mut bytes = [1; 16];
    File::open(mount.join("zero"))
        .and_then(|mut zero| zero.read_exact(&mut bytes))
        .expect("read /dev/zero's twin");
    assert_eq!(bytes, [0; 16]);
}

#[test]
fn poll_says_that_a_file_is_ready() {
    let mount = Mount::identity();
    let file = open(&mount.join("f"));
    let wanted = PollFlags::IN | PollFlags::OUT;
    let mut fds = [PollFd::new(&file, wanted)];
    assert_eq!(
        poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 })).expect("poll"),
        1
    );
    assert_eq!(fds[0].revents() & wanted, wanted);
}

#[test]
fn big_files_read_back_as_written() -> io::Result<()> {
    let mount = Mount::identity();
    let bytes: Vec<u8> =
        (0..(8_u32 << 20)).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(mount.join("f"), &bytes)?;
    assert!(fs::read(mount.in_source("f"))? == bytes);
    assert!(fs::read(mount.join("f"))? == bytes);
    Ok(())
}
